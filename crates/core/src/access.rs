//! Access rules: which other node may call which method here. Deny by default.
//!
//! A hub that holds a grant may call what the grant names; that is decided in [`crate::trust`]. These rules
//! are a node's own configuration and concern everyone else.

use serde::{Deserialize, Serialize};

use crate::target::glob_matches;

/// `[[allow]] from = "ship*" methods = ["ping", "file.*"]`
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// A glob over the sender's name, as its certificate gives it.
    pub from: String,
    /// Globs over method names, aliases already resolved.
    pub methods: Vec<String>,
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Rules(pub Vec<Rule>);

impl Rules {
    pub fn allow(&self, sender: &str, method: &str) -> bool {
        self.0.iter().any(|rule| {
            glob_matches(&rule.from, sender) && rule.methods.iter().any(|glob| glob_matches(glob, method))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_allowed_without_a_rule() {
        assert!(!Rules::default().allow("ship1", "ping"));
        let rules = Rules(vec![Rule { from: "ship*".into(), methods: vec!["file.*".into(), "ping".into()] }]);
        assert!(rules.allow("ship1", "ping"));
        assert!(rules.allow("ship2", "file.append"));
        assert!(!rules.allow("ship1", "cmd"));
        assert!(!rules.allow("shop", "ping"));
    }
}
