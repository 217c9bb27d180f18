//! Workers that are stopped while they hold jobs, and wake when the jobs are somebody else's.

use std::{path::Path, sync::Arc, time::Duration};

use futures::{StreamExt, stream};
use queue::{
    Job, JobCtx, JobHandle, JobId, JobResult, JobState, JobStore, Outcome, Pass, Queue, QueueName,
    State, StoreRegistry, Task, TaskError, TaskResult, Timestamp, Wf, Worker,
    core::{LogRead, Reach, Record, StoreInfo, Wakeup, async_trait, spec},
};
use rustix::process::Signal;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::{
    ledger::now,
    process::{Order, Process, tell, told},
    scene::Scene,
    size::{Size, report, within},
    stops::attempts::{Attempt, attempt_all},
};

mod attempts;

proofs!(a_stopped_worker_that_wakes_changes_nothing);

/// Short, so that a round takes about a second.
const LEASE: Duration = Duration::from_millis(400);
/// How many rounds go on at once.
const AT_ONCE: usize = 4;
/// How long another process may be kept from writing before the stopped one counts as holding the database's lock.
const BLOCKED: Duration = Duration::from_secs(1);
const ZOMBIE: &str = "from the zombie";
const RESCUER: &str = "from the rescuer";

/// What a process is to do: take the jobs of a queue, and hold them until it is told to go on.
#[derive(Serialize, Deserialize)]
pub struct Hold {
    url: String,
    queue: QueueName,
}

/// A job that is settled by one write.
#[derive(Serialize, Deserialize, Task)]
#[task(name = "held-task", output = String)]
struct HeldTask;

/// A job whose step is logged before it is settled.
#[derive(Serialize, Deserialize, Task)]
#[task(name = "held-flow", output = String)]
struct HeldFlow;

/// What a process says.
#[derive(Debug, Serialize, Deserialize)]
enum Said {
    /// A handler has begun, and holds its job.
    Begun(JobId),
    /// The engine made a write, begun at this time, and was answered.
    Wrote { begun: u64, outcomes: Vec<Outcome> },
    /// A handler wrote past the engine, as the holder of the job.
    Tried(Attempt, Outcome),
    /// What became of a job by the worker's own account: whether it was lost.
    Ended { job: JobId, lost: bool },
}

fn say(said: &Said) {
    tell(serde_json::to_string(said).unwrap());
}

/// A store that says what the engine is answered when it writes as a holder.
#[derive(Debug)]
struct Telling(Arc<dyn JobStore>);

#[async_trait]
impl spec::RunOp for Telling {
    fn info(&self) -> StoreInfo {
        self.0.info()
    }

    async fn ping(&self) -> queue::Result<Timestamp> {
        self.0.ping().await
    }

    fn wakeups(&self) -> futures::stream::BoxStream<'static, Wakeup> {
        self.0.wakeups()
    }

    async fn run(&self, op: spec::Op) -> queue::Result<spec::Answer> {
        let begun = now();
        let answer = op.run(&*self.0).await?;
        if let spec::Answer::Outcomes(outcomes) | spec::Answer::OutcomesAndClaimed(outcomes, _) =
            &answer
        {
            say(&Said::Wrote { begun, outcomes: outcomes.clone() });
        }
        Ok(answer)
    }
}

/// Opens the store of this URL so that it tells what is written.
async fn telling(url: &str) -> (Queue, Arc<dyn JobStore>) {
    let (opened, mut plain) = watch::channel(None);
    let (scheme, _) = url.split_once(':').unwrap();
    let mut registry = StoreRegistry::new();
    registry.register(scheme, move |url| {
        let opened = opened.clone();
        async move {
            let store = queue::registry().connect(&url).await?;
            opened.send_replace(Some(store.clone()));
            Ok(Arc::new(spec::ByOp(Telling(store))) as Arc<dyn JobStore>)
        }
    });
    let queue = Queue::connect_with(&registry, url).await.unwrap();
    let plain = plain.wait_for(Option::is_some).await.unwrap().clone();
    (queue, plain.unwrap())
}

/// What handlers of the zombie share: the store past the engine, and whether they may go on.
#[derive(Clone)]
struct Zombie {
    store: Arc<dyn JobStore>,
    go_on: watch::Receiver<bool>,
}

