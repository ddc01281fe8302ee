//! Flags that say which hosts are reached by ssh and how: the same for `plan`, `up` and `run`.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use mainstay_control::view::{Problem, ProblemKind};
use mainstay_link::ssh::{Binaries, Binary};

use super::read_text;
use crate::up::inventory::{Host, Inventory};
use mainstay_core::causes::with_causes;

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "By ssh, without an agent")]
#[expect(rustdoc::broken_intra_doc_links, reason = "its comments are what --help shows")]
pub(super) struct HostArgs {
    /// Reach these by ssh: [USER@]HOST[:PORT], or names of the inventory; repeatable
    #[arg(long, value_name = "HOST,...", value_delimiter = ',')]
    pub(super) ssh: Vec<String>,
    /// A YAML file of hosts with their labels, groups and variables; -t chooses among them
    #[arg(long, value_name = "FILE")]
    pub(super) inventory: Option<PathBuf>,
    /// Work as this user, by sudo without a password [default user: root]
    #[arg(long = "become", value_name = "USER", num_args = 0..=1, require_equals = true, default_missing_value = "root")]
    pub(super) become_user: Option<String>,
    /// Take host keys that are not known yet; without it they are refused
    #[arg(long)]
    pub(super) accept_new_host_keys: bool,
    /// The program for hosts of another architecture, as `uname -m` names it; repeatable
    #[arg(long, value_name = "ARCH=PATH", value_parser = agent_binary)]
    pub(super) agent_binary: Vec<(String, PathBuf)>,
    /// Instead of ~/.ssh/config
    #[arg(long, value_name = "FILE")]
    pub(super) ssh_config: Option<PathBuf>,
}

fn agent_binary(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((arch, path)) if !arch.is_empty() && !path.is_empty() => Ok((arch.to_owned(), path.into())),
        _ => Err("write ARCH=PATH, such as aarch64=./mainstay-aarch64".into()),
    }
}

impl HostArgs {
    /// Whether hosts are meant at all.
    pub(super) fn are_given(&self) -> bool {
        !self.ssh.is_empty() || self.inventory.is_some()
    }

    /// The hosts that are meant, `targets` among those of the inventory.
    pub(super) fn hosts(&self, targets: &[String]) -> Result<Vec<Host>, Problem> {
        let inventory = match &self.inventory {
            Some(path) => {
                let name = path.display().to_string();
                Inventory::parse(&name, &read_text(&name)?)?
            }
            None => Inventory::default(),
        };
        self.among(&inventory, targets)
    }

    /// The same, of an inventory that is known already.
    pub(super) fn among(&self, inventory: &Inventory, targets: &[String]) -> Result<Vec<Host>, Problem> {
        let mut hosts = inventory.select(&self.ssh, targets)?;
        for host in &mut hosts {
            host.ssh.accept_new_host_keys = self.accept_new_host_keys;
            host.ssh.config = self.ssh_config.clone();
            if self.become_user.is_some() {
                host.ssh.become_user = self.become_user.clone();
            }
        }
        Ok(hosts)
    }

    /// What is copied to them: this program, and those that were given.
    pub(super) fn binaries(&self) -> Result<Arc<Binaries>, Problem> {
        let unreadable = |error| Problem::new(ProblemKind::Invalid, with_causes(&error));
        // The file itself, also when it was replaced since we were started.
        let own = Binary::read(std::env::consts::ARCH, "/proc/self/exe".as_ref()).map_err(unreadable)?;
        let mut binaries = Binaries::default().with(own);
        for (arch, path) in &self.agent_binary {
            binaries = binaries.with(Binary::read(arch, path).map_err(unreadable)?);
        }
        Ok(Arc::new(binaries))
    }
}
