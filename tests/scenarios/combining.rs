//! What is promised of steps that are combined as futures, when the workflow runs again.

use std::{sync::Arc, time::Duration};

use futures::{StreamExt, future::try_join_all, stream::FuturesUnordered};
use queue::{Job, JobState, Pass, State, Task, TaskError, TaskResult, Wf, Worker};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use crate::scene::{Docs, Scene};

crate::on_every_store!(
    under_join_outputs_stand_in_their_places_in_every_run,
    under_try_join_all_no_step_is_lost_or_repeated_by_the_failure_of_another,
    an_unordered_stream_yields_each_output_once_in_every_run,
    under_a_biased_select_the_first_branch_that_is_done_wins_again,
    a_choice_that_is_a_step_stands_whatever_is_done_by_then,
    a_failure_that_will_be_retried_is_not_shown_to_the_body,
);

#[derive(Serialize, Deserialize, Task)]
#[task(name = "flow", output = Vec<u32>)]
struct Flow;

const TICK: Duration = Duration::from_millis(10);

/// Notes a run of a step, and how often it ran so far.
fn note(docs: &Docs, id: &str) -> usize {
    docs.write(id);
    docs.count(id)
}

/// A step that returns its number after a while.
async fn step(wf: &Wf, docs: &Docs, n: u32, after: Duration) -> TaskResult<u32> {
    wf.run(format!("step-{n}"), || async {
        note(docs, &format!("step-{n}"));
        tokio::time::sleep(after).await;
        Ok::<u32, TaskError>(n)
    })
    .await
}

/// A step that fails the first time, after a while.
async fn flaky(wf: &Wf, docs: &Docs, after: Duration) -> TaskResult<u32> {
    let step = wf.run("flaky", || async {
        let runs = note(docs, "flaky");
        tokio::time::sleep(after).await;
        if runs == 1 { Err(TaskError::new("once")) } else { Ok(99) }
    });
    step.retries(1).await
}

async fn ran<F, Fut>(scene: &Scene, docs: &Docs, body: F) -> Job
where
    F: FnOnce(Flow, Wf, State<Docs>) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = TaskResult<Vec<u32>>> + Send + 'static,
{
    let worker = Worker::new(scene.queue.clone()).state(docs.clone()).workflow(body);
    let worker = worker.build().unwrap();
    let handle = scene.queue.enqueue(Flow).await.unwrap();
    let drained = tokio::time::timeout(Duration::from_secs(20), worker.drain(Pass::new()));
    drained.await.expect("it hangs").unwrap();
    let job = handle.job().await.unwrap().unwrap();
    assert_eq!(job.state, JobState::Completed, "{:?}", job.error);
    job
}

fn output(job: &Job) -> Vec<u32> {
    job.output.as_ref().unwrap().to().unwrap()
}

async fn under_join_outputs_stand_in_their_places_in_every_run(scene: Scene) {
    let docs = Docs::default();
    let job = ran(&scene, &docs, |_: Flow, wf: Wf, State(docs): State<Docs>| async move {
        let (one, two, three, last) = tokio::join!(
            step(&wf, &docs, 1, 3 * TICK),
            step(&wf, &docs, 2, TICK),
            step(&wf, &docs, 3, 2 * TICK),
            flaky(&wf, &docs, Duration::ZERO),
        );
        Ok(vec![one?, two?, three?, last?])
    })
    .await;
    assert_eq!(output(&job), [1, 2, 3, 99]);
    let runs = ["step-1", "step-2", "step-3", "flaky"].map(|doc| docs.count(doc));
    assert_eq!((runs, job.attempt), ([1, 1, 1, 2], 2));
}

async fn under_try_join_all_no_step_is_lost_or_repeated_by_the_failure_of_another(scene: Scene) {
    let docs = Docs::default();
    let job = ran(&scene, &docs, |_: Flow, wf: Wf, State(docs): State<Docs>| async move {
        let steps = (0..20).map(|n| step(&wf, &docs, n, n % 5 * TICK));
        let all = async { try_join_all(steps).await };
        let (mut all, last) = tokio::try_join!(all, flaky(&wf, &docs, TICK))?;
        all.push(last);
        Ok(all)
    })
    .await;
    let expected: Vec<u32> = (0..20).chain([99]).collect();
    assert_eq!(output(&job), expected);
    assert!((0..20).all(|n| docs.count(&format!("step-{n}")) == 1), "{:?}", docs.all());
}

async fn an_unordered_stream_yields_each_output_once_in_every_run(scene: Scene) {
    let docs = Docs::default();
    let job = ran(&scene, &docs, |_: Flow, wf: Wf, State(docs): State<Docs>| async move {
        let mut steps: FuturesUnordered<_> =
            (0..20).map(|n| step(&wf, &docs, n, (20 - n) % 7 * TICK)).collect();
        let mut outputs = Vec::new();
        while let Some(output) = steps.next().await {
            outputs.push(output?);
        }
        outputs.push(flaky(&wf, &docs, Duration::ZERO).await?);
        // In which order they came is not the same in each run: the body must not depend on it.
        outputs.sort_unstable();
        Ok(outputs)
    })
    .await;
    let expected: Vec<u32> = (0..20).chain([99]).collect();
    assert_eq!(output(&job), expected);
    assert!((0..20).all(|n| docs.count(&format!("step-{n}")) == 1), "{:?}", docs.all());
}

/// A race that `fast` wins in the first run.
async fn race(wf: &Wf, docs: &Docs) -> TaskResult<u32> {
    let never = Arc::new(Notify::new());
    let slow = wf.run("slow", || async {
        if note(docs, "slow") == 1 {
            never.notified().await;
        }
        // By the second run it could be done at once.
        Ok::<u32, TaskError>(1)
    });
    tokio::select! {
        biased;
        fast = step(wf, docs, 2, TICK) => fast,
        slow = slow.into_future() => slow,
    }
}

async fn under_a_biased_select_the_first_branch_that_is_done_wins_again(scene: Scene) {
    let docs = Docs::default();
    let job = ran(&scene, &docs, |_: Flow, wf: Wf, State(docs): State<Docs>| async move {
        let winner = race(&wf, &docs).await?;
        Ok(vec![winner, flaky(&wf, &docs, Duration::ZERO).await?])
    })
    .await;
    assert_eq!(output(&job), [2, 99]);
    assert_eq!((docs.count("slow"), docs.count("step-2")), (1, 1), "the loser was dropped");
}

async fn a_choice_that_is_a_step_stands_whatever_is_done_by_then(scene: Scene) {
    let docs = Docs::default();
    let job = ran(&scene, &docs, |_: Flow, wf: Wf, State(docs): State<Docs>| async move {
        let inner = wf.clone();
        let choice = wf.run("choice", || async {
            note(&docs, "choice");
            race(&inner, &docs).await
        });
        let winner = choice.await?;
        Ok(vec![winner, flaky(&wf, &docs, Duration::ZERO).await?])
    })
    .await;
    assert_eq!((output(&job), docs.count("choice")), (vec![2, 99], 1));
}

async fn a_failure_that_will_be_retried_is_not_shown_to_the_body(scene: Scene) {
    let docs = Docs::default();
    let job = ran(&scene, &docs, |_: Flow, wf: Wf, State(docs): State<Docs>| async move {
        let done = flaky(&wf, &docs, Duration::ZERO).await;
        note(&docs, if done.is_ok() { "shown a success" } else { "shown a failure" });
        Ok(vec![done?])
    })
    .await;
    assert_eq!(output(&job), [99]);
    assert_eq!(docs.all(), ["flaky", "flaky", "shown a success"]);
}
