//! Agents: named command templates of `orch.toml`, and how a payload becomes an argv and an environment.
//!
//! Pure and security-critical: no shell, no I/O, no SQL. What it makes is what a run executes.

mod audit;
mod environment;
mod render;
mod template;

use std::{collections::BTreeMap, fmt, path::PathBuf, time::Duration};

pub use audit::{Refusal, refusals, warnings};
pub use environment::{MAX_PREVIOUS_ERROR, search_path, too_short};
pub use render::{Command, JobFacts, RenderError, render};
pub use template::{literal, plain};

use crate::model::{Backoff, Containment, OnLost};

/// What a run's standard input is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stdin {
    /// The payload as JSON.
    Payload,
    /// `/dev/null`.
    Null,
}

/// One `[agents.NAME]` of `orch.toml`, checked.
#[derive(Clone, PartialEq)]
pub struct Agent {
    /// The name, as jobs ask for it.
    pub name: String,
    /// The template: one argv element each, never a shell. The program is a path or is looked for in `PATH`.
    pub command: Vec<String>,
    /// Variables that the run gets, as written. Their values are never shown.
    pub env: BTreeMap<String, String>,
    /// Names of the replica's own variables that the run may see.
    pub pass_env: Vec<String>,
    /// Names of those of them whose values are replaced in the log.
    pub redact: Vec<String>,
    /// Where the run starts, a template; its own run directory where there is none.
    pub cwd: Option<PathBuf>,
    /// The user that the run is, by name; the replica's own where there is none.
    pub user: Option<String>,
    /// What standard input is.
    pub stdin: Stdin,
    /// After how long the run is ended as timed out.
    pub timeout: Option<Duration>,
    /// After how long without output the run is ended as timed out.
    pub silence_timeout: Option<Duration>,
    /// Counted failures after which the job is failed.
    pub max_attempts: i32,
    /// Waits between attempts.
    pub backoff: Backoff,
    /// What a lost run does to its job.
    pub on_lost: OnLost,
    /// The containment that the run must have; the best there is where nothing is demanded.
    pub containment: Option<Containment>,
    /// Bytes of memory that the tree may use, where that can be had.
    pub memory_max: Option<u64>,
    /// Processes that the tree may have, where that can be had.
    pub pids_max: Option<u64>,
    /// Exit statuses that mean success.
    pub success_codes: Vec<i32>,
    /// Named limits that each of its jobs needs, sorted.
    pub limits: Vec<String>,
}

impl fmt::Debug for Agent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let env: Vec<&String> = self.env.keys().collect();
        f.debug_struct("Agent")
            .field("name", &self.name)
            .field("command", &self.command)
            .field("env", &env)
            .field("pass_env", &self.pass_env)
            .field("redact", &self.redact)
            .field("cwd", &self.cwd)
            .field("user", &self.user)
            .field("stdin", &self.stdin)
            .field("timeout", &self.timeout)
            .field("silence_timeout", &self.silence_timeout)
            .field("max_attempts", &self.max_attempts)
            .field("backoff", &self.backoff)
            .field("on_lost", &self.on_lost)
            .field("containment", &self.containment)
            .field("memory_max", &self.memory_max)
            .field("pids_max", &self.pids_max)
            .field("success_codes", &self.success_codes)
            .field("limits", &self.limits)
            .finish()
    }
}

#[cfg(test)]
mod tests;