impl Zombie {
    /// Holds the job until the process has been stopped and woken, then tries all that a holder can write.
    async fn haunt(mut self, ctx: &JobCtx) -> TaskResult<String> {
        let job = ctx.queue().job(ctx.id()).await?.ok_or_else(|| TaskError::new("no job"))?;
        say(&Said::Begun(job.id));
        self.go_on.wait_for(|go_on| *go_on).await?;
        ctx.progress(99, ZOMBIE);
        for (attempt, outcome) in attempt_all(&*self.store, &job, ZOMBIE).await? {
            say(&Said::Tried(attempt, outcome));
        }
        ctx.log(ZOMBIE).await?;
        Ok(ZOMBIE.to_owned())
    }
}

impl Hold {
    pub async fn carry_out(self) {
        let (queue, store) = telling(&self.url).await;
        let (go_on, gone_on) = watch::channel(false);
        let worker = Worker::new(queue)
            .queues([self.queue])
            .state(Zombie { store, go_on: gone_on })
            .task(|_: HeldTask, ctx: JobCtx, State(zombie): State<Zombie>| async move {
                zombie.haunt(&ctx).await
            })
            .workflow(|_: HeldFlow, wf: Wf, State(zombie): State<Zombie>| async move {
                wf.run("before", || async { Ok::<_, TaskError>(()) }).await?;
                let held = wf.run("held", || zombie.haunt(wf.ctx()));
                held.await
            })
            .lease(LEASE)
            .build()
            .unwrap();
        let wake = async {
            told().await;
            go_on.send_replace(true);
        };
        // One pass: what it loses must not come back to it.
        let (summary, ()) = futures::join!(worker.run(Pass::new()), wake);
        for report in summary.unwrap().jobs {
            say(&Said::Ended { job: report.id, lost: report.result == JobResult::Lost });
        }
    }
}

async fn a_stopped_worker_that_wakes_changes_nothing(scene: Scene, size: Size) {
    let rounds: usize = size.of("QUEUE_STOP_ROUNDS", 2, 50);
    let folder = tempfile::tempdir().unwrap();
    let begun = std::time::Instant::now();
    let round = |number| round(&scene, folder.path(), number);
    // Where all share a host's file, one that is stopped in its transaction keeps the others from renewing their leases.
    let at_once = match scene.queue.store().info().capabilities.reach {
        Reach::Network => AT_ONCE,
        _ => 1,
    };
    let found: Vec<Found> = stream::iter(0..rounds).map(round).buffered(at_once).collect().await;
    let sum = |count: fn(&Found) -> usize| found.iter().map(count).sum::<usize>();
    // The line of each handler, and the settlement of the task; fewer where the renewal of its leases told it first.
    assert!(sum(|found| found.wrote) >= rounds, "the engine hardly wrote anything");
    report(&format!(
        "{}: {rounds} rounds in {:.1?}: {} writes by handlers and {} by the engine after waking, all fenced; {} processes \
         were first stopped while they kept all others from writing",
        scene.queue.store().info().name,
        begun.elapsed(),
        sum(|found| found.tried),
        sum(|found| found.wrote),
        sum(|found| found.blocked),
    ));
}

/// What a round found.
struct Found {
    tried: usize,
    wrote: usize,
    blocked: usize,
}

async fn round(scene: &Scene, folder: &Path, number: usize) -> Found {
    let name = QueueName::new(format!("round-{number}")).unwrap();
    let task = scene.queue.enqueue(HeldTask).queue(name.clone()).await.unwrap();
    let flow = scene.queue.enqueue(HeldFlow).queue(name.clone()).await.unwrap();
    let order = Order::Hold(Hold { url: scene.url().to_owned(), queue: name.clone() });
    let mut zombie = Process::start(&order, folder);
    let mut begun = 0;
    while begun < 2 {
        let said = zombie.hear().await.unwrap_or_else(|| panic!("{}", zombie.errors()));
        begun += usize::from(matches!(parse(&said), Said::Begun(_)));
    }
    let blocked = stop(scene, &zombie, number).await;
    rescue(&scene.queue, name).await;
    let ids = vec![task.id(), flow.id()];
    let before = jobs(&scene.queue, &ids).await;
    check_rescued(&before, &task, &flow);
    zombie.say("go on").await;
    let woken = now();
    zombie.signal(Signal::CONT);
    let said: Vec<Said> = zombie.ended().await.iter().map(|line| parse(line)).collect();
    assert_eq!(jobs(&scene.queue, &ids).await, before, "what woke has changed a job");
    let (tried, wrote) = check_fenced(&said, woken, &ids);
    Found { tried, wrote, blocked }
}

