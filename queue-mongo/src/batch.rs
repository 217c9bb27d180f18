//! Many guarded updates of single documents in one trip, with a verdict for each.

use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use mongodb::bson::{Document, doc};
use queue_core::{ErrorKind, Result};

use crate::{
    codec,
    connect::{Db, JOBS},
    error::{DUPLICATE, TOO_LARGE, from_statement},
    reply,
};

/// The most statements and bytes of one command; the server takes 100,000 and 16 MiB.
const STATEMENTS: usize = 1_000;
const BYTES: usize = 8 * 1024 * 1024;
/// How many statements are under way when each is sent by itself; the driver has ten connections unless it is told.
const AT_ONCE: usize = 8;
/// How the attempt to insert fails: 66, ImmutableField; 54, NotSingleValueField, where the filter names a field twice, so that
/// the server cannot tell which value the document would get.
const NOT_MATCHED: [i32; 2] = [66, 54];

/// What became of one statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Applied,
    NotMatched,
    /// Another document has the key of a unique index.
    Taken,
    TooLarge,
    /// A transaction that is under way has written the document, or its write was not acknowledged in time. Only where
    /// the time is limited.
    Blocked,
    /// It matches nothing now that it was sent again; the first time it may have been made. Only where the time is
    /// limited.
    Doubtful,
}

/// An update of the document that its filter names.
#[derive(Clone, Debug)]
pub(crate) struct Statement {
    pub(crate) filter: Document,
    pub(crate) update: Document,
    /// About how many bytes the update has.
    pub(crate) bytes: usize,
}

impl Statement {
    /// The command's form.
    ///
    /// The server answers only counts, unless a statement fails. So each one is an upsert that cannot succeed: when
    /// the filter matches nothing, the attempt to insert a document with another `_id` than the filter's is an
    /// error, and errors come with the index of their statement.
    fn into_document(self) -> Document {
        let mut update = self.update;
        update.insert("$setOnInsert", doc! { "_id": codec::uuid(&queue_core::Uuid::nil()) });
        doc! { "q": self.filter, "u": update, "upsert": true }
    }
}

/// Runs the statements, each on its own, and gives their verdicts in order.
pub(crate) async fn run(db: &Db, statements: Vec<Statement>) -> Result<Vec<Verdict>> {
    run_bounded(db, statements, None).await
}

/// The same for statements that must not wait for a transaction which has written one of the documents: when their
/// command takes longer than the limit, each is sent by itself, and no longer waited for than that.
///
/// A statement that the first command made is sent again: it must be one that can be made twice, or that does not match
/// what it has made and is then [`Verdict::Doubtful`].
pub(crate) async fn run_within(
    db: &Db,
    statements: Vec<Statement>,
    limit: Duration,
) -> Result<Vec<Verdict>> {
    match run_bounded(db, statements.clone(), Some(limit)).await {
        Err(error) if error.kind() == ErrorKind::Timeout => {}
        verdicts => return verdicts,
    }
    let alone = statements.into_iter().map(async |statement| {
        match run_bounded(db, vec![statement], Some(limit)).await {
            Err(error) if error.kind() == ErrorKind::Timeout => Ok(Verdict::Blocked),
            verdicts => Ok(match verdicts?.pop() {
                None | Some(Verdict::NotMatched) => Verdict::Doubtful,
                Some(verdict) => verdict,
            }),
        }
    });
    futures::stream::iter(alone).buffered(AT_ONCE).try_collect().await
}

async fn run_bounded(
    db: &Db,
    statements: Vec<Statement>,
    limit: Option<Duration>,
) -> Result<Vec<Verdict>> {
    let mut verdicts = Vec::with_capacity(statements.len());
    let mut rest = statements.into_iter().peekable();
    while rest.peek().is_some() {
        let (mut chunk, mut bytes) = (Vec::new(), 0);
        while let Some(next) = rest.next_if(|next| {
            chunk.is_empty() || (chunk.len() < STATEMENTS && bytes + next.bytes <= BYTES)
        }) {
            bytes += next.bytes;
            chunk.push(next.into_document());
        }
        let from = verdicts.len();
        verdicts.resize(from + chunk.len(), Verdict::Applied);
        let mut command = doc! { "update": JOBS, "updates": chunk };
        if let Some(limit) = limit {
            reply::bound(&mut command, limit);
        }
        for failed in reply::run(db, command).await? {
            let verdict = match failed.code {
                code if NOT_MATCHED.contains(&code) => Verdict::NotMatched,
                DUPLICATE => Verdict::Taken,
                code if TOO_LARGE.contains(&code) => Verdict::TooLarge,
                code => return Err(from_statement(code, &failed.message)),
            };
            if let Some(place) = verdicts.get_mut(from + failed.index) {
                *place = verdict;
            }
        }
    }
    Ok(verdicts)
}
