//! FID: what was stored comes back as it was.

mod names;

use std::{collections::BTreeMap, time::Duration};

use queue_core::{
    ErrorKind, JobFilter, JobId, JobPatch, JobQuery, JobStoreExt, JobUpdate, Lane, LogRead, NewJob,
    Outcome, Payload, Progress, Record, TimeRange, Timestamp, Transition, Unique, When,
    name::clean_message,
};

use super::scene::{
    HOUR, MICRO, beat, cancel, check_unchanged, claim, complete, entry, job, n, new_ids, put,
    put_all, put_record, queue, read, running, settle, skip_slot, take_id, text, try_settle,
    update, wanted, wanted_from, write,
};
use crate::{Case, Checked, Stop, check, check_eq, property::group};

group! {
    "FID-1", "text of every script and escape comes back" => unicode;
    "FID-2", "numbers come back as they were spelled" => numbers;
    "FID-3", "documents come back byte for byte" => bytes;
    "FID-4", "keys and strings that a database might read as its own come back" => dollars_and_dots;
    "FID-5", "1 MiB is kept, the limit is kept, and one byte more is TooLarge" => sizes;
    "FID-6", "times are exact to the microsecond, far past and far future" => times;
    "FID-7", "hostile names do no harm" => hostile_names;
    "FID-8", "100 levels of nesting come back" => depth;
    "FID-9", "no output is not the output null" => absent_is_not_null;
    "FID-10", "names that look alike are different names" => names::names_that_look_alike_differ;
    "FID-11", "a pause is for one queue, whatever its record says" => names::a_pause_is_for_one_queue;
}

/// Sends documents through every field that keeps one, and compares the text.
async fn round_trip(case: &Case<'_>, documents: &[String]) -> Checked {
    let store = case.store();
    let documents: Vec<Payload> = documents.iter().map(text).collect::<Checked<_>>()?;
    // Two jobs for each: one completes with it, one fails with it.
    let jobs: Vec<NewJob> = documents
        .iter()
        .flat_map(|document| [document, document])
        .map(|document| NewJob::new("document", document.clone()))
        .collect();
    put_all(store, &jobs).await?;
    let claimed = store.claim(&wanted(jobs.len() as u32)).await?.jobs;
    let by_id: BTreeMap<JobId, _> = claimed.into_iter().map(|job| (job.id, job)).collect();
    let mut updates = Vec::new();
    for (i, new) in jobs.iter().enumerate() {
        let Some(held) = by_id.get(&new.id) else {
            return Err(Stop::fail(format!("job {} was not claimed", new.id)));
        };
        same(&held.input, &new.input, "the input, with the claim")?;
        let document = new.input.clone();
        let end = match i % 2 {
            0 => Transition::Complete { output: Some(document.clone()) },
            _ => Transition::Fail { error: document.clone() },
        };
        let line = queue_core::NewEntry::new(queue_core::EntryKind::Step, document);
        let patch = JobPatch::transition(end).with_log([line]);
        updates.push(JobUpdate::held(new.id, held.fence, patch));
    }
    let outcomes = store.update_jobs(&updates).await?;
    check!(outcomes.iter().all(Outcome::is_saved), "the ends were answered {outcomes:?}");
    for handle in case.handles(2).await? {
        let stored = handle.get(&new_ids(&jobs), LogRead::All).await?;
        for (i, (new, stored)) in jobs.iter().zip(stored).enumerate() {
            let Some(stored) = stored else {
                return Err(Stop::fail(format!("job {} is gone", new.id)));
            };
            same(&stored.input, &new.input, "the input")?;
            match (i % 2, &stored.output, &stored.error, &stored.log[..]) {
                (0, Some(kept), None, [line]) | (1, None, Some(kept), [line]) => {
                    same(kept, &new.input, "the output or error")?;
                    same(&line.body, &new.input, "the body of an entry")?;
                }
                story => return Err(Stop::fail(format!("output, error and log read {story:?}"))),
            }
        }
        let mut query = JobQuery::new(JobFilter::ids(new_ids(&jobs)));
        query.limit = n(1_000);
        for found in handle.find(&query).await?.items {
            let new = jobs.iter().find(|job| job.id == found.id);
            same(&found.input, new.map_or(&Payload::null(), |job| &job.input), "the input found")?;
        }
    }
    for (i, document) in documents.iter().enumerate() {
        let record = Record::new(format!("document/{i}"), document.clone());
        put_record(store, &record).await?;
        let body = store.records(&record.key).await?.into_iter().find(|r| r.key == record.key);
        match body.and_then(|record| record.body) {
            Some(body) => same(&body, document, "the body of a record")?,
            None => return Err(Stop::fail("a record that was put is not listed")),
        }
    }
    Ok(())
}

