//! One `sshd` on ten loopback addresses, with keys made for it, whose hosts keep their data apart.

use std::fmt::Write as _;
use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};

use crate::started;

pub const HOSTS: u8 = 10;

const UP_WITHIN: Duration = Duration::from_secs(20);

pub struct Hosts {
    root: PathBuf,
    child: Child,
}

impl Drop for Hosts {
    fn drop(&mut self) {
        let _ = self.child.kill();
        started::remove(self.child.id());
        let _ = self.child.wait();
    }
}

fn address(host: u8) -> String {
    format!("127.0.0.{}", 11 + host)
}

impl Hosts {
    /// Nothing where there is no sshd. All that it needs is made in `root`.
    pub fn start(root: &Path) -> anyhow::Result<Option<Self>> {
        let programs = ["/usr/sbin/sshd", "/usr/bin/sshd"];
        let Some(sshd) = programs.into_iter().find(|path| Path::new(path).exists()) else { return Ok(None) };
        for key in ["host_key", "user_key"] {
            let made = Command::new("ssh-keygen")
                .args(["-q", "-t", "ed25519", "-N", "", "-C", key, "-f"])
                .arg(root.join(key))
                .status()?;
            ensure!(made.success(), "ssh-keygen ended with {made}");
        }
        fs::copy(root.join("user_key.pub"), root.join("authorized_keys"))?;
        let port = TcpListener::bind((address(0), 0))?.local_addr()?.port();
        let at = root.display();
        let mut config = format!(
            "Port {port}\nHostKey {at}/host_key\nAuthorizedKeysFile {at}/authorized_keys\nPidFile none\nStrictModes no\n\
             UsePAM no\nUseDNS no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin yes\n\
             MaxStartups 200:100:200\nMaxSessions 50\nPrintMotd no\nLogLevel ERROR\n"
        );
        for host in 0..HOSTS {
            let _ = writeln!(config, "ListenAddress {}", address(host));
        }
        let key = fs::read_to_string(root.join("host_key.pub"))?;
        let (mut known, mut inventory) = (String::new(), String::from("hosts:\n"));
        for host in 0..HOSTS {
            let address = address(host);
            let _ = writeln!(
                config,
                "Match LocalAddress {address}\n  SetEnv XDG_CACHE_HOME={at}/cache MAINSTAY_DATA={at}/data{host}"
            );
            let _ = write!(known, "[{address}]:{port} {key}");
            let _ = writeln!(inventory, "  h{host}: {{address: {address}, vars: {{root: {at}/tree{host}}}}}");
        }
        fs::write(root.join("sshd_config"), config)?;
        fs::write(root.join("known_hosts"), known)?;
        fs::write(root.join("hosts.yaml"), inventory)?;
        fs::write(
            root.join("ssh_config"),
            format!(
                "IdentityFile {at}/user_key\nIdentitiesOnly yes\nUserKnownHostsFile {at}/known_hosts\n\
                 GlobalKnownHostsFile none\nPort {port}\nUpdateHostKeys no\n"
            ),
        )?;
        // Where it drops its privileges to; made by the package's service, which nobody may have started.
        let _ = fs::create_dir_all("/run/sshd");
        let child = Command::new(sshd)
            .args(["-D", "-e", "-f"])
            .arg(root.join("sshd_config"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(root.join("sshd.log"))?)
            .spawn()
            .with_context(|| format!("{sshd} cannot be started"))?;
        started::add(child.id());
        let mut hosts = Self { root: root.to_owned(), child };
        let began = Instant::now();
        while TcpStream::connect((address(HOSTS - 1), port)).is_err() {
            if hosts.child.try_wait()?.is_some() || began.elapsed() > UP_WITHIN {
                bail!("sshd did not start: {}", fs::read_to_string(root.join("sshd.log"))?);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(Some(hosts))
    }

    /// Directs a command at all of them.
    pub fn reached_by(&self, command: &mut Command) {
        command.arg("--inventory").arg(self.root.join("hosts.yaml"));
        command.arg("--ssh-config").arg(self.root.join("ssh_config"));
        command.env("HOME", &self.root).env_remove("SSH_AUTH_SOCK").env_remove("XDG_CACHE_HOME");
    }

    pub fn trees(&self) -> Vec<PathBuf> {
        (0..HOSTS).map(|host| self.root.join(format!("tree{host}"))).collect()
    }
}
