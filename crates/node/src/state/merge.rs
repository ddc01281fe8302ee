//! Several states applied as one, in `genius` order. What goes wrong as a whole is done again one by one, so that each has
//! its own outcome.

use std::time::Instant;

use mainstay_core::state::session::Tell;
use mainstay_core::state::walk::Run;
use mainstay_module::Failure;
use mainstay_module::module::{Analysis, Applied};
use mainstay_module::registry::Params;

use super::apply::Applying;
use super::failpoint;
use super::turn::Observed;

impl Applying<'_> {
    pub(super) fn merged(&self, runs: &[Run]) {
        let begun = Instant::now();
        let mut together: Vec<(&Run, Observed<'_>)> = Vec::new();
        for run in runs {
            self.tell(Tell::Turn { state: self.order.prepared.id(run.state).clone() });
            match self.observe(run) {
                // Nothing to merge: it is as declared, or it is done in a way of its own.
                Ok(observed) if !observed.analysis.step.is_pending() || self.is_of_its_own(run) => {
                    self.carry_out(run, &observed, None, begun);
                }
                Ok(observed) => together.push((run, observed)),
                Err(stop) => self.stopped(run.state, begun, stop, None),
            }
        }
        if let [(run, observed)] = together.as_slice() {
            return self.carry_out(run, observed, None, begun);
        }
        let Some((first, _)) = together.first() else { return };
        let first = first.state;
        let mut ready = Vec::with_capacity(together.len());
        for (run, observed) in together {
            match self.write_down(run.state) {
                Ok(()) => ready.push((run, observed)),
                Err(stop) => self.stopped(run.state, begun, stop, Some(&observed.analysis)),
            }
        }
        let params: Vec<&Params> = ready.iter().map(|(_, observed)| &*observed.params).collect();
        let analyses: Vec<&Analysis> = ready.iter().map(|(_, observed)| &observed.analysis).collect();
        let module = self.order.prepared.states[first].module.as_ref();
        failpoint::pass("before a change");
        let applied =
            self.act(first, |host| module.apply_merged(&params, &self.applying(first, host), &analyses));
        failpoint::pass("after a change");
        match applied {
            Ok(applied) if applied.len() == ready.len() => {
                for ((run, observed), applied) in ready.iter().zip(applied) {
                    self.conclude(run, observed, applied, begun);
                }
            }
            // It is done again for each; what went wrong shows there.
            Ok(_) | Err(Failure { .. }) => {
                let members: Vec<_> = ready.iter().map(|(run, _)| run.state).collect();
                self.merge_failed(&members);
            }
        }
    }

    fn conclude(&self, run: &Run, observed: &Observed<'_>, applied: Applied, begun: Instant) {
        let worked = self
            .act(run.state, |host| {
                Ok(self.after(run.state, &observed.params, &observed.analysis, applied, host))
            })
            .unwrap_or_else(|failure| Err(self.failed(run.state, &failure)));
        self.close(run, observed, begun, true, worked);
    }

    /// It is repeated by itself, or done as another user.
    fn is_of_its_own(&self, run: &Run) -> bool {
        let options = &self.order.prepared.declared(run.state).options;
        options.retry.is_some() || options.become_user.is_some()
    }
}
