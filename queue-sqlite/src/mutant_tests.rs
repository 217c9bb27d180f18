//! The suite against this store with one statement spoilt: what it would miss here, it would miss in any store on a
//! real database. The same properties pass with the statements as they are.
//!
//! Operations of this store come one after the other, so most of its guards are rules of core and not part of a
//! statement; what is spoilt here is what the statements do decide.

use std::{
    cell::RefCell,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use conformance_tests::{Fixture, Harness, Suite, Verdict, async_trait};
use queue_core::{Clock, Error, ErrorKind, JobStore, Result};

use crate::{SqliteOptions, sql};

/// A way to spoil the store.
struct Flaw {
    sentence: &'static str,
    /// The statements that it spoils, and what is replaced in each.
    edits: &'static [(&'static [&'static str], &'static str, &'static str)],
    /// The properties each of which must notice.
    killers: &'static [&'static str],
}

const BEGIN: &str = "BEGIN IMMEDIATE";

const CLAIM_WITHOUT_LOCK: Flaw = Flaw {
    sentence: "a transaction reads before it has the write lock",
    edits: &[(&[BEGIN], "IMMEDIATE", "DEFERRED")],
    killers: &["CLM-1"],
};

const CLAIM_BY_LEASE: Flaw = Flaw {
    sentence: "a claim asks whether a lease is over, and not whether the job waits",
    edits: &[(
        &[sql::OPEN_FIFO, sql::OPEN_QUEUE, sql::OPEN_KIND, sql::OPEN_PRIORITY],
        "INDEXED BY queue_job_open\nWHERE state = 0",
        "WHERE coalesce(lease_until, 0) = 0",
    )],
    killers: &["CLM-11"],
};

const CLAIM_IGNORES_DUE_TIMES: Flaw = Flaw {
    sentence: "a claim takes jobs that are not due yet",
    edits: &[(&[sql::OPEN_FIFO], " AND run_at <= ?6", " AND ?6 = ?6")],
    killers: &["CLM-7"],
};

const CLAIM_KEEPS_THE_FENCE: Flaw = Flaw {
    sentence: "a claim leaves the fence of the claim before",
    edits: &[(
        &[sql::CLAIM],
        "fence = ?3, nonce = ?4",
        "fence = max(fence, ?3 * 0 + 1), nonce = coalesce(nonce, ?4)",
    )],
    killers: &["CLM-10", "LSE-5"],
};

const LOG_REWRITTEN: Flaw = Flaw {
    sentence: "an entry that is there already is deleted and inserted again",
    edits: &[
        (&[sql::APPEND], "INSERT INTO", "INSERT OR REPLACE INTO"),
        (&[sql::APPEND], "\nON CONFLICT (job, entry) DO NOTHING", ""),
    ],
    killers: &["LOG-2", "LOG-3"],
};

const LOG_WITHOUT_REPEATS: Flaw = Flaw {
    sentence: "an append does not expect that its entry is there already",
    edits: &[(&[sql::APPEND], "\nON CONFLICT (job, entry) DO NOTHING", "")],
    killers: &["LOG-2"],
};

const LOG_LEFT_BEHIND: Flaw = Flaw {
    sentence: "the log of a deleted job stays, for the job that gets its number",
    edits: &[(&[sql::DROP_LOG], "WHERE job = ?1", "WHERE job = ?1 AND false")],
    killers: &["LOG-13"],
};

const SETTLE_KEEPS_THE_SLOT: Flaw = Flaw {
    sentence: "the settle that ends a run leaves its slot of the lane taken",
    edits: &[(&[sql::SETTLE, sql::RELEASE], "slot = ?12", "slot = coalesce(?12, slot)")],
    killers: &["LAN-3"],
};

const SETTLE_KEEPS_THE_KEY: Flaw = Flaw {
    sentence: "the settle that leaves the scope of a unique key does not free it",
    edits: &[(
        &[sql::SETTLE, sql::RELEASE],
        "held_key = ?16",
        "held_key = coalesce(?16, held_key)",
    )],
    killers: &["INS-7"],
};

const SETTLE_FORGETS_ITSELF: Flaw = Flaw {
    sentence: "a settle does not remember whose it was",
    edits: &[(&[sql::SETTLE, sql::RELEASE], "settled_kind = ?15", "settled_kind = ?15 + NULL")],
    killers: &["UPD-8"],
};

const REAP_BY_START: Flaw = Flaw {
    sentence: "a reap asks when the run began, and not whether its lease is over",
    edits: &[(&[sql::EXPIRED], "lease_until <= ?1", "started_at <= ?1")],
    killers: &["LSE-4"],
};

const HEARTBEAT_FORGETS_THE_LEASE: Flaw = Flaw {
    sentence: "a heartbeat writes the progress and leaves the lease as it is",
    edits: &[(&[sql::HEARTBEAT], "lease_until = ?2", "lease_until = lease_until + 0 * ?2")],
    killers: &["LSE-1"],
};

const INSERT_OVERWRITES: Flaw = Flaw {
    sentence: "a repeated insert replaces the job's input",
    edits: &[(&[sql::INSERT_JOB], "DO NOTHING", "DO UPDATE SET input = excluded.input")],
    killers: &["INS-3"],
};

const RECORD_KEEPS_ITS_VERSION: Flaw = Flaw {
    sentence: "a record that is put again keeps its version",
    edits: &[(&[sql::PUT_RECORD], "version = excluded.version, ", "")],
    killers: &["REC-1"],
};

const SLOT_IS_FORGOTTEN: Flaw = Flaw {
    sentence: "a schedule does not move on to the slot that it fired",
    edits: &[(&[sql::PUT_SCHEDULE], "last_slot = excluded.last_slot, ", "")],
    killers: &["SCH-2"],
};

/// A flaw, and what came of it.
#[derive(Debug)]
pub(crate) struct Mutation {
    flaw: &'static Flaw,
    found: Arc<Found>,
}

/// Whether a flaw's fragments were in the statements.
#[derive(Debug, Default)]
struct Found {
    statements: AtomicUsize,
    missing: Mutex<Option<String>>,
}

impl std::fmt::Debug for Flaw {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.sentence)
    }
}

