use std::{
    io::{self, Write},
    process::ExitCode,
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use libtest_mimic::{Arguments, Completion, Failed, FormatSetting, Trial};
use queue_core::Clock;

use crate::{
    Harness, Level, Property, Report, RunReport, Verdict,
    case::Notes,
    processes, properties,
    report::directory,
    runner::{hung, limit, run_noted, start},
};

/// The threads of the runtime under each property: two, so that races are real.
const WORKERS: usize = 2;
/// How long after its time limit a property that blocks its thread is given up.
const GRACE: Duration = Duration::from_secs(if cfg!(test) { 0 } else { 5 });

/// The whole suite, or a part of it, against one store.
pub struct Suite {
    name: Option<String>,
    harness: Arc<dyn Harness>,
    properties: Vec<Property>,
    seed: u64,
}

impl Suite {
    /// All properties against the store of this harness, with the seed of `CONFORMANCE_SEED` or a new one.
    pub fn new(harness: impl Harness) -> Self {
        let asked = std::env::var("CONFORMANCE_SEED").ok().and_then(|text| text.parse().ok());
        let seed = asked.unwrap_or_else(fresh_seed);
        Suite { name: None, harness: Arc::new(harness), properties: properties(), seed }
    }

    /// With this name in the reports instead of the store's own: one store may be run in several ways.
    #[must_use]
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Only the properties with these ids, or of these groups.
    #[must_use]
    pub fn only<'a>(mut self, wanted: impl IntoIterator<Item = &'a str>) -> Self {
        let wanted: Vec<&str> = wanted.into_iter().collect();
        self.properties
            .retain(|property| wanted.iter().any(|w| *w == property.id || *w == property.group()));
        self
    }

    /// These properties instead.
    #[must_use]
    pub fn with_properties(mut self, properties: impl IntoIterator<Item = Property>) -> Self {
        self.properties = properties.into_iter().collect();
        self
    }

    /// With this seed.
    #[must_use]
    pub const fn with_seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Runs the properties one after the other on the caller's runtime, and prints nothing.
    pub async fn outcomes(&self) -> Vec<Report> {
        let mut reports = Vec::with_capacity(self.properties.len());
        for property in &self.properties {
            let begun = Instant::now();
            let notes = Notes::default();
            let verdict = run_noted(property, &*self.harness, self.seed, notes.clone()).await;
            let report = Report::new(property.id, property.sentence, verdict, begun.elapsed());
            reports.push(report.with_note(notes.text()));
        }
        reports
    }

    /// Runs as a test binary with the arguments of `cargo test`, prints the result of each property, a
    /// table, the level, the failures and the counts, and writes the report files.
    ///
    /// The files are `<store>.json` and `<store>.md`, or `<store>.part.*` when only a part was run, in
    /// the directory `CONFORMANCE_REPORT`, or `target/conformance`.
    pub fn run(self) -> ExitCode {
        if processes::is_to_serve() {
            // Its parent says what to do about it.
            return ExitCode::FAILURE;
        }
        self.run_with(&Arguments::from_args())
    }

    fn run_with(self, arguments: &Arguments) -> ExitCode {
        let reports: Arc<Mutex<Vec<Report>>> = Arc::default();
        let trials = self.properties.iter().map(|property| self.trial(*property, &reports));
        let conclusion = libtest_mimic::run(arguments, trials.collect());
        let for_machines = matches!(arguments.format, Some(FormatSetting::Json));
        if arguments.list || for_machines {
            return conclusion.exit_code();
        }
        let mut reports = std::mem::take(&mut *lock(&reports));
        let place = |id| self.properties.iter().position(|property| property.id == id);
        reports.sort_by_key(|report| place(report.id));
        let whole = reports.len() == properties().len();
        let (store, level) = self.subject();
        let store = self.name.clone().unwrap_or(store);
        let report = RunReport::new(store, level, self.seed, reports);
        match print(&report, whole) {
            Ok(()) if !report.has_failed() && !conclusion.has_failed() => ExitCode::SUCCESS,
            _ => ExitCode::FAILURE,
        }
    }

    fn trial(&self, property: Property, reports: &Arc<Mutex<Vec<Report>>>) -> Trial {
        let (harness, seed, reports) = (self.harness.clone(), self.seed, reports.clone());
        // The colon makes the id a filter that matches no other: `LOG-1:` is not in `LOG-10: ..`.
        Trial::ignorable_test(format!("{}: {}", property.id, property.sentence), move || {
            let begun = Instant::now();
            let notes = Notes::default();
            let verdict = run_alone(property, harness, seed, notes.clone());
            let text = verdict.to_string();
            let report =
                Report::new(property.id, property.sentence, verdict.clone(), begun.elapsed());
            lock(&reports).push(report.with_note(notes.text()));
            match verdict {
                Verdict::Pass => Ok(Completion::Completed),
                Verdict::Skip(_) => Ok(Completion::ignored_with(text)),
                Verdict::Fail(_) | Verdict::Inconclusive(_) => Err(Failed::from(text)),
            }
        })
    }

    /// The name of the store, and the level that its hooks allow.
    fn subject(&self) -> (String, Level) {
        let opened = runtime().and_then(|runtime| {
            let clock = Clock::manual(start());
            let opened = runtime.block_on(async {
                Ok((self.harness.fresh(&clock).await?, self.harness.place().await?))
            });
            opened.map_err(|error: queue_core::Error| error.to_string())
        });
        match opened {
            Err(_) => ("unknown".to_owned(), Level::Basic),
            Ok((fixture, place)) => {
                let is_concurrent = fixture.clocked && fixture.sibling.is_some();
                let level = match (is_concurrent, self.harness.faults().is_empty(), place) {
                    (false, ..) => Level::Basic,
                    (true, true, _) => Level::Concurrent,
                    (true, false, None) => Level::FaultTested,
                    (true, false, Some(_)) => Level::CrashTested,
                };
                (fixture.store.info().name.into_owned(), level)
            }
        }
    }
}

