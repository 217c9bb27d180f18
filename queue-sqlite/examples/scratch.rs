#![allow(missing_docs, clippy::print_stdout)]
use std::{num::NonZeroU32, time::{Duration, Instant}};
use queue_core::*;
use queue_sqlite::*;
use futures::future::join_all;

fn job(n: usize) -> NewJob {
    NewJob::new("x", Payload::from_value(&format!("{n:0>250}")).unwrap())
}
fn req(limit: u32) -> ClaimRequest {
    ClaimRequest::new(Queues::default(), "w", NonZeroU32::new(limit).unwrap(), Duration::from_secs(60))
}
#[tokio::main]
async fn main() {
    let sync = if std::env::args().nth(1).as_deref() == Some("normal") { Synchronous::Normal } else { Synchronous::Full };
    let dir = tempfile::tempdir_in(".").unwrap();
    let path = dir.path().join("a.db");
    let store = SqliteOptions::new(&path).synchronous(sync).open().await.unwrap();
    let n = 40_000usize;
    let jobs: Vec<NewJob> = (0..n).map(job).collect();
    let t = Instant::now();
    for chunk in jobs.chunks(1000) { store.insert(chunk).await.unwrap(); }
    println!("bulk insert {:.0}/s", n as f64 / t.elapsed().as_secs_f64());
    for batch in [100u32, 500] {
        let t = Instant::now();
        let mut done: Vec<JobUpdate> = vec![];
        let mut total = 0;
        let (mut tu, mut first) = (Duration::ZERO, true);
        loop {
            if !first && total >= 20_000 { store.update_jobs(&done).await.unwrap(); break; }
            first = false;
            let s = Instant::now();
            let (_, claimed) = store.update_and_claim(&done, &req(batch)).await.unwrap();
            tu += s.elapsed();
            done = claimed.jobs.iter().map(|j| JobUpdate::held(j.id, j.fence, JobPatch::transition(Transition::Complete { output: None }))).collect();
            total += claimed.jobs.len();
            if claimed.jobs.is_empty() { break; }
        }
        println!("drain {batch}: {:.0}/s ({total})", total as f64 / t.elapsed().as_secs_f64());
    }
    let m = 20_000usize;
    let jobs: Vec<NewJob> = (0..m).map(job).collect();
    let before = store.transactions();
    let t = Instant::now();
    let callers = 256;
    join_all((0..callers).map(|c| { let store = store.clone(); let mine: Vec<NewJob> = jobs.iter().skip(c).step_by(callers).cloned().collect();
        tokio::spawn(async move { for j in mine { store.insert(&[j]).await.unwrap(); } }) })).await;
    println!("256 callers {:.0}/s in {} tx", m as f64 / t.elapsed().as_secs_f64(), store.transactions() - before);
    let t = Instant::now();
    for i in 0..500 { store.insert(&[job(i)]).await.unwrap(); }
    println!("one by one {:.0}/s", 500.0 / t.elapsed().as_secs_f64());
    // appends: 20 appenders one job
    let target = store.claim(&req(1)).await.unwrap().jobs.remove(0);
    let before = store.transactions();
    let t = Instant::now();
    join_all((0..20).map(|_| { let store = store.clone(); let (id, fence) = (target.id, target.fence);
        tokio::spawn(async move { for _ in 0..500 { let p = JobPatch::append([NewEntry::new(EntryKind::Step, Payload::from_value(&"y".repeat(200)).unwrap())]);
            store.update_jobs(&[JobUpdate::held(id, fence, p)]).await.unwrap(); } }) })).await;
    println!("appends {:.0}/s in {} tx", 10_000.0 / t.elapsed().as_secs_f64(), store.transactions() - before);
    let t = Instant::now();
    store.tally(&JobFilter::all()).await.unwrap();
    println!("tally {:?}", t.elapsed());
    // bare
    let db = rusqlite::Connection::open(dir.path().join("b.db")).unwrap();
    db.execute_batch("pragma journal_mode=wal; pragma synchronous=full; create table t(n integer primary key, v text)").unwrap();
    let t = Instant::now();
    for i in 0..500 { db.execute("insert into t(v) values(?1)", [format!("{i:0>250}")]).unwrap(); }
    println!("bare one by one {:.0}/s", 500.0 / t.elapsed().as_secs_f64());
}
