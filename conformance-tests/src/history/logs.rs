//! What was appended, and what is there.

use std::collections::{BTreeMap, HashMap, HashSet};

use queue_core::{
    EntryId, Inserted, Job, JobId, LogEntry, LogRead, NewEntry, Outcome,
    spec::{Answer, Op},
};

use super::{
    Call, History, Summary, Violation, chain::Span, claims::span, format::Fate, show::Subject,
};

/// Checks the logs of jobs as sets that only grow.
///
/// * Every entry that is read was appended by a call that was not refused (or may have happened), with this kind and body, and by
///   none that began only after another append of it was acknowledged.
/// * Positions run from 1 without gaps or repeats; an entry has one position, the same in every read.
/// * An entry that was acknowledged before a read of the whole log began is in it; a read is never behind a read or
///   an acknowledgement that ended before it began.
/// * Positions agree with real time: what was acknowledged before another append began stands before it.
/// * The entries of one patch that nobody else appends stand together, in their order, and no read shows a part of them.
///
/// Takes `n log n` steps for `n` calls, entries appended and entries read. Jobs that were inserted anew after their deletion
/// are left out.
///
/// # Errors
/// The first breach found, job by job.
pub fn check_logs(history: &History) -> Result<Summary, Violation> {
    let mut logs = Logs::default();
    for (place, call) in history.numbered() {
        logs.appends(place, call);
    }
    for (place, call) in history.numbered() {
        logs.reads(place, call);
    }
    let mut ids: Vec<JobId> = logs.all.keys().copied().collect();
    ids.sort_unstable();
    let mut counts = Counts::default();
    for id in ids.into_iter().filter(|id| !logs.twice.contains(id)) {
        logs.all[&id].check(history, id, &mut counts)?;
    }
    Ok(Summary::new([
        (history.calls.len() as u64, "calls"),
        (counts.acknowledged, "entries acknowledged"),
        (counts.found, "entries found"),
        (counts.refused, "appends refused"),
        (counts.reads, "reads"),
    ]))
}

#[derive(Default)]
struct Counts {
    acknowledged: u64,
    found: u64,
    refused: u64,
    reads: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Told {
    Acknowledged,
    Maybe,
    Refused,
}

/// One append of one entry.
struct Append<'h> {
    entry: &'h NewEntry,
    told: Told,
    ran: Span,
    /// Which patch of the job it belongs to, and its place in it.
    patch: (usize, usize),
}

/// A read of the log after this position.
struct Reading<'h> {
    after: Option<u64>,
    job: &'h Job,
    ran: Span,
}

#[derive(Default)]
struct Log<'h> {
    appends: HashMap<EntryId, Vec<Append<'h>>>,
    patches: Vec<&'h [NewEntry]>,
    reads: Vec<Reading<'h>>,
}

#[derive(Default)]
struct Logs<'h> {
    all: HashMap<JobId, Log<'h>>,
    new: HashSet<JobId>,
    twice: HashSet<JobId>,
}

impl<'h> Logs<'h> {
    fn appends(&mut self, place: usize, call: &'h Call) {
        if let Fate::Done(Answer::Inserted(answers)) = call.fate() {
            let new = answers.iter().filter(|answer| matches!(answer, Inserted::New(_)));
            new.map(|answer| answer.id()).for_each(|id| {
                if !self.new.insert(id) {
                    self.twice.insert(id);
                }
            });
        }
        let (Op::Update(updates) | Op::UpdateAndClaim(updates, _)) = &call.op else { return };
        let outcomes = match call.fate() {
            Fate::Done(Answer::Outcomes(outcomes) | Answer::OutcomesAndClaimed(outcomes, _)) => {
                Some(outcomes)
            }
            _ => None,
        };
        let failed = matches!(call.fate(), Fate::Nothing);
        for (at, update) in updates.iter().enumerate().filter(|(_, u)| !u.patch.log.is_empty()) {
            let told = match outcomes.and_then(|outcomes| outcomes.get(at)) {
                Some(Outcome::Applied(_)) => Told::Acknowledged,
                // An earlier call made this change, perhaps with these entries.
                Some(Outcome::Repeated(_)) => Told::Maybe,
                None if !failed => Told::Maybe,
                Some(_) | None => Told::Refused,
            };
            let log = self.all.entry(update.id).or_default();
            let patch = log.patches.len();
            log.patches.push(&update.patch.log);
            for (within, entry) in update.patch.log.iter().enumerate() {
                let ran = span(call, place);
                let append = Append { entry, told, ran, patch: (patch, within) };
                log.appends.entry(entry.id).or_default().push(append);
            }
        }
    }

