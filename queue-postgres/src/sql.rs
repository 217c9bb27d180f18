//! The statements, made for one schema.

use std::sync::Arc;

use queue_core::{Order, Timestamp};

/// The columns of a job, of a row called `j`.
const JOB: &str = "j.id, j.queue, j.kind, j.state, j.rank, j.run_at, j.attempt, j.crashes, j.max_crashes, j.keep, \
    j.fence, j.nonce, j.version, j.created_at, j.started_at, j.finished_at, j.holder, j.lease_until, \
    j.cancel_reason, j.cancel_at, j.wake, j.lane_key, j.lane_limit, j.unique_key, j.unique_within, \
    j.unique_mode, j.log_len, j.progress, j.progress_message, j.labels::text AS labels, \
    j.input::text AS input, j.output::text AS output, j.error::text AS error";

/// The log of a job after a position, as arrays in the order of the positions. It is not looked for where
/// the row says that there is none.
const LOG: &str = "LEFT JOIN LATERAL (
        SELECT array_agg(l.entry_id ORDER BY l.seq) AS log_ids, array_agg(l.seq ORDER BY l.seq) AS log_seqs,
            array_agg(l.kind ORDER BY l.seq) AS log_kinds, array_agg(l.at ORDER BY l.seq) AS log_ats,
            array_agg(l.body::text ORDER BY l.seq) AS log_bodies
        FROM {s}.log l WHERE j.log_len > {after} AND l.job_id = j.id AND l.seq > {after}
    ) log ON true";

/// What a claim sets. Leases begin when their rows are locked: the updates that go with a claim may have waited for theirs.
const CLAIMED: &str = "state = 1, attempt = j.attempt + 1, fence = j.fence + 1, nonce = {token}::uuid, \
    version = j.version + 1, holder = {holder}, lease_until = least({clock} + {lease}::bigint, {max}), \
    claim_place = p.place, started_at = t.now, wake = false, \
    held_key = CASE WHEN j.unique_mode = 1 THEN NULL ELSE j.held_key END";

const NOW: &str =
    "coalesce($1::bigint, (extract(epoch FROM statement_timestamp()) * 1000000)::bigint)";

/// Which names a claim wants: the text of its statement depends on it, so that each has its own plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) queues: bool,
    pub(crate) kinds: bool,
    pub(crate) order: Order,
}

impl Shape {
    const fn index(self) -> usize {
        (self.queues as usize)
            | (self.kinds as usize) << 1
            | (matches!(self.order, Order::Lifo) as usize) << 2
    }

    fn all() -> impl Iterator<Item = Shape> {
        (0..8).map(|index| Shape {
            queues: index & 1 != 0,
            kinds: index & 2 != 0,
            order: if index & 4 == 0 { Order::Fifo } else { Order::Lifo },
        })
    }

