use std::collections::{BTreeSet, HashMap};

use queue_core::name::check_name;
use serde_json::Value;

use super::{Condition, Flow, FlowError, Path, Step, Template, TemplateError};

/// A [`Flow`] that was checked and can run.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    pub(super) steps: Vec<PlannedStep>,
    pub(super) output: Option<Template>,
    retries: Option<u32>,
}

/// A step with its templates read and its needs resolved.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct PlannedStep {
    pub(super) id: String,
    pub(super) task: String,
    pub(super) input: Option<Template>,
    /// The positions of the steps that must be done before, ascending.
    pub(super) needs: Vec<usize>,
    pub(super) condition: Option<Condition>,
    pub(super) retries: Option<u32>,
    pub(super) completes_job: bool,
}

impl Plan {
    pub(super) fn new(flow: &Flow, tasks: &BTreeSet<&str>) -> Result<Self, FlowError> {
        let ids = Ids::of(&flow.steps)?;
        let steps: Vec<PlannedStep> =
            flow.steps.iter().map(|step| ids.plan(step, tasks)).collect::<Result<_, _>>()?;
        if !broken!(FlowUnchecked) {
            check_acyclic(&steps)?;
        }
        let output = flow.output.as_ref().map(|output| ids.template("the output", output));
        let output = output.transpose()?.map(|(template, _)| template);
        Ok(Plan { steps, output, retries: flow.retries })
    }

    /// The flow's own setting of retries.
    pub const fn retries(&self) -> Option<u32> {
        self.retries
    }

    /// The ids of the steps, in their order.
    pub fn step_ids(&self) -> impl Iterator<Item = &str> {
        self.steps.iter().map(|step| step.id.as_str())
    }
}

/// Where each step stands.
struct Ids<'a>(HashMap<&'a str, usize>);

impl<'a> Ids<'a> {
    fn of(steps: &'a [Step]) -> Result<Self, FlowError> {
        if steps.is_empty() {
            return Err(FlowError::Empty);
        }
        let mut ids = HashMap::with_capacity(steps.len());
        for (position, step) in steps.iter().enumerate() {
            let id = step.id.as_str();
            let one_segment = id.parse::<Path>().is_ok_and(|path| path.segments().len() == 1);
            if !one_segment || check_name("step id", id).is_err() {
                return Err(FlowError::BadId { id: id.to_owned() });
            }
            if ids.insert(id, position).is_some() {
                return Err(FlowError::DuplicateId { id: id.to_owned() });
            }
        }
        Ok(Ids(ids))
    }

    fn plan(&self, step: &Step, tasks: &BTreeSet<&str>) -> Result<PlannedStep, FlowError> {
        let id = &step.id;
        if !tasks.contains(step.task.as_str()) {
            return Err(FlowError::UnknownTask {
                step: id.clone(),
                task: step.task.clone(),
                known: list(tasks.iter().copied()),
            });
        }
        let mut needs = BTreeSet::new();
        for named in &step.needs {
            needs.insert(self.position(&format!("`needs` of step {id:?}"), named)?);
        }
        let input = step.input.as_ref().map(|input| {
            let (template, used) = self.template(&format!("the input of step {id:?}"), input)?;
            needs.extend(used);
            Ok(template)
        });
        let input = input.transpose()?;
        let condition = step.condition.as_deref().map(|text| {
            let place = format!("the condition of step {id:?}");
            let condition: Condition = text.parse().map_err(|error| malformed(&place, error))?;
            needs.extend(self.step_of(&place, condition.path())?);
            Ok(condition)
        });
        let condition = condition.transpose()?;
        Ok(PlannedStep {
            id: id.clone(),
            task: step.task.clone(),
            input,
            needs: needs.into_iter().collect(),
            condition,
            retries: step.retries,
            completes_job: step.completes_job,
        })
    }

    /// Reads a template and finds the steps whose output it uses.
    fn template(&self, place: &str, json: &Value) -> Result<(Template, Vec<usize>), FlowError> {
        let template = Template::parse(json).map_err(|error| malformed(place, error))?;
        let mut used = Vec::new();
        for path in template.paths() {
            used.extend(self.step_of(place, path)?);
        }
        Ok((template, used))
    }

    /// The step whose output a path uses; `None` for a path into the job's input.
    fn step_of(&self, place: &str, path: &Path) -> Result<Option<usize>, FlowError> {
        match path.segments() {
            [root, ..] if root == "input" => Ok(None),
            [root, id, output, ..] if root == "steps" && output == "output" => {
                self.position(place, id).map(Some)
            }
            _ => Err(FlowError::UnknownPlace { place: place.to_owned(), path: path.to_string() }),
        }
    }

    fn position(&self, place: &str, named: &str) -> Result<usize, FlowError> {
        self.0.get(named).copied().ok_or_else(|| FlowError::UnknownStep {
            place: place.to_owned(),
            named: named.to_owned(),
            known: list(self.0.keys().copied().collect::<BTreeSet<_>>()),
        })
    }
}

fn malformed(place: &str, error: TemplateError) -> FlowError {
    FlowError::Template { place: place.to_owned(), error }
}

fn list<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let names: Vec<&str> = names.into_iter().collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