    fn reads(&mut self, place: usize, call: &'h Call) {
        let Fate::Done(answer) = call.fate() else { return };
        let mut read = |job: &'h Job, log: LogRead| {
            let after = log.after().map(|seq| seq.0);
            let ran = span(call, place);
            self.all.entry(job.id).or_default().reads.push(Reading { after, job, ran });
        };
        match (&call.op, answer) {
            (Op::Get(_, log), Answer::Jobs(jobs)) => {
                jobs.iter().flatten().for_each(|job| read(job, *log));
            }
            (Op::Find(_), Answer::Page(page)) => {
                page.items.iter().for_each(|job| read(job, LogRead::None));
            }
            (Op::Claim(request), Answer::Claimed(claimed))
            | (Op::UpdateAndClaim(_, request), Answer::OutcomesAndClaimed(_, claimed)) => {
                claimed.jobs.iter().for_each(|job| read(job, request.log));
            }
            _ => {}
        }
    }
}

/// An entry that was read: where, and by which call first.
#[derive(Clone, Copy)]
struct Found<'h> {
    entry: &'h LogEntry,
    call: usize,
}

impl<'h> Log<'h> {
    fn check(&self, history: &History, id: JobId, counts: &mut Counts) -> Result<(), Violation> {
        let broken = |what: String, calls: &[usize]| {
            let what = format!("the log of job {id}: {what}");
            Violation::new(history, &Subject::Job(id), what, calls.iter().copied())
        };
        let found = self.positions(&broken)?;
        counts.found += found.len() as u64;
        counts.reads += self.reads.len() as u64;
        self.origins(&found, &broken)?;
        let acknowledged = self.acknowledged(&found, counts);
        self.losses(&found, &acknowledged, &broken)?;
        self.order(&found, &broken)?;
        self.growth(&found, &acknowledged, &broken)?;
        self.patches(&found, &broken)
    }

