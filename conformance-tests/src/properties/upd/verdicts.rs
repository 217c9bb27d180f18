//! UPD-21.

use queue_core::{
    EntryKind, Fence, Guard, JobId, JobPatch, JobStoreExt, JobUpdate, NewEntry, Outcome, Payload,
    State, Transition, Version,
};

use super::super::scene::{
    Store, brief, check_unchanged, complete, job, put, read, reap_all, running, settle, take_for,
    take_id, text,
};
use crate::{Case, Checked, Stop, check, check_eq};

/// Beyond this the payloads themselves would be the load test.
const MOST: u64 = 16 << 20;

/// An update that is too large, and what it is answered all the same.
struct Scene {
    what: &'static str,
    update: JobUpdate,
    verdict: Outcome,
}

fn scene(what: &'static str, id: JobId, guard: Guard, patch: &JobPatch, verdict: Outcome) -> Scene {
    Scene { what, update: JobUpdate::new(id, guard, patch.clone()), verdict }
}

/// Each update is larger than the store takes, and most are refused for another reason first.
async fn scenes(case: &Case<'_>, large: &Payload, limit: u64) -> Checked<Vec<Scene>> {
    let store = case.store();
    let line = JobPatch::append([NewEntry::new(EntryKind::Line, large.clone())]);
    let output = JobPatch::transition(Transition::Complete { output: Some(large.clone()) });
    let error = JobPatch::transition(Transition::Fail { error: large.clone() });
    let mut lost = Vec::new();
    for _ in 0..2 {
        let id = put(store, &job("lost")).await?;
        lost.push(take_for(store, id, brief(case)).await?);
    }
    case.pass(brief(case)).await?;
    reap_all(store).await?;
    take_id(store, lost[1].id).await?;
    let by = |fence: Fence| Guard::Fence(fence);
    let (reaped, zombie) = ((lost[0].id, by(lost[0].fence)), (lost[1].id, by(lost[1].fence)));
    let settled = running(store).await?;
    settle(store, &settled, complete()).await?;
    let ended = (settled.id, by(settled.fence));
    let waiting = put(store, &job("waiting")).await?;
    let held = running(store).await?;
    let holder = by(held.fence);
    let (absent, too_large) = (JobId::new(), Outcome::TooLarge { limit });
    let illegal = Outcome::Illegal { from: State::Waiting };
    let repeated = Outcome::Repeated(queue_core::Ack::default());
    let (stale, actual) = (Guard::Version(Version(held.version.0 + 1)), held.version);
    Ok(vec![
        scene("the end of a job that is not there", absent, holder, &output, Outcome::Missing),
        scene("an edit of a job that is not there", absent, Guard::None, &line, Outcome::Missing),
        scene("a settle once more", ended.0, ended.1, &output, repeated),
        scene("another settle after it", ended.0, ended.1, &error, Outcome::Fenced),
        scene("a line after it", ended.0, ended.1, &line, Outcome::Fenced),
        scene("a settle by a zombie", zombie.0, zombie.1, &output, Outcome::Fenced),
        scene("a line by a zombie", zombie.0, zombie.1, &line, Outcome::Fenced),
        scene("a line after the loss of the job", reaped.0, reaped.1, &line, Outcome::Fenced),
        scene("a settle after the loss of the job", reaped.0, reaped.1, &error, illegal.clone()),
        scene("a settle by nobody", waiting, by(Fence::default()), &output, illegal),
        scene("a line at a wrong version", held.id, stale, &line, Outcome::Conflict { actual }),
        scene("a settle by the holder", held.id, holder, &output, too_large.clone()),
        scene("a line by the holder", held.id, holder, &line, too_large.clone()),
        scene("a line by anybody", waiting, Guard::None, &line, too_large),
    ])
}

fn check_verdict(scene: &Scene, outcome: Option<&Outcome>, how: &str) -> Checked {
    let Scene { what, verdict, .. } = scene;
    match (verdict, outcome) {
        // What comes with it is told elsewhere.
        (Outcome::Repeated(_), Some(Outcome::Repeated(_))) => Ok(()),
        (verdict, Some(outcome)) => {
            check_eq!(outcome, verdict, "{what}, too large as well, {how}");
            Ok(())
        }
        (_, None) => Err(Stop::fail(format!("{what}, {how}, was not answered"))),
    }
}

async fn ask(store: &Store, asked: &[&Scene], how: &str) -> Checked {
    let updates: Vec<JobUpdate> = asked.iter().map(|scene| scene.update.clone()).collect();
    let outcomes = store.update_jobs(&updates).await?;
    check_eq!(outcomes.len(), updates.len(), "outcomes of updates that are too large");
    for (place, scene) in asked.iter().enumerate() {
        check_verdict(scene, outcomes.get(place), how)?;
    }
    Ok(())
}

/// Whether a payload fits is asked last: who has lost a job must learn that, and not try again with less.
pub(super) async fn the_first_that_fits_is_told(case: &Case<'_>) -> Checked {
    let store = case.store();
    let limit = case.info().capabilities.max_payload_bytes;
    let Some(bytes) = usize::try_from(limit).ok().filter(|_| limit <= MOST) else {
        return Ok(());
    };
    let large = text(format!("\"{}\"", "x".repeat(bytes)))?;
    let scenes = scenes(case, &large, limit).await?;
    for scene in &scenes {
        let before = store.get_one(scene.update.id).await?;
        ask(store, &[scene], "alone").await?;
        match before {
            Some(before) => check_unchanged(store, &before, scene.what).await?,
            None => check!(
                store.get_one(scene.update.id).await?.is_none(),
                "a job came from {}",
                scene.what
            ),
        }
    }
    // Side by side, one of each.
    let mut together: Vec<&Scene> = Vec::new();
    for scene in &scenes {
        let same = |other: &&Scene| {
            other.update.id == scene.update.id
                || std::mem::discriminant(&other.verdict) == std::mem::discriminant(&scene.verdict)
        };
        if !together.iter().any(same) {
            together.push(scene);
        }
    }
    let mut before = Vec::new();
    for scene in together.iter().filter(|scene| scene.verdict != Outcome::Missing) {
        before.push(read(store, scene.update.id).await?);
    }
    ask(store, &together, "among others").await?;
    for before in &before {
        check_unchanged(store, before, "updates that are too large").await?;
    }
    Ok(())
}
