use std::{collections::HashSet, sync::Arc, time::Duration};

use futures::{StreamExt, future::try_join_all, stream::FuturesUnordered};
use queue::{
    INLINE, JobState, Pass, State, StepEntry, StepState, Task, TaskError, TaskResult, Wf, Worker,
    step_statuses,
};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use crate::scene::{Docs, Scene};

crate::on_every_store!(
    e16_twenty_instant_parallel_steps,
    e16_fifty_parallel_steps_that_each_write_a_doc,
    e16_two_hundred_parallel_steps,
    entries_keep_one_order_and_are_read_from_any_place,
    steps_in_an_unordered_stream_are_logged_once_each,
    siblings_of_a_failing_step_settle_and_are_not_run_again,
    siblings_of_a_step_that_fails_for_good_settle_before_the_body_sees_it,
    finished_steps_are_restored_by_the_next_worker,
    a_null_output_is_restored_as_such,
    progress_and_lines_reach_the_store,
    nested_steps_carry_their_parent_and_finished_children_are_restored,
    a_nested_step_that_fails_for_good_fails_its_parent,
    a_result_too_large_for_the_store_fails_the_job_with_the_reason,
);

crate::on_every_store_by_the_clock!(an_entry_says_all_that_is_known_of_its_attempt);

#[derive(Serialize, Deserialize, Task)]
#[task(name = "fan-out", output = Vec<u32>)]
struct FanOut {
    steps: u32,
}

#[derive(Serialize, Deserialize, Task)]
#[task(name = "write-doc", output = u32)]
struct WriteDoc(u32);

async fn write_doc(WriteDoc(n): WriteDoc, State(docs): State<Docs>) -> TaskResult<u32> {
    tokio::task::yield_now().await;
    docs.write(n.to_string());
    Ok(n)
}

async fn inline_steps(FanOut { steps }: FanOut, wf: Wf) -> TaskResult<Vec<u32>> {
    let step = |n| wf.run(format!("step-{n}"), move || async move { Ok::<_, TaskError>(n) });
    try_join_all((0..steps).map(|n| step(n).into_future())).await
}

async fn task_steps(FanOut { steps }: FanOut, wf: Wf) -> TaskResult<Vec<u32>> {
    try_join_all((0..steps).map(|n| wf.task(format!("step-{n}"), WriteDoc(n)).into_future())).await
}

/// Exactly one completed entry per step, with an id of its own and the output where it belongs.
pub fn assert_fanned_out(job: &queue::Job, steps: u32) {
    assert_eq!(
        (job.state, job.attempt, job.crashes),
        (JobState::Completed, 1, 0),
        "{:?}",
        job.error
    );
    let expected: Vec<u32> = (0..steps).collect();
    assert_eq!(job.output.as_ref().unwrap().to::<Vec<u32>>().unwrap(), expected);
    assert_eq!(job.log.len(), steps as usize);
    let ids: HashSet<_> = job.log.iter().map(|entry| entry.id).collect();
    assert_eq!(ids.len(), steps as usize);
    let entries: Vec<StepEntry> = job.log.iter().filter_map(StepEntry::from_entry).collect();
    let mut outputs: Vec<(String, u32)> = entries
        .iter()
        .map(|entry| (entry.step.clone(), entry.output.as_ref().unwrap().to().unwrap()))
        .collect();
    outputs.sort_by_key(|(_, output)| *output);
    let named: Vec<_> = (0..steps).map(|n| (format!("step-{n}"), n)).collect();
    assert_eq!(outputs, named);
}

async fn fan_out(scene: &Scene, worker: queue::WorkerBuilder, steps: u32) {
    let worker = worker.build().unwrap();
    let handle = scene.queue.enqueue(FanOut { steps }).await.unwrap();
    assert_eq!(worker.run(Pass::new()).await.unwrap().succeeded(), 1);
    assert_fanned_out(&handle.job().await.unwrap().unwrap(), steps);
}