fn same(kept: &Payload, sent: &Payload, what: &str) -> Checked {
    check!(kept == sent, "{what} came back otherwise\n  sent: {sent:?}\n   got: {kept:?}");
    Ok(())
}

fn owned(documents: &[&str]) -> Vec<String> {
    documents.iter().map(|document| (*document).to_owned()).collect()
}

async fn unicode(case: &Case<'_>) -> Checked {
    let documents = owned(&[
        "\"\u{1f600}\u{10ffff}\"",
        "\"e\u{301} \u{e9} \u{212b} \u{fb01}\"",
        "\"\u{5e9}\u{5dc}\u{5d5}\u{5dd} \u{202e}abc\u{202c} \u{200b}\u{feff}\"",
        r#""\u0000""#,
        r#""a\u0000b\u0001\u001f\u007f""#,
        r#""\ud800""#,
        r#"["\udfff\ud83d","\ud83d\ude00","\uD83D\uDE00"]"#,
        r#""\/\b\f\n\r\t\\\" / ""#,
        "\"\u{7f}\u{80}\u{85}\u{2028}\u{2029}\u{fffd}\u{ffff}\"",
        "{\"\u{1f600}\":1,\"\\u0000\":2,\"\":3}",
    ]);
    round_trip(case, &documents).await?;
    let store = case.store();
    for word in
        ["\u{1f600}\u{10ffff}", "e\u{301}", "\u{e9}", "\u{5e9}\u{5dc}\u{5d5}\u{5dd}", "\u{202e}x"]
    {
        let mut new = job("names");
        new.queue = queue(word)?;
        new.kind = word.to_owned().into();
        new.labels.insert(word.into(), word.into());
        put(store, &new).await?;
        let stored = read(store, new.id).await?;
        check_eq!((&stored.queue, &stored.kind), (&new.queue, &new.kind), "queue and kind");
        check_eq!(stored.labels, new.labels, "labels");
        // One letter in two forms is two names.
        check_eq!(
            store.count(&JobFilter::kind(word.to_owned())).await?,
            1,
            "jobs of kind {word:?}"
        );
        check_eq!(store.count(&JobFilter::label(word, word)).await?, 1, "jobs with label {word:?}");
    }
    Ok(())
}

async fn numbers(case: &Case<'_>) -> Checked {
    let documents = owned(&[
        "9007199254740993",
        "-9007199254740993",
        "18446744073709551615",
        "9223372036854775808",
        "-9223372036854775808",
        "123456789012345678901234567890123456789",
        "1e308",
        "1E+308",
        "1e400",
        "-0.0",
        "-0",
        "0.1",
        "0.10",
        "1.0",
        "3.141592653589793238462643383279502884197",
        "5e-324",
        "[1,1.0,1.00,1e0,10E-1]",
        "{\"n\":12345678901234567890}",
    ]);
    round_trip(case, &documents).await
}

async fn bytes(case: &Case<'_>) -> Checked {
    let documents = owned(&[
        r#"{"b":1,"a":2,"c":3}"#,
        r#"{"a":1,"b":2,"a":3,"a":null}"#,
        "{ \"a\" : [ 1 ,2,\t3 ] ,\n\n \"b\":{ } }",
        r#"{"10":1,"9":2,"1":3}"#,
        "null",
        "true",
        "\"\"",
        "[]",
        "{}",
        r#"{"":{"":[[],{},"",null]}}"#,
        r#""a\u0041\u00e9A""#,
        r#""{\"not\":\"an object\"}""#,
        "\"2026-03-01T12:00:00Z\"",
    ]);
    round_trip(case, &documents).await
}

