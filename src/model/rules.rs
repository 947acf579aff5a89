//! The retry rules of a run, frozen at its claim so that any replica can settle a dead one's run.

use serde::{Deserialize, Serialize};

super::words! {
    /// What becomes of a job whose run was lost.
    OnLost as "on_lost" {
        /// Run it again: at once the first time, then with backoff, until `max_lost`.
        Requeue = "requeue",
        /// Hold it for an operator: the command is not safe to repeat.
        Hold = "hold",
        /// Fail it.
        Fail = "fail",
    }
}

/// Exponential backoff: `base * factor ^ (n - 1)`, at most `max`, times a jitter of 0.5 to 1.5. Seconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Backoff {
    /// The first wait, in seconds.
    pub base: f64,
    /// What each further wait is multiplied by, at least 1.
    pub factor: f64,
    /// The longest wait before jitter, in seconds.
    pub max: f64,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { base: 5.0, factor: 2.0, max: 3600.0 }
    }
}

/// `agent_runs.rules`, as JSON with exactly these keys. Durations are seconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Rules {
    /// Counted failures after which the job is failed.
    pub max_attempts: i32,
    /// Waits between attempts.
    pub backoff: Backoff,
    /// What a lost run does to its job.
    pub on_lost: OnLost,
    /// Losses after which the job is failed as poisoned.
    pub max_lost: i32,
    /// Transient ends after which the job is held.
    pub max_transient: i32,
    /// Interruptions after which the job is held.
    pub max_interrupted: i32,
    /// L: a run that lasted longer resets the count of interruptions. Seconds.
    pub lease: f64,
    /// The job's timeout in seconds, if it has one.
    pub timeout: Option<f64>,
}
