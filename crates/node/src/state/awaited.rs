//! A plan that waits for its approval, as far as an approval covers it.
//!
//! Packed, and without what only people read: a machine may wait long for an answer, and often nobody asks for one.

use mainstay_core::state::plan::{PlanDigest, PlanHead, PlanStep};

pub(super) struct Awaited {
    digest: String,
    steps: Packed,
}

/// One after the other, and where each ends.
#[derive(Default)]
struct Packed {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

/// One that is being made.
#[derive(Default)]
pub(super) struct Draft {
    digest: PlanDigest,
    steps: Packed,
}

impl Draft {
    /// In the order of turns.
    pub(super) fn step(&mut self, step: &PlanStep) {
        self.digest.step(step);
        // Named, since some fields are left out where they say nothing.
        rmp_serde::encode::write_named(&mut self.steps.bytes, &step.clone().without_words())
            .expect("a step is lists, maps and texts");
        self.steps.ends.push(self.steps.bytes.len());
    }

    pub(super) fn end(mut self, head: &PlanHead) -> Awaited {
        self.steps.bytes.shrink_to_fit();
        self.steps.ends.shrink_to_fit();
        Awaited { digest: self.digest.whole(head), steps: self.steps }
    }
}

impl Awaited {
    /// What an approval names: [`Plan::digest`](mainstay_core::state::plan::Plan::digest).
    pub(super) fn digest(&self) -> &str {
        &self.digest
    }

    /// The one at this place in the order of turns.
    pub(super) fn step(&self, place: usize) -> Option<PlanStep> {
        let Packed { bytes, ends } = &self.steps;
        let from = place.checked_sub(1).map_or(Some(0), |before| ends.get(before).copied())?;
        let packed = bytes.get(from..*ends.get(place)?)?;
        Some(rmp_serde::from_slice(packed).expect("it was packed here"))
    }
}

#[cfg(test)]
mod tests {
    use mainstay_core::state::StepWord;
    use mainstay_core::state::catalog::CatalogDigest;
    use mainstay_core::state::plan::{Change, Datum, Plan};

    use super::*;

    fn awaited(plan: &Plan) -> Awaited {
        let mut draft = Draft::default();
        plan.steps.iter().for_each(|step| draft.step(step));
        draft.end(&plan.head)
    }

    #[test]
    fn what_is_approved_comes_back_as_it_was() {
        let data = [
            Datum::Absent,
            Datum::known("text"),
            Datum::known(serde_json::json!({"a": [1, -2, 0.5, true, null], "b": {}})),
            Datum::Predicted { value: 7.into(), by: "a".into() },
            Datum::Unknown { until: "b".into() },
            Datum::Secret { digest: "d".into() },
        ];
        let changes = data.iter().map(|datum| Change::new("field", datum.clone(), Datum::Absent));
        let mut step = PlanStep {
            state: "s".into(),
            module: String::new(),
            step: StepWord::Change,
            reason: None,
            changes: changes.collect(),
            refresh: Some(vec!["a".into()]),
        };
        let other = PlanStep { step: StepWord::Opaque, changes: Vec::new(), refresh: None, ..step.clone() };
        let head = PlanHead::new(CatalogDigest("c".into()), "m", 1);
        let mut plan = Plan { head, steps: vec![step.clone(), other.clone()] };
        let steps = [0, 1, 2, usize::MAX].map(|place| awaited(&plan).step(place));
        assert_eq!(steps, [Some(step.clone()), Some(other.clone()), None, None]);
        assert_eq!(awaited(&plan).digest(), plan.digest());
        // Words are for people.
        step.changes[0].diff = Some("+a".into());
        plan.steps[0] = PlanStep { module: "file".into(), reason: Some("why".into()), ..step };
        let bare = awaited(&plan).step(0).unwrap();
        assert_eq!((bare.changes[0].diff.as_deref(), bare.reason), (None, None));
    }
}
