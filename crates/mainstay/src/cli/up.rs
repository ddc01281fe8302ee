//! `mainstay up`: brings machines to their declared state.

use clap::Args;
use mainstay_control::view::{Problem, ProblemKind};
use mainstay_core::batch::{BatchSize, FailureLimit};
use mainstay_module::registry::Registry;

use super::Done;
use super::plan::{StatesArgs, bring};
use super::screen::Screen;
use crate::up::{Goal, Options};

/// Brings machines to their declared state
///
/// Looks at all of them, lists what would change, asks, modifies, and looks again until nothing is left. A machine on which something
/// fails is set aside and named at the end; the others go on. Without --ssh, --inventory or -t it is about this machine.
///
/// The exit status is 0 if all are as declared, 1 if something failed or did not become stable, 3 if nothing failed but something
/// was not done, 2 if the file is wrong, 4 if the hub cannot be reached or refuses.
#[derive(Args)]
#[command(after_help = "Examples:
  mainstay up site.yaml
  mainstay up site.yaml --ssh root@web1,root@web2 --batch 1 --max-failures 0
  mainstay up site.yaml --inventory hosts.yaml -t 'role=web' --become --yes --json")]
pub(super) struct UpArgs {
    #[command(flatten)]
    states: StatesArgs,
    /// Do not ask, in no cycle
    #[arg(short, long)]
    yes: bool,
    /// How often a machine is modified before not being stable is a failure
    #[arg(long, value_name = "N", default_value_t = crate::up::rollout::CYCLES, value_parser = clap::value_parser!(u32).range(1..=100))]
    cycles: u32,
    /// Give up what is owed for states that the file no longer has
    #[arg(long)]
    drop_orphans: bool,
    /// How many machines are modified at a time
    #[arg(long, value_name = "N|P%")]
    batch: Option<BatchSize>,
    /// Begin with no further machine after more failures than this
    #[arg(long, value_name = "N|P%")]
    max_failures: Option<FailureLimit>,
}

pub(super) async fn run(args: UpArgs, hub: Option<&str>, registry: &Registry, screen: &mut Screen) -> Done {
    if !args.yes && !screen.can_ask() {
        return Err(nobody_to_ask().into());
    }
    let options = Options {
        cycles: args.cycles,
        drop_orphans: args.drop_orphans,
        batch: args.batch,
        max_failures: args.max_failures,
        ..Options::new(Goal::Up { yes: args.yes })
    };
    bring(args.states, options, hub, registry, screen).await
}

/// Without a terminal there is no confirmation but `--yes`.
pub(super) fn nobody_to_ask() -> Problem {
    let message = "this needs a yes before anything is changed, and there is nobody to ask";
    Problem::new(ProblemKind::Invalid, message)
        .hint("say --yes to do it unasked")
        .hint("or see what would change with the command `plan`")
}
