//! An address to listen at, or `off`.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ListenAt(pub Option<SocketAddr>);

impl fmt::Display for ListenAt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(address) => address.fmt(f),
            None => f.write_str("off"),
        }
    }
}

impl FromStr for ListenAt {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "off" {
            return Ok(Self(None));
        }
        let address = text.parse().map_err(|_| {
            format!("{text:?} is not an address to listen at: write IP:PORT, like 127.0.0.1:7421, or off")
        })?;
        Ok(Self(Some(address)))
    }
}

impl TryFrom<String> for ListenAt {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<ListenAt> for String {
    fn from(at: ListenAt) -> Self {
        at.to_string()
    }
}

/// `HOST:PORT`, to dial: names are resolved at every attempt, so only the form is checked.
pub fn check_dial(text: &str) -> Result<(), String> {
    let good = text.rsplit_once(':').is_some_and(|(host, port)| {
        !host.is_empty() && !host.contains(['/', ' ', '@']) && port.parse::<u16>().is_ok_and(|port| port != 0)
    });
    if good { Ok(()) } else { Err(format!("{text:?} is not an address of a hub: write HOST:PORT")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_to_dial_have_a_host_and_a_port() {
        for good in ["hub:7420", "10.0.0.1:1", "[::1]:7420", "hub.example.org:65535"] {
            assert_eq!(check_dial(good), Ok(()), "{good}");
        }
        for bad in ["hub", "hub:", ":7420", "hub:0", "hub:70000", "https://hub:7420", "", "a b:1"] {
            assert!(check_dial(bad).is_err(), "{bad}");
        }
    }
}
