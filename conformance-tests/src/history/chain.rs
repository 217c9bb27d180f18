//! Something that goes through numbered stages, each entered once, by one call.
//!
//! The numbers fix the order, so whether the calls fit is decided in one pass: every step is put at the earliest moment that
//! its own call and all earlier steps allow. That moment is too late for a call only if no choice would do, because
//! earlier steps were as early as can be.

use std::collections::BTreeMap;

/// More stages than this are not missing because an answer was lost: the number is wrong, and the sight or the entry of it
/// too early or too late is told all the same.
const MOST_MISSING: usize = 100_000;

/// When a call may have happened, and which call it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    pub begin: u64,
    pub end: u64,
    pub call: usize,
}

/// What a call saw of the stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sight {
    /// It was this one.
    Exactly,
    /// It was this one or a later one.
    AtLeast,
}

/// A stage that a call of unknown effect may have entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fill {
    At(u64),
    Odd,
    Even,
    Any,
}

impl Fill {
    const fn fits(self, stage: u64) -> bool {
        match self {
            Fill::At(only) => only == stage,
            Fill::Odd => stage % 2 == 1,
            Fill::Even => stage.is_multiple_of(2),
            Fill::Any => true,
        }
    }
}

/// Why the calls do not fit. The stage is the one at which they part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Break {
    /// Two calls entered it.
    Twice { stage: u64, calls: [usize; 2] },
    /// Nobody entered it, and yet it is past or seen.
    Gap { stage: u64, calls: Vec<usize> },
    /// The last of the calls came before the others: one that is of an earlier stage.
    Order { stage: u64, calls: Vec<usize> },
}

#[derive(Clone, Debug, Default)]
struct Stage {
    entered: Vec<Span>,
    seen: Vec<(Sight, Span)>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Chain {
    stages: BTreeMap<u64, Stage>,
    fills: Vec<(Fill, u64)>,
}

impl Chain {
    pub fn enter(&mut self, stage: u64, span: Span) {
        self.stages.entry(stage).or_default().entered.push(span);
    }

    pub fn see(&mut self, stage: u64, sight: Sight, span: Span) {
        self.stages.entry(stage).or_default().seen.push((sight, span));
    }

    /// A call of unknown effect, by when it began.
    pub fn fill(&mut self, fill: Fill, begin: u64) {
        self.fills.push((fill, begin));
    }

    /// The call that entered a stage.
    pub fn entered(&self, stage: u64) -> Option<Span> {
        self.stages.get(&stage)?.entered.first().copied()
    }

    /// Checks the chain, which begins at `first`. Calls of unknown effect that may have touched any chain are in `others`.
    pub fn check(&self, first: u64, others: &[(Fill, u64)]) -> Result<(), Break> {
        let mut reached = first;
        // The earliest moment at which `reached` may have been entered, and the call because of which it is not earlier.
        let (mut moment, mut because): (u64, Option<usize>) = (0, None);
        for (number, stage) in &self.stages {
            let (number, any) =
                (*number, stage.entered.first().or(stage.seen.first().map(|s| &s.1)));
            let order = |because: Option<usize>, call| Break::Order {
                stage: number,
                calls: because.into_iter().chain([call]).collect(),
            };
            if let [one, other, ..] = &stage.entered[..] {
                return Err(Break::Twice { stage: number, calls: [one.call, other.call] });
            }
            if number < first {
                let call = any.map_or(0, |span| span.call);
                return Err(Break::Gap { stage: number, calls: vec![call] });
            }
            let is_entered = !stage.entered.is_empty();
            let missing = reached + 1..number + u64::from(!is_entered && number > first);
            for missing in missing.take(MOST_MISSING) {
                let fits = |(fill, _): &&(Fill, u64)| fill.fits(missing);
                let begins = self.fills.iter().chain(others).filter(fits).map(|(_, begin)| *begin);
                let Some(begin) = begins.min() else {
                    let calls = because.into_iter().chain(any.map(|span| span.call)).collect();
                    return Err(Break::Gap { stage: missing, calls });
                };
                moment = moment.max(begin);
            }
            if let [entering] = &stage.entered[..] {
                if entering.begin > moment {
                    (moment, because) = (entering.begin, Some(entering.call));
                }
                if moment > entering.end {
                    return Err(order(because, entering.call));
                }
                because = because.or(Some(entering.call));
            }
            reached = number;
            let (entered, by) = (moment, because);
            for (sight, span) in &stage.seen {
                let seen = match sight {
                    Sight::Exactly => entered.max(span.begin),
                    Sight::AtLeast => entered,
                };
                if seen > span.end {
                    return Err(order(by, span.call));
                }
                if seen > moment {
                    (moment, because) = (seen, Some(span.call));
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn span(begin: u64, end: u64, call: usize) -> Span {
        Span { begin, end, call }
    }

    fn chain(entered: &[(u64, Span)]) -> Chain {
        let mut chain = Chain::default();
        entered.iter().for_each(|(stage, span)| chain.enter(*stage, *span));
        chain
    }

    #[test]
    fn calls_that_overlap_fit_in_the_order_of_their_stages() {
        let sound = chain(&[(1, span(5, 9, 0)), (2, span(0, 6, 1)), (3, span(1, 7, 2))]);
        assert_eq!(sound.check(0, &[]), Ok(()));
        let late = chain(&[(1, span(5, 9, 0)), (2, span(0, 4, 1))]);
        assert_eq!(late.check(0, &[]), Err(Break::Order { stage: 2, calls: vec![0, 1] }));
    }

    #[test]
    fn a_stage_is_entered_once_and_none_is_left_out_unless_an_unknown_call_may_have_done_it() {
        let twice = chain(&[(1, span(0, 1, 0)), (1, span(2, 3, 1))]);
        assert_eq!(twice.check(0, &[]), Err(Break::Twice { stage: 1, calls: [0, 1] }));
        let mut gap = chain(&[(1, span(0, 1, 0)), (3, span(4, 6, 1))]);
        assert_eq!(gap.check(0, &[]), Err(Break::Gap { stage: 2, calls: vec![0, 1] }));
        assert_eq!(gap.check(0, &[(Fill::Even, 2)]), Ok(()));
        assert_eq!(
            gap.check(0, &[(Fill::Odd, 2)]),
            Err(Break::Gap { stage: 2, calls: vec![0, 1] })
        );
        // An unknown call cannot have happened before it began.
        gap.fill(Fill::At(2), 7);
        assert!(matches!(gap.check(0, &[]), Err(Break::Order { stage: 3, .. })));
    }

    #[test]
    fn what_was_seen_holds_the_next_stage_back_and_what_was_at_least_reached_does_not() {
        let mut seen = chain(&[(1, span(0, 1, 0)), (2, span(2, 3, 1))]);
        seen.see(1, Sight::AtLeast, span(5, 6, 2));
        assert_eq!(seen.check(0, &[]), Ok(()));
        seen.see(1, Sight::Exactly, span(5, 6, 3));
        assert_eq!(seen.check(0, &[]), Err(Break::Order { stage: 2, calls: vec![3, 1] }));
        let mut early = chain(&[(1, span(4, 5, 0))]);
        early.see(1, Sight::AtLeast, span(0, 3, 1));
        assert_eq!(early.check(0, &[]), Err(Break::Order { stage: 1, calls: vec![0, 1] }));
        let mut beyond = chain(&[]);
        beyond.see(1, Sight::AtLeast, span(0, 3, 0));
        assert_eq!(beyond.check(0, &[]), Err(Break::Gap { stage: 1, calls: vec![0] }));
    }
}