/// Runs a property on a thread and a runtime of its own. A thread that hangs is left behind.
fn run_alone(property: Property, harness: Arc<dyn Harness>, seed: u64, notes: Notes) -> Verdict {
    let (sender, verdict) = mpsc::channel();
    let run = move || {
        let verdict = match runtime() {
            Err(error) => Verdict::Inconclusive(error),
            Ok(runtime) => {
                let verdict = runtime.block_on(run_noted(&property, &*harness, seed, notes));
                runtime.shutdown_background();
                verdict
            }
        };
        // Nobody listens any more once the time limit is over.
        let _ = sender.send(verdict);
    };
    if let Err(error) = thread::Builder::new().name(property.id.to_owned()).spawn(run) {
        return Verdict::Inconclusive(format!("no thread to be had: {error}"));
    }
    let limit = limit(&property);
    match verdict.recv_timeout(limit + GRACE) {
        Ok(verdict) => verdict,
        Err(RecvTimeoutError::Timeout) => Verdict::Fail(hung(limit)),
        Err(RecvTimeoutError::Disconnected) => {
            Verdict::Inconclusive("the thread of the property ended without a verdict".to_owned())
        }
    }
}

fn runtime() -> Result<tokio::runtime::Runtime, String> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .enable_all()
        .build()
        .map_err(|error| format!("no runtime to be had: {error}"))
}

fn print(report: &RunReport, whole: bool) -> io::Result<()> {
    let directory = directory();
    let stem = if whole { report.store.clone() } else { format!("{}.part", report.store) };
    let written = report.write(&directory, &stem);
    let mut out = io::stdout().lock();
    if let Err(error) = &written {
        writeln!(out, "the report could not be written to {}: {error}", directory.display())?;
    }
    write!(out, "{}", report.text())?;
    out.flush()?;
    written
}

fn fresh_seed() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    // Short enough to be typed; the low digits are the ones that differ.
    u64::from(since.subsec_nanos()) ^ (since.as_secs() << 20 & 0xffff_ffff)
}

fn lock(reports: &Mutex<Vec<Report>>) -> std::sync::MutexGuard<'_, Vec<Report>> {
    // A poisoned lock means that a push panicked; what was pushed before is still right.
    reports.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use queue_core::{MemoryStore, Result, async_trait};

    use super::*;
    use crate::{Fixture, Stop};

    struct Memory;

    #[async_trait]
    impl Harness for Memory {
        async fn fresh(&self, _: &Clock) -> Result<Fixture> {
            Ok(Fixture::new(Arc::new(MemoryStore::new())))
        }
    }

    const PASSES: Property = Property::new("T-1", "passes", |_| Box::pin(async { Ok(()) }));
    const FAILS: Property =
        Property::new("T-2", "fails", |_| Box::pin(async { Err(Stop::fail("broken")) }));
    const SKIPS: Property =
        Property::new("T-3", "skips", |_| Box::pin(async { Err(Stop::skip("no hook")) }));
    const WAVERS: Property =
        Property::new("T-4", "wavers", |_| Box::pin(async { Err(Stop::inconclusive("budget")) }));

    fn exit_code(properties: &[Property]) -> String {
        let suite = Suite::new(Memory).with_properties(properties.iter().copied());
        format!("{:?}", suite.run_with(&Arguments::default()))
    }

    #[test]
    fn a_run_succeeds_with_passes_and_skips_alone() {
        let (success, failure) =
            (format!("{:?}", ExitCode::SUCCESS), format!("{:?}", ExitCode::FAILURE));
        assert_ne!(success, failure);
        assert_eq!(exit_code(&[PASSES, SKIPS]), success);
        assert_eq!(exit_code(&[PASSES, FAILS]), failure);
        assert_eq!(exit_code(&[PASSES, WAVERS]), failure);
    }

    #[test]
    fn a_property_that_blocks_its_thread_is_given_up() {
        let blocks = Property::new("T-5", "blocks", |_| {
            Box::pin(async {
                let (_kept, never) = mpsc::channel::<()>();
                // Until the test binary ends: the sender lives as long as this call.
                let _ = never.recv();
                Ok(())
            })
        });
        let verdict = run_alone(
            blocks.within(Duration::from_millis(50)),
            Arc::new(Memory),
            1,
            Notes::default(),
        );
        assert!(verdict.reason().is_some_and(|why| why.contains("did not end")), "{verdict}");
    }
}
