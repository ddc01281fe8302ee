//! What a session works on: the catalog it was given, the plan it made last, what ran already in this run.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use mainstay_core::causes::with_causes;
use mainstay_core::state::Values;
use mainstay_core::state::catalog::Catalog;
use mainstay_core::state::plan::{PlanHead, PlanStep};
use mainstay_core::state::session::{Approval, Ask, Tell};
use mainstay_core::state::walk::{Debt, Owed, Ran};
use mainstay_module::confine::{Scratch, offered};
use mainstay_module::host::{Cancel, Register, View};

use super::analyze::{self, Question};
use super::apply::{self, Order};
use super::awaited::{Awaited, Draft};
use super::debts::{Debts, Log};
use super::digest_key;
use super::extensions;
use super::facts;
use super::leftovers;
use super::lock::ApplyLock;
use super::looking::looking;
use super::machine::{Changing, Looking, own_id};
use super::outputs::Table;
use super::prepared::Prepared;
use super::session::{RUNNING, SessionOptions};
use super::teller::Teller;
use crate::memory;

/// With more states than this it is worth its time to give back what reading a catalog took for the moment.
const MANY: usize = 2_000;

pub(super) struct Engine {
    options: SessionOptions,
    teller: Teller,
    machine_id: String,
    facts: Arc<Values>,
    key: [u8; 32],
    /// Where what it has at work is written down.
    register: Option<Arc<Register>>,
    /// Why nothing may be begun here.
    obstacle: Option<String>,
    work: Option<Work>,
}

/// One catalog and how far it has come.
struct Work {
    prepared: Prepared,
    /// The last one.
    plan: Option<Awaited>,
    /// One that is being given.
    given: Draft,
    ran: Ran,
    table: Option<Table>,
}

impl Work {
    fn new(prepared: Prepared) -> Self {
        Self { prepared, plan: None, given: Draft::default(), ran: Ran::default(), table: None }
    }
}

impl Engine {
    /// Ends what killed sessions left running, and greets.
    pub(super) fn new(options: SessionOptions, teller: Teller, cancel: &Cancel) -> Self {
        let running = options.data.join(RUNNING);
        let ended = leftovers::end_all(&running);
        let register = Register::new(&running, &options.title);
        let machine_id = options.machine.clone().unwrap_or_else(|| own_id().into_owned());
        let (facts, obstacle) = match ended {
            Ok(notes) => {
                let outfit = |view: View| view.cancelled_by(cancel.clone()).registered(register.clone());
                (greet(&options, &teller, &machine_id, outfit, notes), None)
            }
            Err(words) => {
                teller.problem(words.clone());
                (Values::new(), Some(words))
            }
        };
        let facts = Arc::new(facts);
        Self { options, teller, machine_id, facts, key: [0; 32], register, obstacle, work: None }
    }

    pub(super) fn answer(&mut self, ask: Ask, cancel: &CancelPair) {
        if let Some(words) = &self.obstacle {
            self.teller.problem(words.clone());
            return;
        }
        match ask {
            Ask::Catalog(catalog) => self.take(*catalog),
            Ask::Analyze { cycle, explain } => self.analyze(cycle, explain, cancel),
            Ask::Steps(steps) => self.given(&steps),
            Ask::Plan(head) => self.remember(&head),
            Ask::DropOrphans => self.drop_orphans(),
            Ask::Apply { cycle: _, approval } => self.apply(&approval, cancel),
            // The ear hears it at once; here it comes too late.
            Ask::Cancel => {}
        }
    }

    fn directory(&self) -> PathBuf {
        self.options.data.join("state")
    }

    fn take(&mut self, catalog: Catalog) {
        self.work = None;
        self.teller.hide(&catalog.secrets);
        let directory = self.directory();
        let mut key = [0; 32];
        let fetch = || {
            key = digest_key::of_machine(&directory);
            key
        };
        let registry = extensions::registry(&catalog, &self.options.registry, &directory.join("extensions"));
        let registry = match registry {
            Ok(registry) => registry,
            Err(error) => {
                self.teller.problem(with_causes(&error));
                return;
            }
        };
        match Prepared::new(catalog, &registry, Arc::clone(&self.facts), fetch) {
            Ok(prepared) => {
                if prepared.states.len() > MANY {
                    memory::give_back();
                }
                self.work = Some(Work::new(prepared));
            }
            Err(error) => {
                self.teller.problem(with_causes(&error));
            }
        }
        self.key = key;
    }

