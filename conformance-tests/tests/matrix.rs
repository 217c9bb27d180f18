//! What the README and the documentation say of the suite is what the suite says.
//!
//! `docs/conformance` has a summary for each store, made from the reports of the runs; the README's table is made from
//! those, and `docs/conformance.md` from the catalogue and the broken stores. To make them anew, run the suites and then
//! `CONFORMANCE_UPDATE=1 cargo test -p conformance-tests --test matrix`.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use conformance_tests::{
    matrix::{Summary, splice, table},
    mutants::mutants,
    properties,
};

/// The stores, in the order of the columns.
const STORES: [&str; 7] =
    ["memory", "sqlite", "postgres", "postgres-pgbouncer", "mongo", "mongo-standalone", "redb"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn committed(store: &str) -> PathBuf {
    root().join("docs/conformance").join(format!("{store}.json"))
}

/// The reports of the last runs.
fn fresh(store: &str) -> PathBuf {
    let asked = std::env::var_os("CONFORMANCE_REPORT").map(PathBuf::from);
    let target = || {
        let binary = std::env::current_exe().unwrap();
        binary.ancestors().nth(3).unwrap().join("conformance")
    };
    asked.unwrap_or_else(target).join(format!("{store}.json"))
}

fn is_to_update() -> bool {
    std::env::var_os("CONFORMANCE_UPDATE").is_some()
}

fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn summary(path: &Path) -> Summary {
    Summary::read(&text(path)).unwrap_or_else(|why| panic!("{}: {why}", path.display()))
}

fn summaries() -> Vec<Summary> {
    STORES.iter().map(|store| summary(&committed(store))).collect()
}

/// That a file has this text, or it is made so.
fn is_up_to_date(path: &Path, expected: &str) {
    let found = fs::read_to_string(path).unwrap_or_default();
    if found == expected {
        return;
    }
    assert!(
        is_to_update(),
        "{} is stale: run the suites, then \
         `CONFORMANCE_UPDATE=1 cargo test -p conformance-tests --test matrix`",
        path.display()
    );
    fs::write(path, expected).unwrap();
}

#[test]
fn the_summaries_are_of_the_present_catalogue_and_the_readme_shows_them() {
    if is_to_update() {
        for store in STORES.into_iter().filter(|store| fresh(store).exists()) {
            is_up_to_date(&committed(store), &summary(&fresh(store)).json());
        }
    }
    let catalogue = properties();
    let stale: Vec<String> =
        summaries().iter().filter_map(|summary| summary.check(&catalogue).err()).collect();
    assert!(stale.is_empty() || is_to_update(), "run the suites again:\n{}", stale.join("\n"));
    let readme = root().join("README.md");
    let page = splice(&text(&readme), "conformance", &table(&summaries())).unwrap();
    is_up_to_date(&readme, &page);
}

/// Needs a run of every suite before it.
#[test]
#[ignore = "compares the reports of the last runs, of every store, with the summaries"]
fn the_last_runs_found_what_the_summaries_say() {
    for store in STORES {
        let (last, known) = (summary(&fresh(store)), summary(&committed(store)));
        let differing = last.properties.iter().filter(|found| !known.properties.contains(found));
        let differing: Vec<_> = differing.collect();
        assert!(
            last == known,
            "{store} was found at {} and is known at {}; not known: {differing:#?}",
            last.level,
            known.level
        );
    }
}

#[test]
fn the_catalogue_in_the_documentation_is_the_one_that_runs() {
    let mut page = String::from(
        "# The catalogue of the suite\n\nEvery property, and the broken stores that it must fail on. Made by \
         `conformance-tests/tests/matrix.rs`.\n",
    );
    let mutants = mutants();
    let mut group = "";
    for property in properties() {
        if property.group() != group {
            group = property.group();
            let title = conformance_tests::properties::title(group);
            let _ = write!(
                page,
                "\n## {group}: {title}\n\n| property | says | kills |\n|---|---|---|\n"
            );
        }
        let kills = mutants.iter().filter(|mutant| mutant.killers.contains(&property.id));
        let kills: Vec<&str> = kills.map(|mutant| mutant.name).collect();
        let _ =
            writeln!(page, "| {} | {} | {} |", property.id, property.sentence, kills.join(", "));
    }
    is_up_to_date(&root().join("docs/conformance.md"), &page);
}
