//! From an agent and a job to what is executed.
//!
//! Each element of the template becomes one argument, whatever the payload holds; only a list that is a whole element
//! becomes one argument for each of its values. Nothing is ever split, quoted, expanded or read by a shell.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use serde_json::Value;

use super::{
    Agent, environment,
    template::{Hole, Piece, parse},
};
use crate::model::{JobId, RunId, secret::SHORTEST};

/// What a template may know of a job.
#[derive(Debug, Clone)]
pub struct JobFacts {
    /// The job.
    pub job_id: JobId,
    /// This run of it.
    pub run_id: RunId,
    /// Which try it is, from 1.
    pub attempt: i32,
    /// The job's project.
    pub project: String,
    /// The file that holds the payload as JSON.
    pub payload_file: PathBuf,
    /// The file that the run may write its result to.
    pub result_file: PathBuf,
    /// How the run before ended, if it ended badly.
    pub previous_error: Option<String>,
}

/// What a run executes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// The program and its arguments.
    pub argv: Vec<String>,
    /// The whole environment, in order of the names.
    pub env: Vec<(String, String)>,
    /// Where it starts; its run directory where there is none.
    pub cwd: Option<PathBuf>,
}

/// Why a job cannot be made into a command. Trying again would not help.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RenderError {
    /// The payload has no value at this path, or null.
    #[error("the template {template:?} needs {key}, which the payload does not have: enqueue the job with it")]
    Missing {
        /// The element of the template.
        template: String,
        /// The path.
        key: String,
    },
    /// The payload has a value there that is no text.
    #[error("the template {template:?} cannot use {key}, which is {found}: {advice}")]
    Shape {
        /// The element of the template.
        template: String,
        /// The path.
        key: String,
        /// What it is.
        found: &'static str,
        /// What it should be.
        advice: &'static str,
    },
    /// No argument and no variable can hold a NUL byte.
    #[error("{place} would hold a NUL byte: remove it from the payload")]
    Nul {
        /// Which.
        place: String,
    },
    /// The working directory would not be below the one that the template writes.
    #[error("the working directory {template:?} would leave its place with {text:?}: use a plain name")]
    Escape {
        /// The template.
        template: String,
        /// What the job said.
        text: String,
    },
    /// A variable of the replica is not UTF-8.
    #[error("the variable {name} is not UTF-8: set it to plain text or take it out of pass_env")]
    NotText {
        /// Which.
        name: String,
    },
    /// A variable of the replica is to be hidden and cannot be.
    #[error(
        "the variable {name} is in redact and has no line of at least {SHORTEST} bytes, so that it cannot be hidden: choose a \
         longer value, or take it out of redact"
    )]
    TooShort {
        /// Which.
        name: String,
    },
    /// The template itself is wrong, which reading `orch.toml` would have refused.
    #[error("{0}")]
    Template(String),
}

/// Makes the command of a run.
///
/// A number is written as JSON writes it; one beyond 64 bits arrives as the nearest double, so send such as a text.
/// `host` answers what the replica's own environment holds; it is asked for `PATH`, `LANG` and the names in `pass_env`.
///
/// # Errors
/// [`RenderError`] where the payload does not fit the template.
pub fn render(
    agent: &Agent,
    job: &JobFacts,
    payload: &Value,
    host: &dyn Fn(&str) -> Option<OsString>,
) -> Result<Command, RenderError> {
    let mut argv = Vec::with_capacity(agent.command.len());
    for template in &agent.command {
        let pieces = parse(template).map_err(RenderError::Template)?;
        let context = Context { template, job, payload };
        match pieces.as_slice() {
            [Piece::Hole(hole @ Hole::Payload(_))] if !argv.is_empty() => context.spread(hole, &mut argv)?,
            pieces => argv.push(context.join(pieces)?),
        }
    }
    if let Some(index) = argv.iter().position(|argument| argument.contains('\0')) {
        return Err(RenderError::Nul { place: format!("argument {index}") });
    }
    let cwd = agent.cwd.as_deref().map(|cwd| render_cwd(cwd, job, payload)).transpose()?;
    Ok(Command { argv, env: environment::build(agent, job, host)?, cwd })
}

