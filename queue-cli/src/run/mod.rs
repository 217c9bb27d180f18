//! `queue run`.

mod expand;
mod output;
mod place;
mod report;
mod work;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Instant,
};

use queue::{QueueName, StoreRegistry, core::Uuid};

use crate::{
    args::RunArgs,
    definition::{self, Checked, RunFile},
    failure::{Ending, Failure},
    store,
};

pub(crate) use report::reason;

/// The namespace of what is derived from a run file.
const RUN: Uuid = Uuid::from_u128(0x9f2b_6c1e_05d4_5b7e_8a31_c4e2_70d9_1f58);

/// A run file, where it stands and what it is called.
struct Setting {
    file: PathBuf,
    /// The directory of the file, absolute.
    dir: PathBuf,
    params: BTreeMap<String, String>,
    names: Names,
}

/// By what the jobs of a run are told from others in the same store.
struct Names {
    /// Holds jobs of this file with these definitions and params only, so that a worker for them
    /// finds no others.
    queue: QueueName,
    /// A label: the file.
    file: String,
    /// A label: the file's tasks and workflows.
    definition: String,
}

pub(crate) async fn run(registry: &StoreRegistry, args: RunArgs) -> Result<Ending, Failure> {
    let started = Instant::now();
    let file = definition::read(&args.file)?;
    let setting = Setting::new(&args, &file)?;
    let checked = Checked::new(&file.tasks, &file.workflows, &setting.dir)?;
    let url = match &args.db {
        Some(url) => url.clone(),
        None => store::beside(&setting.dir)?,
    };
    let output = file.output.as_ref().map(|output| setting.output_path(output)).transpose()?;
    let own = [output.clone(), store::file_path(&url).map(|path| absolute(&path))];
    let wanted = expand::jobs(&file, &setting, &own.into_iter().flatten().collect::<Vec<_>>())?;

    let queue = store::open(registry, &url).await?;
    let placed = place::place(&queue, &setting.names, wanted).await?;
    let interrupted =
        work::work(&queue, &args, &file.run, &setting.names, checked, &placed).await?;
    let results = report::Results::read(&queue, placed).await?;

    let written = match (&output, results.all_completed()) {
        (Some(path), true) => {
            output::write(path, results.outputs())?;
            Some(path.as_path())
        }
        _ => None,
    };
    let report = report::Report {
        setting: &setting,
        results: &results,
        output: output.as_deref(),
        written,
        interrupted,
        took: started.elapsed(),
    };
    report.print(&args)?;
    Ok(match (interrupted, results.all_completed()) {
        (_, true) => Ending::Done,
        (true, false) => Ending::Interrupted,
        (false, false) => Ending::JobsFailed,
    })
}

impl Setting {
    fn new(args: &RunArgs, file: &RunFile) -> Result<Self, Failure> {
        let full = args.file.canonicalize().map_err(|error| {
            Failure::caused(format!("cannot read {}", args.file.display()), &error)
        })?;
        let mut params = file.params.clone();
        for (name, value) in &args.params {
            let Some(param) = params.get_mut(name) else {
                let known: Vec<&str> = params.keys().map(String::as_str).collect();
                let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
                return Err(Failure::new(format!(
                    "--set {name}: the file has no such param; it has {known}"
                )));
            };
            param.clone_from(value);
        }
        let names = Names::new(&full, file, &params)?;
        // A canonical path of a file has a parent.
        let dir = full.parent().unwrap_or(Path::new("/")).to_owned();
        Ok(Setting { file: args.file.clone(), dir, params, names })
    }

    /// The data that templates outside tasks and workflows are filled from.
    fn data(&self) -> serde_json::Value {
        serde_json::json!({ "params": self.params })
    }

    fn output_path(&self, output: &definition::OutputDefinition) -> Result<PathBuf, Failure> {
        let path = expand::text("output.path", &output.path, &self.data())?;
        let path = self.dir.join(path);
        let parent = path.parent().filter(|parent| parent.is_dir()).ok_or_else(|| {
            Failure::new(format!("output.path: the directory of {} is not there", path.display()))
        })?;
        let name = path.file_name().ok_or_else(|| {
            Failure::new(format!("output.path: {} is not the path of a file", path.display()))
        })?;
        // So that it can be compared with what is found when walking.
        let parent = parent
            .canonicalize()
            .map_err(|error| Failure::caused(format!("cannot use {}", path.display()), &error))?;
        Ok(parent.join(name))
    }
}

impl Names {
    fn new(
        full: &Path,
        file: &RunFile,
        params: &BTreeMap<String, String>,
    ) -> Result<Self, Failure> {
        let cannot = |error| Failure::caused("cannot write the definitions as JSON", &error);
        let definition = serde_json::to_string(&(&file.tasks, &file.workflows)).map_err(cannot)?;
        let params = serde_json::to_string(params).map_err(cannot)?;
        let file_key = short(full.as_os_str().as_encoded_bytes());
        let definition = short(definition.as_bytes());
        let all = short(format!("{file_key} {definition} {params}").as_bytes());
        let stem =
            full.file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned());
        let base = match &file.run.queue {
            Some(queue) => queue.to_string(),
            // As much as fits into a name.
            None => stem.chars().filter(|c| !c.is_control()).take(40).collect(),
        };
        let queue = QueueName::new(format!("{base}-{}", &all[..8]))?;
        Ok(Names { queue, file: file_key, definition })
    }
}

/// A name for these bytes: 64 bits of their UUIDv5 in hexadecimal.
fn short(bytes: &[u8]) -> String {
    let mut text = Uuid::new_v5(&RUN, bytes).simple().to_string();
    text.truncate(16);
    text
}

/// The path with its directory resolved, for comparison; as it is where that cannot be done.
fn absolute(path: &Path) -> PathBuf {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let parent = parent.unwrap_or(Path::new(".")).canonicalize();
    match (parent, path.file_name()) {
        (Ok(parent), Some(name)) => parent.join(name),
        _ => path.to_owned(),
    }
}
