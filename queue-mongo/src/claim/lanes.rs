//! Which slots of which lanes are free, as far as one claim has looked.

use std::collections::{BTreeSet, HashMap};

use futures::TryStreamExt;
use mongodb::bson::doc;
use queue_core::Result;

use super::{Behind, Pick, failed, wanted::Candidate};
use crate::{codec::Read as _, connect::Db};

/// The lanes that a claim has met. What others take meanwhile is caught by the unique index.
#[derive(Default)]
pub(super) struct Lanes(HashMap<String, BTreeSet<u32>>);

impl Lanes {
    /// The first candidates that can be taken, with their slots, and those before the last of them whose lanes are full.
    pub(super) async fn pick(
        &mut self,
        db: &Db,
        candidates: &[Candidate],
        limit: usize,
    ) -> Result<(Vec<Pick>, Vec<Behind>)> {
        let lanes = candidates.iter().filter_map(|candidate| candidate.lane.as_ref());
        self.load(db, lanes.map(|lane| lane.key.as_str())).await?;
        let (mut picked, mut behind) = (Vec::new(), Vec::new());
        for candidate in candidates {
            if picked.len() == limit {
                break;
            }
            let slot = match &candidate.lane {
                None => None,
                Some(lane) => {
                    let held = self.0.entry(lane.key.clone()).or_default();
                    let (free, limit) = (first_free(held), lane.limit.get());
                    if free >= limit {
                        behind.push(Behind { id: candidate.id, lane: lane.key.clone(), limit });
                        continue;
                    }
                    held.insert(free);
                    Some(free)
                }
            };
            picked.push(Pick { candidate: candidate.clone(), slot });
        }
        Ok((picked, behind))
    }

    /// Asks which slots are held, of lanes that were not asked for yet. At most one trip.
    pub(super) async fn load<'a>(
        &mut self,
        db: &Db,
        lanes: impl Iterator<Item = &'a str>,
    ) -> Result<()> {
        let keys: BTreeSet<&str> = lanes.filter(|key| !self.0.contains_key(*key)).collect();
        if keys.is_empty() {
            return Ok(());
        }
        for key in &keys {
            self.0.insert((*key).to_owned(), BTreeSet::new());
        }
        let keys: Vec<&str> = keys.into_iter().collect();
        let mut found = db
            .jobs
            .find(doc! { "slot_lane": { "$in": keys } })
            .projection(doc! { "_id": 0, "slot_lane": 1, "slot": 1 })
            .await
            .map_err(failed)?;
        while let Some(document) = found.try_next().await.map_err(failed)? {
            let slots = self.0.entry(document.text("slot_lane")?.to_owned()).or_default();
            slots.insert(document.count("slot")?);
        }
        Ok(())
    }

    /// How many more jobs of this limit a lane takes.
    pub(super) fn room(&self, lane: &str, limit: u32) -> u32 {
        let held = self.0.get(lane).map_or(0, |held| held.range(..limit).count());
        limit - u32::try_from(held).unwrap_or(limit)
    }

    /// The lowest slot of a lane that nobody has: jobs with no more slots than that are behind it.
    pub(super) fn free(&self, lane: &str) -> u32 {
        self.0.get(lane).map_or(0, first_free)
    }

    /// Gives slots back that were not taken after all.
    pub(super) fn unpick(&mut self, picked: &[Pick]) {
        for pick in picked {
            if let (Some(lane), Some(slot)) = (pick.lane(), pick.slot)
                && let Some(held) = self.0.get_mut(lane)
            {
                held.remove(&slot);
            }
        }
    }

    /// The next look asks for this lane again.
    pub(super) fn forget(&mut self, lane: &str) {
        self.0.remove(lane);
    }
}

fn first_free(held: &BTreeSet<u32>) -> u32 {
    (0..).find(|slot| !held.contains(slot)).unwrap_or(u32::MAX)
}