    /// Every entry at its position, the same in every read.
    fn positions(&self, broken: &Breach<'_>) -> Result<BTreeMap<u64, Found<'h>>, Violation> {
        let mut found: BTreeMap<u64, Found<'h>> = BTreeMap::new();
        let mut places: HashMap<EntryId, (u64, usize)> = HashMap::new();
        for Reading { after, job, ran } in &self.reads {
            let Some(after) = after else { continue };
            for (entry, expected) in job.log.iter().zip(after + 1..) {
                if entry.seq.0 != expected {
                    let what = format!("position {} follows where {expected} is due", entry.seq);
                    return Err(broken(what, &[ran.call]));
                }
                let first = *found.entry(expected).or_insert(Found { entry, call: ran.call });
                if first.entry != entry {
                    let what = format!("position {expected} does not stay what it was");
                    return Err(broken(what, &[first.call, ran.call]));
                }
                let (place, call) = *places.entry(entry.id).or_insert((expected, ran.call));
                if place != expected {
                    let what = format!("the entry {} is at {place} and at {expected}", entry.id);
                    return Err(broken(what, &[call, ran.call]));
                }
            }
            if after + job.log.len() as u64 != job.log_len.max(*after) {
                let what = format!(
                    "a read after {after} answered {} entries of {}",
                    job.log.len(),
                    job.log_len
                );
                return Err(broken(what, &[ran.call]));
            }
        }
        Ok(found)
    }

    /// Every entry was appended, with this content.
    fn origins(
        &self,
        found: &BTreeMap<u64, Found<'h>>,
        broken: &Breach<'_>,
    ) -> Result<(), Violation> {
        for (seq, Found { entry, call }) in found {
            let appends = self.appends.get(&entry.id).map_or(&[][..], |appends| &appends[..]);
            let known = appends.iter().filter(|append| append.told == Told::Acknowledged);
            let first = known.map(|append| append.ran.end).min().unwrap_or(u64::MAX);
            let mut made = appends.iter().filter(|append| {
                append.told != Told::Refused
                    && append.ran.begin <= first
                    && (append.entry.kind, &append.entry.body) == (entry.kind, &entry.body)
            });
            if made.next().is_none() {
                let what = match appends {
                    [] => format!("the entry at {seq} was appended by nobody"),
                    _ if appends.iter().all(|append| append.told == Told::Refused) => {
                        format!("the entry at {seq} was refused to everybody who appended it")
                    }
                    _ => format!("the entry at {seq} is not as it was first appended"),
                };
                let mut calls: Vec<usize> = appends.iter().map(|append| append.ran.call).collect();
                calls.push(*call);
                return Err(broken(what, &calls));
            }
        }
        Ok(())
    }

    /// The first acknowledgement of each entry, with its position if it was found.
    fn acknowledged(
        &self,
        found: &BTreeMap<u64, Found<'h>>,
        counts: &mut Counts,
    ) -> Vec<(EntryId, Option<u64>, Span)> {
        let places: HashMap<EntryId, u64> =
            found.iter().map(|(seq, found)| (found.entry.id, *seq)).collect();
        let mut all = Vec::new();
        for (id, appends) in &self.appends {
            let known = appends.iter().filter(|append| append.told == Told::Acknowledged);
            if let Some(first) = known.map(|append| append.ran).min_by_key(|ran| ran.end) {
                all.push((*id, places.get(id).copied(), first));
            }
            let refused = appends.iter().filter(|append| append.told == Told::Refused);
            counts.refused += refused.count() as u64;
        }
        counts.acknowledged += all.len() as u64;
        all.sort_by_key(|(id, _, ran)| (ran.end, *id));
        all
    }

    fn losses(
        &self,
        found: &BTreeMap<u64, Found<'h>>,
        acknowledged: &[(EntryId, Option<u64>, Span)],
        broken: &Breach<'_>,
    ) -> Result<(), Violation> {
        let whole = self.reads.iter().filter(|read| read.after == Some(0));
        let Some(last) = whole.max_by_key(|read| read.ran.begin) else { return Ok(()) };
        for (id, place, ran) in acknowledged {
            if place.is_none() && ran.end < last.ran.begin {
                let what = format!(
                    "the entry {id} was acknowledged, but is not among the {} that are there",
                    found.len()
                );
                return Err(broken(what, &[ran.call, last.ran.call]));
            }
        }
        Ok(())
    }

    /// Positions agree with real time.
    fn order(
        &self,
        found: &BTreeMap<u64, Found<'h>>,
        broken: &Breach<'_>,
    ) -> Result<(), Violation> {
        let mut latest: Option<Span> = None;
        for (seq, Found { entry, .. }) in found {
            let Some(appends) = self.appends.get(&entry.id) else { continue };
            let made = appends.iter().filter(|append| append.told != Told::Refused);
            let Some(first) = made.clone().map(|append| append.ran).min_by_key(|ran| ran.begin)
            else {
                continue;
            };
            let known = made.filter(|append| append.told == Told::Acknowledged);
            let end = known.map(|append| append.ran).min_by_key(|ran| ran.end);
            if let (Some(latest), Some(end)) = (latest, end)
                && latest.begin > end.end
            {
                let what = format!(
                    "the entry at {seq} was acknowledged before one that stands before it was appended"
                );
                return Err(broken(what, &[end.call, latest.call]));
            }
            if latest.is_none_or(|latest| first.begin > latest.begin) {
                latest = Some(first);
            }
        }
        Ok(())
    }

    /// No read is behind what was known before it, or ahead of what was appended.
    fn growth(
        &self,
        found: &BTreeMap<u64, Found<'h>>,
        acknowledged: &[(EntryId, Option<u64>, Span)],
        broken: &Breach<'_>,
    ) -> Result<(), Violation> {
        let mut known: Vec<(u64, u64, usize)> = acknowledged
            .iter()
            .filter_map(|(_, place, ran)| Some((ran.end, (*place)?, ran.call)))
            .chain(self.reads.iter().map(|read| (read.ran.end, read.job.log_len, read.ran.call)))
            .collect();
        known.sort_unstable();
        let mut known = known.into_iter().peekable();
        let mut reads: Vec<&Reading<'_>> = self.reads.iter().collect();
        reads.sort_by_key(|read| read.ran.begin);
        let mut most: (u64, Option<usize>) = (0, None);
        for read in reads {
            while let Some((_, length, call)) = known.next_if(|(end, ..)| *end < read.ran.begin) {
                if length > most.0 {
                    most = (length, Some(call));
                }
            }
            if read.job.log_len < most.0 {
                let what = format!("it had {} entries, and then {}", most.0, read.job.log_len);
                let calls: Vec<usize> = most.1.into_iter().chain([read.ran.call]).collect();
                return Err(broken(what, &calls));
            }
            let last =
                found.get(&read.job.log_len).and_then(|last| self.appends.get(&last.entry.id));
            let made = last.into_iter().flatten().filter(|append| append.told != Told::Refused);
            if let Some(first) = made.map(|append| append.ran).min_by_key(|ran| ran.begin)
                && first.begin > read.ran.end
            {
                let what = format!("it had {} entries before they were appended", read.job.log_len);
                return Err(broken(what, &[read.ran.call, first.call]));
            }
        }
        Ok(())
    }

    /// Patches that are the only ones with their entries stand together, and are seen as a whole.
    fn patches(
        &self,
        found: &BTreeMap<u64, Found<'h>>,
        broken: &Breach<'_>,
    ) -> Result<(), Violation> {
        // Lengths of the log that would show a part of a patch, with the call that appended it.
        let mut parts: HashMap<u64, usize> = HashMap::new();
        let mut before: Option<(u64, &Append<'_>)> = None;
        for (seq, Found { entry, .. }) in found {
            let only = match self.appends.get(&entry.id).map(|appends| &appends[..]) {
                Some([only]) if self.patches[only.patch.0].len() > 1 => only,
                _ => {
                    before = None;
                    continue;
                }
            };
            if let Some((place, last)) = before
                && last.patch.0 == only.patch.0
                && place + 1 == *seq
            {
                if last.patch.1 + 1 != only.patch.1 {
                    let what = format!(
                        "the entries at {place} and {seq} are not in the order of their patch"
                    );
                    return Err(broken(what, &[only.ran.call]));
                }
                parts.insert(place, only.ran.call);
            } else if only.patch.1 > 0 && self.is_alone(only) {
                let what = format!("the entry at {seq} stands apart from its patch");
                return Err(broken(what, &[only.ran.call]));
            }
            before = Some((*seq, only));
        }
        for read in &self.reads {
            if let Some(call) = parts.get(&read.job.log_len) {
                let what =
                    format!("a read of {} entries shows a part of a patch", read.job.log_len);
                return Err(broken(what, &[*call, read.ran.call]));
            }
        }
        Ok(())
    }

    /// Whether the entry before this one in its patch was appended by this patch alone, too.
    fn is_alone(&self, append: &Append<'_>) -> bool {
        let (patch, within) = append.patch;
        let before = within.checked_sub(1).and_then(|before| self.patches[patch].get(before));
        before.and_then(|entry| self.appends.get(&entry.id)).is_some_and(|all| all.len() == 1)
    }
}

/// Makes the violation of a job's log.
type Breach<'a> = dyn Fn(String, &[usize]) -> Violation + 'a;