    const fn direction(self) -> &'static str {
        match self.order {
            Order::Fifo => "ASC",
            Order::Lifo => "DESC",
        }
    }

    /// Whether a range is wanted; of a row called `w`. The given queues, and the kinds given with them, are what
    /// the walk began with.
    fn wanted(self) -> String {
        // By a list of what is paused, read once: there may be thousands of ranges.
        let mut text = String::from(
            "w.queue NOT IN (SELECT substr(p.key, length('{paused}') + 1) FROM {s}.record p \
             WHERE p.key LIKE '{paused}%' AND p.body IS NOT NULL)",
        );
        if self.kinds && !self.queues {
            text.push_str(" AND w.kind = ANY ({kinds}::text[])");
        }
        text
    }

    /// Whether a row called `j` has one of the given names.
    fn named(self) -> String {
        let queue = if self.queues { " AND j.queue = ANY ({queues}::text[])" } else { "" };
        let kind = if self.kinds { " AND j.kind = ANY ({kinds}::text[])" } else { "" };
        [queue, kind].concat()
    }

    /// What `wanted` leaves out where nothing was walked.
    const fn asked(self) -> &'static str {
        match (self.queues, self.kinds) {
            (true, true) => {
                " AND w.queue = ANY ({queues}::text[]) AND w.kind = ANY ({kinds}::text[])"
            }
            (true, false) => " AND w.queue = ANY ({queues}::text[])",
            (false, _) => "",
        }
    }

    /// The first due job of each range, as `h`. First in the order of the index, it is what the walk has met.
    const fn heads(self) -> &'static str {
        match self.order {
            Order::Fifo => "SELECT h.* FROM {p}_range h WHERE h.run_at <= (SELECT now FROM t)",
            Order::Lifo => {
                "SELECT r.queue, r.kind, r.rank, h.run_at, h.id FROM {p}_range r CROSS JOIN LATERAL (
                    SELECT j.rank, j.run_at, j.id FROM {s}.job j
                    WHERE {plane} AND j.queue = r.queue AND j.kind = r.kind AND j.rank = r.rank
                        AND j.run_at <= (SELECT now FROM t)
                    ORDER BY j.run_at DESC, j.id DESC LIMIT 1) h"
            }
        }
    }

    /// What a statement says of one plane of the waiting jobs, those with lanes or those without.
    fn of_plane(self, text: &str, name: &str, plane: &str, count: &str, gate: &str) -> String {
        // Only what is in the index: the rows are read when they are locked.
        let lane = if name == "laned" { ", j.lane_key, j.lane_limit" } else { "" };
        let walk = self.walk(&format!("{name}_walk"), plane, &["queue", "kind", "rank"]);
        text.replace("{walk}", &walk)
            .replace("{heads}", self.heads())
            .replace("{p}", name)
            .replace("{plane}", plane)
            .replace("{count}", count)
            .replace("{gate}", gate)
            .replace("{lane}", lane)
    }

    /// The first row of each range, which is a set of values in the leading columns of an index, by one seek each: a
    /// loose index scan (<https://wiki.postgresql.org/wiki/Loose_indexscan>). The given names are equalities, the
    /// rest is walked.
    fn walk(self, name: &str, plane: &str, columns: &[&str]) -> String {
        let (seeds, fixed) = match (self.queues, self.kinds) {
            (true, true) => (
                "unnest({queues}::text[]) AS seed_queue (queue) CROSS JOIN unnest({kinds}::text[]) \
                 AS seed_kind (kind) CROSS JOIN ",
                2,
            ),
            (true, false) => ("unnest({queues}::text[]) AS seed_queue (queue) CROSS JOIN ", 1),
            (false, _) => ("", 0),
        };
        let list = |prefix: &str, columns: &[&str]| {
            let columns: Vec<String> =
                columns.iter().map(|column| format!("{prefix}{column}")).collect();
            columns.join(", ")
        };
        let (given, walked) = columns.split_at(fixed);
        let all = list("j.", &[columns, &["run_at", "id"]].concat());
        let select = format!("SELECT {all} FROM {{s}}.job j WHERE {plane}");
        let order = format!("ORDER BY {all} LIMIT 1");
        let seeded: Vec<String> = given
            .iter()
            .map(|column| format!(" AND j.{column} = seed_{column}.{column}"))
            .collect();
        let stay: Vec<String> =
            given.iter().map(|column| format!(" AND j.{column} = w.{column}")).collect();
        format!(
            "(SELECT f.* FROM {seeds}LATERAL ({select}{} {order}) f)
             UNION ALL
             (SELECT f.* FROM {name} w CROSS JOIN LATERAL ({select}{} AND ({}) > ({}) {order}) f)",
            seeded.concat(),
            stay.concat(),
            list("j.", walked),
            list("w.", walked),
        )
    }

    /// Puts in what depends on the shape; `gate` is what else must hold for jobs without lanes to be looked for.
    fn expand(self, text: &str, gate: &str) -> String {
        const OPEN: &str = "j.state = 0 AND j.lane_key IS NULL";
        const LANED: &str = "j.state = 0 AND j.lane_key IS NOT NULL";
        let first = include_str!("sql/first.sql");
        let next = include_str!("sql/next.sql");
        let lane = ["queue", "kind", "rank", "lane_key", "lane_limit"];
        let crowded = format!("{LANED} AND NOT (SELECT so FROM enough)");
        let (from, upto, last_run_at, last_id) = match self.order {
            Order::Fifo => {
                (">=", "<=", "(SELECT now FROM t)", "ffffffff-ffff-ffff-ffff-ffffffffffff")
            }
            Order::Lifo => {
                ("<=", ">=", "-9223372036854775808", "00000000-0000-0000-0000-000000000000")
            }
        };
        text.replace("{first_open}", &self.of_plane(first, "open", OPEN, "{fetch}", gate))
            .replace("{first_laned}", &self.of_plane(first, "laned", LANED, "{ahead}", ""))
            .replace("{next_open}", &self.of_plane(next, "open", OPEN, "", ""))
            .replace("{next_laned}", &self.of_plane(next, "laned", LANED, "", ""))
            .replace("{lane_walk}", &self.walk("lane_walk", &crowded, &lane))
            .replace("{ahead}", "(2 * {limit} + 50)")
            .replace("{wanted}", &self.wanted())
            .replace("{named}", &self.named())
            .replace("{asked}", self.asked())
            .replace("{dir}", self.direction())
            .replace("{upto}", upto)
            .replace("{from}", from)
            .replace("{last_run_at}", last_run_at)
            .replace("{last_id}", last_id)
    }
}