impl Mutation {
    fn spoil(&self, text: &str) -> String {
        let mut spoilt = text.to_owned();
        for (statements, from, to) in self.flaw.edits {
            if !statements.contains(&text) {
                continue;
            }
            self.found.statements.fetch_add(1, Ordering::Relaxed);
            if !spoilt.contains(from) {
                let missing = format!("{from:?} is not in {text}");
                *self.found.missing.lock().unwrap_or_else(PoisonError::into_inner) = Some(missing);
            }
            spoilt = spoilt.replace(from, to);
        }
        spoilt
    }
}

thread_local! {
    /// What spoils the statements of this thread: each of a store's connections has a thread of its own.
    static MUTATION: RefCell<Option<Arc<Mutation>>> = const { RefCell::new(None) };
}

/// Spoils the statements of this thread from now on.
pub(crate) fn apply(mutation: Option<&Arc<Mutation>>) {
    MUTATION.set(mutation.cloned());
}

/// The statement as the mutation of this thread has it.
pub(crate) fn mutated(text: &str) -> String {
    MUTATION.with_borrow(|mutation| match mutation {
        None => text.to_owned(),
        Some(mutation) => mutation.spoil(text),
    })
}

struct Spoilt {
    flaw: Option<&'static Flaw>,
    found: Arc<Found>,
}

#[async_trait]
impl Harness for Spoilt {
    async fn fresh(&self, clock: &Clock) -> Result<Fixture> {
        let directory = tempfile::tempdir()
            .map_err(|error| Error::new(ErrorKind::Unavailable, error.to_string()))?;
        let mut options = SqliteOptions::new(directory.path().join("jobs.db")).clock(clock.clone());
        options.mutation = self.flaw.map(|flaw| {
            let found = self.found.clone();
            Arc::new(Mutation { flaw, found })
        });
        let store = options.clone().open().await?;
        let sibling = move || {
            let open = options.clone().open();
            Box::pin(async move { Ok(Arc::new(open.await?) as Arc<dyn JobStore>) }) as _
        };
        Ok(Fixture::new(Arc::new(store)).clocked().with_sibling(sibling).with_guard(directory))
    }
}

/// What the properties say about the store with this flaw, and about the sound one.
async fn is_killed(flaw: &'static Flaw) {
    let found = Arc::new(Found::default());
    let verdict = async |spoilt: Option<&'static Flaw>, killer: &str| {
        let suite = Suite::new(Spoilt { flaw: spoilt, found: found.clone() });
        let mut reports = suite.only([killer]).outcomes().await;
        assert_eq!(reports.len(), 1, "there is no property {killer}");
        reports.remove(0).verdict
    };
    for killer in flaw.killers {
        let sound = verdict(None, killer).await;
        assert!(matches!(sound, Verdict::Pass), "the sound store: {killer}: {sound}");
        match verdict(Some(flaw), killer).await {
            // An error of the statement's text would say that the mutant is malformed, not that it is wrong.
            Verdict::Fail(why) if !why.contains("syntax error") && !why.contains("no such") => {}
            other => panic!("{}: {killer}: {other}", flaw.sentence),
        }
    }
    let missing = found.missing.lock().unwrap_or_else(PoisonError::into_inner).take();
    assert_eq!(missing, None, "{}", flaw.sentence);
    assert!(found.statements.load(Ordering::Relaxed) > 0, "nothing was spoilt: {}", flaw.sentence);
}

/// A test for each flaw: on a runtime with two threads, or races would be none.
macro_rules! mutants {
    ($($test:ident: $flaw:ident;)*) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $test() {
            is_killed(&$flaw).await;
        }
    )*};
}

mutants! {
    a_claim_without_lock_is_noticed: CLAIM_WITHOUT_LOCK;
    a_claim_that_asks_for_the_lease_only_is_noticed: CLAIM_BY_LEASE;
    a_claim_before_the_due_time_is_noticed: CLAIM_IGNORES_DUE_TIMES;
    a_claim_with_an_old_fence_is_noticed: CLAIM_KEEPS_THE_FENCE;
    an_entry_that_is_deleted_and_inserted_again_is_noticed: LOG_REWRITTEN;
    an_append_that_expects_no_repeat_is_noticed: LOG_WITHOUT_REPEATS;
    a_log_that_outlives_its_job_is_noticed: LOG_LEFT_BEHIND;
    a_slot_that_is_not_freed_is_noticed: SETTLE_KEEPS_THE_SLOT;
    a_key_that_is_not_freed_is_noticed: SETTLE_KEEPS_THE_KEY;
    a_settle_that_is_not_remembered_is_noticed: SETTLE_FORGETS_ITSELF;
    a_reap_by_the_start_is_noticed: REAP_BY_START;
    a_heartbeat_that_renews_nothing_is_noticed: HEARTBEAT_FORGETS_THE_LEASE;
    an_insert_that_overwrites_is_noticed: INSERT_OVERWRITES;
    a_record_that_keeps_its_version_is_noticed: RECORD_KEEPS_ITS_VERSION;
    a_schedule_that_forgets_its_slot_is_noticed: SLOT_IS_FORGOTTEN;
}
