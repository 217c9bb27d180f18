//! Entries as they are stored, and reads of their ends.

use queue_core::{EntryKind, JobPatch, LogRead, NewEntry, Seq};

use super::super::scene::{MICRO, check_time, job, put, read, take_id, value, write};
use crate::{Case, Checked, check_eq};

pub(super) async fn entries_are_stored_as_given(case: &Case<'_>) -> Checked {
    let store = case.store();
    let id = put(store, &job("plain")).await?;
    let held = take_id(store, id).await?;
    case.pass(MICRO * 3).await?;
    // Neither by kind nor by id, and with bodies that are alike.
    let kinds = [EntryKind::Attempt, EntryKind::Line, EntryKind::Step, EntryKind::Attempt];
    let mut entries: Vec<NewEntry> =
        kinds.into_iter().map(|kind| NewEntry::new(kind, value("same"))).collect();
    entries.reverse();
    let from = case.now().await?;
    write(store, &held, JobPatch::append(entries.clone())).await?;
    let to = case.now().await?;
    let job = read(store, id).await?;
    let found: Vec<_> = job.log.iter().map(|entry| (entry.id, entry.kind, entry.seq)).collect();
    let expected: Vec<_> =
        (1..).zip(&entries).map(|(seq, entry)| (entry.id, entry.kind, Seq(seq))).collect();
    check_eq!(found, expected, "ids, kinds and positions of entries, in the order given");
    for entry in &job.log {
        check_time(Some(entry.at), from, to, "the time of an entry")?;
    }
    let reads = [
        (LogRead::After(Seq(0)), 4),
        (LogRead::After(Seq(3)), 1),
        (LogRead::After(Seq(4)), 0),
        (LogRead::After(Seq(u64::from(u32::MAX) + 1)), 0),
        (LogRead::After(Seq(i64::MAX as u64)), 0),
        (LogRead::After(Seq(u64::MAX)), 0),
    ];
    for (log, count) in reads {
        let jobs = store.get(&[id], log).await?;
        let read = jobs.iter().flatten().map(|job| (job.log.len(), job.log_len)).next();
        check_eq!(read, Some((count, 4)), "entries read with {log:?}, and how many there are");
    }
    Ok(())
}
