//! What an agent may not be, and what is doubtful about one. Asked when `orch.toml` is read, before any job runs.

use super::{
    Agent,
    template::{Hole, Piece, parse},
};
use crate::model::secret::{SHORTEST, can_be_hidden};

/// Why an agent is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The key of `[agents.NAME]` that is to blame; `name` for the name itself.
    pub key: &'static str,
    /// A sentence that says what to do.
    pub message: String,
}

/// Everything that is wrong with an agent.
#[must_use]
pub fn refusals(agent: &Agent) -> Vec<Refusal> {
    let mut refusals = Vec::new();
    let mut refuse = |key, message: String| refusals.push(Refusal { key, message });
    if !is_name(&agent.name) {
        refuse(
            "name",
            "its name is not well formed: write 1 to 100 letters, digits, \".\", \"_\" or \"-\", a letter or digit first"
                .to_owned(),
        );
    }
    match agent.command.first().map(|program| parse(program)) {
        None => refuse("command", "its command is empty: write [\"PROGRAM\", \"ARGUMENT\"]".to_owned()),
        Some(Ok(pieces)) if pieces.is_empty() => {
            refuse("command", "its program is empty: write [\"PROGRAM\", \"ARGUMENT\"]".to_owned());
        }
        Some(Ok(pieces)) if pieces.iter().any(|piece| matches!(piece, Piece::Hole(_))) => refuse(
            "command",
            "its program comes from a template, so that a job could choose what is executed: write the program itself"
                .to_owned(),
        ),
        Some(_) => {}
    }
    for element in &agent.command {
        if let Err(message) = parse(element) {
            refuse("command", message);
        }
        if element.contains('\0') {
            refuse("command", "its command has a NUL byte, which no argument can hold: remove it".to_owned());
        }
    }
    if let Some(cwd) = &agent.cwd
        && let Err(message) = check_cwd(&cwd.to_string_lossy())
    {
        refuse("cwd", message);
    }
    for (name, value) in &agent.env {
        if let Err(message) = check_variable(name) {
            refuse("env", message);
        } else if value.contains('\0') {
            refuse("env", format!("its variable {name} has a NUL byte, which no variable can hold: remove it"));
        }
    }
    for name in &agent.pass_env {
        if let Err(message) = check_variable(name) {
            refuse("pass_env", message);
        }
    }
    for name in &agent.redact {
        match agent.env.get(name) {
            Some(value) if !can_be_hidden(value) => refuse(
                "redact",
                format!(
                    "its variable {name} has no line of at least {SHORTEST} bytes, so that it cannot be hidden: choose a longer \
                     value, or take it out of redact"
                ),
            ),
            None if !agent.pass_env.contains(name) => refuse(
                "redact",
                format!(
                    "its redact names {name:?}, which its runs do not get: add it to env or pass_env, or take it out"
                ),
            ),
            _ => {}
        }
    }
    refusals
}

/// What is doubtful about an agent, a sentence each.
#[must_use]
pub fn warnings(agent: &Agent) -> Vec<String> {
    let mut warnings = Vec::new();
    let mut options_ended = false;
    for element in agent.command.iter().skip(1) {
        if element == "--" {
            options_ended = true;
        }
        let Ok(pieces) = parse(element) else { continue };
        if let [Piece::Hole(hole @ (Hole::Payload(_) | Hole::Project)), ..] = pieces.as_slice()
            && !options_ended
        {
            warnings.push(format!(
                "{hole} may begin with \"-\" and would then be read as an option: write \"--\" before {element:?}, \
                 if the program understands it"
            ));
        }
    }
    warnings
}

fn is_name(name: &str) -> bool {
    name.len() <= 100
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))
}

fn check_variable(name: &str) -> Result<(), String> {
    if name.is_empty() || name.contains(['=', '\0']) {
        return Err(format!("{name:?} is no name of a variable: write for example \"HOME\""));
    }
    if name.starts_with("ORCH_") {
        return Err(format!("the variable {name} is orch's own, and a run sees those that concern it: remove it"));
    }
    Ok(())
}

/// A job may choose a name below the directory that is written, and nothing above or beside it.
fn check_cwd(cwd: &str) -> Result<(), String> {
    let pieces = parse(cwd)?;
    if pieces.is_empty() || cwd.contains('\0') {
        return Err("its cwd is no path: write a directory, or remove the key".to_owned());
    }
    let has_holes = pieces.iter().any(|piece| matches!(piece, Piece::Hole(_)));
    if has_holes && cwd.split('/').any(|component| component == "..") {
        return Err("its cwd has both a template and \"..\": write the path without \"..\"".to_owned());
    }
    if let Some(Piece::Hole(hole)) = pieces.first() {
        return Err(format!("its cwd begins with {hole}: write the directory that it is below first"));
    }
    Ok(())
}
