use std::{fmt, time::Duration};

use futures::future::BoxFuture;

use crate::{Case, Checked};

/// How long a property may take unless it says otherwise.
pub(crate) const TIME_LIMIT: Duration = Duration::from_secs(20);

/// The body of a property.
pub type Body = for<'a, 'h> fn(&'a Case<'h>) -> BoxFuture<'a, Checked>;

/// One thing that every store does, and how to find out whether this one does.
#[derive(Clone, Copy)]
#[non_exhaustive]
pub struct Property {
    /// Its name: the group and a number, for example `LOG-1`.
    pub id: &'static str,
    /// What it says, in a sentence.
    pub sentence: &'static str,
    /// After this long, times `CONFORMANCE_ROUNDS`, it has hung, and fails.
    pub limit: Duration,
    /// How it is checked.
    pub run: Body,
}

impl Property {
    /// A property that may take 20 seconds.
    pub const fn new(id: &'static str, sentence: &'static str, run: Body) -> Self {
        Property { id, sentence, limit: TIME_LIMIT, run }
    }

    /// With another time limit.
    #[must_use]
    pub const fn within(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// The group it belongs to: `LOG` for `LOG-1`.
    pub fn group(&self) -> &'static str {
        self.id.split_once('-').map_or(self.id, |(group, _)| group)
    }
}

impl fmt::Debug for Property {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.id, self.sentence)
    }
}

/// Declares the properties of a group: id, sentence, the async function that checks it.
macro_rules! group {
    ($($id:literal, $sentence:literal => $check:path;)*) => {
        /// The properties of this group.
        pub fn properties() -> Vec<$crate::Property> {
            vec![$($crate::Property::new($id, $sentence, |case| ::std::boxed::Box::pin($check(case)))),*]
        }
    };
}

pub(crate) use group;
