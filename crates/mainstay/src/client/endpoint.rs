//! Where the hub is.
//!
//! In this order: `--hub` (or `MAINSTAY_HUB`), a running `mainstay dev`, the hub last logged in to, this
//! user's own hub, this machine's hub. Whoever plays with a `dev` must not hit the fleet by it.

use std::fmt;
use std::path::PathBuf;

use mainstay_control::view::{Problem, ProblemKind};

use super::login::Logins;
use crate::config::data_dir;
use crate::dev_pointer::DevPointer;

/// The port of the API over TLS unless the address says another.
pub const HTTPS_PORT: u16 = 7421;

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Endpoint {
    Unix(PathBuf),
    Https(HttpsHub),
}

#[derive(Clone, PartialEq, Eq)]
pub struct HttpsHub {
    /// `host:port`.
    pub authority: String,
    pub token: String,
    /// Hash of the fleet's CA certificate: what makes the hub's certificate believable.
    pub ca_fingerprint: String,
}

impl fmt::Debug for HttpsHub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HttpsHub({})", self.authority)
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Https(hub) => write!(f, "https://{}", hub.authority),
        }
    }
}

/// Finds the hub; `given` is what `--hub` or `MAINSTAY_HUB` said.
pub fn find(given: Option<&str>) -> Result<Endpoint, Problem> {
    if let Some(text) = given {
        return read(text, &Logins::load()?);
    }
    if let Some(dev) = DevPointer::read().filter(DevPointer::is_alive) {
        return Ok(Endpoint::Unix(dev.socket));
    }
    let logins = Logins::load()?;
    if let Some(url) = &logins.default {
        return read(url, &logins);
    }
    // The last is the one to name when there is none at all.
    let own = data_dir::of_user().map(|data| data.join("api.sock")).filter(|socket| socket.exists());
    Ok(Endpoint::Unix(own.unwrap_or_else(|| PathBuf::from(data_dir::OF_MACHINE).join("api.sock"))))
}

fn read(text: &str, logins: &Logins) -> Result<Endpoint, Problem> {
    if let Some(path) = text.strip_prefix("unix:").or(text.starts_with('/').then_some(text)) {
        return Ok(Endpoint::Unix(PathBuf::from(path)));
    }
    let authority = authority(text)?;
    let login = logins.hubs.get(&format!("https://{authority}"));
    let from_env = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
    let token = from_env("MAINSTAY_TOKEN").or(login.map(|login| login.token.clone()));
    let ca_fingerprint =
        from_env("MAINSTAY_CA_FINGERPRINT").or(login.map(|login| login.ca_fingerprint.clone()));
    match (token, ca_fingerprint) {
        (Some(token), Some(ca_fingerprint)) => Ok(Endpoint::Https(HttpsHub {
            authority,
            token,
            ca_fingerprint,
        })),
        _ => Err(Problem::new(
            ProblemKind::Unauthorized,
            format!("there is no token for the hub https://{authority} here"),
        )
        .hint(format!("get one on the hub with `mainstay token create --operator NAME`, then `mainstay login https://{authority}`"))
        .hint("or set MAINSTAY_TOKEN and MAINSTAY_CA_FINGERPRINT")),
    }
}

/// `host:port` of an address as people write it.
pub fn authority(url: &str) -> Result<String, Problem> {
    let wrong = |why: &str| {
        Problem::new(ProblemKind::Invalid, format!("{url:?} is not the address of a hub: {why}"))
            .hint("write https://HOST[:PORT], or unix:/PATH for a socket on this machine")
    };
    let rest = match url.split_once("://") {
        Some(("https", rest)) => rest,
        Some((scheme, _)) => return Err(wrong(&format!("{scheme}:// is not spoken"))),
        None => url,
    };
    let authority = rest.trim_end_matches('/');
    let parsed: hyper::http::uri::Authority = authority.parse().map_err(|_| wrong("its host is not one"))?;
    if authority.contains('@') || parsed.host().is_empty() {
        return Err(wrong("its host is not one"));
    }
    let port = match parsed.port() {
        Some(port) => port.as_str().parse::<u16>().map_err(|_| wrong("its port is not one"))?,
        None if authority.len() == parsed.host().len() => HTTPS_PORT,
        None => return Err(wrong("its port is not one")),
    };
    Ok(format!("{}:{port}", parsed.host()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_read_as_people_write_them() {
        for (text, authority_) in [
            ("https://hub.example", "hub.example:7421"),
            ("https://hub.example:443/", "hub.example:443"),
            ("hub", "hub:7421"),
            ("https://[::1]:7421", "[::1]:7421"),
            ("https://[::1]", "[::1]:7421"),
        ] {
            assert_eq!(authority(text).unwrap(), authority_, "{text}");
        }
        for bad in [
            "http://hub",
            "https://",
            "https://hub:",
            "https://hub:99999",
            "https://me@hub",
            "https://a/b",
            "",
        ] {
            let problem = authority(bad).unwrap_err();
            assert_eq!(problem.kind, ProblemKind::Invalid, "{bad:?}");
        }
    }

    #[test]
    fn sockets_need_no_login_and_unknown_hubs_say_how_to_get_one() {
        let none = Logins::default();
        assert_eq!(read("unix:/run/x", &none).unwrap(), Endpoint::Unix("/run/x".into()));
        assert_eq!(read("/run/x", &none).unwrap(), Endpoint::Unix("/run/x".into()));
        let problem = read("https://hub", &none).unwrap_err();
        assert_eq!(problem.kind, ProblemKind::Unauthorized);
        assert!(problem.hints[0].contains("mainstay login https://hub:7421"));
    }
}
