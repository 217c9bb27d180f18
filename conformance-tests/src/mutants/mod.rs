//! Deliberately broken stores.
//!
//! A suite is trusted because it fails where it must. Each [`Mutant`] is the reference machine with one
//! flaw, as real stores have had it, and names the properties that must fail on it. Races are held open
//! at pause points, so that a racing flaw shows every time.

mod can;
mod clm;
mod del;
mod edit;
mod fid;
mod flaw;
mod his;
mod ins;
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

use queue_core::{Clock, Result, async_trait};

pub use flaw::{Flaw, Shared};
pub use store::BrokenStore;

use crate::{Fixture, Harness};

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
}

impl Mutant {
    /// A mutant.
    pub const fn new(
        name: &'static str,
        sentence: &'static str,
        killers: &'static [&'static str],
        flaw: fn() -> Flaw,
    ) -> Self {
        Mutant { name, sentence, killers, flaw }
    }

    /// The reference machine without a flaw, on which every property must pass.
    pub const fn unbroken() -> Self {
        Mutant::new("unbroken", "nothing is wrong with it", &[], Flaw::none)
    }
}

#[async_trait]
impl Harness for Mutant {
    async fn fresh(&self, clock: &Clock) -> Result<Fixture> {
        let store = BrokenStore::new((self.flaw)(), clock.clone());
        let sibling = store.clone();
        Ok(Fixture::new(std::sync::Arc::new(store)).clocked().with_sibling(move || {
            let sibling = sibling.clone();
            Box::pin(async move { Ok(std::sync::Arc::new(sibling) as _) })
        }))
    }
}

/// All mutants, group by group.
pub fn mutants() -> Vec<Mutant> {
    let groups: [&[Mutant]; 15] = [
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
    ];
    let mut mutants = groups.concat();
    mutants.extend(stranger::mutants());
    mutants
}