fn parse(line: &str) -> Said {
    serde_json::from_str(line).unwrap_or_else(|error| panic!("{line:?}: {error}"))
}

async fn jobs(queue: &Queue, ids: &[JobId]) -> Vec<Job> {
    let jobs = queue.jobs(ids.to_vec(), LogRead::All).await.unwrap();
    jobs.into_iter().map(Option::unwrap).collect()
}

/// Stops the process, and answers how often that had to be done again: a process that is stopped within a
/// transaction of SQLite keeps everybody from writing, and nobody can take its jobs until it goes on or ends.
async fn stop(scene: &Scene, zombie: &Process, number: usize) -> usize {
    for blocked in 0.. {
        zombie.signal(Signal::STOP);
        let record = Record::new(format!("probe/{number}"), queue::Payload::null());
        let probe = scene.queue.store().put_record(&record, None);
        if let Ok(Ok(_)) = tokio::time::timeout(BLOCKED, probe).await {
            return blocked;
        }
        zombie.signal(Signal::CONT);
        // It must get somewhere before it is stopped again.
        tokio::time::sleep(LEASE / 20).await;
    }
    unreachable!()
}

/// Takes the jobs of the stopped process once their leases are over, and completes them.
async fn rescue(queue: &Queue, name: QueueName) {
    let worker = Worker::new(queue.clone())
        .queues([name])
        .task(|_: HeldTask| async { Ok(RESCUER.to_owned()) })
        .workflow(|_: HeldFlow, wf: Wf| async move {
            wf.run("before", || async { Ok::<_, TaskError>(()) }).await?;
            wf.run("held", || async { Ok::<_, TaskError>(RESCUER.to_owned()) }).await
        })
        .build()
        .unwrap();
    let rescued = std::cell::Cell::new(0);
    let passes = || async {
        // SQLite may be busy with other rounds for a moment.
        let summary = worker.run(Pass::new()).await.ok()?;
        rescued.set(rescued.get() + summary.succeeded());
        (rescued.get() == 2).then_some(())
    };
    within(Duration::from_secs(60), "the jobs of the stopped process", passes).await;
}

fn check_rescued(jobs: &[Job], task: &JobHandle<HeldTask>, flow: &JobHandle<HeldFlow>) {
    for job in jobs {
        let output: Option<String> = job.output.as_ref().map(|output| output.to().unwrap());
        assert_eq!((job.state, job.attempt), (JobState::Completed, 1), "{job:?}");
        assert!(job.crashes > 0, "{job:?}");
        assert_eq!(output.as_deref(), Some(RESCUER));
        let entries = [(task.id(), 1), (flow.id(), 2)].into_iter().find(|(id, _)| *id == job.id);
        assert_eq!(Some(job.log.len()), entries.map(|(_, entries)| entries), "{:?}", job.log);
    }
}

/// Checks what the process says of its writes after it woke, and answers how many its handlers and the engine made.
fn check_fenced(said: &[Said], woken: u64, ids: &[JobId]) -> (usize, usize) {
    let (mut tried, mut wrote, mut lost) = (0, 0, Vec::new());
    for said in said {
        match said {
            Said::Tried(attempt, outcome) => {
                tried += 1;
                assert_eq!(*outcome, Outcome::Fenced, "{attempt:?}");
            }
            // One that was begun before may have been made before.
            Said::Wrote { begun, outcomes } if *begun >= woken => {
                wrote += outcomes.len();
                assert!(outcomes.iter().all(|outcome| *outcome == Outcome::Fenced), "{said:?}");
            }
            Said::Ended { job, lost: true } => lost.push(*job),
            Said::Ended { .. } => panic!("it does not know that it lost the job: {said:?}"),
            Said::Begun(_) | Said::Wrote { .. } => {}
        }
    }
    lost.sort();
    let mut all = ids.to_vec();
    all.sort();
    assert_eq!(lost, all);
    assert_eq!(tried, 2 * Attempt::ALL.len(), "each handler tried everything");
    (tried, wrote)
}
