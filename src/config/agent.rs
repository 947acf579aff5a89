//! `[agents.NAME]` of `orch.toml`: its keys, their defaults and bounds. What a template may be, `crate::agents` says.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use toml::{
    Spanned,
    de::{DeString, DeTable, DeValue},
};

use super::{
    file::{Document, article, in_order, integer},
    kinds,
    problem::{Problem, nearest},
};
use crate::{
    agents::{self, Agent, Stdin},
    model::Backoff,
};

const KEYS: &[&str] = &[
    "command",
    "env",
    "pass_env",
    "redact",
    "cwd",
    "user",
    "stdin",
    "timeout",
    "silence_timeout",
    "max_attempts",
    "backoff",
    "on_lost",
    "containment",
    "memory_max",
    "pids_max",
    "success_codes",
    "limits",
];

type Value<'a> = Spanned<DeValue<'a>>;

/// One agent's table. Every refusal becomes a problem; then there is no agent.
pub(super) fn parse(
    document: &Document<'_>,
    name: &Spanned<DeString<'_>>,
    table: &DeTable<'_>,
    problems: &mut Vec<Problem>,
) -> Option<Agent> {
    let before = problems.len();
    let mut reader = Reader { document, agent: name.get_ref(), table, problems };
    reader.refuse_unknown_keys();

    let command = reader.read("command", texts).unwrap_or_default();
    if !table.contains_key("command") {
        reader.refuse(&name.span(), "has no command: write command = [\"PROGRAM\", \"ARGUMENT\"]");
    }
    let backoff = reader.read("backoff", backoff).unwrap_or_default();
    let mut agent = Agent {
        name: name.get_ref().clone().into_owned(),
        command,
        env: reader.read("env", text_table).unwrap_or_default(),
        pass_env: reader.read("pass_env", texts).unwrap_or_default(),
        redact: reader.read("redact", texts).unwrap_or_default(),
        cwd: reader.read("cwd", text).map(PathBuf::from),
        user: reader.read("user", text),
        stdin: reader.read("stdin", stdin).unwrap_or(Stdin::Payload),
        timeout: reader.read("timeout", positive),
        silence_timeout: reader.read("silence_timeout", silence),
        max_attempts: reader.read("max_attempts", |value| whole(value, 1, 1_000_000)).map_or(3, |n| n as i32),
        backoff,
        on_lost: reader.read("on_lost", word).unwrap_or(crate::model::OnLost::Requeue),
        containment: reader.read("containment", word),
        memory_max: reader.read("memory_max", |value| kinds::bounded_size(&text_or_number(value)?, 1 << 20, 1 << 50)),
        pids_max: reader.read("pids_max", |value| whole(value, 1, 4_194_304)).map(|n| n as u64),
        success_codes: reader.read("success_codes", codes).unwrap_or_else(|| vec![0]),
        limits: reader.read("limits", limits).unwrap_or_default(),
    };
    if reader.problems.len() > before {
        return None;
    }
    resolve_paths(&mut agent, &document.directory);
    for refusal in agents::refusals(&agent) {
        let span = table.get(refusal.key).map_or_else(|| name.span(), Spanned::span);
        problems.push(document.problem(&span, format!("agent {:?}: {}", agent.name, refusal.message)));
    }
    (problems.len() == before).then_some(agent)
}

/// A program with a slash and a working directory are relative to the file, wherever orch was started.
fn resolve_paths(agent: &mut Agent, directory: &Path) {
    let below = |path: &str| {
        let directory = agents::literal(directory.to_string_lossy().trim_end_matches('/'));
        format!("{directory}/{}", path.strip_prefix("./").unwrap_or(path))
    };
    if let Some(program) =
        agent.command.first_mut().filter(|program| program.contains('/') && !program.starts_with('/'))
    {
        *program = below(program);
    }
    agent.cwd = agent.cwd.take().map(|cwd| match cwd.to_str() {
        Some("" | ".") => PathBuf::from(agents::literal(&directory.to_string_lossy())),
        Some(text) if !text.starts_with('/') => PathBuf::from(below(text)),
        _ => cwd,
    });
}

struct Reader<'a, 'd> {
    document: &'a Document<'d>,
    agent: &'a str,
    table: &'a DeTable<'a>,
    problems: &'a mut Vec<Problem>,
}

impl Reader<'_, '_> {
    fn refuse(&mut self, span: &std::ops::Range<usize>, message: &str) {
        self.problems.push(self.document.problem(span, format!("agent {:?} {message}", self.agent)));
    }

    fn refuse_unknown_keys(&mut self) {
        for (key, _) in in_order(self.table) {
            let name = key.get_ref().as_ref();
            if !KEYS.contains(&name) {
                let hint = nearest(name, KEYS.iter().copied());
                self.refuse(&key.span(), &format!("has the unknown key {name:?}: {hint}"));
            }
        }
    }

    /// The value of a key, if it stands there and is right.
    fn read<T>(&mut self, key: &str, parse: impl Fn(&DeValue<'_>) -> Result<T, String>) -> Option<T> {
        let value = self.table.get(key)?;
        match parse(value.get_ref()) {
            Ok(parsed) => Some(parsed),
            Err(message) => {
                self.refuse(&value.span(), &format!("has a {key} that {message}"));
                None
            }
        }
    }
}

fn text(value: &DeValue<'_>) -> Result<String, String> {
    match value {
        DeValue::String(text) => Ok(text.clone().into_owned()),
        other => Err(format!("is {}: write a text in quotes", article(other))),
    }
}

fn texts(value: &DeValue<'_>) -> Result<Vec<String>, String> {
    let refused = |what: &str| format!("{what}: write a list of texts, for example [\"git\", \"status\"]");
    let DeValue::Array(values) = value else { return Err(refused(&format!("is {}", article(value)))) };
    values
        .iter()
        .map(|value: &Value<'_>| {
            text(value.get_ref()).map_err(|_| refused(&format!("has {} in it", article(value.get_ref()))))
        })
        .collect()
}

