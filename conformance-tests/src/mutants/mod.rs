//! Deliberately broken stores.
//!
//! A suite is trusted because it fails where it must. Each [`Mutant`] is the reference machine with one
//! flaw, as real stores have had it, and names the properties that must fail on it. Races are held open
//! at pause points, so that a racing flaw shows every time.

mod again;
mod can;
mod clm;
mod crash;
mod del;
mod edit;
mod err;
mod fid;
mod flaw;
mod flt;
mod his;
mod ins;
mod journal;
mod lan;
mod log;
mod lse;
mod par;
mod raw;
mod rea;
mod rec;
mod sch;
mod store;
mod stranger;
mod upd;
mod wak;

use std::{sync::Arc, time::Duration};

use queue_core::{Clock, Error, ErrorKind, JobStore, Result, Uuid, async_trait};

use store::Spoiled;
pub use {
    flaw::{Flaw, Shared, Way},
    journal::{Journal, JournalFlaw},
    store::BrokenStore,
};

use crate::{Breakable, ChaosStore, Fault, Fixture, Harness, Place, Property};

/// A broken store and the properties that must notice.
#[derive(Clone, Copy, Debug)]
pub struct Mutant {
    /// Its name, for example `claim-ignores-queue`.
    pub name: &'static str,
    /// What is wrong with it, in a sentence.
    pub sentence: &'static str,
    /// The ids of the properties that must fail on it.
    pub killers: &'static [&'static str],
    /// Makes the flaw afresh, with its state if it has any.
    pub flaw: fn() -> Flaw,
    /// What is wrong with it when it is a [`Journal`].
    pub journal: Option<JournalFlaw>,
}

impl Mutant {
    /// A mutant.
    pub const fn new(
        name: &'static str,
        sentence: &'static str,
        killers: &'static [&'static str],
        flaw: fn() -> Flaw,
    ) -> Self {
        Mutant { name, sentence, killers, flaw, journal: None }
    }

    /// A journal with this flaw: for what only a store can break that survives its process.
    pub const fn on_journal(
        name: &'static str,
        sentence: &'static str,
        killers: &'static [&'static str],
        flaw: JournalFlaw,
    ) -> Self {
        let mutant = Mutant::new(name, sentence, killers, Flaw::none);
        Mutant { journal: Some(flaw), ..mutant }
    }

    /// The reference machine without a flaw, on which every property must pass.
    pub const fn unbroken() -> Self {
        Mutant::new("unbroken", "nothing is wrong with it", &[], Flaw::none)
    }
}

/// The groups of properties that need a store which survives its process, or counts its trips.
const ON_JOURNALS: [&str; 3] = ["CRA", "MIG", "BUD"];

impl Mutant {
    /// The store without a flaw on which this property must pass.
    pub fn sound_for(property: &Property) -> Self {
        match ON_JOURNALS.contains(&property.group()) && property.id != "CRA-3" {
            true => Mutant::on_journal(
                "sound-journal",
                "nothing is wrong with it",
                &[],
                JournalFlaw::None,
            ),
            false => Mutant::unbroken(),
        }
    }

    async fn open_journal(flaw: JournalFlaw, path: &str, clock: &Clock) -> Result<Journal> {
        Journal::open_flawed(path, clock.clone(), flaw).await
    }
}

/// Opens the place of a mutant in a process of its own: what its test program gives to
/// [`processes::serve`](crate::processes::serve).
///
/// # Errors
/// What the mutant says.
pub async fn open_place(place: String, clock: Clock) -> Result<Arc<dyn JobStore>> {
    let (name, path) = place.split_once('=').unwrap_or(("", &place));
    let mutant = mutants().into_iter().find(|mutant| mutant.name == name);
    let flaw = mutant.and_then(|mutant| mutant.journal).unwrap_or(JournalFlaw::None);
    Ok(Arc::new(Mutant::open_journal(flaw, path, &clock).await?.into_store()))
}

/// A directory that is removed with this value.
#[derive(Debug)]
struct Scratch(std::path::PathBuf);

