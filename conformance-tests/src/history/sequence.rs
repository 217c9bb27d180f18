use queue_core::spec::{Latitude, Spec, Verdict, World};

use super::{History, Violation, show::Subject};

/// Checks a history in which nothing happened at the same time against the executable specification: every answer must be
/// one that the specification allows after the calls before it. `None` when calls overlap, or when the store's time is not known.
///
/// # Errors
/// The first call that the specification does not allow.
pub fn check_sequence(history: &History) -> Option<Result<(), Violation>> {
    let is_sequence = history.calls.windows(2).all(|pair| match pair[0].end {
        Some(end) => end < pair[1].begin,
        None => false,
    });
    let is_timed = history.calls.iter().all(|call| call.now.is_some() && call.now == call.since);
    if !is_sequence || !is_timed {
        return None;
    }
    let mut spec = Spec::new(World::new(history.limits()));
    for (place, call) in history.numbered() {
        let (Some(now), Some(answer)) = (call.now, &call.answer) else { return None };
        let verdict = spec.check(&call.op, now, &answer.to_result(), Latitude::Alone);
        if let Verdict::Reject(why) = verdict {
            let nobody = Subject::Record(String::new());
            return Some(Err(Violation::new(history, &nobody, why, [place])));
        }
    }
    Some(Ok(()))
}
