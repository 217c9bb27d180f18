//! The suite against this store with one statement spoilt: what it would miss here, it would miss in any store on a
//! real database. The same properties pass with the statements as they are.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicUsize, Ordering},
};

use conformance_tests::{Fixture, Harness, Suite, Verdict, async_trait};
use queue_core::{Clock, JobStore, Result};

use crate::database::Schema;

/// A change of a statement's text; `{s}` stands for the schema.
#[derive(Debug)]
enum Edit {
    /// Each occurrence of any of these, of which one is there at least.
    Replace(&'static [&'static str], &'static str),
    /// From the one up to and including the other, the first time.
    Between(&'static str, &'static str, &'static str),
}

/// A way to spoil the store.
struct Flaw {
    sentence: &'static str,
    /// What is in the text of every statement that it spoils.
    statement: &'static str,
    edits: &'static [Edit],
    /// Functions that the spoilt statement needs.
    setup: &'static str,
    /// The properties each of which must notice.
    killers: &'static [&'static str],
}

/// What every claim sets and nothing else does.
const CLAIM: &str = "started_at = t.now";
const UPDATE: &str = "judged AS MATERIALIZED";

const CLAIM_WITHOUT_LOCK: Flaw = Flaw {
    sentence: "a claim neither locks the jobs that it picked nor looks again whether they still wait",
    statement: CLAIM,
    edits: &[
        Edit::Replace(&["FOR NO KEY UPDATE OF j SKIP LOCKED"], ""),
        Edit::Replace(
            &["AND j.state = 0\n    RETURNING j.*", "AND j.state < 1\n    RETURNING j.*"],
            "RETURNING j.*",
        ),
    ],
    setup: "",
    killers: &["CLM-1"],
};

const CLAIM_BY_LEASE: Flaw = Flaw {
    sentence: "a claim asks whether a lease is over, and not whether the job waits",
    statement: CLAIM,
    edits: &[Edit::Replace(
        &["j.state = 0", "j.state < 1"],
        "(j.lease_until IS NULL OR j.lease_until <= (SELECT now FROM t))",
    )],
    setup: "",
    killers: &["CLM-11"],
};

const LOG_REWRITTEN: Flaw = Flaw {
    sentence: "an append deletes the log and inserts what was read of it, and the new entries",
    statement: UPDATE,
    edits: &[Edit::Between(
        "appended AS (",
        "RETURNING 1",
        "appended AS (
            SELECT r.* FROM t, (SELECT e.job_id, json_agg(e) AS entries FROM entry e GROUP BY e.job_id) n,
            LATERAL {s}.rewrite(n.job_id, t.now, n.entries,
                (SELECT json_agg(l) FROM {s}.log l WHERE l.job_id = n.job_id)) r",
    )],
    setup: "CREATE FUNCTION {s}.rewrite(p_job uuid, p_now bigint, p_new json, p_old json) RETURNS SETOF integer
        LANGUAGE plpgsql AS $$ BEGIN
            -- Others read the log meanwhile, however fast the machine is.
            PERFORM pg_sleep(0.002);
            DELETE FROM {s}.log WHERE job_id = p_job;
            INSERT INTO {s}.log SELECT * FROM json_populate_recordset(NULL::{s}.log, p_old);
            INSERT INTO {s}.log (job_id, entry_id, seq, kind, at, body)
                SELECT p_job, n.entry_id, n.seq, n.kind, p_now, n.body::json
                FROM json_to_recordset(p_new) AS n (entry_id uuid, seq bigint, kind smallint, body text);
            RETURN QUERY SELECT 1 FROM json_array_elements(p_new);
        END $$",
    killers: &["LOG-1", "LOG-4", "LOG-9"],
};

const LOG_NUMBERED_BY_READING: Flaw = Flaw {
    sentence: "an append numbers its entries from what it read of the log, not from the job that it locked",
    statement: UPDATE,
    edits: &[Edit::Replace(
        &["v.log_len + row_number()"],
        "(SELECT coalesce(max(l.seq), 0) FROM {s}.log l WHERE l.job_id = v.id) + row_number()",
    )],
    setup: "",
    killers: &["LOG-1"],
};

const UPDATE_WITHOUT_GUARD: Flaw = Flaw {
    sentence: "an update does not compare fences",
    statement: UPDATE,
    edits: &[Edit::Replace(&["(k.fence <> u.guard_count OR k.nonce <> u.guard_nonce)"], "false")],
    setup: "",
    killers: &["UPD-1", "LSE-5"],
};

