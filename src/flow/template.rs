use serde_json::{Map, Value};

use super::{Path, TemplateError};

/// JSON whose strings may hold `{{ path }}`, to be filled from data.
///
/// A string that is exactly one such place becomes the value that stands there, whatever its type.
/// In a longer string the value is written as text: a string as it is, anything else as JSON.
/// `{{ '...' }}` stands for the quoted characters, for a text that needs two braces. The keys of
/// objects are taken as they are.
///
/// ```
/// use queue::flow::Template;
/// use serde_json::json;
///
/// let template = Template::parse(&json!({"n": "{{ input.n }}", "text": "n is {{ input.n }}"}))?;
/// let value = template.render(&json!({"input": {"n": 3}}))?;
/// assert_eq!(value, json!({"n": 3, "text": "n is 3"}));
/// # Ok::<(), queue::flow::TemplateError>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Template(Node);

#[derive(Clone, Debug, PartialEq)]
enum Node {
    Literal(Value),
    Whole(Path),
    Text(Vec<Part>),
    List(Vec<Node>),
    Object(Vec<(String, Node)>),
}

#[derive(Clone, Debug, PartialEq)]
enum Part {
    Literal(String),
    Place(Path),
}

impl Template {
    /// Reads JSON as a template.
    ///
    /// # Errors
    /// `Unclosed` or `NotAPath` for a malformed place.
    pub fn parse(json: &Value) -> Result<Self, TemplateError> {
        Ok(Template(Node::parse(json)?))
    }

    /// Reads text as a template.
    ///
    /// # Errors
    /// As [`Template::parse`].
    pub fn parse_text(text: &str) -> Result<Self, TemplateError> {
        Ok(Template(Node::parse_text(text)?))
    }

    /// Whether it holds no place, so that it renders to the same value always.
    pub fn is_constant(&self) -> bool {
        self.paths().is_empty()
    }

    /// Every path in it, in reading order.
    pub fn paths(&self) -> Vec<&Path> {
        let mut paths = Vec::new();
        self.0.collect(&mut paths);
        paths
    }

    /// Fills the places.
    ///
    /// # Errors
    /// `Missing` for a path that leads nowhere.
    pub fn render(&self, data: &Value) -> Result<Value, TemplateError> {
        self.0.render(data)
    }

    /// Fills the places and writes the result as text, as within a longer string.
    ///
    /// # Errors
    /// As [`Template::render`].
    pub fn render_text(&self, data: &Value) -> Result<String, TemplateError> {
        Ok(match self.render(data)? {
            Value::String(text) => text,
            other => other.to_string(),
        })
    }
}

impl Node {
    fn parse(json: &Value) -> Result<Self, TemplateError> {
        Ok(match json {
            Value::String(text) => Self::parse_text(text)?,
            Value::Array(items) => {
                Node::List(items.iter().map(Self::parse).collect::<Result<_, _>>()?)
            }
            Value::Object(map) => {
                let field =
                    |(key, value): (&String, &Value)| Ok((key.clone(), Self::parse(value)?));
                Node::Object(map.iter().map(field).collect::<Result<_, _>>()?)
            }
            other => Node::Literal(other.clone()),
        })
    }

    fn parse_text(text: &str) -> Result<Self, TemplateError> {
        let mut parts = split(text)?;
        Ok(match parts.len() {
            0 => Node::Literal(Value::String(String::new())),
            1 => match parts.remove(0) {
                Part::Literal(text) => Node::Literal(Value::String(text)),
                Part::Place(path) => Node::Whole(path),
            },
            _ => Node::Text(parts),
        })
    }

    fn collect<'a>(&'a self, paths: &mut Vec<&'a Path>) {
        match self {
            Node::Literal(_) => {}
            Node::Whole(path) => paths.push(path),
            Node::Text(parts) => paths.extend(parts.iter().filter_map(|part| match part {
                Part::Literal(_) => None,
                Part::Place(path) => Some(path),
            })),
            Node::List(nodes) => nodes.iter().for_each(|node| node.collect(paths)),
            Node::Object(fields) => fields.iter().for_each(|(_, node)| node.collect(paths)),
        }
    }

    fn render(&self, data: &Value) -> Result<Value, TemplateError> {
        Ok(match self {
            Node::Literal(value) => value.clone(),
            Node::Whole(path) => path.get(data)?.clone(),
            Node::Text(parts) => {
                let mut text = String::new();
                for part in parts {
                    match part {
                        Part::Literal(literal) => text.push_str(literal),
                        Part::Place(path) => match path.get(data)? {
                            Value::String(value) => text.push_str(value),
                            other => text.push_str(&other.to_string()),
                        },
                    }
                }
                Value::String(text)
            }
            Node::List(nodes) => {
                nodes.iter().map(|node| node.render(data)).collect::<Result<_, _>>()?
            }
            Node::Object(fields) => {
                let field = |(key, node): &(String, Node)| Ok((key.clone(), node.render(data)?));
                Value::Object(fields.iter().map(field).collect::<Result<Map<_, _>, _>>()?)
            }
        })
    }
}

