//! What can go wrong between a store and its jobs, and how the suite makes it go wrong.
//!
//! A harness that can break its store says [`Harness::faults`](crate::Harness::faults) and opens a
//! [`Breakable`] for each. The properties of the group `FLT` work on it while the fault comes and goes.
//!
//! Two tools break what they know nothing of: a [`Proxy`] the connections to a server, a [`ChaosStore`] the calls of any
//! store.

use std::{fmt, sync::Arc, time::Duration};

use queue_core::{Result, async_trait};

pub(crate) use chaos::is_write;
pub use {chaos::ChaosStore, proxy::Proxy};

use crate::Fixture;

mod chaos;
mod line;
mod proxy;

/// A way in which the jobs are out of a store's reach for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Fault {
    /// Connections are refused, and those that are open are closed.
    Unreachable,
    /// What is asked does not arrive, and the connection ends.
    RequestLost,
    /// What is asked arrives and is done; the answer does not arrive, and the connection ends.
    AnswerLost,
    /// Connections end somewhere within a message.
    Cut,
    /// Connections are reset, as by a peer that has restarted.
    Reset,
    /// Nothing arrives in either direction, and nobody is told: a cable that was pulled.
    Silent,
    /// Everything arrives late.
    Slow,
    /// The server ends the sessions of the store.
    Terminated,
    /// The server is killed, and started again when the fault ends.
    Restarted,
    /// The medium takes no writes: the disk is full.
    Full,
    /// Another program holds what writers need.
    Locked,
}

impl Fault {
    /// Every fault.
    pub const ALL: [Fault; 11] = [
        Self::Unreachable,
        Self::RequestLost,
        Self::AnswerLost,
        Self::Cut,
        Self::Reset,
        Self::Silent,
        Self::Slow,
        Self::Terminated,
        Self::Restarted,
        Self::Full,
        Self::Locked,
    ];
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Unreachable => "unreachable",
            Self::RequestLost => "request lost",
            Self::AnswerLost => "answer lost",
            Self::Cut => "cut",
            Self::Reset => "reset",
            Self::Silent => "silent",
            Self::Slow => "slow",
            Self::Terminated => "terminated",
            Self::Restarted => "restarted",
            Self::Full => "full",
            Self::Locked => "locked",
        })
    }
}

/// Turns a fault on and off.
#[async_trait]
pub trait Switch: Send + Sync {
    /// From now on the fault is there. A fault that is an event (a cut, a reset, the end of a session) happens now, to
    /// every connection, and again at each further call.
    ///
    /// # Errors
    /// Whatever keeps it from being made; the property is `INCONCLUSIVE` then.
    async fn on(&self) -> Result<()>;

    /// From now on the store can do its work again.
    ///
    /// # Errors
    /// Whatever keeps it from being ended; the property is `INCONCLUSIVE` then.
    async fn off(&self) -> Result<()>;
}

/// An empty store that can be broken in one way, and is not broken yet.
pub struct Breakable {
    pub(crate) fixture: Fixture,
    pub(crate) switch: Arc<dyn Switch>,
    pub(crate) patience: Duration,
}

impl Breakable {
    /// The store of this fixture, which this switch breaks. Its siblings need not be broken with it; if there are none,
    /// the suite looks at the jobs through the store itself once the fault is over.
    pub fn new(fixture: Fixture, switch: impl Switch + 'static) -> Self {
        Breakable { fixture, switch: Arc::new(switch), patience: Duration::from_secs(15) }
    }

    /// After how long at most the store gives up a call, as it is configured; 15 s by default.
    #[must_use]
    pub const fn with_patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }
}

impl fmt::Debug for Breakable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Breakable")
            .field("fixture", &self.fixture)
            .field("patience", &self.patience)
            .finish_non_exhaustive()
    }
}