/// Names the parameters of a claim, the first of which is `$first`.
fn number(text: &str, first: usize) -> String {
    let names = ["token", "holder", "lease", "limit", "fetch", "after", "queues", "kinds"];
    names.iter().zip(first..).fold(text.to_owned(), |text, (name, number)| {
        text.replace(&format!("{{{name}}}"), &format!("${number}"))
    })
}

/// The comments are for readers of this crate; on the wire, and in the server's lists of statements, which show the first
/// kilobyte, they would be in the way.
fn without_comments(text: &str) -> String {
    let lines = text.lines().filter(|line| !line.trim_start().starts_with("--"));
    lines.collect::<Vec<_>>().join("\n")
}

/// Every statement for one schema.
pub(crate) struct Sql {
    schema: String,
    pub(crate) insert: Arc<str>,
    pub(crate) enqueue: Arc<str>,
    pub(crate) fire: Arc<str>,
    pub(crate) update: Arc<str>,
    /// What is free, then what had to be waited for.
    pub(crate) heartbeat: [Arc<str>; 2],
    pub(crate) reap: Arc<str>,
    pub(crate) get: Arc<str>,
    pub(crate) held: Arc<str>,
    pub(crate) take: [Arc<str>; 2],
    pub(crate) put_record: Arc<str>,
    pub(crate) put_record_if: Arc<str>,
    pub(crate) records: Arc<str>,
    pub(crate) schedules: Arc<str>,
    pub(crate) ping: Arc<str>,
    pub(crate) notify: Arc<str>,
    claim: Vec<Arc<str>>,
    fused: Vec<Arc<str>>,
    look: Vec<Arc<str>>,
}

impl Sql {
    pub(crate) fn new(schema: &str) -> Self {
        let empty = || Arc::from("");
        let mut sql = Sql {
            schema: schema.to_owned(),
            insert: empty(),
            enqueue: empty(),
            fire: empty(),
            update: empty(),
            heartbeat: [empty(), empty()],
            reap: empty(),
            get: empty(),
            held: empty(),
            take: [empty(), empty()],
            put_record: empty(),
            put_record_if: empty(),
            records: empty(),
            schedules: empty(),
            ping: empty(),
            notify: empty(),
            claim: Vec::new(),
            fused: Vec::new(),
            look: Vec::new(),
        };
        let update = &without_comments(include_str!("sql/update.sql"));
        sql.insert = sql.expand(include_str!("sql/insert.sql"));
        sql.enqueue = sql.expand(include_str!("sql/enqueue.sql"));
        sql.fire = sql.expand(include_str!("sql/fire.sql"));
        sql.update = sql.expand(&format!("WITH {update}{}", include_str!("sql/update_answer.sql")));
        sql.heartbeat = ["SKIP LOCKED", ""].map(|waiting| {
            sql.expand(&include_str!("sql/heartbeat.sql").replace("{waiting}", waiting))
        });
        sql.reap = sql.expand(include_str!("sql/reap.sql"));
        sql.get =
            sql.expand(&include_str!("sql/get.sql").replace("{log}", LOG).replace("{after}", "$2"));
        sql.held = sql
            .expand(&include_str!("sql/held.sql").replace("{log}", LOG).replace("{after}", "$3"));
        sql.take = [Order::Fifo, Order::Lifo].map(|order| sql.take_where(order, "true"));
        sql.put_record = sql.expand(include_str!("sql/put_record.sql"));
        sql.put_record_if = sql.expand(include_str!("sql/put_record_if.sql"));
        sql.records = sql.expand(
            "SELECT key, body::text AS body, version, updated_at FROM {s}.record \
             WHERE key >= $1 AND starts_with(key, $1) AND body IS NOT NULL ORDER BY key",
        );
        sql.schedules = sql.expand(
            "SELECT name, last_slot, last_job, fired, skipped, last_error FROM {s}.schedule \
             WHERE last_slot IS NOT NULL ORDER BY name",
        );
        sql.ping = sql.expand("SELECT {now} AS now");
        sql.notify =
            sql.expand("SELECT pg_notify({channel}, queue) FROM unnest($1::text[]) AS n (queue)");
        for shape in Shape::all() {
            let claim = include_str!("sql/claim.sql");
            let answer = include_str!("sql/claim_answer.sql").replace("{log}", LOG);
            let alone = format!(
                "WITH RECURSIVE t AS MATERIALIZED (SELECT {{now}} AS now),\n{claim}{answer}"
            )
            .replace("{unsettled}", "")
            .replace("{extra}", "");
            let fused = format!("WITH RECURSIVE {update},\n{claim}{answer}")
                .replace(
                    "{unsettled}",
                    "AND j.id NOT IN (SELECT v.id FROM judged v WHERE v.verdict = 0 AND v.kind IS NOT NULL)",
                )
                .replace("{extra}", include_str!("sql/fused_outcomes.sql"));
            let look = include_str!("sql/look.sql");
            let made = |text: &str, first, gate| {
                let text = shape.expand(&text.replace("{claimed}", CLAIMED), gate);
                sql.expand(&number(&text, first))
            };
            let gate = "AND NOT (SELECT waiting FROM laned) AND NOT EXISTS (SELECT FROM held)";
            // A row that the claim had changed could not be locked by the updates any more: what one
            // command has changed it does not see.
            let updates_first = format!("{gate} AND (SELECT count(*) FROM judged) >= 0");
            let (alone, fused, look) =
                (made(&alone, 2, gate), made(&fused, 20, &updates_first), made(look, 2, ""));
            sql.claim.push(alone);
            sql.fused.push(fused);
            sql.look.push(look);
        }
        sql
    }