struct Context<'a> {
    template: &'a str,
    job: &'a JobFacts,
    payload: &'a Value,
}

impl Context<'_> {
    /// A payload's value as a whole element: a list becomes one argument for each of its values.
    fn spread(&self, hole: &Hole, argv: &mut Vec<String>) -> Result<(), RenderError> {
        let Value::Array(values) = self.find(hole)? else {
            argv.push(self.text(hole)?);
            return Ok(());
        };
        for value in values {
            argv.push(self.scalar(hole, value, "write a flat list of texts and numbers")?);
        }
        Ok(())
    }

    fn join(&self, pieces: &[Piece]) -> Result<String, RenderError> {
        let mut joined = String::new();
        for piece in pieces {
            match piece {
                Piece::Text(text) => joined.push_str(text),
                Piece::Hole(hole) => joined.push_str(&self.text(hole)?),
            }
        }
        Ok(joined)
    }

    fn text(&self, hole: &Hole) -> Result<String, RenderError> {
        Ok(match hole {
            Hole::JobId => self.job.job_id.to_string(),
            Hole::RunId => self.job.run_id.to_string(),
            Hole::Project => self.job.project.clone(),
            Hole::Attempt => self.job.attempt.to_string(),
            Hole::Payload(_) => {
                let advice = "use a text or a number, or a list as an element of its own";
                self.scalar(hole, self.find(hole)?, advice)?
            }
        })
    }

    fn find(&self, hole: &Hole) -> Result<&Value, RenderError> {
        let Hole::Payload(keys) = hole else { return Ok(&Value::Null) };
        keys.iter()
            .try_fold(self.payload, |value, key| match value {
                Value::Object(map) => map.get(key),
                Value::Array(values) => key.parse::<usize>().ok().and_then(|index| values.get(index)),
                _ => None,
            })
            .filter(|value| !value.is_null())
            .ok_or_else(|| RenderError::Missing { template: self.template.to_owned(), key: hole.to_string() })
    }

    fn scalar(&self, hole: &Hole, value: &Value, advice: &'static str) -> Result<String, RenderError> {
        let found = match value {
            Value::String(text) => return Ok(text.clone()),
            Value::Bool(value) => return Ok(value.to_string()),
            Value::Number(number) => return Ok(number.to_string()),
            Value::Null => "a list with null in it",
            Value::Array(_) => "a list",
            Value::Object(_) => "an object",
        };
        Err(RenderError::Shape { template: self.template.to_owned(), key: hole.to_string(), found, advice })
    }
}

/// What a job says may only name something below what the template writes: no `..`, whatever it is put together from.
/// Symbolic links below it are followed, so whoever fills that directory is trusted.
fn render_cwd(template: &Path, job: &JobFacts, payload: &Value) -> Result<PathBuf, RenderError> {
    let template = template.to_str().ok_or_else(|| RenderError::NotText { name: "cwd".to_owned() })?;
    let pieces = parse(template).map_err(RenderError::Template)?;
    let context = Context { template, job, payload };
    let cwd = context.join(&pieces)?;
    let escape = |text: &str| RenderError::Escape { template: template.to_owned(), text: text.to_owned() };
    for piece in &pieces {
        if let Piece::Hole(hole) = piece
            && hole.is_foreign()
        {
            let text = context.text(hole)?;
            if text.is_empty() || text.starts_with('/') || text.split('/').any(|part| part == "." || part == "..") {
                return Err(escape(&text));
            }
        }
    }
    let has_holes = pieces.iter().any(|piece| matches!(piece, Piece::Hole(_)));
    if has_holes && cwd.split('/').any(|part| part == "..") {
        return Err(escape(&cwd));
    }
    if cwd.contains('\0') {
        return Err(RenderError::Nul { place: "the working directory".to_owned() });
    }
    Ok(PathBuf::from(cwd))
}
