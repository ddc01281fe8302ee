//! Certificates: how a key's place in the fleet is written down so that TLS libraries understand it.
//!
//! The identity is the Ed25519 key; a certificate only binds a name and the hub role to it. Every certificate is
//! valid from 1970 to 9999, because clocks are not trusted: the trust log and the registry end a node, not a
//! date. Nothing here reads files, a clock or randomness: a certificate is a pure function of its issuer's key
//! and what it says, so one that was lost can be made again.
//!
//! ```text
//! fleet CA (root key, self-signed)
//! ├── hub leaf      DNS hub.mainstay.internal, URI mainstay://node/<name>; server and client
//! └── hub issuer    CA, no further CAs below, client only, no name under mainstay.internal
//!     └── node leaf URI mainstay://node/<name>; client only
//! ```
//!
//! Judging a chain that somebody presents is in [`crate::chain`].

use bytes::Bytes;
use ed25519_dalek::{Signer as _, SigningKey};
use mainstay_core::id::{KeyId, NodeName};
use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, GeneralSubtree,
    IsCa, Issuer, KeyUsagePurpose, NameConstraints, PublicKeyData, SanType, SignatureAlgorithm,
    date_time_ymd,
};

/// The one name under which every hub is a TLS server. Only hub leafs carry it, whatever address a hub has,
/// so an address may change and no node can pass itself off as a hub.
pub const HUB_SERVER_NAME: &str = "hub.mainstay.internal";

/// The domain above [`HUB_SERVER_NAME`]; a hub's issuer certificate is forbidden to name anything in it.
const RESERVED_DOMAIN: &str = "mainstay.internal";

/// What a node's name looks like in a certificate. A URI, because names such as `A_b` are not valid DNS names.
pub(crate) const NODE_URI: &str = "mainstay://node/";

/// A certificate could not be made. The input is a key and a checked name, so this is a defect or a library's limit.
#[derive(Debug, thiserror::Error)]
#[error("cannot make a certificate")]
pub struct IssueError(#[from] rcgen::Error);

/// What the root makes for a hub.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HubCertificates {
    /// With this the hub is a TLS server, and a node like any other (DER).
    pub leaf: Bytes,
    /// With this the hub admits nodes while the root key is away (DER).
    pub issuer: Bytes,
}

impl HubCertificates {
    /// The chain that a hub presents: its leaf, and the CA so that a node that knows only the CA's
    /// fingerprint can join.
    pub fn chain(&self, ca: &Bytes) -> Vec<Bytes> {
        vec![self.leaf.clone(), ca.clone()]
    }
}

/// The fleet's CA certificate (DER): the root key's word on itself.
pub fn make_ca(root: &SigningKey) -> Result<Bytes, IssueError> {
    let root = Key::of(root);
    let certificate = ca_params(root.id).self_signed(&root)?;
    Ok(Bytes::copy_from_slice(certificate.der()))
}

/// Makes `hub` a hub named `name`. Only the root can: a hub's issuer cannot make other hubs.
pub fn issue_hub(root: &SigningKey, hub: KeyId, name: &NodeName) -> Result<HubCertificates, IssueError> {
    let root = Key::of(root);
    let issuer = Issuer::new(ca_params(root.id), &root);
    let mut leaf = leaf_params(hub, Some(name))?;
    leaf.subject_alt_names.push(SanType::DnsName(Ia5String::try_from(HUB_SERVER_NAME)?));
    leaf.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
    let public = PublicKey(hub);
    Ok(HubCertificates {
        leaf: Bytes::copy_from_slice(leaf.signed_by(&public, &issuer)?.der()),
        issuer: Bytes::copy_from_slice(issuer_params(hub).signed_by(&public, &issuer)?.der()),
    })
}

/// Makes `node` a node named `name`, by a hub's key and its issuer certificate. Needs the node's public key
/// only. Returns the chain that the node presents, leaf first.
pub fn issue_node(
    hub: &SigningKey,
    issuer_certificate: &Bytes,
    node: KeyId,
    name: &NodeName,
) -> Result<Vec<Bytes>, IssueError> {
    let hub = Key::of(hub);
    let issuer = Issuer::new(issuer_params(hub.id), &hub);
    let leaf = leaf_params(node, Some(name))?.signed_by(&PublicKey(node), &issuer)?;
    Ok(vec![Bytes::copy_from_slice(leaf.der()), issuer_certificate.clone()])
}

/// The certificate (DER) of a key that has no place in a fleet yet: it proves the key and says nothing else.
pub fn self_signed(key: &SigningKey) -> Result<Bytes, IssueError> {
    let key = Key::of(key);
    let certificate = leaf_params(key.id, None)?.self_signed(&key)?;
    Ok(Bytes::copy_from_slice(certificate.der()))
}

fn ca_params(root: KeyId) -> CertificateParams {
    let mut params = params(root, "mainstay fleet");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params
}

fn issuer_params(hub: KeyId) -> CertificateParams {
    let mut params = params(hub, "mainstay issuer");
    params.use_authority_key_identifier_extension = true;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    // Verifiers apply an issuer's extended usage to what is below it: no server can be.
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params.name_constraints = Some(NameConstraints {
        permitted_subtrees: vec![],
        excluded_subtrees: vec![GeneralSubtree::DnsName(RESERVED_DOMAIN.to_owned())],
    });
    params
}

fn leaf_params(key: KeyId, name: Option<&NodeName>) -> Result<CertificateParams, IssueError> {
    let mut params = params(key, "mainstay node");
    // Strict verifiers, such as Python's, demand it of all but roots.
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    if let Some(name) = name {
        let uri = Ia5String::try_from(format!("{NODE_URI}{name}"))?;
        params.subject_alt_names.push(SanType::URI(uri));
    }
    Ok(params)
}

/// What all have in common. The subject is a function of the key, so an issuer's certificate need not be
/// parsed to issue under it, and no two issuers can be mistaken for each other.
fn params(key: KeyId, what: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.not_before = date_time_ymd(1970, 1, 1);
    params.not_after = date_time_ymd(9999, 12, 31);
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, what.to_owned());
    params.distinguished_name.push(DnType::CommonName, key.to_string());
    params
}

/// A key whose private half is elsewhere.
struct PublicKey(KeyId);

impl PublicKeyData for PublicKey {
    fn der_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &rcgen::PKCS_ED25519
    }
}

/// A key that signs here and never as a PKCS#8 copy elsewhere in memory.
struct Key<'a> {
    key: &'a SigningKey,
    id: KeyId,
}

impl<'a> Key<'a> {
    fn of(key: &'a SigningKey) -> Self {
        Self { key, id: KeyId::from_bytes(key.verifying_key().to_bytes()) }
    }
}

impl PublicKeyData for Key<'_> {
    fn der_bytes(&self) -> &[u8] {
        self.id.as_bytes()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &rcgen::PKCS_ED25519
    }
}

impl rcgen::SigningKey for Key<'_> {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        Ok(self.key.sign(message).to_bytes().to_vec())
    }
}
