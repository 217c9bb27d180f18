//! The store under test, and what handlers leave behind.

use std::{
    any::Any,
    sync::{Arc, Mutex},
};

use futures::future::BoxFuture;
use queue::{Clock, JobStore, MemoryStore, Queue, StoreRegistry, Timestamp, core::spec::ByOp};

mod counting;
#[cfg(any(feature = "postgres", feature = "mongo"))]
mod servers;

pub use counting::{Counting, Fault, Lock, Trips};

/// How many statements, transactions or commands a database has executed for a store.
pub type Statements = Box<dyn Fn() -> BoxFuture<'static, u64> + Send + Sync>;

/// One store, as several processes would see it.
pub struct Scene {
    pub queue: Queue,
    /// The clock of the store and of the queue.
    pub clock: Clock,
    /// How many calls the engine made, by the name of the method.
    pub trips: Arc<Trips>,
    /// The store, where no other process can open it.
    memory: Option<MemoryStore>,
    /// The URL for others.
    url: Option<String>,
    /// How others open it.
    siblings: StoreRegistry,
    /// What the store has cost the database so far, where that can be told.
    statements: Option<Statements>,
    /// What a job with one task may cost it: enqueue, claim, settle.
    pub budget: u64,
    _guard: Box<dyn Any + Send + Sync>,
}

impl Scene {
    pub async fn memory(clock: Clock) -> Self {
        let store = MemoryStore::with_clock(clock.clone());
        let trips = Arc::new(Trips::default());
        let counting: Arc<dyn JobStore> =
            Arc::new(ByOp(Counting { store: Arc::new(store.clone()), trips: trips.clone() }));
        Scene {
            queue: Queue::new(counting).unwrap().with_clock(clock.clone()),
            clock,
            trips,
            memory: Some(store),
            url: None,
            siblings: StoreRegistry::new(),
            statements: None,
            budget: 3,
            _guard: Box::new(()),
        }
    }

    #[cfg(feature = "sqlite")]
    pub async fn sqlite(clock: Clock) -> Self {
        use queue::sqlite::{SqliteOptions, SqliteStore};
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite:{}", folder.path().join("jobs.db").display());
        let opened = Arc::new(Mutex::new(None::<SqliteStore>));
        let (keep, now) = (opened.clone(), clock.clone());
        let open = move |url: String| {
            let (keep, now) = (keep.clone(), now.clone());
            async move {
                let store = SqliteOptions::from_url(&url)?.clock(now).open().await?;
                *keep.lock().unwrap() = Some(store.clone());
                Ok(Arc::new(store) as Arc<dyn JobStore>)
            }
        };
        let mut scene = Self::at("sqlite", url, clock, open, folder).await;
        scene.statements = Some(Box::new(move || {
            let count = opened.lock().unwrap().as_ref().unwrap().transactions();
            Box::pin(async move { count })
        }));
        scene
    }

    /// A store that a URL names, opened as an application would open it.
    async fn at<F, Fut>(
        scheme: &str,
        url: String,
        clock: Clock,
        open: F,
        guard: impl Any + Send + Sync,
    ) -> Self
    where
        F: Fn(String) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = queue::Result<Arc<dyn JobStore>>> + Send + 'static,
    {
        let trips = Arc::new(Trips::default());
        let (counted, open) = (trips.clone(), Arc::new(open));
        let plain = open.clone();
        let mut registry = StoreRegistry::new();
        registry.register(scheme, move |url| {
            let (open, trips) = (open(url), counted.clone());
            async move {
                Ok(Arc::new(ByOp(Counting { store: open.await?, trips })) as Arc<dyn JobStore>)
            }
        });
        let mut siblings = StoreRegistry::new();
        siblings.register(scheme, move |url| plain(url));
        let queue = Queue::connect_with(&registry, &url).await.unwrap();
        Scene {
            queue: queue.with_clock(clock.clone()),
            clock,
            siblings,
            trips,
            memory: None,
            url: Some(url),
            statements: None,
            budget: 3,
            _guard: Box::new(guard),
        }
    }

    /// The URL of the store, for other processes.
    pub fn url(&self) -> &str {
        self.url.as_ref().expect("only databases have several processes")
    }

