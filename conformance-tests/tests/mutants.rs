//! The suite against deliberately broken stores: every mutant must be killed by every property that it
//! names, every property must kill a mutant, and the same machine without a flaw must pass.
//!
//! `MUTANTS_ALSO=all` (or some groups, `MUTANTS_ALSO=MOD,UPD`) runs further properties against every mutant, to
//! see what else notices; the usual filters of `cargo test` choose mutants by name.

#![allow(clippy::print_stdout)] // the matrix is what this binary is for

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs, io,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use conformance_tests::{
    Property, Verdict,
    mutants::{Mutant, mutants, open_place},
    processes, properties, run_property,
};
use libtest_mimic::{Arguments, Failed, Trial};

/// How many threads work, each with a runtime of two workers: races need both.
const THREADS: usize = 2;
/// A property that takes longer than this on a broken store hangs. Sound ones take far less.
const LIMIT: Duration = Duration::from_secs(5);
/// Unless `CONFORMANCE_SEED` says otherwise.
const SEED: u64 = 0x006d_7574_616e_7473;
/// The moment at which a process dies or another call comes between may hide a flaw on a busy machine: a broken store is tried
/// so often, each time with another seed, before it counts as alive. `CONFORMANCE_TRIES` says otherwise; 1 is the strict run.
const ATTEMPTS: u64 = 5;

fn attempts() -> u64 {
    let asked = std::env::var("CONFORMANCE_TRIES").ok().and_then(|text| text.parse().ok());
    asked.unwrap_or(ATTEMPTS).max(1)
}

/// One property against one mutant.
struct Run {
    mutant: usize,
    property: Property,
    named: bool,
    verdict: Verdict,
    attempts: u64,
    time: Duration,
}

fn seed() -> u64 {
    let asked = std::env::var("CONFORMANCE_SEED").ok().and_then(|text| text.parse().ok());
    asked.unwrap_or(SEED)
}

fn main() -> ExitCode {
    if let Some(code) = processes::serve(open_place) {
        return code;
    }
    let arguments = Arguments::from_args();
    let mutants = mutants();
    let properties = properties();
    if arguments.list {
        return libtest_mimic::run(&arguments, trials(&mutants, &properties, &[], true))
            .exit_code();
    }
    let wanted = |name: &str| match (&arguments.filter, arguments.exact) {
        (None, _) => true,
        (Some(filter), true) => name == filter,
        (Some(filter), false) => name.contains(filter.as_str()),
    };
    let partial = arguments.filter.is_some() || !arguments.skip.is_empty();
    let chosen = |mutant: &Mutant| {
        wanted(&trial_name(mutant))
            && !arguments.skip.iter().any(|skip| trial_name(mutant).contains(skip.as_str()))
    };

    let also = std::env::var("MUTANTS_ALSO").unwrap_or_default();
    let also: Vec<&str> = also.split(',').filter(|group| !group.is_empty()).collect();
    let also = |property: &Property| {
        also.iter().any(|group| *group == "all" || *group == property.group())
    };
    let mut jobs = Vec::new();
    for (index, mutant) in mutants.iter().enumerate().filter(|(_, mutant)| chosen(mutant)) {
        let tried = properties
            .iter()
            .filter(|property| also(property) || mutant.killers.contains(&property.id));
        jobs.extend(tried.map(|property| (index, property.within(LIMIT))));
    }
    if !partial || wanted("unbroken") {
        jobs.extend(properties.iter().map(|property| (UNBROKEN, *property)));
    }
    // Properties panic on broken stores; that is a verdict, and no news for the screen.
    std::panic::set_hook(Box::new(|_| {}));
    let runs = work(&mutants, &jobs);
    drop(std::panic::take_hook());

    let page = matrix(&mutants, &properties, &runs);
    println!("{page}");
    if !partial && let Err(error) = save(&page) {
        println!("the matrix could not be written: {error}");
    }
    libtest_mimic::run(&arguments, trials(&mutants, &properties, &runs, partial)).exit_code()
}

const UNBROKEN: usize = usize::MAX;

fn trial_name(mutant: &Mutant) -> String {
    format!("mutant/{}", mutant.name)
}

fn work(mutants: &[Mutant], jobs: &[(usize, Property)]) -> Vec<Run> {
    let next = AtomicUsize::new(0);
    let runs = Mutex::new(Vec::with_capacity(jobs.len()));
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                let runtime = tokio::runtime::Builder::new_multi_thread()
                    .worker_threads(2)
                    .enable_all()
                    .build()
                    .expect("a runtime can be built");
                while let Some((index, property)) = jobs.get(next.fetch_add(1, Ordering::SeqCst)) {
                    let mutant =
                        mutants.get(*index).copied().unwrap_or_else(|| Mutant::sound_for(property));
                    let begun = Instant::now();
                    let named = mutant.killers.contains(&property.id);
                    let most = if named { attempts() } else { 1 };
                    let run = |attempt| {
                        runtime.block_on(run_property(
                            property,
                            &mutant,
                            seed().wrapping_add(attempt),
                        ))
                    };
                    let (mut verdict, mut attempts) = (run(0), 1);
                    while attempts < most && verdict.is_pass() {
                        verdict = run(attempts);
                        attempts += 1;
                    }
                    let time = begun.elapsed();
                    runs.lock().unwrap_or_else(PoisonError::into_inner).push(Run {
                        mutant: *index,
                        property: *property,
                        named,
                        verdict,
                        attempts,
                        time,
                    });
                }
                runtime.shutdown_background();
            });
        }
    });
    runs.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// Why a mutant is not dealt with: the named killers that did not fail on it.