    /// Puts in what depends on the schema.
    pub(crate) fn expand(&self, text: &str) -> Arc<str> {
        let identifier = format!("\"{}\"", self.schema.replace('"', "\"\""));
        let literal = |text: &str| text.replace('\'', "''");
        let channel = format!("'{}'", literal(&self.channel()));
        let seed = self.seed().to_string();
        let text = without_comments(text);
        text.replace("{job}", JOB)
            .replace("{now}", NOW)
            .replace("{clock}", &NOW.replace("statement_timestamp", "clock_timestamp"))
            .replace("{max}", &Timestamp::MAX.as_micros().to_string())
            .replace("{paused}", queue_core::PAUSED_QUEUE)
            .replace("{seed}", &seed)
            .replace("{channel}", &channel)
            .replace("{s_text}", &literal(&self.schema))
            .replace("{s}", &identifier)
            .into()
    }

    /// Claims without a filter.
    pub(crate) fn claim(&self, shape: Shape) -> &Arc<str> {
        &self.claim[shape.index()]
    }

    /// Updates, then claims.
    pub(crate) fn fused(&self, shape: Shape) -> &Arc<str> {
        &self.fused[shape.index()]
    }

    /// Finds candidates, with lanes.
    pub(crate) fn look(&self, shape: Shape) -> &Arc<str> {
        &self.look[shape.index()]
    }

    /// Finds candidates that match a filter, whose values begin at `$10`.
    pub(crate) fn look_filtered(&self, shape: Shape, filter: &str) -> Arc<str> {
        let text = shape.expand(include_str!("sql/look_filtered.sql"), "");
        self.expand(&number(&text, 2).replace("{filter}", filter))
    }

    /// Claims the jobs given, if they match a filter, whose values begin at `$13`.
    pub(crate) fn take_where(&self, order: Order, filter: &str) -> Arc<str> {
        let shape = Shape { queues: false, kinds: false, order };
        let text = include_str!("sql/take.sql").replace("{claimed}", CLAIMED).replace("{log}", LOG);
        let text = text
            .replace("{token}", "$9")
            .replace("{holder}", "$10")
            .replace("{lease}", "$11")
            .replace("{after}", "$12")
            .replace("{dir}", shape.direction())
            .replace("{filter}", filter);
        self.expand(&text)
    }

    /// The channel of the schema's wake-ups.
    pub(crate) fn channel(&self) -> String {
        format!("queue_{:016x}", self.seed())
    }

    /// A number that stands for the schema, for advisory locks and the channel: FNV-1a, which stays the same in
    /// every build.
    fn seed(&self) -> i64 {
        let hash = self.schema.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        i64::from_ne_bytes(hash.to_ne_bytes())
    }
}