async fn e16_twenty_instant_parallel_steps(scene: Scene) {
    fan_out(&scene, Worker::new(scene.queue.clone()).workflow(inline_steps), 20).await;
}

async fn e16_fifty_parallel_steps_that_each_write_a_doc(scene: Scene) {
    let docs = Docs::default();
    let worker =
        Worker::new(scene.queue.clone()).state(docs.clone()).task(write_doc).workflow(task_steps);
    fan_out(&scene, worker, 50).await;
    assert_eq!(docs.len(), 50);
}

async fn e16_two_hundred_parallel_steps(scene: Scene) {
    fan_out(&scene, Worker::new(scene.queue.clone()).workflow(inline_steps), 200).await;
}

async fn an_entry_says_all_that_is_known_of_its_attempt(scene: Scene) {
    const SECOND: Duration = Duration::from_secs(1);
    let (docs, clock) = (Docs::default(), scene.clock.clone());
    let worker = Worker::new(scene.queue.clone())
        .state(docs.clone())
        .task(write_doc)
        .workflow(move |_: FanOut, wf: Wf, State(docs): State<Docs>| {
            let clock = clock.clone();
            async move {
                let around = wf.run("around", || async {
                    clock.advance(SECOND);
                    let inside = wf.task("inside", WriteDoc(7)).await?;
                    clock.advance(SECOND);
                    if docs.len() == 1 { Ok(vec![inside]) } else { Err(TaskError::new("twice")) }
                });
                let output = around.await?;
                let fails = wf.run("fails", || async {
                    docs.write("fails");
                    clock.advance(SECOND);
                    if docs.len() == 2 { Err(TaskError::new("once")) } else { Ok(()) }
                });
                fails.retries(1).await?;
                Ok(output)
            }
        })
        .build()
        .unwrap();
    let at = |seconds: u32| serde_json::to_value(scene.clock.now().plus(seconds * SECOND)).unwrap();
    let entry = |step: &str, task: &str, state: &str, attempt: u32, from: u32, to: u32| {
        serde_json::json!({
            "step": step, "task": task, "state": state, "attempt": attempt,
            "started_at": at(from), "finished_at": at(to),
        })
    };
    let mut expected = [
        entry("inside", "write-doc", "completed", 1, 1, 1),
        entry("around", INLINE, "completed", 1, 0, 2),
        entry("fails", INLINE, "failed", 1, 2, 3),
        entry("fails", INLINE, "completed", 2, 3, 4),
    ];
    expected[0]["parent"] = "around".into();
    (expected[0]["input"], expected[0]["output"]) = (7.into(), 7.into());
    expected[1]["output"] = [7].into();
    expected[3]["output"] = serde_json::Value::Null;
    let handle = scene.queue.enqueue(FanOut { steps: 0 }).await.unwrap();
    worker.drain(Pass::new()).await.unwrap();
    let job = handle.job().await.unwrap().unwrap();
    let error = job.log.get(2).and_then(StepEntry::from_entry).and_then(|entry| entry.error);
    let error = error.expect("the failure says why");
    assert_eq!((error.message.as_str(), error.step.as_deref()), ("once", Some("fails")));
    expected[2]["error"] = serde_json::to_value(&error).unwrap();
    let entries: Vec<serde_json::Value> =
        job.log.iter().map(|entry| entry.body.to().unwrap()).collect();
    assert_eq!(entries, expected);
    for entry in &job.log {
        assert_eq!(entry.kind, queue::core::EntryKind::Step);
        assert_eq!(entry.id.as_uuid().get_version_num(), 7, "minted by the engine, in order");
    }
}

