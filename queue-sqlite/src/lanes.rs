//! Which slots of which lanes are free, as far as one claim has looked.

use std::collections::{BTreeSet, HashMap};

use queue_core::Lane;
use rusqlite::Connection;

use crate::{codec::every, error::Db, sql};

/// The lanes that a claim has met. Valid within its transaction.
#[derive(Default)]
pub(crate) struct Lanes(HashMap<String, Slots>);

struct Slots {
    held: BTreeSet<u32>,
    lowest_free: u32,
}

impl Slots {
    fn settle(&mut self) {
        while self.held.contains(&self.lowest_free) {
            self.lowest_free += 1;
        }
    }
}

impl Lanes {
    /// The lowest free slot below the limit of this lane, as this job states it.
    pub(crate) fn free_slot(&mut self, db: &Connection, lane: &Lane) -> Db<Option<u32>> {
        if !self.0.contains_key(&lane.key) {
            let mut statement = sql::prepare(db, sql::LANE_SLOTS)?;
            let held = every(&mut statement, [&lane.key], |row| Ok(row.get(0)?))?;
            let mut slots = Slots { held: held.into_iter().collect(), lowest_free: 0 };
            slots.settle();
            self.0.insert(lane.key.clone(), slots);
        }
        let free = self.0.get(&lane.key).map_or(0, |slots| slots.lowest_free);
        Ok((free < lane.limit.get()).then_some(free))
    }

    /// Gives out the slot that [`Lanes::free_slot`] named.
    pub(crate) fn take(&mut self, lane: &Lane, slot: u32) {
        if let Some(slots) = self.0.get_mut(&lane.key) {
            slots.held.insert(slot);
            slots.settle();
        }
    }
}
