//! A place, and the lives of the processes that open it one after the other.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use queue_core::{Capabilities, Clock, LogRead, Reach};

use crate::{
    Case, Checked, Place, Rng, Stop, processes::Killable, properties::scene::Store, start,
};

/// How long the suite waits for processes to get on with their work.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long the server may take to end what a killed process had asked of it.
const AFTERMATH: Duration = Duration::from_millis(250);

/// An empty place with the clock by which the stores there run.
pub(in crate::properties) struct Site {
    place: Place,
    clock: Clock,
}

/// A process with the place open.
pub(in crate::properties) struct Life {
    pub(in crate::properties) process: Killable,
    pub(in crate::properties) store: Store,
}

impl Life {
    pub(in crate::properties) fn capabilities(&self) -> Capabilities {
        self.store.info().capabilities
    }

    /// Whether other processes may have the place open as well.
    pub(in crate::properties) fn is_shared(&self) -> bool {
        self.capabilities().reach != Reach::Process
    }
}

impl Site {
    pub(in crate::properties) async fn new(case: &Case<'_>) -> Checked<Site> {
        let place = case.place().await?;
        let clock = case.clock().cloned().unwrap_or_else(|_| Clock::manual(start()));
        Ok(Site { place, clock })
    }

    /// A place whose store keeps what it acknowledged, open.
    pub(in crate::properties) async fn durable(case: &Case<'_>) -> Checked<(Site, Life)> {
        let site = Site::new(case).await?;
        let life = site.open().await?;
        match life.capabilities().durable {
            true => Ok((site, life)),
            false => Err(Stop::skip("not durable, as the store says")),
        }
    }

    pub(in crate::properties) const fn clock(&self) -> &Clock {
        &self.clock
    }

    pub(in crate::properties) const fn place(&self) -> &Place {
        &self.place
    }

    /// A process that has not opened the place yet.
    pub(in crate::properties) fn start(&self) -> Checked<Killable> {
        Ok(Killable::start(&self.place.name, &self.clock)?)
    }

    pub(in crate::properties) async fn open(&self) -> Checked<Life> {
        let process = self.start()?;
        let store = process
            .open()
            .await
            .map_err(|error| Stop::fail(format!("the place could not be opened: {error}")))?;
        Ok(Life { process, store })
    }

    /// Opens the place after a process that had it open was killed. What that one had asked of a server may still be
    /// carried out, until the connection's end is noticed.
    pub(in crate::properties) async fn reopen(&self) -> Checked<Life> {
        let life = self.open().await?;
        if life.capabilities().reach == Reach::Network {
            // Two looks at all jobs that agree: nothing is under way any more.
            let mut last = snapshot(&life.store).await?;
            let deadline = Instant::now() + PATIENCE;
            loop {
                tokio::time::sleep(AFTERMATH).await;
                let now = snapshot(&life.store).await?;
                if now == last || Instant::now() > deadline {
                    break;
                }
                last = now;
            }
        }
        Ok(life)
    }
}

/// Everything that can be read, as a text.
pub(in crate::properties) async fn snapshot(store: &Store) -> Checked<String> {
    let mut query = queue_core::JobQuery::new(queue_core::JobFilter::all());
    query.limit = queue_core::MAX_PAGE;
    let mut jobs = Vec::new();
    loop {
        let page = store.find(&query).await?;
        let ids: Vec<_> = page.items.iter().map(|job| job.id).collect();
        jobs.extend(store.get(&ids, LogRead::All).await?);
        query.after = page.next;
        if page.next.is_none() {
            break;
        }
    }
    let (schedules, records) = (store.schedules().await?, store.records("").await?);
    Ok(format!("{jobs:#?}\n{schedules:#?}\n{records:#?}"))
}

/// A moment within a time: in the n-th of so many equal parts of it, so that a few rounds meet every part.
pub(in crate::properties) fn moment(
    time: Duration,
    n: usize,
    of: usize,
    rng: &mut Rng,
) -> Duration {
    let part = time.as_micros() as usize / of.max(1);
    Duration::from_micros((part * n + rng.below(part)) as u64)
}

/// How far the work of a process has come, for whoever is to kill it.
#[derive(Clone, Default)]
pub(in crate::properties) struct Pace(Arc<(AtomicUsize, AtomicUsize)>);

impl Pace {
    /// One more call was acknowledged.
    pub(in crate::properties) fn acknowledge(&self) {
        self.0.0.fetch_add(1, Ordering::SeqCst);
    }

    pub(in crate::properties) fn acknowledged(&self) -> usize {
        self.0.0.load(Ordering::SeqCst)
    }

    /// One of the tasks is done.
    pub(in crate::properties) fn end(&self) {
        self.0.1.fetch_add(1, Ordering::SeqCst);
    }

    /// Waits until so many calls were acknowledged or a task is done, and for a moment more, and kills.
    pub(in crate::properties) async fn kill_at(
        &self,
        acknowledged: usize,
        process: &Killable,
        rng: &mut Rng,
    ) {
        let deadline = Instant::now() + PATIENCE;
        while self.acknowledged() < acknowledged
            && self.0.1.load(Ordering::SeqCst) == 0
            && Instant::now() < deadline
        {
            tokio::time::sleep(Duration::from_micros(200)).await;
        }
        // Not to wait for anything: the moment of death is to be any, of a call that takes long as of one that does not.
        let longest = [2_000, 30_000][rng.below(2)];
        tokio::time::sleep(Duration::from_micros(rng.below(longest) as u64)).await;
        process.kill();
    }
}
