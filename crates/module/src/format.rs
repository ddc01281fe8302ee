//! What a text in a parameter has to look like: the `format` of its schema.
//!
//! A format is asked of every text that is known when a states file is compiled, whatever the other parameters are, so that what can
//! never be right is said there, all at once, at its place. The modules check again what comes out of templates on the machine.

use std::borrow::Cow;

use mainstay_core::state::schema::Format;
use mainstay_core::time::Span;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use crate::accounts;
use crate::edit;
use crate::field::{Account, HostPath};
use crate::modules::{block, cron, git, mount, pkgrepo, service, sync, sysctl};
use crate::packages;

/// The format of this name.
pub fn format(name: &str) -> Option<Format> {
    Some(match name {
        "absolute-path" => HostPath::check,
        "path-below-root" => below_root,
        "duration" => duration,
        "account" => account,
        "account-name" => accounts::check_words,
        "account-field" => account_field,
        "home" => home,
        "shell" => shell,
        "http-url" => http_url,
        "sha256" => sha256,
        "regex" => edit::check_expression,
        "one-line" => one_line,
        "validate-command" => validate_command,
        "block-marker" => block::check_marker,
        "cron-name" => cron::check_file_name,
        "cron-schedule" => cron::check_words,
        "git-address" => git::check_address,
        "git-revision" => git::check_revision,
        "fstab-field" => mount::check_field,
        "mount-option" => mount::check_option,
        "package-version" => {
            |text| packages::check_version(text).map_err(|_| "no package manager writes one so".into())
        }
        "repository-name" => pkgrepo::check_file_name,
        "repository-word" => pkgrepo::check_word,
        "fingerprint" => pkgrepo::check_fingerprint,
        "service-name" => service::check_service_name,
        "runlevel" => service::check_runlevel,
        "glob" => sync::check_glob,
        "sysctl-name" => sysctl::check_setting,
        _ => return None,
    })
}

fn refuse_if(wrong: bool, why: &str) -> Result<(), String> {
    if wrong { Err(why.to_owned()) } else { Ok(()) }
}

fn below_root(text: &str) -> Result<(), String> {
    let path = HostPath::parse(text).map_err(|_| HostPath::check(text).err().unwrap_or_default())?;
    refuse_if(path.file_name().is_none(), "it is the root directory")
}

fn duration(text: &str) -> Result<(), String> {
    text.parse::<Span>().map(drop).map_err(|_| "write 30s or 1h30m, or a number of seconds".to_owned())
}

fn account(text: &str) -> Result<(), String> {
    refuse_if(!Account::is_one(text), "it is neither the name nor the number of an account")
}

fn account_field(text: &str) -> Result<(), String> {
    let wrong = accounts::check_field("", text).is_err();
    refuse_if(wrong, "a colon, a line end or a zero byte cannot stand in it")
}

/// The empty shell is a valid one, and means `/bin/sh`.
fn shell(text: &str) -> Result<(), String> {
    if text.is_empty() { Ok(()) } else { home(text) }
}

fn home(text: &str) -> Result<(), String> {
    account_field(text)?;
    refuse_if(!text.starts_with('/'), "it is not absolute")
}

/// What this program itself fetches.
pub fn http_url(text: &str) -> Result<(), String> {
    let rest = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
    let good = rest.is_some_and(|rest| {
        !rest.starts_with(['/', '?', '#', ':']) && !rest.is_empty() && !rest.contains(char::is_whitespace)
    });
    refuse_if(!good, "it is not an http: or https: URL")
}

pub fn sha256(text: &str) -> Result<(), String> {
    let good = text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    refuse_if(!good, "it is not 64 hexadecimal digits")
}

fn one_line(text: &str) -> Result<(), String> {
    refuse_if(text.contains(['\n', '\r']), "it is more than one line")
}

fn validate_command(text: &str) -> Result<(), String> {
    refuse_if(!text.contains("%s"), "it has no %s, which stands for the new file")
}

macro_rules! item {
    ($name:ident, $format:literal) => {
        /// A schema for the texts of a list: a text with this format.
        pub struct $name;

        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn inline_schema() -> bool {
                true
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "string", "format": $format })
            }
        }
    };
}

item!(AccountName, "account-name");
item!(Fingerprint, "fingerprint");
item!(Glob, "glob");
item!(MountOption, "mount-option");
item!(Word, "repository-word");