async fn dollars_and_dots(case: &Case<'_>) -> Checked {
    let documents = owned(&[
        r#""$input""#,
        r#""$$ROOT""#,
        r#"{"$set":{"state":2},"a.b":1,"$":2,".":3}"#,
        r#"{"$oid":"507f1f77bcf86cd799439011","$date":0,"$numberLong":"1"}"#,
        r#"{"__proto__":1,"constructor":2,"_id":3,"$where":"1"}"#,
        r#"["%s %d ? ?1 :name $1 @p {0} ${x}","'; DROP TABLE queue_job; --"]"#,
        r#""NULL""#,
        r#""\\x00 \\N E'\\n'""#,
    ]);
    round_trip(case, &documents).await?;
    let store = case.store();
    // As names, messages and reasons too.
    for word in ["$input", "$$NOW", "a.b", ".", "$", "$set", "?1", ":x", "%s"] {
        let mut new = job("names");
        new.kind = word.into();
        new.labels.insert(word.into(), word.into());
        new.unique = Some(Unique::new(word));
        new.lane = Some(Lane::new(word));
        put(store, &new).await?;
        let held = take_id(store, new.id).await?;
        let patch = JobPatch::progress(Progress::with_message(1, word)).with_label("set", word);
        write(store, &held, patch).await?;
        cancel(store, new.id, word).await?;
        let stored = read(store, new.id).await?;
        check_eq!(
            (&stored.kind, &stored.unique, &stored.lane),
            (&new.kind, &new.unique, &new.lane),
            "names"
        );
        check_eq!(stored.labels.get(word).map(String::as_str), Some(word), "a label");
        check_eq!(stored.labels.get("set").map(String::as_str), Some(word), "a label that was set");
        check_eq!(stored.progress, Some(Progress::with_message(1, word)), "progress");
        check_eq!(stored.cancel.map(|cancel| cancel.reason).as_deref(), Some(word), "the reason");
        check_eq!(store.count(&JobFilter::label(word, word)).await?, 1, "jobs with that label");
    }
    Ok(())
}

fn string_of(bytes: usize) -> Checked<Payload> {
    text(format!("\"{}\"", "x".repeat(bytes.saturating_sub(2))))
}

async fn sizes(case: &Case<'_>) -> Checked {
    const MIB: usize = 1024 * 1024;
    let document = string_of(MIB)?;
    check_eq!(document.len(), MIB, "the size of the document");
    round_trip(case, &[document.as_str().to_owned()]).await?;
    let capabilities = case.info().capabilities;
    let limit = capabilities.max_payload_bytes;
    // Beyond this the documents themselves would be the load test.
    if limit > 64 * MIB as u64 {
        return Ok(());
    }
    let size = usize::try_from(limit).unwrap_or(usize::MAX);
    let store = case.store();
    let over = string_of(size + 1)?;
    let answer = store.insert_one(&NewJob::new("large", over.clone())).await;
    check_eq!(answer.map_err(|e| e.kind()), Err(ErrorKind::TooLarge), "an input over the limit");
    let held = running(store).await?;
    let expected = Outcome::TooLarge { limit };
    let line = queue_core::NewEntry::new(queue_core::EntryKind::Line, over.clone());
    let patches = [
        JobPatch::append([entry("small"), line]).with_label("a", "b"),
        JobPatch::transition(Transition::Complete { output: Some(over.clone()) }),
        JobPatch::transition(Transition::Fail { error: over.clone() }).with_log([entry("small")]),
        JobPatch::transition(Transition::Retry { when: When::Now, error: over }),
    ];
    for patch in patches {
        let outcome = update(store, held.id, queue_core::Guard::Fence(held.fence), patch).await?;
        check_eq!(outcome, expected, "a document one byte over the limit");
        check_unchanged(store, &held, "a document over the limit").await?;
    }
    let room = capabilities.max_job_bytes.unwrap_or(u64::MAX);
    if room > 2 * limit {
        let full = string_of(size)?;
        let input = NewJob::new("full", full.clone());
        put(store, &input).await?;
        let stored = read(store, input.id).await?.input;
        check!(stored == full, "an input of just the limit came back otherwise");
        let output = Transition::Complete { output: Some(full.clone()) };
        check!(try_settle(store, &held, output).await?.is_saved(), "an output of just the limit");
        let stored = read(store, held.id).await?.output;
        check!(stored.as_ref() == Some(&full), "an output of just the limit came back otherwise");
    } else {
        settle(store, &held, complete()).await?;
    }
    Ok(())
}

