//! The settings of a process: flag over environment over `orch.toml`, one name everywhere.
//!
//! Owns names, defaults, units and bounds. Never touches the database.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, time::Duration};

use crate::agents::Agent;

/// What a replica does on SIGTERM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drain {
    /// Stop claiming, wait up to `drain_grace`, then interrupt.
    Finish,
}

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Every setting, resolved and checked. The field is the setting's name.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The file that was read, if there is one.
    pub config: Option<PathBuf>,
    /// HTTP address. Only loopback until tokens exist.
    pub listen: SocketAddr,
    /// Lock, runs, embedded Postgres and its `database-url`.
    pub state_dir: PathBuf,
    /// libpq URL or key-value string; `None` where neither `DATABASE_URL` nor `PG*` is set.
    pub database_url: Option<String>,
    /// Where renewals go; the same as `database_url` by default.
    pub renewal_url: Option<String>,
    /// Connections of the pool.
    pub pool_size: usize,
    /// Whether statements are prepared; `false` for PgBouncer below 1.21.
    pub prepared_statements: bool,
    /// For people; the host's name by default.
    pub name: String,
    /// For routing.
    pub labels: BTreeMap<String, String>,
    /// Slots of this replica.
    pub max_concurrency: usize,
    /// How often a replica with free slots asks for jobs, before jitter.
    pub poll_interval: Duration,
    /// H: how often the lease is renewed.
    pub heartbeat: Duration,
    /// L: how long a lease lasts.
    pub lease: Duration,
    /// K: from TERM to KILL.
    pub kill_grace: Duration,
    /// G: how long after its lease a replica is declared dead.
    pub reap_grace: Duration,
    /// How often the reaper ticks.
    pub reap_interval: Duration,
    /// Whether this replica reaps.
    pub reaper_enabled: bool,
    /// What SIGTERM does.
    pub drain: Drain,
    /// How long `finish` waits for live runs.
    pub drain_grace: Duration,
    /// The origin's switch: off, a job's gate is not enforced.
    pub serial_gate_enabled: bool,
    /// The origin's switch: off, impossible queued rows are not swept; the database's guards stay.
    pub impossible_queued_sanitize_enabled: bool,
    /// Bytes kept of a run's output.
    pub log_cap: u64,
    /// Bytes a payload may have.
    pub payload_max: u64,
    /// How this process logs.
    pub log_format: LogFormat,
    /// Losses after which a job is failed as poisoned.
    pub max_lost: i32,
    /// Transient ends after which a job is held.
    pub max_transient: i32,
    /// Interruptions after which a job is held.
    pub max_interrupted: i32,
    /// How long finished runs' logs are kept.
    pub keep_finished: Duration,
    /// The agents by name.
    pub agents: BTreeMap<String, Agent>,
}