    fn analyze(&mut self, cycle: u32, explain: bool, cancel: &CancelPair) {
        let directory = self.directory();
        let Some(work) = &mut self.work else {
            self.teller.problem("there is no catalog to analyse");
            return;
        };
        if cycle <= 1 {
            (work.ran, work.table) = (Ran::default(), None);
        }
        work.plan = None;
        let debts = match Debts::read(&directory) {
            Ok(debts) => debts,
            Err(error) => {
                self.teller.problem(with_causes(&error));
                return;
            }
        };
        let owed: Owed = debts.of(&work.prepared.catalog.name).cloned().collect();
        let scratch = match work.prepared.may_start_programs().then(scratch).transpose() {
            Ok(scratch) => scratch,
            Err(error) => {
                self.teller.problem(format!("cannot make a directory for temporary files: {error}"));
                return;
            }
        };
        let hidden = Arc::clone(&work.prepared.hidden);
        let machine = Looking::new(self.key, hidden, cancel.further.clone(), self.register.clone(), scratch);
        let question = Question {
            prepared: &work.prepared,
            machine: &machine,
            teller: &self.teller,
            owed: &owed,
            ran: &work.ran,
            earlier: work.table.as_ref(),
            cycle,
            explain,
            machine_id: &self.machine_id,
        };
        let plan = looking(machine.scratch(), || analyze::analyze(&question));
        match plan {
            Ok(Ok(Some((head, awaited)))) => {
                work.plan = Some(awaited);
                self.teller.tell(Tell::Planned(head));
            }
            Ok(Ok(None)) => {
                self.teller.problem("the analysis was called off");
            }
            Ok(Err(_)) => {
                self.teller
                    .problem("the analysis ended in a panic; this is a fault of this program or of a module");
            }
            Err(error) => {
                self.teller.problem(format!("cannot start a thread: {error}"));
            }
        }
    }

    fn given(&mut self, steps: &[PlanStep]) {
        // Without a catalog it is the plan's head that is refused.
        if let Some(work) = &mut self.work {
            steps.iter().for_each(|step| work.given.step(step));
        }
    }

    /// Takes a plan for the one that was made last.
    fn remember(&mut self, plan: &PlanHead) {
        let Some(work) = &mut self.work else {
            self.teller.problem("there is no catalog that the plan could be of");
            return;
        };
        let given = std::mem::take(&mut work.given);
        if plan.catalog != work.prepared.digest {
            self.teller.problem("the plan is of another catalog: analyse again");
        } else if plan.machine != self.machine_id {
            self.teller.problem("the plan is of another machine: analyse again");
        } else {
            work.ran = plan.ran.iter().cloned().collect();
            work.table = None;
            work.plan = Some(given.end(plan));
        }
    }

    fn drop_orphans(&mut self) {
        let Some(work) = &self.work else {
            self.teller.problem("there is no catalog that something could be owed for");
            return;
        };
        let catalog = &work.prepared.catalog;
        let dropped = open(&self.directory(), &self.options.title).and_then(|(_held, mut log)| {
            let owed: Owed = log.debts().of(&catalog.name).cloned().collect();
            let orphans: Vec<Debt> = owed.orphans(catalog).into_iter().cloned().collect();
            log.pay(&catalog.name, &orphans).and_then(|()| log.sync()).map_err(|error| with_causes(&error))
        });
        if let Err(words) = dropped {
            self.teller.problem(words);
        }
    }

