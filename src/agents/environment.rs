//! The environment of a run: an allow-list, and nothing else of what the replica itself sees.
//!
//! In rising order: the base (`PATH` and `LANG`, the replica's own or a plain default), `pass_env`, `env`, and last
//! what orch says of the job (`ORCH_JOB_ID`, …), which nothing can override. `HOME` is not in the base, since the run
//! may be another user: pass it or write it.

use std::{collections::BTreeMap, ffi::OsString};

use super::{Agent, JobFacts, RenderError};
use crate::model::secret::can_be_hidden;

/// Bytes of `ORCH_PREVIOUS_ERROR`; the rest is cut off, since a variable may have 128 KiB at most.
pub const MAX_PREVIOUS_ERROR: usize = 16 * 1024;

const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Where a run of this agent looks for its program.
#[must_use]
pub fn search_path(agent: &Agent, host: &dyn Fn(&str) -> Option<OsString>) -> String {
    agent
        .env
        .get("PATH")
        .cloned()
        .or_else(|| host("PATH").and_then(|path| path.into_string().ok()).filter(|path| !path.is_empty()))
        .unwrap_or_else(|| DEFAULT_PATH.to_owned())
}

/// The variable of `redact` whose value is too short to be hidden, if there is one.
#[must_use]
pub fn too_short<'a>(agent: &'a Agent, host: &dyn Fn(&str) -> Option<OsString>) -> Option<&'a str> {
    let value = |name: &str| {
        let passed = || agent.pass_env.iter().any(|passed| passed == name).then(|| host(name)?.into_string().ok());
        agent.env.get(name).cloned().or_else(|| passed().flatten())
    };
    agent.redact.iter().map(String::as_str).find(|name| value(name).is_some_and(|value| !can_be_hidden(&value)))
}

/// The whole environment of a run, by name.
pub(super) fn build(
    agent: &Agent,
    job: &JobFacts,
    host: &dyn Fn(&str) -> Option<OsString>,
) -> Result<Vec<(String, String)>, RenderError> {
    let mut variables = BTreeMap::new();
    let lang = host("LANG").and_then(|lang| lang.into_string().ok()).unwrap_or_else(|| "C.UTF-8".to_owned());
    variables.insert("LANG".to_owned(), lang);
    variables.insert("PATH".to_owned(), search_path(agent, host));
    for name in &agent.pass_env {
        if let Some(value) = host(name) {
            let value = value.into_string().map_err(|_| RenderError::NotText { name: name.clone() })?;
            variables.insert(name.clone(), value);
        }
    }
    variables.extend(agent.env.clone());
    if let Some(name) = too_short(agent, host) {
        return Err(RenderError::TooShort { name: name.to_owned() });
    }
    let file = |name: &str, path: &std::path::Path| {
        path.to_str().map(str::to_owned).ok_or_else(|| RenderError::NotText { name: name.to_owned() })
    };
    let own = [
        ("ORCH_JOB_ID", job.job_id.to_string()),
        ("ORCH_RUN_ID", job.run_id.to_string()),
        ("ORCH_ATTEMPT", job.attempt.to_string()),
        ("ORCH_PROJECT", job.project.clone()),
        ("ORCH_PAYLOAD_FILE", file("ORCH_PAYLOAD_FILE", &job.payload_file)?),
        ("ORCH_RESULT_FILE", file("ORCH_RESULT_FILE", &job.result_file)?),
    ];
    variables.extend(own.map(|(name, value)| (name.to_owned(), value)));
    if let Some(error) = &job.previous_error {
        variables.insert("ORCH_PREVIOUS_ERROR".to_owned(), shortened(error));
    }
    match variables.iter().find(|(_, value)| value.contains('\0')) {
        Some((name, _)) => Err(RenderError::Nul { place: format!("the variable {name}") }),
        None => Ok(variables.into_iter().collect()),
    }
}

fn shortened(error: &str) -> String {
    let end = error.floor_char_boundary(MAX_PREVIOUS_ERROR);
    error[..end].replace('\0', "\u{fffd}")
}