async fn entries_keep_one_order_and_are_read_from_any_place(scene: Scene) {
    let worker = Worker::new(scene.queue.clone()).workflow(|input: FanOut, wf: Wf| async move {
        let together = inline_steps(FanOut { steps: input.steps }, wf.clone()).await?;
        for n in 0..3 {
            wf.run(format!("after-{n}"), || async { Ok::<_, TaskError>(()) }).await?;
        }
        Ok(together)
    });
    let handle = scene.queue.enqueue(FanOut { steps: 20 }).await.unwrap();
    assert_eq!(worker.build().unwrap().run(Pass::new()).await.unwrap().succeeded(), 1);
    let job = handle.job().await.unwrap().unwrap();
    let places: Vec<u64> = job.log.iter().map(|entry| entry.seq.0).collect();
    assert_eq!(places, (1..=23).collect::<Vec<u64>>());
    assert!(job.log.is_sorted_by_key(|entry| entry.at), "{:?}", job.log);
    let named = job.log.iter().filter_map(StepEntry::from_entry).map(|entry| entry.step);
    assert_eq!(named.skip(20).collect::<Vec<_>>(), ["after-0", "after-1", "after-2"]);
    for place in 0..=23 {
        let read = queue::core::LogRead::After(queue::core::Seq(place));
        let part = scene.queue.jobs(vec![job.id], read).await.unwrap().remove(0).unwrap();
        assert_eq!((part.log_len, part.log.as_slice()), (23, &job.log[place as usize..]));
    }
}

async fn steps_in_an_unordered_stream_are_logged_once_each(scene: Scene) {
    let worker = Worker::new(scene.queue.clone()).workflow(|input: FanOut, wf: Wf| async move {
        let step = |n| wf.run(format!("step-{n}"), move || async move { Ok::<_, TaskError>(n) });
        let mut steps: FuturesUnordered<_> =
            (0..input.steps).map(|n| step(n).into_future()).collect();
        let mut outputs = Vec::new();
        while let Some(output) = steps.next().await {
            outputs.push(output?);
        }
        outputs.sort_unstable();
        Ok(outputs)
    });
    fan_out(&scene, worker, 40).await;
}

#[derive(Clone, Default)]
struct Order {
    docs: Docs,
    failed: Arc<Notify>,
}

async fn siblings_of_a_failing_step_settle_and_are_not_run_again(scene: Scene) {
    siblings(scene, 1, JobState::Completed).await;
}

async fn siblings_of_a_step_that_fails_for_good_settle_before_the_body_sees_it(scene: Scene) {
    siblings(scene, 0, JobState::Failed).await;
}

/// One step fails at once while another still runs; the other ends only after the failure.
async fn siblings(scene: Scene, retries: u32, expected: JobState) {
    let order = Order::default();
    let worker = Worker::new(scene.queue.clone())
        .state(order.clone())
        .workflow(move |_: FanOut, wf: Wf, State(order): State<Order>| async move {
            let Order { docs, failed } = order;
            let fails = wf.run("fails", || async {
                docs.write("fails");
                failed.notify_one();
                match docs.count("fails") {
                    1 => Err(TaskError::new("first time")),
                    _ => Ok(1),
                }
            });
            let slow = wf.run("slow", || async {
                docs.write("slow begins");
                failed.notified().await;
                tokio::time::sleep(Duration::from_millis(50)).await;
                docs.write("slow");
                Ok::<u32, TaskError>(2)
            });
            try_join_all([fails.retries(retries).into_future(), slow.into_future()]).await
        })
        .build()
        .unwrap();
    let handle = scene.queue.enqueue(FanOut { steps: 2 }).await.unwrap();
    worker.drain(Pass::new()).await.unwrap();
    let job = handle.job().await.unwrap().unwrap();
    assert_eq!(job.state, expected);
    let runs = ["slow begins", "slow"].map(|doc| order.docs.count(doc));
    assert_eq!(runs, [1, 1], "a sibling settles, and does not run again");
    let statuses = step_statuses(&job.log);
    let slow = statuses.iter().find(|status| status.step == "slow").unwrap();
    assert!(slow.complete && slow.attempts == 1, "{slow:?}");
    let entries: Vec<StepEntry> = job.log.iter().filter_map(StepEntry::from_entry).collect();
    assert_eq!(entries.iter().filter(|entry| entry.state == StepState::Failed).count(), 1);
}