    fn apply(&mut self, approval: &Approval, cancel: &CancelPair) {
        let directory = self.directory();
        let Some(work) = &mut self.work else {
            self.teller.problem("there is no catalog to apply");
            return;
        };
        // A plan is applied once: what comes after it was observed by nobody.
        let plan = work.plan.take();
        let approved = match (approval, plan) {
            (Approval::All, _) => None,
            (Approval::Plan { digest }, Some(plan)) if digest == plan.digest() => Some(plan),
            (Approval::Plan { digest }, Some(plan)) => {
                let short = |digest: &str| digest.chars().take(12).collect::<String>();
                let (approved, own) = (short(digest), short(plan.digest()));
                self.teller.problem(format!(
                    "the plan {approved} was approved, but this machine's last one is {own}: analyse again"
                ));
                return;
            }
            (Approval::Plan { .. }, None) => {
                self.teller.problem("there is no plan that could have been approved: analyse first");
                return;
            }
        };
        let (held, log) = match open(&directory, &self.options.title) {
            Ok(opened) => opened,
            Err(words) => {
                self.teller.problem(words);
                return;
            }
        };
        let owed: Owed = log.debts().of(&work.prepared.catalog.name).cloned().collect();
        let hidden = Arc::clone(&work.prepared.hidden);
        let machine = Changing::new(self.key, hidden, cancel.all.clone(), self.register.clone());
        let order = Order {
            prepared: &work.prepared,
            machine: &machine,
            teller: &self.teller,
            approved: approved.as_ref(),
            owed: &owed,
            ran: work.ran.clone(),
            earlier: work.table.as_ref(),
            stop: &cancel.further,
        };
        let apply::Result { counts, drift, ran, table, mut log } = apply::apply(&order, log);
        (work.ran, work.table) = (ran, Some(table));
        // First what was done, then that nothing is owed for it any more.
        let settled = machine.settle().map_err(|failure| failure.to_string());
        let settled = settled.and_then(|()| log.sync().map_err(|error| with_causes(&error)));
        if let Err(words) = settled {
            self.teller.problem(format!("what was done may not outlive a power cut: {words}"));
        }
        // Whoever hears of the end may begin at once.
        drop((log, held));
        self.teller.tell(Tell::Applied { counts, drift: drift.map(|drift| self.teller.redact_text(&drift)) });
    }
}

/// A place to scribble, once those of killed sessions are gone.
fn scratch() -> std::io::Result<Scratch> {
    Scratch::clear_abandoned();
    Scratch::make()
}

/// Says what this machine is. Its facts.
fn greet(
    options: &SessionOptions,
    teller: &Teller,
    machine: &str,
    outfit: impl Fn(View) -> View,
    mut notes: Vec<String>,
) -> Values {
    // What only programs need is made where there may be some.
    let scratch = options.facts_directory.is_dir().then(|| scratch().ok()).flatten();
    let place = scratch.as_ref().map(Scratch::path);
    let view = outfit(View::new(place.map(Path::to_owned)));
    let gather = || facts::gather(&options.version, &options.labels, &options.facts_directory, &view);
    let gathered = looking(place, gather)
        .and_then(|gathered| gathered.map_err(|_| std::io::Error::other("it ended in a panic")));
    let (facts, missing) = gathered.unwrap_or_else(|error| {
        (Values::new(), vec![format!("this machine's facts cannot be had: {error}")])
    });
    notes.extend(missing);
    teller.tell(Tell::Hello {
        version: options.version.clone(),
        machine: machine.to_owned(),
        facts: facts.clone(),
        landlock: Some(offered()),
        notes,
    });
    facts
}

/// The books, for the one who alone may write in them.
fn open(directory: &Path, title: &str) -> Result<(ApplyLock, Log), String> {
    let held = ApplyLock::take(directory, title).map_err(|error| with_causes(&error))?;
    let log = Log::open(directory, &held).map_err(|error| with_causes(&error))?;
    Ok((held, log))
}

/// Two ways to call work off.
#[derive(Clone, Default)]
pub(super) struct CancelPair {
    /// No further state is begun.
    pub(super) further: Cancel,
    /// What runs is ended too: nobody is there to hear of it.
    pub(super) all: Cancel,
}
