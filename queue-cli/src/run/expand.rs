//! From the `[[jobs]]` of a file to single jobs.

use std::{collections::HashSet, path::PathBuf};

use queue::{JobId, Payload, core::Uuid, flow::Template};
use serde_json::{Value, json};

use super::{RUN, Setting};
use crate::{
    definition::{ForEach, JobsDefinition, RunFile},
    failure::Failure,
    walk::{Found, Walk},
};

/// A job that the file asks for.
#[derive(Debug)]
pub(super) struct Wanted {
    /// UUIDv5 of the queue (file, definitions, params), the kind, the input and the fingerprint
    /// of the item: the same job has the same id in every run.
    pub(super) id: JobId,
    pub(super) kind: String,
    pub(super) input: Payload,
    pub(super) priority: i16,
}

/// All jobs, in the order of the file, those of one entry in the order of its items. A job that is
/// listed twice is one job.
pub(super) fn jobs(
    file: &RunFile,
    setting: &Setting,
    own: &[PathBuf],
) -> Result<Vec<Wanted>, Failure> {
    let mut wanted = Vec::new();
    let mut seen = HashSet::new();
    for (position, jobs) in file.jobs.iter().enumerate() {
        let place = format!("jobs {}", position + 1);
        let kind = jobs.kind(&place, &file.tasks, &file.workflows)?;
        for job in entry(jobs, kind, &place, setting, own)? {
            if seen.insert(job.id) {
                wanted.push(job);
            }
        }
    }
    if file.jobs.is_empty() {
        return Err(Failure::new(format!("{} lists no jobs", setting.file.display())));
    }
    Ok(wanted)
}

fn entry(
    jobs: &JobsDefinition,
    kind: &str,
    place: &str,
    setting: &Setting,
    own: &[PathBuf],
) -> Result<Vec<Wanted>, Failure> {
    let default = match jobs.for_each {
        Some(_) => json!("{{ item }}"),
        None => Value::Null,
    };
    let place_of_input = format!("{place}: input");
    let roots: &[&str] = if jobs.for_each.is_some() { &["item", "params"] } else { &["params"] };
    let template = template(&place_of_input, jobs.input.as_ref().unwrap_or(&default), roots)?;
    let items = match &jobs.for_each {
        None => vec![(Value::Null, String::new())],
        Some(each) => items(each, place, setting, own)?,
    };
    let mut data = setting.data();
    let job = |(item, fingerprint): (Value, String)| {
        data["item"] = item;
        let input = template
            .render(&data)
            .map_err(|error| Failure::new(format!("{place_of_input}: {error}")))?;
        let input = Payload::from_value(&input)?;
        let name = format!("{}\0{kind}\0{input}\0{fingerprint}", setting.names.queue);
        let id = JobId::from_uuid(Uuid::new_v5(&RUN, name.as_bytes()));
        Ok(Wanted { id, kind: kind.to_owned(), input, priority: jobs.priority })
    };
    items.into_iter().map(job).collect()
}

/// The items with what changes when they change.
fn items(
    each: &ForEach,
    place: &str,
    setting: &Setting,
    own: &[PathBuf],
) -> Result<Vec<(Value, String)>, Failure> {
    match (&each.glob, &each.values) {
        (Some(glob), None) => {
            let root = each.root.as_deref().unwrap_or(".");
            let root = text(&format!("{place}: for_each.root"), root, &setting.data())?;
            let root = setting.dir.join(root);
            let root = root.canonicalize().map_err(|error| {
                Failure::caused(format!("{place}: cannot read {}", root.display()), &error)
            })?;
            let found = Walk::new(root, glob, &each.exclude, own.to_vec())?.files()?;
            let item = |Found { path, fingerprint }| (Value::String(path), fingerprint);
            Ok(found.into_iter().map(item).collect())
        }
        (None, Some(values)) if each.root.is_none() && each.exclude.is_empty() => {
            Ok(values.iter().map(|value| (value.clone(), String::new())).collect())
        }
        _ => Err(Failure::new(format!(
            "{place}: for_each needs either values or a glob, with root and exclude if need be"
        ))),
    }
}

fn template(place: &str, json: &Value, roots: &[&str]) -> Result<Template, Failure> {
    let template =
        Template::parse(json).map_err(|error| Failure::new(format!("{place}: {error}")))?;
    match template.paths().into_iter().find(|path| !roots.contains(&path.root())) {
        None => Ok(template),
        Some(path) => Err(Failure::new(format!(
            "{place} uses `{path}`; a path begins with {} here",
            roots.join(" or ")
        ))),
    }
}

/// Fills a text from params.
pub(super) fn text(place: &str, text: &str, data: &Value) -> Result<String, Failure> {
    template(place, &Value::String(text.to_owned()), &["params"])?
        .render_text(data)
        .map_err(|error| Failure::new(format!("{place}: {error}")))
}