impl Scratch {
    fn new() -> Result<Self> {
        let path = std::env::temp_dir().join(format!("queue-journal-{}", Uuid::now_v7()));
        std::fs::create_dir(&path)
            .map_err(|error| Error::new(ErrorKind::Unavailable, error.to_string()))?;
        Ok(Scratch(path))
    }

    fn journal(&self) -> String {
        self.0.join("jobs.journal").display().to_string()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What is left lies among the temporary files.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[async_trait]
impl Harness for Mutant {
    async fn fresh(&self, clock: &Clock) -> Result<Fixture> {
        if let Some(flaw) = self.journal {
            let scratch = Scratch::new()?;
            let journal = Mutant::open_journal(flaw, &scratch.journal(), clock).await?;
            let store = Arc::new(journal.clone().into_store());
            let trips = move || {
                let trips = journal.trips();
                Box::pin(async move { trips }) as _
            };
            return Ok(Fixture::new(store).clocked().with_trips(trips).with_guard(scratch));
        }
        let mut flaw = (self.flaw)();
        let around = Arc::new(std::mem::take(&mut flaw.around));
        let store: Arc<dyn JobStore> = Arc::new(BrokenStore::new(flaw, clock.clone()));
        let open =
            move || Spoiled::over(Way { broken: store.clone(), sound: store.clone() }, &around);
        let sibling = open.clone();
        Ok(Fixture::new(open()).clocked().with_sibling(move || {
            let sibling = sibling();
            Box::pin(async move { Ok(sibling) })
        }))
    }

    async fn place(&self) -> Result<Option<Place>> {
        if self.journal.is_none() {
            return Ok(None);
        }
        let scratch = Scratch::new()?;
        let (aged, looked) = (scratch.journal(), scratch.journal());
        let place = Place::new(format!("{}={}", self.name, scratch.journal()));
        let place = place.with_later_release(move || {
            let aged = aged.clone();
            Box::pin(async move { Journal::age(aged) })
        });
        let place = place.with_contents(move || {
            let looked = looked.clone();
            Box::pin(async move {
                std::fs::read(looked)
                    .map_err(|error| Error::new(ErrorKind::Unavailable, error.to_string()))
            })
        });
        Ok(Some(place.with_guard(scratch)))
    }

    fn faults(&self) -> Vec<Fault> {
        match self.journal {
            Some(_) => Vec::new(),
            None => ChaosStore::FAULTS.to_vec(),
        }
    }

    async fn breakable(&self, fault: Fault, clock: &Clock) -> Result<Breakable> {
        let mut flaw = (self.flaw)();
        let around = Arc::new(std::mem::take(&mut flaw.around));
        let sound: Arc<dyn JobStore> = Arc::new(BrokenStore::new(flaw, clock.clone()));
        let chaos = ChaosStore::new(sound.clone(), 1).with_patience(PATIENCE);
        let way = Way { broken: chaos.store(), sound: sound.clone() };
        let fixture = Fixture::new(Spoiled::over(way, &around)).clocked().with_sibling(move || {
            let sibling = sound.clone();
            Box::pin(async move { Ok(sibling) })
        });
        let fixture = fixture.with_secret(SECRET);
        Ok(Breakable::new(fixture, chaos.switch(fault)).with_patience(PATIENCE))
    }
}

/// How long the way to a mutant waits in silence.
const PATIENCE: Duration = Duration::from_millis(100);
/// What no mutant should show.
const SECRET: &str = "s3cret-of-a-mutant";

/// All mutants, group by group.
pub fn mutants() -> Vec<Mutant> {
    let groups: &[&[Mutant]] = &[
        ins::MUTANTS,
        clm::MUTANTS,
        log::MUTANTS,
        upd::MUTANTS,
        edit::MUTANTS,
        lse::MUTANTS,
        can::MUTANTS,
        lan::MUTANTS,
        rec::MUTANTS,
        rea::MUTANTS,
        del::MUTANTS,
        fid::MUTANTS,
        sch::MUTANTS,
        par::MUTANTS,
        his::MUTANTS,
        crash::MUTANTS,
        wak::MUTANTS,
        flt::MUTANTS,
        err::MUTANTS,
        again::MUTANTS,
    ];
    let mut mutants = groups.concat();
    mutants.extend(stranger::mutants());
    mutants
}
