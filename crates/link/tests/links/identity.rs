//! Who may be what to whom: certificates judged on their own and in handshakes.

use bytes::Bytes;
use mainstay_link::certificate::{issue_hub, issue_node, make_ca, self_signed};
use mainstay_link::chain::{ChainError, Fingerprint, FleetCa, Trust, key_in};
use mainstay_link::dialer::DialError;
use mainstay_link::limits::Limits;
use mainstay_link::tls::{Credentials, TlsError};

use crate::fleet::{Fleet, id, key, meet, name};

#[test]
fn a_chain_says_whose_key_it_is_under_what_name_and_on_whose_word() {
    let fleet = Fleet::new(1);
    let node = key(9);
    let identity = fleet.ca.verify(&fleet.node_chain(&node, "A_b")).unwrap();
    assert_eq!(identity.key, id(&node));
    assert_eq!(identity.name, name("A_b"));
    assert!(!identity.hub);
    assert_eq!(identity.issuer, id(&fleet.hub));

    let chain = fleet.hub_certificates.chain(fleet.ca.der());
    let hub = fleet.ca.verify(&chain).unwrap();
    assert!(hub.hub);
    assert_eq!((hub.key, hub.issuer), (id(&fleet.hub), id(&fleet.root)));
    assert_eq!(fleet.ca.key(), id(&fleet.root));
}

#[test]
fn certificates_are_a_function_of_what_they_say() {
    let (one, again) = (Fleet::new(1), Fleet::new(1));
    assert_eq!(one.ca.der(), again.ca.der());
    assert_eq!(one.hub_certificates, again.hub_certificates);
    assert_eq!(one.node_chain(&key(9), "n"), again.node_chain(&key(9), "n"));
    assert_ne!(one.node_chain(&key(9), "n"), one.node_chain(&key(9), "m"));
}

#[test]
fn chains_that_do_not_lead_to_the_ca_are_refused() {
    let (fleet, other) = (Fleet::new(1), Fleet::new(3));
    let node = key(9);
    let untrusted = |chain: &[Bytes]| matches!(fleet.ca.verify(chain), Err(ChainError::Untrusted(_)));
    assert!(untrusted(&other.node_chain(&node, "n")));
    assert!(untrusted(&other.hub_certificates.chain(other.ca.der())));
    // A leaf without its issuer, with the wrong one, and with the CA in its place.
    let chain = fleet.node_chain(&node, "n");
    assert!(untrusted(&chain[..1]));
    assert!(untrusted(&[chain[0].clone(), other.hub_certificates.issuer.clone()]));
    assert!(untrusted(&[chain[0].clone(), fleet.ca.der().clone()]));
    assert_eq!(fleet.ca.verify(&[self_signed(&node).unwrap()]), Err(ChainError::Names));
    assert_eq!(fleet.ca.verify(&[] as &[Bytes]), Err(ChainError::Length(0)));
    assert_eq!(fleet.ca.verify(&vec![chain[0].clone(); 9]), Err(ChainError::Length(9)));
    // The same issuer key under another root: the name fits, the signature does not.
    let forged = issue_hub(&key(8), id(&fleet.hub), &name("hub1")).unwrap();
    assert!(untrusted(&[forged.leaf]));
}

#[test]
fn a_hub_cannot_make_hubs() {
    let fleet = Fleet::new(1);
    let (rogue, node) = (key(8), key(9));
    // What `issue_hub` makes, but signed by a hub's key instead of the root's.
    let made = issue_hub(&fleet.hub, id(&rogue), &name("rogue")).unwrap();
    for chain in [
        vec![made.leaf.clone()],
        vec![made.leaf.clone(), fleet.hub_certificates.issuer.clone()],
        vec![made.leaf, fleet.hub_certificates.leaf.clone()],
    ] {
        assert!(matches!(fleet.ca.verify(&chain), Err(ChainError::Untrusted(_))));
    }
    // Nor can a node make nodes, nor an issuer make issuers.
    let leaf = &fleet.node_chain(&node, "n")[0];
    let below = issue_node(&node, leaf, id(&rogue), &name("m")).unwrap();
    assert!(matches!(fleet.ca.verify(&below), Err(ChainError::Untrusted(_))));
    let below = issue_node(&rogue, &made.issuer, id(&node), &name("m")).unwrap();
    let chain = vec![below[0].clone(), made.issuer, fleet.hub_certificates.issuer.clone()];
    assert!(matches!(fleet.ca.verify(&chain), Err(ChainError::Untrusted(_))));
}

