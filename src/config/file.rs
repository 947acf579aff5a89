//! `orch.toml`: from its text to the texts of settings and to agents, with the line of everything that is wrong.

use std::{
    collections::BTreeMap,
    io::ErrorKind,
    ops::Range,
    path::{Path, PathBuf},
};

use toml::{
    Spanned,
    de::{DeString, DeTable, DeValue},
};

use super::{
    agent,
    problem::{Place, Problem, nearest},
    table::SETTINGS,
    values::Values,
};
use crate::agents::Agent;

/// A file that was read, for saying where something stands.
pub(super) struct Document<'a> {
    name: String,
    text: &'a str,
    /// What a relative path in the file is relative to.
    pub(super) directory: PathBuf,
}

impl<'a> Document<'a> {
    pub(super) fn new(path: &Path, text: &'a str) -> Self {
        let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let directory = absolute.parent().unwrap_or(Path::new("/")).to_owned();
        Self { name: path.display().to_string(), text, directory }
    }

    /// A problem at a span of the text.
    pub(super) fn problem(&self, span: &Range<usize>, message: impl Into<String>) -> Problem {
        Problem::at(self.place(span), message)
    }

    /// A path in the file is relative to the file, wherever orch was started.
    fn located(&self, name: &str, text: String) -> String {
        if matches!(name, "state_dir" | "http_token_file") && !text.is_empty() {
            self.directory.join(text).to_string_lossy().into_owned()
        } else {
            text
        }
    }

    fn place(&self, span: &Range<usize>) -> Place {
        let before = self.text.get(..span.start).unwrap_or(self.text);
        Place { name: self.name.clone(), line: Some(1 + before.matches('\n').count()) }
    }
}

/// Reads the file. A missing one is none, unless it was named.
pub(super) fn read(path: &Path, named: bool) -> Result<Option<String>, Problem> {
    match std::fs::read(path) {
        Ok(bytes) => match String::from_utf8(bytes) {
            Ok(text) => Ok(Some(text)),
            Err(_) => Err(Problem::at(path.display().to_string(), "it is not UTF-8: save it as plain text")),
        },
        Err(error) if error.kind() == ErrorKind::NotFound && !named => Ok(None),
        Err(error) => {
            let message = format!("it cannot be read ({error}): name the right file with --config or ORCH_CONFIG");
            Err(Problem::at(path.display().to_string(), message))
        }
    }
}

/// Takes the text apart. What is wrong becomes problems; what is right is kept.
pub(super) fn parse(
    document: &Document<'_>,
    values: &mut Values,
    problems: &mut Vec<Problem>,
) -> BTreeMap<String, Agent> {
    let mut agents = BTreeMap::new();
    let (root, errors) = DeTable::parse_recoverable(document.text);
    if !errors.is_empty() {
        // What a broken text seems to say is no ground for further complaints.
        problems.extend(errors.into_iter().map(|error| {
            document.problem(&error.span().unwrap_or(0..0), format!("this is no TOML: {}", error.message()))
        }));
        return agents;
    }
    for (key, value) in in_order(root.get_ref()) {
        let name = key.get_ref().as_ref();
        if name == "agents" {
            agents = parse_agents(document, value, problems);
        } else if name == "config" {
            problems.push(document.problem(&key.span(), "the file cannot name itself: remove config"));
        } else if let Some(setting) = SETTINGS.iter().find(|setting| setting.name == name) {
            match text(name, value.get_ref()) {
                Ok(text) => values.set(setting.name, document.located(name, text), document.place(&value.span())),
                Err(message) => problems.push(document.problem(&value.span(), format!("{name} {message}"))),
            }
        } else {
            let known = SETTINGS.iter().map(|setting| setting.name).chain(["agents"]);
            problems.push(document.problem(&key.span(), format!("unknown key {name:?}: {}", nearest(name, known))));
        }
    }
    agents
}

fn parse_agents(
    document: &Document<'_>,
    value: &Spanned<DeValue<'_>>,
    problems: &mut Vec<Problem>,
) -> BTreeMap<String, Agent> {
    let mut agents = BTreeMap::new();
    let DeValue::Table(table) = value.get_ref() else {
        problems.push(document.problem(&value.span(), "agents is no table: write [agents.NAME]"));
        return agents;
    };
    for (name, value) in in_order(table) {
        let DeValue::Table(table) = value.get_ref() else {
            let message = format!("agents.{} is no table: write [agents.{0}]", name.get_ref());
            problems.push(document.problem(&name.span(), message));
            continue;
        };
        if let Some(agent) = agent::parse(document, name, table, problems) {
            agents.insert(agent.name.clone(), agent);
        }
    }
    agents
}

/// A table's pairs as they stand in the file, so that problems are told from top to bottom.
pub(super) fn in_order<'a, 'd>(table: &'a DeTable<'d>) -> Vec<(&'a Spanned<DeString<'d>>, &'a Spanned<DeValue<'d>>)> {
    let mut pairs: Vec<_> = table.iter().collect();
    pairs.sort_by_key(|(key, _)| key.span().start);
    pairs
}

/// The text of a setting's value, as a flag would have it.
fn text(name: &str, value: &DeValue<'_>) -> Result<String, String> {
    match value {
        DeValue::String(text) => Ok(text.clone().into_owned()),
        DeValue::Boolean(value) => Ok(value.to_string()),
        DeValue::Integer(value) => integer(value).map(|value| value.to_string()),
        DeValue::Table(table) if name == "labels" => labels(table),
        DeValue::Float(_) | DeValue::Datetime(_) | DeValue::Array(_) | DeValue::Table(_) => Err(format!(
            "is {}, which it cannot be: write a text in quotes, a whole number or true or false",
            article(value)
        )),
    }
}

fn labels(table: &DeTable<'_>) -> Result<String, String> {
    let mut pairs = Vec::new();
    for (key, value) in table {
        let DeValue::String(value) = value.get_ref() else {
            return Err(format!("has the label {:?}, which is no text: put it in quotes", key.get_ref()));
        };
        if value.contains([',', '=']) || key.get_ref().contains([',', '=']) {
            return Err(format!("has the label {:?} with \",\" or \"=\" in it: remove those", key.get_ref()));
        }
        pairs.push(format!("{}={value}", key.get_ref()));
    }
    Ok(pairs.join(","))
}

/// A whole number, in any notation of TOML.
pub(super) fn integer(value: &toml::de::DeInteger<'_>) -> Result<i64, String> {
    i64::from_str_radix(value.as_str(), value.radix()).map_err(|_| "is too large: write a smaller number".to_owned())
}

/// What a value is, with its article.
pub(super) fn article(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}