fn survived(mutant: &Mutant, runs: &[&Run]) -> Result<(), String> {
    let mut silent = Vec::new();
    for killer in mutant.killers {
        match runs.iter().find(|run| run.property.id == *killer).map(|run| &run.verdict) {
            Some(Verdict::Fail(_)) => {}
            Some(verdict) => silent.push(format!("{killer}: {verdict}")),
            None => silent.push(format!("{killer}: there is no such property")),
        }
    }
    match (mutant.killers, silent.as_slice()) {
        ([], _) => Err("it names no property".to_owned()),
        (_, []) => Ok(()),
        _ => Err(format!("{}\nwas not noticed by {}", mutant.sentence, silent.join(", "))),
    }
}

fn of(runs: &[Run], mutant: usize) -> Vec<&Run> {
    runs.iter().filter(|run| run.mutant == mutant).collect()
}

/// The properties that have killed nothing.
fn idle(properties: &[Property], runs: &[Run]) -> Vec<&'static str> {
    let killers: BTreeSet<&str> = runs
        .iter()
        .filter(|run| run.mutant != UNBROKEN && run.verdict.is_fail())
        .map(|run| run.property.id)
        .collect();
    properties.iter().map(|property| property.id).filter(|id| !killers.contains(id)).collect()
}

fn trials(mutants: &[Mutant], properties: &[Property], runs: &[Run], partial: bool) -> Vec<Trial> {
    let mut trials = Vec::new();
    for (index, mutant) in mutants.iter().enumerate() {
        let verdict = survived(mutant, &of(runs, index)).map_err(Failed::from);
        trials.push(Trial::test(trial_name(mutant), move || verdict));
    }
    let sound: Vec<String> = of(runs, UNBROKEN)
        .iter()
        .filter(|run| !run.verdict.is_pass())
        .map(|run| format!("{}: {}", run.property.id, run.verdict))
        .collect();
    trials.push(Trial::test("unbroken", move || match sound.as_slice() {
        [] => Ok(()),
        failed => Err(failed.join("\n").into()),
    }));
    if !partial {
        let idle = idle(properties, runs);
        trials.push(Trial::test("adequacy/every-property-kills", move || match idle.as_slice() {
            [] => Ok(()),
            idle => Err(format!("no mutant was killed by {}", idle.join(", ")).into()),
        }));
    }
    let names: BTreeSet<&str> = mutants.iter().map(|mutant| mutant.name).collect();
    let twice = mutants.len() - names.len();
    trials.push(Trial::test("adequacy/names-are-distinct", move || match twice {
        0 => Ok(()),
        _ => Err(format!("{twice} mutants share a name").into()),
    }));
    trials
}

/// The kill matrix as a page.
fn matrix(mutants: &[Mutant], properties: &[Property], runs: &[Run]) -> String {
    let mut page = String::from(
        "# Kill matrix\n\nBroken stores, and the properties that noticed. A property in **bold** was named for the mutant and \
         stayed silent.\n\n| mutant | flaw | killed by | also noticed by | s |\n|---|---|---|---|---|\n",
    );
    let mut kills: BTreeMap<&str, usize> = BTreeMap::new();
    let (mut tried, mut killed) = (0, 0);
    for (index, mutant) in mutants.iter().enumerate() {
        let runs = of(runs, index);
        if runs.is_empty() {
            continue;
        }
        tried += 1;
        killed += usize::from(survived(mutant, &runs).is_ok());
        let mut named: Vec<String> = Vec::new();
        let mut others: Vec<&str> = Vec::new();
        for run in &runs {
            if run.verdict.is_fail() {
                *kills.entry(run.property.id).or_default() += 1;
            }
            match (run.named, run.verdict.is_fail()) {
                (true, true) => named.push(run.property.id.to_owned()),
                (true, false) => named.push(format!("**{}**", run.property.id)),
                (false, true) => others.push(run.property.id),
                (false, false) => {}
            }
        }
        let time: Duration = runs.iter().map(|run| run.time).sum();
        // Writing to a String cannot fail.
        let _ = writeln!(
            page,
            "| {} | {} | {} | {} | {:.1} |",
            mutant.name,
            mutant.sentence,
            named.join(", "),
            others.join(", "),
            time.as_secs_f64(),
        );
    }
    page.push_str("\n| property | kills |\n|---|---|\n");
    for property in properties {
        let count = kills.get(property.id).copied().unwrap_or(0);
        let _ = writeln!(page, "| {} | {count} |", property.id);
    }
    let _ =
        writeln!(page, "\n{killed} of {tried} mutants killed by every property named for them.");
    let again = runs.iter().filter(|run| run.attempts > 1).map(|run| {
        let mutant = mutants.get(run.mutant).map_or("unbroken", |mutant| mutant.name);
        format!("{mutant} by {} ({})", run.property.id, run.attempts)
    });
    let again: Vec<String> = again.collect();
    if !again.is_empty() {
        let _ = writeln!(page, "Not at the first attempt: {}.", again.join(", "));
    }
    page
}

fn save(page: &str) -> io::Result<()> {
    // A test binary lies in target/<profile>/deps.
    let binary = std::env::current_exe()?;
    let target = binary.ancestors().nth(3).map_or_else(|| PathBuf::from("target"), Path::to_owned);
    let directory = target.join("conformance");
    fs::create_dir_all(&directory)?;
    fs::write(directory.join("kill-matrix.md"), page)
}