#[test]
fn what_names_a_hub_counts_only_if_the_root_itself_signed_it() {
    // An issuer as careless as the root could ever make one: any name, any use.
    let fleet = Fleet::new(1);
    let pair = |key: &ed25519_dalek::SigningKey| {
        use ed25519_dalek::pkcs8::EncodePrivateKey as _;
        rcgen::KeyPair::try_from(key.to_pkcs8_der().unwrap().as_bytes()).unwrap()
    };
    let mut ca = rcgen::CertificateParams::default();
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let root = rcgen::CertifiedIssuer::self_signed(ca.clone(), pair(&key(1))).unwrap();
    ca.distinguished_name.push(rcgen::DnType::CommonName, "issuer");
    let issuer = rcgen::CertifiedIssuer::signed_by(ca, pair(&key(2)), &root).unwrap();
    let mut leaf = rcgen::CertificateParams::new(vec!["hub.mainstay.internal".to_owned()]).unwrap();
    leaf.subject_alt_names.push(rcgen::SanType::URI("mainstay://node/rogue".try_into().unwrap()));
    let der = |issuer: &rcgen::Issuer<'_, rcgen::KeyPair>| {
        Bytes::copy_from_slice(leaf.signed_by(&pair(&key(8)), issuer).unwrap().der())
    };
    let ca = FleetCa::from_der(Bytes::copy_from_slice(root.der())).unwrap();
    assert!(ca.verify_hub(&[der(&root)]).unwrap().hub);
    let below = [der(&issuer), Bytes::copy_from_slice(issuer.der())];
    assert!(matches!(ca.verify(&below), Err(ChainError::Untrusted(_))));
    assert!(fleet.ca.verify(&below).is_err());
}

#[test]
fn any_change_to_a_chain_is_refused_and_none_panics() {
    let fleet = Fleet::new(1);
    let chain = fleet.node_chain(&key(9), "n");
    let good = fleet.ca.verify(&chain).unwrap();
    for which in 0..chain.len() {
        for at in 0..chain[which].len() {
            let mut changed = chain.clone();
            let mut der = changed[which].to_vec();
            der[at] ^= 0x01;
            changed[which] = der.into();
            // A change in bytes that nothing depends on may pass, but not change what is said.
            if let Ok(identity) = fleet.ca.verify(&changed) {
                assert_eq!(identity, good, "certificate {which}, byte {at}");
            }
            let mut cut = chain.clone();
            cut[which] = cut[which].slice(..at);
            assert!(fleet.ca.verify(&cut).is_err());
        }
    }
}

#[test]
fn fingerprints_read_back_and_as_openssl_prints_them() {
    let fingerprint = Fingerprint::of(b"abc");
    let text = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    assert_eq!(fingerprint.to_string(), text);
    assert_eq!(text.parse(), Ok(fingerprint));
    let openssl = "sha256:BA:78:16:BF:8F:01:CF:EA:41:41:40:DE:5D:AE:22:23:B0:03:61:A3:96:17:7A:9C:B4:10:FF:61:F2:00:15:AD";
    assert_eq!(openssl.parse(), Ok(fingerprint));
    for bad in ["", "sha256:", "ba78", &text[..70], &format!("{text}0"), &text.replace('b', "g"), &text[7..]]
    {
        assert!(bad.parse::<Fingerprint>().is_err(), "{bad:?}");
    }
}

#[test]
fn keys_that_prove_nothing_are_no_identity() {
    // The neutral element: a signature for it verifies over any message.
    let mut weak = [0; 32];
    weak[0] = 1;
    let leaf =
        issue_node(&key(2), &Bytes::new(), mainstay_core::id::KeyId::from_bytes(weak), &name("n")).unwrap();
    assert_eq!(key_in(&leaf[0]), Err(ChainError::Key));
    assert!(FleetCa::from_der(Bytes::from_static(b"not a certificate")).is_err());
    assert!(matches!(
        Credentials::new(key(1), vec![self_signed(&key(2)).unwrap()]),
        Err(TlsError::KeyMismatch)
    ));
}

