//! The settings of a process: flag over environment over `orch.toml`, one name everywhere.
//!
//! Owns names, defaults, units and bounds, and which database is meant. Never touches the database.

mod agent;
mod bounds;
mod check;
mod database;
mod dsn;
mod file;
mod kinds;
mod paths;
mod pgpass;
mod problem;
mod table;
mod tls;
mod values;

use std::{collections::BTreeMap, path::Path};

pub use check::{Report, check};
pub use database::{DATABASE_URL_FILE, Database, Source, database_config, explicit_database, own_url, renewal_server};
pub use paths::Environment;
pub use problem::{Place, Problem, Problems};
pub use table::{Fallback, SETTINGS, Setting, Settings};
pub use values::Overrides;
use values::Values;

use crate::agents::Agent;

/// What a replica does on SIGTERM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drain {
    /// Stop claiming, wait up to `drain_grace`, then interrupt.
    Finish,
    /// Stop claiming, renew a longer lease and go; live runs wait for the next boot on this state directory.
    Handover,
}

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Loads the settings: flags over the environment over `orch.toml` over the defaults.
///
/// # Errors
/// [`Problems`], all of them, each a sentence that says what to do.
pub fn load(overrides: &Overrides) -> anyhow::Result<Settings> {
    load_from(overrides, &paths::process_environment)
}

/// Reads the agents of a file again, as on SIGHUP.
///
/// # Errors
/// [`Problems`] of the whole file; whoever asked keeps the agents that it has.
pub fn reload_agents(path: &Path) -> anyhow::Result<BTreeMap<String, Agent>> {
    let (mut values, mut problems) = (Values::default(), Vec::new());
    let agents = read_file(path, true, &mut values, &mut problems);
    if problems.is_empty() { Ok(agents) } else { Err(Problems(problems).into()) }
}

impl Settings {
    /// Takes the agents of the file anew. A bad file, or one that is gone, changes nothing and the error says so.
    pub fn replace_agents(&mut self) -> anyhow::Result<()> {
        let Some(path) = &self.config else {
            anyhow::bail!("there is no orch.toml to read again: start orch with --config FILE");
        };
        self.agents = reload_agents(path).map_err(|error| error.context("the agents stay as they were"))?;
        Ok(())
    }
}

fn load_from(overrides: &Overrides, environment: Environment<'_>) -> anyhow::Result<Settings> {
    match load_reporting(overrides, environment) {
        (Some(settings), _) => Ok(settings),
        (None, problems) => Err(Problems(problems).into()),
    }
}

/// The settings, or everything that is wrong with them.
fn load_reporting(overrides: &Overrides, environment: Environment<'_>) -> (Option<Settings>, Vec<Problem>) {
    let mut problems = Vec::new();
    // Which file it is must be known first, and the file cannot say.
    let mut upper = Values::default();
    upper.lay_environment(environment, &mut Vec::new());
    upper.lay_flags(overrides);
    let named = upper.text("config").map(|value| value.text.clone());
    let path = Path::new(named.as_deref().unwrap_or("orch.toml")).to_owned();

    let mut values = Values::default();
    let agents = read_file(&path, named.is_some(), &mut values, &mut problems);
    let found = named.is_some() || path.exists();
    values.lay_environment(environment, &mut problems);
    values.lay_flags(overrides);
    values.lay_defaults(environment, &mut problems);

    let settings = Settings::from_values(&values, agents, &mut problems).map(|mut settings| {
        let here = std::env::current_dir().unwrap_or_default();
        settings.config = found.then(|| paths::absolute_below(&here, &path));
        settings.state_dir = paths::absolute_below(&here, &settings.state_dir);
        settings.http_token_file = settings.http_token_file.map(|path| paths::absolute_below(&here, &path));
        problems.extend(bounds::refusals(&settings));
        settings
    });
    problems.sort_by_key(|problem| problem.at.as_ref().and_then(|place| place.line).unwrap_or(usize::MAX));
    (settings.filter(|_| problems.is_empty()), problems)
}

fn read_file(path: &Path, named: bool, values: &mut Values, problems: &mut Vec<Problem>) -> BTreeMap<String, Agent> {
    match file::read(path, named) {
        Ok(Some(text)) => file::parse(&file::Document::new(path, &text), values, problems),
        Ok(None) => BTreeMap::new(),
        Err(problem) => {
            problems.push(problem);
            BTreeMap::new()
        }
    }
}

#[cfg(test)]
mod tests;