const UPDATE_JUDGED_UNLOCKED: Flaw = Flaw {
    sentence: "an update judges its guard before it has the job's lock",
    statement: UPDATE,
    edits: &[Edit::Replace(&["FOR NO KEY UPDATE OF j\n"], "\n")],
    setup: "",
    killers: &["UPD-2"],
};

const HEARTBEAT_WITHOUT_GUARD: Flaw = Flaw {
    sentence: "a heartbeat does not compare fences",
    statement: "AS is_held",
    edits: &[Edit::Replace(&["AND j.fence = u.guard_count AND j.nonce = u.guard_nonce"], "")],
    setup: "",
    killers: &["LSE-2", "LSE-5"],
};

/// A flaw in one schema, and what came of it.
pub(crate) struct Mutation {
    flaw: &'static Flaw,
    schema: String,
    found: Arc<Found>,
}

/// Whether a flaw's fragments were in the statements.
#[derive(Default)]
struct Found {
    statements: AtomicUsize,
    missing: Mutex<Option<String>>,
}

impl Mutation {
    fn expand(&self, text: &str) -> String {
        text.replace("{s}", &format!("\"{}\"", self.schema))
    }

    fn spoil(&self, text: &Arc<str>) -> Arc<str> {
        if !text.contains(self.flaw.statement) {
            return text.clone();
        }
        self.found.statements.fetch_add(1, Ordering::Relaxed);
        let mut spoilt = text.to_string();
        for edit in self.flaw.edits {
            let before = spoilt.clone();
            match edit {
                Edit::Replace(any, to) => {
                    let to = self.expand(to);
                    any.iter().for_each(|from| spoilt = spoilt.replace(from, &to));
                }
                Edit::Between(from, upto, to) => {
                    if let Some(begin) = spoilt.find(from)
                        && let Some(length) = spoilt[begin..].find(upto)
                    {
                        let end = begin + length + upto.len();
                        spoilt.replace_range(begin..end, &self.expand(to));
                    }
                }
            }
            if spoilt == before {
                let missing = format!("{edit:?} finds nothing in {text:.400}");
                *self.found.missing.lock().unwrap_or_else(PoisonError::into_inner) = Some(missing);
            }
        }
        spoilt.into()
    }
}

/// The statement as a mutation has it.
pub(crate) fn mutated(mutation: Option<&Mutation>, text: &Arc<str>) -> Arc<str> {
    mutation.map_or_else(|| text.clone(), |mutation| mutation.spoil(text))
}

struct Spoilt {
    flaw: Option<&'static Flaw>,
    found: Arc<Found>,
}

#[async_trait]
impl Harness for Spoilt {
    async fn fresh(&self, clock: &Clock) -> Result<Fixture> {
        let schema = Schema::new()?;
        let mut options = schema.options()?.clock(clock.clone());
        options.mutation = self.flaw.map(|flaw| {
            let (schema, found) = (schema.name.clone(), self.found.clone());
            Arc::new(Mutation { flaw, schema, found })
        });
        let store = options.clone().open().await?;
        if let Some(flaw) = self.flaw.filter(|flaw| !flaw.setup.is_empty()) {
            schema.run(flaw.setup).await;
        }
        let sibling = move || {
            let open = options.clone().open();
            Box::pin(async move { Ok(Arc::new(open.await?) as Arc<dyn JobStore>) }) as _
        };
        Ok(Fixture::new(Arc::new(store)).clocked().with_sibling(sibling).with_guard(schema))
    }
}

/// How often a property may look for a flaw that only a race shows.
const ATTEMPTS: usize = 10;

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
        let mut attempts = 0;
        loop {
            attempts += 1;
            match verdict(Some(flaw), killer).await {
                // An error of the statement would say that the mutant is malformed, not that it is wrong.
                Verdict::Fail(why) if !why.contains("SQLSTATE 42") => break,
                Verdict::Pass if attempts < ATTEMPTS => {}
                other => panic!("{}: {killer}: {other}", flaw.sentence),
            }
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
    a_log_that_is_deleted_and_inserted_again_is_noticed: LOG_REWRITTEN;
    a_log_that_is_numbered_by_reading_is_noticed: LOG_NUMBERED_BY_READING;
    an_update_that_compares_no_fence_is_noticed: UPDATE_WITHOUT_GUARD;
    an_update_that_is_judged_before_the_lock_is_noticed: UPDATE_JUDGED_UNLOCKED;
    a_heartbeat_that_compares_no_fence_is_noticed: HEARTBEAT_WITHOUT_GUARD;
}
