use std::{any::Any, fmt, future::Future, pin::Pin, sync::Arc};

use queue_core::{Clock, JobStore, Result, async_trait};

/// Opens the store under test.
#[async_trait]
pub trait Harness: Send + Sync + 'static {
    /// Opens an empty store. It is called at least once per property, from several threads at a time,
    /// and what it opens must not share anything with what it opened before.
    ///
    /// `clock` is a manual clock. A harness whose store can be driven by it opens the store with it and says
    /// [`Fixture::clocked`]; others leave it alone.
    ///
    /// # Errors
    /// Whatever keeps the store from being opened; the property fails with it.
    async fn fresh(&self, clock: &Clock) -> Result<Fixture>;
}

type Opening = Pin<Box<dyn Future<Output = Result<Arc<dyn JobStore>>> + Send>>;
type Sibling = Box<dyn Fn() -> Opening + Send + Sync>;

/// An open store with the hooks that its harness has.
pub struct Fixture {
    // The stores go before the guards, which may be the directories that they live in.
    pub(crate) store: Arc<dyn JobStore>,
    pub(crate) sibling: Option<Sibling>,
    pub(crate) clocked: bool,
    guards: Vec<Box<dyn Any + Send + Sync>>,
}

impl Fixture {
    /// A store without hooks.
    pub fn new(store: Arc<dyn JobStore>) -> Self {
        Fixture { store, sibling: None, clocked: false, guards: Vec::new() }
    }

    /// Says that the store runs by the clock that the harness was given.
    #[must_use]
    pub fn clocked(mut self) -> Self {
        self.clocked = true;
        self
    }

    /// Says how to open a further handle on the same jobs, as another process would have it, and by
    /// the same clock.
    #[must_use]
    pub fn with_sibling<F>(mut self, open: F) -> Self
    where
        F: Fn() -> Opening + Send + Sync + 'static,
    {
        self.sibling = Some(Box::new(open));
        self
    }

    /// Has siblings live in processes of their own, which open this place by the same clock: see
    /// [`processes`](crate::processes), whose `serve` the test program must call first.
    #[must_use]
    pub fn with_processes(self, place: impl Into<String>, clock: &Clock) -> Self {
        let (place, clock) = (place.into(), clock.clone());
        self.with_sibling(move || {
            let (place, clock) = (place.clone(), clock.clone());
            Box::pin(async move { crate::processes::open(&place, &clock).await })
        })
    }

    /// Keeps a value (a temporary directory, a server) until the property has ended.
    #[must_use]
    pub fn with_guard(mut self, guard: impl Any + Send + Sync) -> Self {
        self.guards.push(Box::new(guard));
        self
    }
}

impl fmt::Debug for Fixture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fixture")
            .field("store", &self.store)
            .field("sibling", &self.sibling.is_some())
            .field("clocked", &self.clocked)
            .field("guards", &self.guards.len())
            .finish()
    }
}