async fn times(case: &Case<'_>) -> Checked {
    let store = case.store();
    let micros = [
        Timestamp::MIN.as_micros(),
        Timestamp::MIN.as_micros() + 1,
        -1,
        0,
        1,
        999_999,
        1_000_001,
        1_772_366_400_123_456,
        1_772_366_400_123_457,
        Timestamp::MAX.as_micros() - 1,
        Timestamp::MAX.as_micros(),
    ];
    let mut by_time: Vec<(Timestamp, JobId)> = Vec::new();
    for micros in micros {
        let at = Timestamp::from_micros(micros)?;
        let mut new = job("timed");
        new.when = When::At(at);
        put(store, &new).await?;
        check_eq!(read(store, new.id).await?.run_at, at, "run_at");
        by_time.push((at, new.id));
    }
    for (at, id) in &by_time {
        let mut exactly = JobFilter::all();
        exactly.run_at = TimeRange::between(*at, at.plus(MICRO));
        let mut query = JobQuery::new(exactly);
        query.limit = n(100);
        let found: Vec<JobId> = store.find(&query).await?.items.iter().map(|job| job.id).collect();
        // A range that ends at the end of time leaves that instant out.
        let expected = if *at == Timestamp::MAX { vec![] } else { vec![*id] };
        check_eq!(found, expected, "jobs due within a microsecond of {at}");
        let schedule = format!("at {at}");
        skip_slot(store, &schedule, *at, None).await?;
        let stat = store.schedules().await?.into_iter().find(|stat| stat.schedule == schedule);
        check_eq!(stat.map(|stat| stat.last_slot), Some(*at), "a slot");
    }
    // The order of claims tells a microsecond.
    let due: Vec<JobId> = claim(store, 100).await?.into_iter().map(|job| job.id).collect();
    let now = case.now().await?;
    let expected: Vec<JobId> =
        by_time.iter().filter(|(at, _)| *at <= now).map(|(_, id)| *id).collect();
    check_eq!(due, expected, "the jobs due, by time");
    let held = running(store).await?;
    for lease in [Duration::from_micros(1), Duration::from_micros(1_234_567), Duration::MAX] {
        let from = case.now().await?;
        check!(beat(store, &held, lease).await?.is_saved(), "a heartbeat");
        let to = case.now().await?;
        let until = read(store, held.id).await?.lease_until;
        super::scene::check_time(until, from.plus(lease), to.plus(lease), "lease_until")?;
    }
    let when = When::After(Duration::MAX);
    settle(store, &held, Transition::Release { when }).await?;
    check_eq!(read(store, held.id).await?.run_at, Timestamp::MAX, "a release for ever");
    if case.is_clocked() {
        case.advance(MICRO)?;
        let at = case.now().await?;
        let held = running(store).await?;
        check_eq!((held.created_at, held.started_at), (at, Some(at)), "created_at and started_at");
        write(store, &held, JobPatch::append([entry(1)])).await?;
        case.advance(MICRO)?;
        settle(store, &held, complete()).await?;
        let stored = read(store, held.id).await?;
        check_eq!(stored.finished_at, Some(at.plus(MICRO)), "finished_at, a microsecond later");
        check_eq!(stored.log[0].at, at, "the time of an entry");
    }
    Ok(())
}

async fn hostile_names(case: &Case<'_>) -> Checked {
    let store = case.store();
    let longest = "\u{1f600}".repeat(64);
    let words = [
        "'; DROP TABLE queue_job; --",
        "\" OR \"\"=\"",
        "a'b\"c`d\\e",
        "%_*?[a-z]^$(x|y)",
        "<script>&amp;</script>",
        "a,b;c{d}e[f]",
        " leading and trailing ",
        "NULL",
        "0",
        &"x".repeat(128),
        &longest,
    ];
    check_eq!(longest.len(), 256, "the longest name there may be");
    for word in words {
        let mut new = job("named");
        new.queue = queue(word)?;
        new.kind = word.to_owned().into();
        new.labels.insert(word.into(), word.into());
        new.unique = Some(Unique::new(word));
        new.lane = Some(Lane::new(word));
        put(store, &new).await?;
        let mut rival = job("rival");
        rival.unique = new.unique.clone();
        check!(!store.insert_one(&rival).await?.is_new(), "the unique key {word:?} is held");
        let mut request = wanted_from(&[word], 5)?;
        request.kinds = queue_core::Kinds::Only(vec![word.to_owned().into()]);
        request.holder = word.into();
        request.filter = Some(JobFilter::label(word, word));
        let held = store.claim(&request).await?.jobs;
        let [held] = &held[..] else {
            return Err(Stop::fail(format!(
                "{} jobs were claimed by the name {word:?}",
                held.len()
            )));
        };
        check_eq!(held.holder.as_deref(), Some(word), "the holder");
        cancel(store, new.id, word).await?;
        let stored = read(store, new.id).await?;
        check_eq!((&stored.queue, &stored.kind), (&new.queue, &new.kind), "queue and kind");
        check_eq!((&stored.unique, &stored.lane), (&new.unique, &new.lane), "key and lane");
        check_eq!(stored.labels, new.labels, "labels");
        check_eq!(
            stored.cancel.as_ref().map(|cancel| cancel.reason.as_str()),
            Some(word),
            "reason"
        );
        settle(store, &read(store, new.id).await?, complete()).await?;
        put_record(store, &Record::new(word, Payload::null())).await?;
        check_eq!(store.records(word).await?.len(), 1, "records that begin with {word:?}");
        store.pause(&queue(word)?).await?;
        store.resume(&queue(word)?).await?;
        skip_slot(store, word, Timestamp::EPOCH, Some(word.to_owned())).await?;
        let mut by_all = JobFilter::queue(queue(word)?).with_label(word, word);
        by_all.kinds = Some(vec![word.to_owned().into()]);
        check_eq!(store.count(&by_all).await?, 1, "jobs counted by the name {word:?}");
        check_eq!(store.delete(&by_all, n(9)).await?, 1, "jobs deleted by the name {word:?}");
    }
    check_eq!(store.schedules().await?.len(), words.len(), "schedules");
    check_eq!(store.count(&JobFilter::all()).await?, 0, "jobs left");
    messages_are_cleaned(case).await
}