#[tokio::test]
async fn both_ends_learn_who_the_other_is() {
    let fleet = Fleet::new(1);
    let node = key(9);
    let (listener, address) = fleet.listen(Limits::default()).await;
    let dialer = fleet.dialer(&fleet.node_credentials(&node, "ship1"), Limits::default());
    let (ours, theirs) = meet(&listener, &dialer, address).await;
    let (ours, theirs) = (ours.unwrap(), theirs.unwrap());

    assert_eq!(ours.peer.key, id(&fleet.hub));
    assert!(ours.peer.identity.unwrap().hub);
    assert_eq!(ours.peer.address, Some(address));
    assert_eq!(theirs.peer.key, id(&node));
    assert_eq!(theirs.peer.identity.unwrap().name, name("ship1"));
    assert_eq!(theirs.peer.chain, fleet.node_chain(&node, "ship1"));
    assert_eq!(fleet.counted("handshakes"), 2);
}

#[tokio::test]
async fn a_node_that_has_not_joined_is_known_by_its_key_and_finds_the_ca_by_its_fingerprint() {
    let fleet = Fleet::new(1);
    let node = key(9);
    let (listener, address) = fleet.listen(Limits::default()).await;
    let credentials = Credentials::self_signed(node.clone()).unwrap();
    let trust = Trust::Fingerprint(fleet.ca.fingerprint());
    let dialer = fleet.dialer_trusting(&credentials, trust, Limits::default());
    let address = address.to_string();
    let (dialled, accepted) =
        tokio::join!(dialer.dial(&address), async { listener.accept().await.handshake().await });
    let dialled = dialled.unwrap();
    assert_eq!(dialled.ca.der(), fleet.ca.der());
    let peer = accepted.unwrap().peer;
    assert_eq!(peer.key, id(&node));
    assert_eq!(peer.identity, None);

    // Another fleet's hub, asked for this fleet's fingerprint.
    let other = Fleet::new(3);
    let (listener, address) = other.listen(Limits::default()).await;
    let (dialled, _) = meet(&listener, &dialer, address).await;
    let error = dialled.err().unwrap();
    assert!(matches!(&error, DialError::Untrusted { source: ChainError::NoSuchCa(_), .. }), "{error:?}");
    assert!(!error.is_transient());
}

#[tokio::test]
async fn a_hub_that_shows_the_right_ca_but_is_not_of_it_is_refused() {
    let (fleet, other) = (Fleet::new(1), Fleet::new(3));
    let dialer = fleet.dialer_trusting(
        &Credentials::self_signed(key(9)).unwrap(),
        Trust::Fingerprint(fleet.ca.fingerprint()),
        Limits::default(),
    );
    let chain = vec![other.hub_certificates.leaf.clone(), fleet.ca.der().clone()];
    let imposter = Credentials::new(other.hub.clone(), chain).unwrap();
    let (listener, address) = fleet.listen_as(&imposter, Limits::default()).await;
    let (dialled, accepted) = meet(&listener, &dialer, address).await;
    assert!(matches!(dialled, Err(DialError::Untrusted { source: ChainError::Untrusted(_), .. })));
    assert!(accepted.is_err());
}

#[tokio::test]
async fn a_node_cannot_pass_itself_off_as_a_hub() {
    let fleet = Fleet::new(1);
    let rogue = key(8);
    let (listener, address) =
        fleet.listen_as(&fleet.node_credentials(&rogue, "hub1"), Limits::default()).await;
    let dialer = fleet.dialer(&fleet.node_credentials(&key(9), "ship1"), Limits::default());
    let (dialled, accepted) = meet(&listener, &dialer, address).await;
    assert!(matches!(dialled, Err(DialError::Untrusted { source: ChainError::NotAHub, .. })));
    assert!(accepted.is_err());
    assert_eq!(fleet.counted("handshake_failed"), 2);
}

#[tokio::test]
async fn a_certificate_of_another_fleet_proves_a_key_and_no_name() {
    let (fleet, other) = (Fleet::new(1), Fleet::new(3));
    let node = key(9);
    let (listener, address) = fleet.listen(Limits::default()).await;
    let dialer = fleet.dialer(&other.node_credentials(&node, "ship1"), Limits::default());
    let (_ours, theirs) = meet(&listener, &dialer, address).await;
    let peer = theirs.unwrap().peer;
    assert_eq!((peer.key, peer.identity), (id(&node), None));
}

#[test]
fn the_ca_is_the_same_for_ever() {
    // Tokens in circulation name it by its fingerprint: a library that writes it differently must be noticed.
    let ca = make_ca(&key(1)).unwrap();
    assert_eq!(
        Fingerprint::of(&ca).to_string(),
        "sha256:21a27f0aee27c367a64ca64331c8b4d34c5fbe2b69868887479bd2302204a28a"
    );
}