/// Names of limits, as the database will take them.
fn limits(value: &DeValue<'_>) -> Result<Vec<String>, String> {
    let mut names = texts(value)?;
    for name in &names {
        let letters = |c: char| c.is_ascii_alphanumeric() || "._:/-".contains(c);
        let begins = name.starts_with(|c: char| c.is_ascii_alphanumeric());
        if !begins || name.len() > 100 || !name.chars().all(letters) || name.eq_ignore_ascii_case("null") {
            return Err(format!(
                "has {name:?} in it, which is no name of a limit: write 1 to 100 letters, digits, \".\", \"_\", \":\", \"/\" \
                 and \"-\", a letter or digit first"
            ));
        }
        if name == "all" || name.starts_with("project:") || name.starts_with("agent:") {
            return Err(format!("has {name:?} in it, which every job needs unsaid: remove it"));
        }
    }
    names.sort();
    names.dedup();
    if names.len() > 16 { Err("has more than 16 names in it".to_owned()) } else { Ok(names) }
}

fn text_table(value: &DeValue<'_>) -> Result<BTreeMap<String, String>, String> {
    let DeValue::Table(table) = value else {
        return Err(format!("is {}: write a table, for example {{ LANG = \"C.UTF-8\" }}", article(value)));
    };
    let pair = |(key, value): (&Spanned<DeString<'_>>, &Value<'_>)| match value.get_ref() {
        DeValue::String(text) => Ok((key.get_ref().clone().into_owned(), text.clone().into_owned())),
        _ => Err(format!("has {}, which is no text: put its value in quotes", key.get_ref())),
    };
    table.iter().map(pair).collect()
}

fn text_or_number(value: &DeValue<'_>) -> Result<String, String> {
    match value {
        DeValue::Integer(number) => integer(number).map(|number| number.to_string()),
        other => text(other),
    }
}

fn whole(value: &DeValue<'_>, least: i64, most: i64) -> Result<i64, String> {
    kinds::whole(&text_or_number(value)?, least, most)
}

/// The shortest duration that ends anything.
fn positive(value: &DeValue<'_>) -> Result<Duration, String> {
    kinds::at_least(&text_or_number(value)?, Duration::from_millis(1))
}

/// A silence is told only so fast: the shim looks at its clock, and a program may buffer.
fn silence(value: &DeValue<'_>) -> Result<Duration, String> {
    kinds::at_least(&text_or_number(value)?, Duration::from_secs(1))
}

fn word<T: std::str::FromStr<Err = crate::model::UnknownWord>>(value: &DeValue<'_>) -> Result<T, String> {
    text(value)?.parse().map_err(|unknown: crate::model::UnknownWord| {
        format!("is {:?}, which is unknown: write one of {}", unknown.word, unknown.known)
    })
}

fn stdin(value: &DeValue<'_>) -> Result<Stdin, String> {
    match text(value)?.as_str() {
        "payload" => Ok(Stdin::Payload),
        "null" => Ok(Stdin::Null),
        other => Err(format!("is {other:?}, which is unknown: write \"payload\" or \"null\"")),
    }
}

fn codes(value: &DeValue<'_>) -> Result<Vec<i32>, String> {
    let refused = "is no list of exit statuses: write for example [0]";
    let DeValue::Array(values) = value else { return Err(refused.to_owned()) };
    if values.is_empty() {
        return Err("is empty, so that no run could succeed: write at least [0]".to_owned());
    }
    values.iter().map(|value| whole(value.get_ref(), 0, 255).map(|n| n as i32)).collect()
}

fn backoff(value: &DeValue<'_>) -> Result<Backoff, String> {
    let DeValue::Table(table) = value else {
        return Err("is no table: write { base = \"5s\", factor = 2, max = \"1h\" }".to_owned());
    };
    let mut backoff = Backoff::default();
    for (key, value) in in_order(table) {
        let value = value.get_ref();
        let part = |message: String| format!("has a {} that {message}", key.get_ref());
        match key.get_ref().as_ref() {
            "base" => backoff.base = positive(value).map_err(part)?.as_secs_f64(),
            "max" => backoff.max = positive(value).map_err(part)?.as_secs_f64(),
            "factor" => backoff.factor = factor(value).map_err(part)?,
            other => {
                return Err(format!("has the unknown key {other:?}: {}", nearest(other, ["base", "factor", "max"])));
            }
        }
    }
    if backoff.max < backoff.base {
        return Err("has a max shorter than its base: write a longer max or a shorter base".to_owned());
    }
    Ok(backoff)
}

fn factor(value: &DeValue<'_>) -> Result<f64, String> {
    let number = match value {
        DeValue::Integer(number) => integer(number)? as f64,
        DeValue::Float(number) => number.as_str().parse().unwrap_or(f64::NAN),
        _ => f64::NAN,
    };
    let good = (1.0..=1000.0).contains(&number);
    good.then_some(number).ok_or_else(|| "is out of bounds: write a number from 1 to 1000".to_owned())
}
