//! `orch config check`: everything that is wrong with the settings, what is doubtful, and what they mean.

use clap::Subcommand;
use serde_json::json;

use super::{
    exit::{Exit, say},
    output,
};
use crate::{
    config::{self, Overrides, Problem},
    http::Tokens,
};

/// What to do with the settings.
#[derive(Debug, Subcommand)]
pub(super) enum ConfigCommand {
    /// Check orch.toml, the environment and the flags, as `orch up` would read them
    Check,
}

pub(super) fn run(overrides: &Overrides, json: bool, command: &ConfigCommand) -> anyhow::Result<Exit> {
    match command {
        ConfigCommand::Check => check(overrides, json),
    }
}

fn check(overrides: &Overrides, json: bool) -> anyhow::Result<Exit> {
    let mut report = config::check(overrides);
    let tokens = report.settings.as_ref().and_then(|settings| settings.http_token_file.as_deref());
    if let Some(Err(sentence)) = tokens.map(Tokens::read) {
        report.errors.push(Problem { at: None, message: sentence });
    }
    let well = report.errors.is_empty();
    if json {
        let all = |problems: &[Problem]| problems.iter().map(ToString::to_string).collect::<Vec<_>>();
        output::document(&json!({
            "ok": well,
            "errors": all(&report.errors),
            "warnings": all(&report.warnings),
            "notes": report.notes,
        }))?;
        return Ok(Exit::from_success(well));
    }
    for problem in &report.errors {
        say(&problem.to_string());
    }
    for problem in &report.warnings {
        output::line(&format!("warning: {problem}"))?;
    }
    for note in &report.notes {
        output::line(note)?;
    }
    if let Some(settings) = report.settings.as_ref().filter(|_| well) {
        let file = settings.config.as_ref().map_or_else(|| "no file".to_owned(), |path| path.display().to_string());
        let agents = settings.agents.keys().cloned().collect::<Vec<_>>().join(", ");
        let agents = if agents.is_empty() { "none".to_owned() } else { agents };
        output::line(&format!("ok: {file}; agents: {agents}"))?;
    }
    Ok(Exit::from_success(well))
}
