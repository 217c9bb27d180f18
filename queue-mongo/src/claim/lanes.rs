//! Which slots of which lanes are free, as far as one claim has looked.

use std::collections::{BTreeSet, HashMap};

use futures::TryStreamExt;
use mongodb::bson::doc;
use queue_core::Result;

use super::{Pick, failed, look::Candidate, look::Wanted};
use crate::{codec::Read as _, connect::Db};

/// The lanes that a claim has met. What others take meanwhile is caught by the unique index.
#[derive(Default)]
pub(super) struct Lanes(HashMap<String, BTreeSet<u32>>);

impl Lanes {
    /// The candidates that can be taken, with their slots. Lanes that are found full are left out from now on.
    pub(super) async fn pick(
        &mut self,
        db: &Db,
        candidates: &[Candidate],
        wanted: &mut Wanted<'_>,
    ) -> Result<Vec<Pick>> {
        self.load(db, candidates).await?;
        let mut picked = Vec::with_capacity(candidates.len());
        for candidate in candidates {
            let slot = match &candidate.lane {
                None => None,
                Some(lane) => {
                    let held = self.0.entry(lane.key.clone()).or_default();
                    let free = (0..).find(|slot| !held.contains(slot)).unwrap_or(u32::MAX);
                    if free >= lane.limit.get() {
                        wanted.set_full(&lane.key, free);
                        continue;
                    }
                    held.insert(free);
                    Some(free)
                }
            };
            picked.push(Pick { candidate: candidate.clone(), slot });
        }
        Ok(picked)
    }

    /// Asks which slots are held, of lanes that were not asked for yet.
    async fn load(&mut self, db: &Db, candidates: &[Candidate]) -> Result<()> {
        let lanes = candidates.iter().filter_map(|candidate| candidate.lane.as_ref());
        let keys: BTreeSet<&str> =
            lanes.map(|lane| lane.key.as_str()).filter(|key| !self.0.contains_key(*key)).collect();
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

    /// Another was faster: with the job, or with its slot. A job in a lane is looked for again, after a new look
    /// at the lane.
    pub(super) fn lost(&mut self, pick: &Pick, wanted: &mut Wanted<'_>) {
        match &pick.candidate.lane {
            Some(lane) => drop(self.0.remove(&lane.key)),
            None => wanted.set_lost(pick.candidate.id),
        }
    }
}