/// A message is never the reason why a write fails: NUL is replaced, and what is too long is cut.
async fn messages_are_cleaned(case: &Case<'_>) -> Checked {
    let store = case.store();
    for message in ["a\0b\nc\u{1}".to_owned(), "\u{1f600}".repeat(5_000), "\0".repeat(9_000)] {
        let clean = clean_message(&message);
        let held = running(store).await?;
        let progress = Progress::with_message(5, message.clone());
        write(store, &held, JobPatch::progress(progress.clone())).await?;
        let kept = read(store, held.id).await?.progress.and_then(|progress| progress.message);
        check!(kept.as_deref() == Some(&clean), "the message of progress came back as {kept:?}");
        let mut beat = queue_core::Held::new(held.id, held.fence);
        beat.progress = Some(progress);
        check!(store.heartbeat(&[beat], HOUR).await?.iter().all(Outcome::is_saved), "a heartbeat");
        let kept = read(store, held.id).await?.progress.and_then(|progress| progress.message);
        check!(kept.as_deref() == Some(&clean), "a heartbeat's message came back as {kept:?}");
        settle(store, &held, Transition::Cancel { reason: message.clone() }).await?;
        let kept = read(store, held.id).await?.cancel.map(|cancel| cancel.reason);
        check!(kept.as_deref() == Some(&clean), "the holder's reason came back as {kept:?}");
        let waiting = put(store, &job("waiting")).await?;
        cancel(store, waiting, &message).await?;
        let kept = read(store, waiting).await?.cancel.map(|cancel| cancel.reason);
        check!(kept.as_deref() == Some(&clean), "an operator's reason came back as {kept:?}");
    }
    Ok(())
}

async fn depth(case: &Case<'_>) -> Checked {
    let nested = |open: &str, inner: &str, close: &str| {
        format!("{}{inner}{}", open.repeat(100), close.repeat(100))
    };
    let documents =
        [nested("[", "1", "]"), nested("{\"a\":", "null", "}"), nested("[{\"b\":", "\"x\"", "}]")];
    round_trip(case, &documents).await
}

async fn absent_is_not_null(case: &Case<'_>) -> Checked {
    let store = case.store();
    for output in [None, Some(Payload::null()), Some(text("\"\"")?), Some(text("\"null\"")?)] {
        let held = running(store).await?;
        settle(store, &held, Transition::Complete { output: output.clone() }).await?;
        check_eq!(read(store, held.id).await?.output, output, "the output");
        let found = store.find(&JobQuery::new(JobFilter::id(held.id))).await?.items;
        let found: Vec<_> = found.into_iter().map(|job| job.output).collect();
        check_eq!(found, vec![output], "the output found");
    }
    let held = running(store).await?;
    check_eq!((&held.error, &held.output), (&None, &None), "error and output of a running job");
    let error = Payload::null();
    settle(store, &held, Transition::Retry { when: When::Now, error: error.clone() }).await?;
    check_eq!(read(store, held.id).await?.error, Some(error), "the error null");
    // A record with the body null is there; a removed one is not.
    put_record(store, &Record::new("r", Payload::null())).await?;
    let bodies: Vec<_> = store.records("r").await?.into_iter().map(|record| record.body).collect();
    check_eq!(bodies, vec![Some(Payload::null())], "the bodies of records");
    put_record(store, &Record::removal("r")).await?;
    check_eq!(store.records("r").await?.len(), 0, "records after the removal");
    // Progress without a message is not one with an empty message.
    for message in [None, Some(String::new())] {
        let held = running(store).await?;
        let mut progress = Progress::new(0);
        progress.message = message;
        write(store, &held, JobPatch::progress(progress.clone())).await?;
        check_eq!(read(store, held.id).await?.progress, Some(progress), "progress");
    }
    Ok(())
}
