//! The kinds that a request for all kinds looks at first.

use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError},
};

/// The kinds of waiting jobs that this process has seen: where a request for all kinds looks first.
///
/// The same trip asks which kinds there are. One that is missing here costs a further look, and nothing else.
#[derive(Debug, Default)]
pub(crate) struct Seen(Mutex<BTreeSet<String>>);

/// More kinds than these are asked for each time.
const REMEMBERED: usize = 100;

impl Seen {
    /// Remembers kinds.
    pub(crate) fn add<'a>(&self, kinds: impl IntoIterator<Item = &'a str>) {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for kind in kinds {
            if !seen.contains(kind) {
                seen.insert(kind.to_owned());
            }
        }
        if seen.len() > REMEMBERED {
            seen.clear();
        }
    }

    /// The kinds, in order.
    pub(super) fn kinds(&self) -> BTreeSet<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