/// Takes away steps whose needs are taken away until nothing changes; what is left holds a circle.
fn check_acyclic(steps: &[PlannedStep]) -> Result<(), FlowError> {
    let mut left: BTreeSet<usize> = (0..steps.len()).collect();
    loop {
        let free: Vec<usize> = left
            .iter()
            .copied()
            .filter(|step| !steps[*step].needs.iter().any(|need| left.contains(need)))
            .collect();
        if free.is_empty() {
            break;
        }
        free.iter().for_each(|step| {
            left.remove(step);
        });
    }
    let Some(&start) = left.first() else { return Ok(()) };
    // Every step left needs one that is left: following such needs must come back to a step seen
    // before.
    let mut walk = vec![start];
    loop {
        let last = walk[walk.len() - 1];
        let Some(&next) = steps[last].needs.iter().find(|need| left.contains(need)) else {
            return Ok(());
        };
        let seen = walk.iter().position(|step| *step == next);
        walk.push(next);
        if let Some(seen) = seen {
            let steps = walk[seen..].iter().map(|step| steps[*step].id.clone()).collect();
            return Err(FlowError::Cycle { steps });
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn plan(steps: Vec<Step>) -> Result<Plan, FlowError> {
        Flow::new(steps).plan(["t", "u"])
    }

    fn fault(steps: Vec<Step>) -> String {
        plan(steps).unwrap_err().to_string()
    }

    #[test]
    fn needs_are_those_named_and_those_that_templates_and_conditions_imply() {
        let plan = plan(vec![
            Step::new("a", "t"),
            Step::new("b", "t"),
            Step::new("c", "u"),
            Step::new("d", "u")
                .needs(["c"])
                .input(json!({"x": ["{{ steps.a.output.0 }} {{ input.y }}"]}))
                .condition("steps.b.output == 1"),
        ])
        .unwrap();
        assert_eq!(plan.steps[3].needs, [0, 1, 2]);
        assert!(plan.steps[..3].iter().all(|step| step.needs.is_empty()));
        assert_eq!(plan.step_ids().collect::<Vec<_>>(), ["a", "b", "c", "d"]);
    }

    #[test]
    fn an_unknown_task_is_named_with_the_known_ones() {
        assert_eq!(
            fault(vec![Step::new("a", "v")]),
            "step \"a\" runs the task \"v\", which is not known; known are t, u"
        );
    }

    #[test]
    fn an_unknown_step_is_named_with_the_place_and_the_known_ones() {
        let unknown = |step: Step| fault(vec![Step::new("a", "t"), step]);
        assert_eq!(
            unknown(Step::new("b", "t").needs(["x"])),
            "`needs` of step \"b\" names the step \"x\", which is not there; the steps are a, b"
        );
        let by_template = unknown(Step::new("b", "t").input(json!("{{ steps.x.output }}")));
        assert!(by_template.starts_with("the input of step \"b\" names the step \"x\""));
        let by_condition = unknown(Step::new("b", "t").condition("exists steps.x.output"));
        assert!(by_condition.starts_with("the condition of step \"b\" names the step \"x\""));
    }

    #[test]
    fn a_circle_is_shown_without_the_steps_that_only_lead_to_it() {
        let steps = vec![
            Step::new("lead", "t").needs(["a"]),
            Step::new("a", "t").input(json!("{{ steps.b.output }}")),
            Step::new("b", "t").needs(["c", "free"]),
            Step::new("c", "t").condition("exists steps.a.output"),
            Step::new("free", "t"),
        ];
        assert_eq!(fault(steps), "steps need each other in a circle: a needs b needs c needs a");
        let own = fault(vec![Step::new("a", "t").needs(["a"])]);
        assert_eq!(own, "steps need each other in a circle: a needs a");
    }

    #[test]
    fn ids_are_distinct_and_usable_in_a_path() {
        assert_eq!(fault(vec![]), "it has no steps");
        let twice = vec![Step::new("a", "t"), Step::new("a", "u")];
        assert_eq!(fault(twice), "two steps have the id \"a\"");
        for id in ["", "a.b", "a b", "{a}", "a\nb"] {
            let fault = plan(vec![Step::new(id, "t")]).unwrap_err();
            assert_eq!(fault, FlowError::BadId { id: id.to_owned() });
        }
    }

    #[test]
    fn paths_begin_with_input_or_a_step_s_output() {
        for path in ["item", "steps", "steps.a", "steps.a.error", "env.HOME"] {
            let step = Step::new("a", "t").input(json!(format!("{{{{ {path} }}}}")));
            assert!(matches!(plan(vec![step]), Err(FlowError::UnknownPlace { .. })), "{path}");
        }
        let flow = Flow {
            output: Some(json!("{{ steps.b.output }}")),
            ..Flow::new([Step::new("a", "t")])
        };
        let fault = flow.plan(["t"]).unwrap_err().to_string();
        assert!(fault.starts_with("the output names the step \"b\""), "{fault}");
    }

    #[test]
    fn malformed_templates_and_conditions_are_reported_with_their_place() {
        let fault_of = |step| fault(vec![step]);
        let template = fault_of(Step::new("a", "t").input(json!("{{ input")));
        assert!(template.starts_with("the input of step \"a\": `{{ input` opens"), "{template}");
        let condition = fault_of(Step::new("a", "t").condition("input.x"));
        assert!(
            condition.starts_with("the condition of step \"a\": `input.x` is not"),
            "{condition}"
        );
    }
}