async fn finished_steps_are_restored_by_the_next_worker(scene: Scene) {
    let docs = Docs::default();
    let stopped = Arc::new(Notify::new());
    let build = |queue, hangs: bool| {
        let stopped = stopped.clone();
        Worker::new(queue)
            .state(docs.clone())
            .workflow(move |_: FanOut, wf: Wf, State(docs): State<Docs>| {
                let stopped = stopped.clone();
                async move {
                    let one = wf
                        .run("one", || async {
                            docs.write("one");
                            Ok::<u32, TaskError>(1)
                        })
                        .await?;
                    if hangs {
                        stopped.notify_one();
                        std::future::pending::<()>().await;
                    }
                    let two = wf.run("two", || async { Ok::<u32, TaskError>(one + 1) }).await?;
                    Ok(vec![one, two])
                }
            })
            .grace(Duration::ZERO)
            .build()
            .unwrap()
    };
    let handle = scene.queue.enqueue(FanOut { steps: 2 }).await.unwrap();
    build(scene.queue.clone(), true).run_until(stopped.notified()).await.unwrap();
    build(scene.sibling().await, false).run(Pass::new()).await.unwrap();
    assert_eq!(handle.output().await.unwrap(), [1, 2]);
    assert_eq!(docs.all(), ["one"]);
    assert_eq!(handle.job().await.unwrap().unwrap().attempt, 1);
}

async fn a_null_output_is_restored_as_such(scene: Scene) {
    let docs = Docs::default();
    let worker = Worker::new(scene.queue.clone())
        .state(docs.clone())
        .workflow(|_: FanOut, wf: Wf, State(docs): State<Docs>| async move {
            wf.run("unit", || async {
                docs.write("unit");
                Ok::<(), TaskError>(())
            })
            .await?;
            let nothing: Option<u32> = wf
                .run("nothing", || async {
                    docs.write("nothing");
                    Ok::<Option<u32>, TaskError>(None)
                })
                .await?;
            assert_eq!(nothing, None);
            wf.run("then", || async {
                docs.write("then");
                if docs.count("then") == 1 { Err(TaskError::new("once")) } else { Ok(vec![1]) }
            })
            .retries(1)
            .await
        })
        .build()
        .unwrap();
    let handle = scene.queue.enqueue(FanOut { steps: 0 }).await.unwrap();
    worker.drain(Pass::new()).await.unwrap();
    assert_eq!(handle.output().await.unwrap(), [1]);
    assert_eq!(docs.all(), ["unit", "nothing", "then", "then"]);
}

async fn progress_and_lines_reach_the_store(scene: Scene) {
    #[derive(Serialize, Deserialize, Task)]
    #[task(name = "talks")]
    struct Talks;
    let worker = Worker::new(scene.queue.clone())
        .task(|_: Talks, ctx: queue::JobCtx| async move {
            ctx.progress(40, "half-way, almost");
            ctx.log("a line").await?;
            ctx.progress(90, "nearly there");
            Ok(())
        })
        .build()
        .unwrap();
    let handle = scene.queue.enqueue(Talks).await.unwrap();
    worker.run(Pass::new()).await.unwrap();
    let job = handle.job().await.unwrap().unwrap();
    let progress = job.progress.unwrap();
    assert_eq!((progress.percent, progress.message.as_deref()), (90, Some("nearly there")));
    assert_eq!(job.log[0].body.as_str(), "\"a line\"");
    assert_eq!(job.log.len(), 2, "the line and the step");
}

