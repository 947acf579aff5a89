//! The templates: a text with holes such as `{{ payload.repo.url }}`. `{{{{` stands for a plain `{{`.
//!
//! Only takes a text apart. There are no expressions, no conditions and no way to name a file or a variable.

use std::fmt;

/// What a hole stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Hole {
    /// A value of the payload by its path; a number indexes a list.
    Payload(Vec<String>),
    /// The job's number.
    JobId,
    /// The run's name.
    RunId,
    /// The project's name.
    Project,
    /// Which try it is, from 1.
    Attempt,
}

impl Hole {
    /// Whether a producer of jobs chooses the text.
    pub(super) fn is_foreign(&self) -> bool {
        matches!(self, Self::Payload(_) | Self::Project)
    }

    fn parse(words: &str) -> Result<Self, String> {
        let name = words.trim();
        let keys = match name {
            "job.id" => return Ok(Self::JobId),
            "run.id" => return Ok(Self::RunId),
            "project" => return Ok(Self::Project),
            "attempt" => return Ok(Self::Attempt),
            "payload" => "",
            _ => name.strip_prefix("payload.").filter(|keys| !keys.is_empty()).ok_or_else(|| {
                format!(
                    "unknown name {name:?} in a template: write payload.KEY, job.id, run.id, project or attempt \
                     (and {{{{{{{{ for a plain {{{{)"
                )
            })?,
        };
        let keys: Vec<String> = if keys.is_empty() { Vec::new() } else { keys.split('.').map(str::to_owned).collect() };
        let plain =
            |key: &String| !key.is_empty() && key.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '-'));
        if keys.iter().all(plain) {
            Ok(Self::Payload(keys))
        } else {
            Err(format!("{name:?} in a template is no path of keys: write for example payload.repo.url"))
        }
    }
}

impl fmt::Display for Hole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Payload(keys) => {
                f.write_str("payload")?;
                keys.iter().try_for_each(|key| write!(f, ".{key}"))
            }
            Self::JobId => f.write_str("job.id"),
            Self::RunId => f.write_str("run.id"),
            Self::Project => f.write_str("project"),
            Self::Attempt => f.write_str("attempt"),
        }
    }
}

/// A piece of a template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Piece {
    Text(String),
    Hole(Hole),
}

/// The pieces of a template. Neighbouring texts are one piece, and none is empty.
pub(super) fn parse(template: &str) -> Result<Vec<Piece>, String> {
    let mut pieces = Vec::new();
    let mut text = String::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("{{") {
        text.push_str(before);
        if let Some(after) = after.strip_prefix("{{") {
            text.push_str("{{");
            rest = after;
            continue;
        }
        let Some((words, after)) = after.split_once("}}") else {
            return Err(format!("{template:?} has {{{{ without }}}}: close it, or write {{{{{{{{ for a plain {{{{"));
        };
        if !text.is_empty() {
            pieces.push(Piece::Text(std::mem::take(&mut text)));
        }
        pieces.push(Piece::Hole(Hole::parse(words)?));
        rest = after;
    }
    text.push_str(rest);
    if !text.is_empty() {
        pieces.push(Piece::Text(text));
    }
    Ok(pieces)
}

/// The template that stands for exactly this text.
#[must_use]
pub fn literal(text: &str) -> String {
    text.replace("{{", "{{{{")
}

/// The text that a template without holes stands for.
#[must_use]
pub fn plain(template: &str) -> Option<String> {
    match parse(template).ok()?.as_slice() {
        [] => Some(String::new()),
        [Piece::Text(text)] => Some(text.clone()),
        _ => None,
    }
}