/// Splits text at its places; neighbouring literals are joined.
fn split(text: &str) -> Result<Vec<Part>, TemplateError> {
    let mut parts = Vec::new();
    let mut literal = String::new();
    let mut rest = text;
    while let Some(open) = rest.find("{{") {
        literal.push_str(&rest[..open]);
        let inside = &rest[open + 2..];
        let unclosed = || TemplateError::Unclosed { text: rest[open..].chars().take(40).collect() };
        let quoted = inside.trim_start().strip_prefix('\'');
        if let Some(quoted) = quoted {
            let (value, after) = quoted.split_once('\'').ok_or_else(unclosed)?;
            literal.push_str(value);
            rest = after.trim_start().strip_prefix("}}").ok_or_else(unclosed)?;
            continue;
        }
        let (place, after) = inside.split_once("}}").ok_or_else(unclosed)?;
        if !literal.is_empty() {
            parts.push(Part::Literal(std::mem::take(&mut literal)));
        }
        parts.push(Part::Place(place.trim().parse()?));
        rest = after;
    }
    literal.push_str(rest);
    if !literal.is_empty() {
        parts.push(Part::Literal(literal));
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn render(template: Value) -> Result<Value, TemplateError> {
        let data = json!({
            "input": {"path": "a b.txt", "n": 3, "list": [1, {"x": true}]},
            "steps": {"a": {"output": {"ok": true}}, "skipped": {"output": null}},
        });
        Template::parse(&template)?.render(&data)
    }

    #[test]
    fn a_string_that_is_one_place_becomes_the_value_itself() {
        assert_eq!(render(json!("{{ input.n }}")).unwrap(), json!(3));
        assert_eq!(render(json!("{{input.list}}")).unwrap(), json!([1, {"x": true}]));
        assert_eq!(render(json!("{{ steps.skipped.output.x }}")).unwrap(), json!(null));
    }

    #[test]
    fn places_in_a_longer_string_are_written_as_text() {
        assert_eq!(
            render(json!("<{{ input.path }}> {{ input.n }} {{ input.list }}")).unwrap(),
            json!("<a b.txt> 3 [1,{\"x\":true}]")
        );
        assert_eq!(render(json!(" {{ input.n }}")).unwrap(), json!(" 3"));
    }

    #[test]
    fn structure_is_kept_and_keys_are_not_templates() {
        assert_eq!(
            render(
                json!({"{{ input.n }}": ["{{ input.n }}", 1, null, {"deep": "{{ input.path }}"}]})
            )
            .unwrap(),
            json!({"{{ input.n }}": [3, 1, null, {"deep": "a b.txt"}]})
        );
    }

    #[test]
    fn values_are_not_rendered_again() {
        let template = Template::parse(&json!("{{ input }}")).unwrap();
        let data = json!({"input": "{{ secret }}"});
        assert_eq!(template.render(&data).unwrap(), json!("{{ secret }}"));
    }

    #[test]
    fn quoted_braces_stand_for_themselves() {
        assert_eq!(render(json!("{{ '{{' }} {{ '}}' }}")).unwrap(), json!("{{ }}"));
        assert_eq!(render(json!("{ } }} {")).unwrap(), json!("{ } }} {"));
        assert_eq!(render(json!("")).unwrap(), json!(""));
    }

    #[test]
    fn malformed_places_are_refused() {
        for text in ["{{ input.n", "{{", "{{ }}", "{{ a b }}", "{{ 'x }}", "{{ 'x' y }}"] {
            assert!(Template::parse(&json!({"deep": [text]})).is_err(), "{text:?}");
        }
        assert!(render(json!("{{ input.missing }}")).is_err());
    }

    #[test]
    fn paths_are_found_wherever_they_stand() {
        let template =
            Template::parse(&json!({"a": ["{{ x.y }}"], "b": "1{{ p }}2{{ q }}", "c": 1})).unwrap();
        let paths: Vec<String> = template.paths().iter().map(ToString::to_string).collect();
        assert_eq!(paths, ["x.y", "p", "q"]);
        assert!(Template::parse(&json!({"c": "{{ '{{' }}"})).unwrap().is_constant());
    }
}