/// A parent of three children, of which the last fails as often as it is told to.
async fn nest(wf: &Wf, docs: &Docs, failures: usize, retries: u32) -> TaskResult<Vec<u32>> {
    wf.run("parent", || async {
        docs.write("parent");
        let child = |n: u32| {
            wf.run(format!("child-{n}"), move || async move {
                docs.write(format!("child-{n}"));
                if n == 2 && docs.count("child-2") <= failures {
                    return Err(TaskError::new("not yet"));
                }
                Ok(n)
            })
            .retries(retries)
        };
        let first = child(0).await?;
        let mut rest = try_join_all((1..3).map(|n| child(n).into_future())).await?;
        rest.insert(0, first);
        Ok::<_, TaskError>(rest)
    })
    .await
}

async fn nested_steps_carry_their_parent_and_finished_children_are_restored(scene: Scene) {
    let docs = Docs::default();
    let worker = Worker::new(scene.queue.clone())
        .state(docs.clone())
        .workflow(|_: FanOut, wf: Wf, State(docs): State<Docs>| async move {
            nest(&wf, &docs, 2, 5).await
        })
        .build()
        .unwrap();
    let handle = scene.queue.enqueue(FanOut { steps: 0 }).await.unwrap();
    worker.drain(Pass::new()).await.unwrap();
    assert_eq!(handle.output().await.unwrap(), [0, 1, 2]);
    let runs = ["parent", "child-0", "child-1", "child-2"].map(|doc| docs.count(doc));
    assert_eq!(runs, [3, 1, 1, 3]);
    let job = handle.job().await.unwrap().unwrap();
    let entries: Vec<StepEntry> = job.log.iter().filter_map(StepEntry::from_entry).collect();
    for entry in &entries {
        let parent = (entry.step != "parent").then_some("parent");
        assert_eq!(entry.parent.as_deref(), parent, "{entry:?}");
    }
    assert_eq!(entries.last().unwrap().step, "parent", "children are logged before their parent");
}

async fn a_nested_step_that_fails_for_good_fails_its_parent(scene: Scene) {
    let docs = Docs::default();
    let worker = Worker::new(scene.queue.clone())
        .state(docs.clone())
        .workflow(|_: FanOut, wf: Wf, State(docs): State<Docs>| async move {
            nest(&wf, &docs, 9, 1).await
        })
        .build()
        .unwrap();
    let handle = scene.queue.enqueue(FanOut { steps: 0 }).await.unwrap();
    worker.drain(Pass::new()).await.unwrap();
    let job = handle.job().await.unwrap().unwrap();
    assert_eq!((job.state, docs.count("child-2")), (JobState::Failed, 2));
    let entries: Vec<StepEntry> = job.log.iter().filter_map(StepEntry::from_entry).collect();
    let failed: Vec<_> = entries
        .iter()
        .filter(|entry| entry.state == StepState::Failed)
        .map(|entry| entry.step.as_str())
        .collect();
    assert_eq!(failed, ["child-2", "child-2", "parent"]);
}

async fn a_result_too_large_for_the_store_fails_the_job_with_the_reason(scene: Scene) {
    #[derive(Serialize, Deserialize, Task)]
    #[task(name = "large", output = String, retries = 3)]
    struct Large;
    let limit = scene.queue.store().info().capabilities.max_payload_bytes;
    let worker = Worker::new(scene.queue.clone())
        .task(move |_: Large| async move { Ok("x".repeat(usize::try_from(limit).unwrap())) })
        .workflow(|_: FanOut, wf: Wf| async move {
            wf.task("large", Large).await?;
            Ok(Vec::new())
        })
        .build()
        .unwrap();
    let task = scene.queue.enqueue(Large).await.unwrap();
    let workflow = scene.queue.enqueue(FanOut { steps: 0 }).await.unwrap();
    worker.drain(Pass::new()).await.unwrap();
    for id in [task.id(), workflow.id()] {
        let job = scene.queue.job(id).await.unwrap().unwrap();
        assert_eq!((job.state, job.attempt), (JobState::Failed, 1));
        let error: queue::JobError = job.error.unwrap().to().unwrap();
        assert_eq!(error.name, "too-large", "{error}");
    }
}
