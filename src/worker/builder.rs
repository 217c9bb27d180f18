use std::{borrow::Cow, sync::Arc, time::Duration};

use queue_core::{Order, QueueName, Queues, Uuid, name::check_name};

use super::{Settings, Worker};
use crate::{
    BuildError, DynTask, DynWorkflow, Handler, Queue, Registration, Retention, Role, Schedule,
    Scheduling, States, Task,
    callback::{AnyCallback, On},
    catalog::{Catalog, Run},
    committer::Committer,
    handler::Typed,
    keeper::Keeper,
    retention::Sweeping,
    run::Bench,
    schedule::{Scheduler, plan},
    supervise::patience,
    time::Readings,
};

/// The lease that a worker takes unless it is told otherwise.
const LEASE: Duration = Duration::from_secs(15);
/// The longest lease that it may take: a job whose holder has vanished is to come back some day.
const LONGEST_LEASE: Duration = Duration::from_secs(365 * 24 * 60 * 60);
/// How long running jobs may go on when the worker is told to stop.
const GRACE: Duration = Duration::from_secs(10);
/// How long the handler of a job that was lost may go on.
const LOST_GRACE: Duration = Duration::from_secs(5);
/// How often a worker deletes what is not to be kept, unless it is told otherwise.
const SWEEP_EVERY: Duration = Duration::from_secs(60);

type Check = Box<dyn Fn(&States) -> Result<(), BuildError> + Send>;

/// Says what a worker runs, and how.
pub struct WorkerBuilder {
    queue: Queue,
    states: States,
    runs: Vec<Run>,
    pub(super) checks: Vec<Check>,
    pub(super) callbacks: Vec<(Cow<'static, str>, On, Arc<dyn AnyCallback>)>,
    settings: Settings,
    schedules: Vec<Schedule>,
    renew_every: Option<Duration>,
    lost_grace: Duration,
}

/// What a worker does with jobs of kinds that it has no handler for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UnknownKinds {
    /// It leaves them for others.
    #[default]
    Leave,
    /// It fails them, each with a message that names the kind.
    Fail,
}

impl WorkerBuilder {
    pub(super) fn new(queue: Queue) -> Self {
        let holder = format!("{}-{}", std::process::id(), Uuid::now_v7().simple());
        WorkerBuilder {
            queue,
            states: States::default(),
            runs: Vec::new(),
            checks: Vec::new(),
            callbacks: Vec::new(),
            settings: Settings {
                holder: holder.into(),
                queues: Some(vec![QueueName::default()]),
                order: Order::Fifo,
                orders: Vec::new(),
                concurrency: 10,
                lease: LEASE,
                grace: GRACE,
                unknown: UnknownKinds::Leave,
                sweeping: Sweeping { policies: Vec::new(), every: SWEEP_EVERY },
                scheduling: Scheduling::Automatic,
            },
            schedules: Vec::new(),
            renew_every: None,
            lost_grace: LOST_GRACE,
        }
    }

