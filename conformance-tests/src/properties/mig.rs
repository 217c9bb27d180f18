//! MIG: opening a place, for the first time, again, by many at once, and one of a later release.

use std::{sync::Arc, time::Duration};

use queue_core::{ErrorKind, Fire, JobPatch, JobStoreExt, LogRead, Record};
use tokio::{sync::Barrier, task::JoinSet};

use super::{
    cra::site::{Site, snapshot},
    scene::{
        HOUR, Store, entry, job, put, put_record, queue, read, skip_slot, take_for, value, write,
    },
};
use crate::{Case, Checked, Property, Stop, check, check_eq, start};

/// The properties of this group.
pub fn properties() -> Vec<Property> {
    let one = Duration::from_secs(60);
    vec![
        Property::new("MIG-1", "opening a place again changes nothing", |case| {
            Box::pin(again(case))
        })
        .within(one),
        Property::new(
            "MIG-2",
            "eight processes that open a new place at once all succeed, and see each other's jobs",
            |case| Box::pin(eight_at_once(case)),
        )
        .within(one),
        Property::new(
            "MIG-3",
            "a place that a later release has migrated is refused with advice, and left alone",
            |case| Box::pin(later_release(case)),
        )
        .within(one),
    ]
}

/// Something of everything.
async fn fill(store: &Store) -> Checked {
    put(store, &job("waiting")).await?;
    let id = put(store, &job("running")).await?;
    let held = take_for(store, id, HOUR).await?;
    write(store, &held, JobPatch::append([entry(1), entry(2)]).with_label("a", "b")).await?;
    let _ = store.fire(&Fire::new("hourly", start(), job("fired"))).await?;
    skip_slot(store, "daily", start(), Some("no input".to_owned())).await?;
    put_record(store, &Record::new("fact", value(1))).await?;
    store.pause(&queue("paused")?).await?;
    Ok(())
}

async fn again(case: &Case<'_>) -> Checked {
    let (site, first) = Site::durable(case).await?;
    fill(&first.store).await?;
    let before = snapshot(&first.store).await?;
    if first.is_shared() {
        let second = site.open().await?;
        check_eq!(snapshot(&second.store).await?, before, "a place opened twice at a time");
        let job = put(&second.store, &job("by the second")).await?;
        read(&first.store, job).await?;
        second.store.delete(&queue_core::JobFilter::id(job), super::scene::n(1)).await?;
        drop(second);
        check_eq!(snapshot(&first.store).await?, before, "a place that another process has closed");
    }
    drop(first);
    for opening in ["second", "third"] {
        let life = site.open().await?;
        check_eq!(snapshot(&life.store).await?, before, "a place opened for the {opening} time");
    }
    let life = site.open().await?;
    put(&life.store, &job("new")).await?;
    Ok(())
}

const OPENERS: usize = 8;

async fn eight_at_once(case: &Case<'_>) -> Checked {
    let mut shared = 0;
    for _ in 0..case.times(2) {
        let site = Site::new(case).await?;
        let gate = Arc::new(Barrier::new(OPENERS));
        let mut opening = JoinSet::new();
        for _ in 0..OPENERS {
            let (process, gate) = (site.start()?, gate.clone());
            opening.spawn(async move {
                gate.wait().await;
                let store = process.open().await?;
                let new = job("by one of eight");
                // A store of one process refuses the others, which is no matter here.
                match store.info().capabilities.reach {
                    queue_core::Reach::Process => {
                        Err(Stop::skip("one process at a time, as the store says"))
                    }
                    _ => Ok((put(&store, &new).await?, store)),
                }
            });
        }
        let mut opened = Vec::new();
        let mut skipped = None;
        while let Some(ended) = opening.join_next().await {
            match ended? {
                Ok(one) => opened.push(one),
                Err(Stop::Skip(why)) => skipped = Some(Stop::Skip(why)),
                Err(stop) if skipped.is_none() => skipped = Some(stop),
                Err(_) => {}
            }
        }
        if let Some(stop) = skipped {
            return Err(stop);
        }
        let ids: Vec<_> = opened.iter().map(|(id, _)| *id).collect();
        for (_, store) in &opened {
            let there = store.get(&ids, LogRead::None).await?;
            check_eq!(
                there.iter().flatten().count(),
                OPENERS,
                "jobs that each of eight processes sees"
            );
        }
        shared += opened.len();
    }
    case.note(format!("{shared} openings"));
    Ok(())
}

/// Words of which a message has one that says what to do.
const ADVICE: [&str; 5] = ["newer", "later", "upgrade", "update", "downgrade"];

async fn later_release(case: &Case<'_>) -> Checked {
    let (site, life) = Site::durable(case).await?;
    fill(&life.store).await?;
    drop(life);
    let place = site.place();
    let Some(age) = &place.age else { return Err(Stop::skip("no later release hook")) };
    age().await.map_err(|error| Stop::inconclusive(format!("the hook failed: {error}")))?;
    let look = async || match &place.look {
        None => Ok(Vec::new()),
        Some(look) => look().await.map_err(|error| {
            Stop::inconclusive(format!("the place could not be looked at: {error}"))
        }),
    };
    let before = look().await?;
    for _ in 0..2 {
        let error = match site.start()?.open().await {
            Err(error) => error,
            Ok(_) => return Err(Stop::fail("the place of a later release was opened")),
        };
        check_eq!(
            error.kind(),
            ErrorKind::Config,
            "the refusal of a later release's place: {error}"
        );
        let text = error.to_string();
        check!(
            text.contains("version") && ADVICE.iter().any(|word| text.contains(word)),
            "the refusal says neither which versions there are nor what to do: {text}"
        );
        check!(look().await? == before, "a place was refused, and changed all the same");
    }
    if place.look.is_none() {
        case.note("no contents hook: whether the refused place was changed was not looked at");
    }
    Ok(())
}