    /// The same jobs through a handle of their own, as another process would have it.
    pub async fn sibling(&self) -> Queue {
        let queue = match &self.memory {
            Some(store) => Queue::new(Arc::new(store.clone()) as Arc<dyn JobStore>).unwrap(),
            None => Queue::connect_with(&self.siblings, self.url()).await.unwrap(),
        };
        queue.with_clock(self.clock.clone())
    }

    /// How much the database has been asked to do so far, where that can be told.
    pub async fn statements(&self) -> Option<u64> {
        match &self.statements {
            Some(count) => Some(count().await),
            None => None,
        }
    }
}

/// Where a manual clock stands at first.
pub fn noon() -> Clock {
    Clock::manual(Timestamp::from_micros(1_800_000_000_000_000).unwrap())
}

/// Declares the tests of a module: each of the named bodies on each store.
#[macro_export]
macro_rules! on_every_store {
    ($($name:ident),* $(,)?) => {
        mod memory { $crate::on_store!(memory, queue::Clock::system(); $($name),*); }
        $crate::on_every_database!($($name),*);
    };
}

/// As [`on_every_store`], with a clock that stands still until the test moves it.
#[macro_export]
macro_rules! on_every_store_by_the_clock {
    ($($name:ident),* $(,)?) => {
        mod memory_by_the_clock { $crate::on_store!(memory, $crate::scene::noon(); $($name),*); }
        #[cfg(feature = "sqlite")]
        mod sqlite_by_the_clock { $crate::on_store!(sqlite, $crate::scene::noon(); $($name),*); }
        #[cfg(feature = "postgres")]
        mod postgres_by_the_clock { $crate::on_store!(postgres, $crate::scene::noon(); $($name),*); }
        #[cfg(feature = "mongo")]
        mod mongo_by_the_clock { $crate::on_store!(mongo, $crate::scene::noon(); $($name),*); }
        #[cfg(feature = "mongo")]
        mod mongo_standalone_by_the_clock {
            $crate::on_store!(mongo_standalone, $crate::scene::noon(); $($name),*);
        }
    };
}

/// As [`on_every_store`], without memory, which other processes do not share.
#[macro_export]
macro_rules! on_every_database {
    ($($name:ident),* $(,)?) => {
        #[cfg(feature = "sqlite")]
        mod sqlite { $crate::on_store!(sqlite, queue::Clock::system(); $($name),*); }
        #[cfg(feature = "postgres")]
        mod postgres { $crate::on_store!(postgres, queue::Clock::system(); $($name),*); }
        #[cfg(feature = "mongo")]
        mod mongo { $crate::on_store!(mongo, queue::Clock::system(); $($name),*); }
        #[cfg(feature = "mongo")]
        mod mongo_standalone { $crate::on_store!(mongo_standalone, queue::Clock::system(); $($name),*); }
    };
}

/// Declares the tests of one store.
#[macro_export]
macro_rules! on_store {
    ($store:ident, $clock:expr; $($name:ident),*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name($crate::scene::Scene::$store($clock).await).await;
            }
        )*
    };
}

/// What handlers write.
#[derive(Clone, Debug, Default)]
pub struct Docs(Arc<Mutex<Vec<String>>>);

impl Docs {
    pub fn write(&self, doc: impl Into<String>) {
        self.0.lock().unwrap().push(doc.into());
    }

    pub fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }

    pub fn len(&self) -> usize {
        self.all().len()
    }

    pub fn count(&self, doc: &str) -> usize {
        self.all().iter().filter(|there| *there == doc).count()
    }
}

/// How long something may take that is done at once; a broken engine is what this ends in vain for.
pub fn patience() -> std::time::Duration {
    let is_broken = std::env::var_os("QUEUE_BROKEN").is_some();
    std::time::Duration::from_secs(if is_broken { 8 } else { 30 })
}

/// Polls until the condition holds; a test that waits for what never comes fails.
pub async fn eventually<F: Future<Output = bool>>(what: &str, mut condition: impl FnMut() -> F) {
    let deadline = std::time::Instant::now() + patience();
    while !condition().await {
        assert!(std::time::Instant::now() < deadline, "waited in vain for: {what}");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}