    /// Gives handlers a value, which they take as [`State<T>`](crate::State).
    #[must_use]
    pub fn state<T: Clone + Send + Sync + 'static>(mut self, state: T) -> Self {
        self.states.insert(state);
        self
    }

    /// Registers the handler of a task.
    #[must_use]
    pub fn task<H: Handler<Args>, Args: 'static>(self, handler: H) -> Self {
        self.check::<H, Args>(Role::Task).dyn_task(Typed::<H, Args>::new(handler))
    }

    /// Registers the handler of a workflow.
    #[must_use]
    pub fn workflow<H: Handler<Args>, Args: 'static>(self, handler: H) -> Self {
        self.check::<H, Args>(Role::Workflow).dyn_workflow(Typed::<H, Args>::new(handler))
    }

    fn check<H: Handler<Args>, Args: 'static>(mut self, role: Role) -> Self {
        self.checks.push(Box::new(move |states| {
            H::check(&Registration::new(H::Task::NAME, role, states))
        }));
        self
    }

    /// Registers a task whose types are known only at run time.
    #[must_use]
    pub fn dyn_task(mut self, task: impl DynTask) -> Self {
        self.runs.push(Run::Task(Arc::new(task)));
        self
    }

    /// Registers a workflow whose types are known only at run time.
    #[must_use]
    pub fn dyn_workflow(mut self, workflow: impl DynWorkflow) -> Self {
        self.runs.push(Run::Workflow(Arc::new(workflow)));
        self
    }

    /// Enqueues this task or workflow in each slot of a cron expression, read in UTC, unless a scheduled job of the same kind and
    /// queue, from this schedule or another, is still waiting or running. For everything else see [`scheduled`](Self::scheduled).
    #[must_use]
    pub fn schedule<T: Task>(self, cron: impl Into<String>, task: T) -> Self {
        self.scheduled(Schedule::cron(cron, task))
    }

    /// Enqueues by a schedule. Its kind needs a handler here, and its jobs may go into any queue.
    #[must_use]
    pub fn scheduled(mut self, schedule: Schedule) -> Self {
        self.schedules.push(schedule);
        self
    }

    /// Whether the worker handles its schedules while it serves; it does when it is not called.
    #[must_use]
    pub const fn scheduling(mut self, scheduling: Scheduling) -> Self {
        self.settings.scheduling = scheduling;
        self
    }

    /// Takes jobs from these queues; from `default` when it is not called.
    #[must_use]
    pub fn queues(mut self, queues: impl IntoIterator<Item = QueueName>) -> Self {
        self.settings.queues = Some(queues.into_iter().collect());
        self
    }

    /// Takes jobs from every queue.
    #[must_use]
    pub fn all_queues(mut self) -> Self {
        self.settings.queues = None;
        self
    }

    /// The order of due jobs of equal priority, where no queue or call says otherwise. FIFO when it is not called.
    #[must_use]
    pub const fn order(mut self, order: Order) -> Self {
        self.settings.order = order;
        self
    }

    /// The order in this queue, which must be among those of [`queues`](Self::queues). Queues of different order are
    /// claimed from one after the other, those of the worker's own order first.
    #[must_use]
    pub fn queue_order(mut self, queue: QueueName, order: Order) -> Self {
        self.settings.orders.push((queue, order));
        self
    }

    /// Runs at most so many jobs at once; 10 when it is not called. A pass has its own limit.
    #[must_use]
    pub const fn concurrency(mut self, concurrency: u32) -> Self {
        self.settings.concurrency = concurrency;
        self
    }

    /// Runs one job after the other, in claim order, when it serves: a concurrency of 1.
    #[must_use]
    pub const fn sequential(self) -> Self {
        self.concurrency(1)
    }

    /// Holds jobs for so long, renewed by a third of it unless [`renew_every`](Self::renew_every) says otherwise.
    /// 15 s when it is not called, and at most 365 days. A call of the store that takes longer than a lease, and at least half a
    /// second, is given up and made again.
    #[must_use]
    pub const fn lease(mut self, lease: Duration) -> Self {
        self.settings.lease = lease;
        self
    }

    /// Renews leases at this interval, which must be at most half the lease.
    #[must_use]
    pub const fn renew_every(mut self, every: Duration) -> Self {
        self.renew_every = Some(every);
        self
    }

    /// When the worker is told to stop, running jobs may go on for so long before they are given back. 10 s when
    /// it is not called.
    #[must_use]
    pub const fn grace(mut self, grace: Duration) -> Self {
        self.settings.grace = grace;
        self
    }

    /// When a running job is lost, to another worker for example because its lease could not be renewed in time, its handler is
    /// told, and may go on for so long before it is dropped. 5 s when it is not called.
    #[must_use]
    pub const fn lost_grace(mut self, grace: Duration) -> Self {
        self.lost_grace = grace;
        self
    }

    /// Keeps the jobs of these queues that have ended so long, while it serves: those that are not to be kept are deleted soon
    /// after it has begun and then at the interval of [`sweep_every`](Self::sweep_every). They need not be queues that it takes
    /// jobs from, and any number of workers may be told the same.
    ///
    /// What is said for a queue by its name counts before what is said for all, and what is said later before what was said earlier.
    #[must_use]
    pub fn retention(mut self, queues: impl Into<Queues>, retention: Retention) -> Self {
        self.settings.sweeping.policies.push((queues.into(), retention));
        self
    }

    /// Deletes what is not to be kept at this interval, with jitter; 60 s when it is not called.
    #[must_use]
    pub const fn sweep_every(mut self, every: Duration) -> Self {
        self.settings.sweeping.every = every;
        self
    }

    /// A name for this worker, for people to read; process id and a random part when it is not called.
    #[must_use]
    pub fn name(mut self, name: impl Into<Arc<str>>) -> Self {
        self.settings.holder = name.into();
        self
    }

    /// What to do with jobs that no handler is registered for.
    #[must_use]
    pub const fn unknown_kinds(mut self, unknown: UnknownKinds) -> Self {
        self.settings.unknown = unknown;
        self
    }

    /// Builds the worker.
    ///
    /// # Errors
    /// Two handlers for one name, a callback for a name without one, a missing state, a lease that cannot be kept, a
    /// concurrency or an interval of 0, no queues at all, an order for a queue that is not among them, a worker's name that is
    /// empty or too long, a schedule that is malformed, never fires, has no handler or another's name.
    pub fn build(self) -> Result<Worker, BuildError> {
        let WorkerBuilder {
            queue,
            states,
            runs,
            checks,
            callbacks,
            settings,
            schedules,
            renew_every,
            lost_grace,
        } = self;
        check_name("worker name", &settings.holder)?;
        checks.iter().try_for_each(|check| check(&states))?;
        let mut catalog = Catalog::default();
        runs.into_iter().try_for_each(|run| catalog.add(run))?;
        for (name, on, callback) in callbacks {
            catalog.add_callback(&name, on, callback)?;
        }
        if settings.concurrency == 0 {
            return Err(BuildError::Zero("concurrency"));
        }
        if settings.queues.as_ref().is_some_and(Vec::is_empty) {
            return Err(BuildError::Zero("the number of queues"));
        }
        if settings.sweeping.every.is_zero() {
            return Err(BuildError::Zero("the interval of sweeps, in nanoseconds,"));
        }
        let lease = settings.lease;
        let renew_every = renew_every.unwrap_or(lease / 3);
        if lease > LONGEST_LEASE {
            return Err(BuildError::LeaseTooLong { lease, longest: LONGEST_LEASE });
        }
        let kept = renew_every <= lease / 2 || broken!(BufferDisablesRenewal);
        if lease < Duration::from_millis(10) || renew_every.is_zero() || !kept {
            return Err(BuildError::Lease { lease, renew_every });
        }
        for (name, _) in &settings.orders {
            if settings.queues.as_ref().is_none_or(|queues| !queues.contains(name)) {
                return Err(BuildError::OrderOfUnknownQueue { queue: name.clone() });
            }
        }
        let planned = plan(schedules, &catalog, &queue.store().info().capabilities)?;
        let scheduler = Arc::new(Scheduler::new(queue.clone(), planned, patience(lease)));
        let holder = settings.holder.clone();
        let keeper = Keeper::start(queue.io(), holder, lease, renew_every, lost_grace);
        let readings = Arc::<Readings>::default();
        let bench = Bench {
            committer: Committer::start(
                queue.io(),
                keeper.clone(),
                readings.clone(),
                patience(lease),
            ),
            keeper,
            patience: patience(lease),
            readings,
            queue,
            catalog: Arc::new(catalog),
            states: Arc::new(states),
        };
        Ok(Worker { bench: Arc::new(bench), scheduler, settings })
    }
}
