use std::{any::Any, fmt, future::Future, pin::Pin, sync::Arc};

use futures::future::BoxFuture;
use queue_core::{Clock, Error, ErrorKind, JobStore, Result, async_trait};

use crate::faults::{Breakable, Fault};

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

    /// In which ways this harness can break its store. None by default; what needs a fault that is not among them is
    /// skipped.
    fn faults(&self) -> Vec<Fault> {
        Vec::new()
    }

    /// Opens an empty store, as [`Harness::fresh`] does, that can be broken in this way: one of [`Harness::faults`].
    ///
    /// # Errors
    /// Whatever keeps the store from being opened; the property fails with it.
    async fn breakable(&self, fault: Fault, _clock: &Clock) -> Result<Breakable> {
        Err(Error::new(ErrorKind::Unsupported, format!("this harness cannot make it `{fault}`")))
    }

    /// Names an empty place that nobody has opened, for the properties that kill the processes which open it: what the
    /// `open` of [`processes::serve`](crate::processes::serve) opens. `None` by default: those properties are skipped.
    ///
    /// They keep several processes at one place only where [`Capabilities::reach`](queue_core::Capabilities::reach) allows it,
    /// and never open it in the process of the suite. Where [`Capabilities::durable`](queue_core::Capabilities::durable) is
    /// false nothing has to survive, and they are skipped as well. The loss of power is beyond them.
    ///
    /// # Errors
    /// Whatever keeps the place from being made; the property fails with it.
    async fn place(&self) -> Result<Option<Place>> {
        Ok(None)
    }
}

type Age = Box<dyn Fn() -> BoxFuture<'static, Result<()>> + Send + Sync>;
type Look = Box<dyn Fn() -> BoxFuture<'static, Result<Vec<u8>>> + Send + Sync>;

/// Where an empty store is or can be made, for processes to open.
pub struct Place {
    pub(crate) name: String,
    pub(crate) age: Option<Age>,
    pub(crate) look: Option<Look>,
    guards: Vec<Box<dyn Any + Send + Sync>>,
}

impl Place {
    /// What [`processes::serve`](crate::processes::serve) is given: a path, a URL, the name of a schema.
    pub fn new(name: impl Into<String>) -> Self {
        Place { name: name.into(), age: None, look: None, guards: Vec::new() }
    }

    /// Says how to make the store there look as if a later release had migrated it, which this one must refuse to open.
    #[must_use]
    pub fn with_later_release<F>(mut self, migrate: F) -> Self
    where
        F: Fn() -> BoxFuture<'static, Result<()>> + Send + Sync + 'static,
    {
        self.age = Some(Box::new(migrate));
        self
    }

    /// Says how to read what is there, past the store and while no process has it open: a file's bytes, the names of the
    /// tables and the version of the schema. Two answers are the same when nothing was changed in between.
    #[must_use]
    pub fn with_contents<F>(mut self, look: F) -> Self
    where
        F: Fn() -> BoxFuture<'static, Result<Vec<u8>>> + Send + Sync + 'static,
    {
        self.look = Some(Box::new(look));
        self
    }

    /// Keeps a value (a temporary directory, a schema) until the property has ended.
    #[must_use]
    pub fn with_guard(mut self, guard: impl Any + Send + Sync) -> Self {
        self.guards.push(Box::new(guard));
        self
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Place")
            .field("name", &self.name)
            .field("later_release", &self.age.is_some())
            .field("contents", &self.look.is_some())
            .field("guards", &self.guards.len())
            .finish()
    }
}

type Opening = Pin<Box<dyn Future<Output = Result<Arc<dyn JobStore>>> + Send>>;
type Sibling = Box<dyn Fn() -> Opening + Send + Sync>;
type Trips = Box<dyn Fn() -> BoxFuture<'static, u64> + Send + Sync>;

/// An open store with the hooks that its harness has.
pub struct Fixture {
    // The stores go before the guards, which may be the directories that they live in.
    pub(crate) store: Arc<dyn JobStore>,
    pub(crate) sibling: Option<Sibling>,
    pub(crate) clocked: bool,
    pub(crate) trips: Option<Trips>,
    pub(crate) secret: Option<String>,
    guards: Vec<Box<dyn Any + Send + Sync>>,
}

impl Fixture {
    /// A store without hooks.
    pub fn new(store: Arc<dyn JobStore>) -> Self {
        Fixture {
            store,
            sibling: None,
            clocked: false,
            trips: None,
            secret: None,
            guards: Vec::new(),
        }
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

    /// Says how to count the trips that the store has made to its database so far: statements, commands, transactions.
    /// Only this handle's, and nothing that it does in the background.
    #[must_use]
    pub fn with_trips<F>(mut self, count: F) -> Self
    where
        F: Fn() -> BoxFuture<'static, u64> + Send + Sync + 'static,
    {
        self.trips = Some(Box::new(count));
        self
    }

    /// Names the password with which the store was opened, which it must show nowhere.
    #[must_use]
    pub fn with_secret(mut self, secret: impl Into<String>) -> Self {
        self.secret = Some(secret.into());
        self
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
            .field("trips", &self.trips.is_some())
            .field("secret", &self.secret.is_some())
            .field("guards", &self.guards.len())
            .finish()
    }
}
