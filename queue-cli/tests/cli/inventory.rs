use std::{fs, path::Path, process::Command};

use serde_json::{Value, json};

use crate::bench::{Bench, Db};

crate::on_every_database!(
    the_inventory_lists_every_file_with_its_figures,
    a_second_inventory_visits_only_what_changed,
);

/// The example beside this crate, over a small tree of odd names.
fn inventory() -> Bench {
    let bench = Bench::new();
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    let copy = |name: &str| {
        let from = examples.join(name);
        bench.write(
            name,
            &fs::read_to_string(&from).unwrap_or_else(|error| panic!("{from:?}: {error}")),
        );
    };
    ["sha256.sh", "counts.sh", "gzip.sh"]
        .iter()
        .for_each(|name| copy(&format!("inventory/{name}")));
    copy("inventory.toml");
    for (name, text) in FILES {
        bench.write(&format!("tree/{name}"), text);
    }
    bench
}

/// Sorted by name.
const FILES: [(&str, &str); 7] = [
    ("$(touch broken) `x`", "c\n"),
    ("-n", ""),
    ("a\nb", "one two\nthree"),
    ("quote\"s' \\", "d e f\n"),
    ("sub/ space ", "\u{0}\u{1}"),
    ("sub/ünï\u{1f600}", "häh\n"),
    ("target/not-listed", "x"),
];

const RUN: [&str; 5] = ["run", "inventory.toml", "--set", "root=tree", "--json"];

fn the_inventory_lists_every_file_with_its_figures(db: Db) {
    let bench = inventory().on(db);
    let summary = bench.queue(&RUN).success().json();
    assert_eq!(summary["jobs"]["total"], 6);
    assert_eq!(summary["steps"]["done"], 24);
    let text = bench.read("inventory.jsonl");
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 6);
    for (line, (name, content)) in lines.iter().zip(FILES) {
        assert_eq!(line["path"], name);
        assert_eq!(line["bytes"], content.len());
        assert_eq!(line["lines"], content.matches('\n').count());
        let path = bench.path(&format!("tree/{name}"));
        assert_eq!(line["sha256"], output("sha256sum", &path).split(' ').next().unwrap());
        let zipped =
            Command::new("gzip").args(["-9", "-n", "-c", "--"]).arg(&path).output().unwrap();
        assert_eq!(line["gzip_bytes"], zipped.stdout.len());
    }
    assert_eq!(lines[2]["words"], 3);
    assert_eq!(
        lines[1]["sha256"],
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    );
    assert!(!bench.path("broken").exists() && !bench.path("tree/broken").exists());
}

/// What a program prints about a file that it is given as its input.
fn output(program: &str, path: &Path) -> String {
    let output = Command::new(program).stdin(fs::File::open(path).unwrap()).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

fn a_second_inventory_visits_only_what_changed(db: Db) {
    let bench = inventory().on(db);
    bench.queue(&RUN).success();
    let visits = |bench: &Bench| {
        let ledger = bench.ledger();
        ["sha256 ", "counts ", "gzip "].map(|step| {
            ledger.iter().filter(|(line, _)| line.starts_with(step)).map(|(_, n)| n).sum::<usize>()
        })
    };
    assert_eq!(visits(&bench), [6, 6, 6]);
    assert_eq!(bench.queue(&RUN).success().json()["nothing_left"], true);
    assert_eq!(visits(&bench), [6, 6, 6]);
    bench.write("tree/-n", "no longer empty");
    let summary = bench.queue(&RUN).success().json();
    assert_eq!(summary["jobs"]["completed_before"], 5);
    assert_eq!(summary["steps"], json!({"done": 4, "restored": 0}));
    assert_eq!(visits(&bench), [7, 7, 7]);
}
