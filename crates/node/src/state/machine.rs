//! The machine as one phase of one catalog meets it: whether it may be changed, and as whom.

use std::borrow::Cow;
use std::path::Path;
use std::sync::Arc;

use mainstay_core::state::StateIndex;
use mainstay_module::Failure;
use mainstay_module::confine::Scratch;
use mainstay_module::forecast::{Forecast, Resource};
use mainstay_module::host::{Cancel, Hidden, Host, Register, View};

use super::other_user::Account;
use super::prepared::Prepared;

/// A machine that is only looked at.
pub(super) struct Looking {
    view: View,
    /// Where programs scribble, if any may be started.
    scratch: Option<Scratch>,
    key: [u8; 32],
    hidden: Arc<Hidden>,
    cancel: Cancel,
    register: Option<Arc<Register>>,
}

/// As whom something is to be done.
enum Whom {
    Self_,
    Other(Account),
    /// Nobody yet.
    Missing(String),
}

fn whom(prepared: &Prepared, state: StateIndex) -> Result<Whom, Failure> {
    let Some(name) = prepared.become_user(state)? else { return Ok(Whom::Self_) };
    Ok(match Account::find(&name)? {
        Some(account) => Whom::Other(account),
        None => Whom::Missing(name),
    })
}

/// What came of looking as the user that a state names.
pub(super) enum Looked<T> {
    Done(T),
    /// The user will be there only after this state.
    Later(mainstay_core::state::StateId),
}

impl Looking {
    pub(super) fn new(
        key: [u8; 32],
        hidden: Arc<Hidden>,
        cancel: Cancel,
        register: Option<Arc<Register>>,
        scratch: Option<Scratch>,
    ) -> Self {
        let place = scratch.as_ref().map(|scratch| scratch.path().to_owned());
        let view = View::new(place).keyed(key).hiding(Arc::clone(&hidden)).cancelled_by(cancel.clone());
        Self { view: view.registered(register.clone()), scratch, key, hidden, cancel, register }
    }

    /// Where what it starts may write.
    pub(super) fn scratch(&self) -> Option<&Path> {
        self.scratch.as_ref().map(Scratch::path)
    }

    pub(super) fn look<T: Send>(
        &self,
        prepared: &Prepared,
        state: StateIndex,
        forecast: &Forecast,
        look: impl FnOnce(&View) -> T + Send,
    ) -> Result<Looked<T>, Failure> {
        match whom(prepared, state)? {
            Whom::Self_ => Ok(Looked::Done(look(&self.view))),
            Whom::Other(account) => {
                // Whoever may not says so before anything is made for that user.
                account.run(|| ())?;
                let own = |scratch: &Scratch| {
                    let made = scratch.of_user(account.uid, account.gid);
                    made.map_err(|error| Failure::on("make", scratch.path(), error))
                };
                let scratch = self.scratch.as_ref().map(own).transpose()?;
                let view = View::new(scratch).keyed(self.key).cancelled_by(self.cancel.clone());
                let view = view.hiding(Arc::clone(&self.hidden)).registered(self.register.clone());
                account.run(|| look(&view)).map(Looked::Done)
            }
            Whom::Missing(name) => {
                let foretold = forecast.get(&Resource::user(&name)).map(|prediction| &prediction.by);
                match foretold.or(forecast.opaque()) {
                    Some(until) => Ok(Looked::Later(until.clone())),
                    None => Err(no_user(&name)),
                }
            }
        }
    }

    /// The machine as this process itself sees it.
    pub(super) fn own_view(&self) -> &View {
        &self.view
    }

    pub(super) fn is_cancelled(&self) -> bool {
        self.cancel.is_cancelled()
    }
}

/// A machine that may be changed.
pub(super) struct Changing {
    host: Host,
}

impl Changing {
    pub(super) fn new(
        key: [u8; 32],
        hidden: Arc<Hidden>,
        cancel: Cancel,
        register: Option<Arc<Register>>,
    ) -> Self {
        let host = Host::deferring_syncs().keyed(key).hiding(hidden).cancelled_by(cancel);
        Self { host: host.registered(register) }
    }

    pub(super) fn act<T: Send>(
        &self,
        prepared: &Prepared,
        state: StateIndex,
        act: impl FnOnce(&Host) -> T + Send,
    ) -> Result<T, Failure> {
        match whom(prepared, state)? {
            Whom::Self_ => Ok(act(&self.host)),
            Whom::Other(account) => account.run(|| act(&self.host)),
            Whom::Missing(name) => Err(no_user(&name)),
        }
    }

    /// As this process itself.
    pub(super) fn host(&self) -> &Host {
        &self.host
    }

    /// Makes all of it durable.
    pub(super) fn settle(&self) -> Result<(), Failure> {
        self.host.settle()
    }
}

fn no_user(name: &str) -> Failure {
    Failure::new(format!("become {name}"), "there is no such user")
}

/// What people call the machine, before it has a node's key.
pub(super) fn own_id() -> Cow<'static, str> {
    match std::fs::read_to_string("/etc/machine-id") {
        Ok(id) if id.trim().len() == 32 => Cow::Owned(id.trim().to_owned()),
        // As in a container, or where an image was made without one.
        _ => match nix::unistd::gethostname() {
            Ok(name) => Cow::Owned(format!("host:{}", name.to_string_lossy())),
            Err(_) => Cow::Borrowed("unknown"),
        },
    }
}
