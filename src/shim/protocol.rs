//! What a replica and a shim tell each other: plain facts, their JSON, and nothing that acts.
//!
//! Owns the shapes of `spec.json`, `exit.json` and the frames on the socket. A shim of an older version may still be
//! alive, so fields are only ever added, with a default. Never forks, waits or signals; knows no database.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use super::{
    rundir::{RunDir, RunLock},
    spare::{SpareDir, Word},
};
use crate::model::{Containment, JobId, ReplicaId, RunId, fence::Limit};

/// The largest result file that is passed on, in bytes.
pub const RESULT_MAX: u64 = 1024 * 1024;

/// What a run's standard input is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stdin {
    /// The payload file.
    Payload,
    /// `/dev/null`.
    Null,
}

/// Whom the job becomes, looked up by the replica so that no shim loads the system's name services.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Its user,
    pub uid: u32,
    /// its group,
    pub gid: u32,
    /// and the groups that it is in.
    pub groups: Vec<u32>,
}

/// `spec.json`: what a shim starts and how it holds it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spec {
    /// The run; `ORCH_RUN_ID` of the job is always this, whatever `env` says.
    pub run_id: RunId,
    /// The job, for people who read the file.
    pub job_id: JobId,
    /// The replica that claimed the run.
    pub replica_id: ReplicaId,
    /// The program and its arguments. A program without a slash is looked for in `PATH` of `env`. Never a shell.
    pub argv: Vec<String>,
    /// The complete environment of the job.
    pub env: Vec<(String, String)>,
    /// Names of those of `env` whose values are replaced in the output.
    #[serde(default)]
    pub redact: Vec<String>,
    /// Where the job starts; the `job` directory of the run where there is none.
    pub cwd: Option<PathBuf>,
    /// The user that the job becomes, by name; the replica's own where there is none.
    pub user: Option<String>,
    /// Who that is, looked up when the file is written: whoever asks for a run leaves it out. None beside a `user`: there is no
    /// such user, which is an error of the start.
    #[serde(default)]
    pub identity: Option<Identity>,
    /// What the job reads from.
    pub stdin: Stdin,
    /// From the program's start to its end by `TimedOut`, in milliseconds of `CLOCK_BOOTTIME`.
    pub timeout_ms: Option<u64>,
    /// Without a byte of output for so long it is ended by `Silent`, in milliseconds of `CLOCK_BOOTTIME`.
    #[serde(default)]
    pub silence_timeout_ms: Option<u64>,
    /// K: from TERM to KILL after a timeout, and what the fence counts back from the lease's end, in milliseconds.
    pub kill_grace_ms: u64,
    /// The containment that the run must have; the best there is where nothing is demanded.
    pub containment: Option<Containment>,
    /// Bytes of memory that the tree may use, where that can be had.
    pub memory_max: Option<u64>,
    /// Processes that the tree may have, where that can be had.
    pub pids_max: Option<u64>,
    /// Bytes kept of the output, head and tail together.
    pub log_cap: u64,
}

impl Spec {
    /// This command and nothing else: no environment, no input, no limit, no grace and no output that is kept.
    #[must_use]
    pub const fn bare(run_id: RunId, job_id: JobId, replica_id: ReplicaId, argv: Vec<String>) -> Self {
        Self {
            run_id,
            job_id,
            replica_id,
            argv,
            env: Vec::new(),
            redact: Vec::new(),
            cwd: None,
            user: None,
            identity: None,
            stdin: Stdin::Null,
            timeout_ms: None,
            silence_timeout_ms: None,
            kill_grace_ms: 0,
            containment: None,
            memory_max: None,
            pids_max: None,
            log_cap: 0,
        }
    }
}

/// The program runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Started {
    /// The main process, as the replica's pid namespace sees it. For people to read; nobody signals it.
    pub pid: i32,
    /// When the main process began, in clock ticks since boot (`/proc/PID/stat`, field 22).
    pub pid_started: i64,
    /// What holds the tree together.
    pub containment: Containment,
    /// Wishes of the spec that could not be had as asked, one sentence each (a memory limit without a controller).
    #[serde(default)]
    pub remarks: Vec<String>,
}

/// Why a program was not started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct SpawnError {
    /// Whether the same might succeed later (no memory, no descriptors, no space), or never will.
    pub temporary: bool,
    /// What failed, with the system's reason.
    pub message: String,
}

/// Why a tree is told to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The job was cancelled.
    Cancel,
    /// The replica stops, or the shim was told to by a signal.
    Stop,
    /// The database does not grant this run to its owner (any more).
    GivenUp,
}

/// Who ended the main process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "what", content = "reason")]
pub enum Cause {
    /// It ended by itself, or by a signal that was not the shim's.
    Exited,
    /// It outlived its timeout and was ended.
    TimedOut,
    /// It wrote nothing for as long as `silence_timeout` allows, and was ended.
    Silent,
    /// The lease of the replica that it follows was about to run out, so it was ended: by the lease's end another
    /// replica may start the job.
    Fenced,
    /// It was told to end.
    Terminated(Reason),
}

impl From<Limit> for Cause {
    fn from(limit: Limit) -> Self {
        match limit {
            Limit::Lease => Self::Fenced,
            Limit::Timeout => Self::TimedOut,
            Limit::Silence => Self::Silent,
        }
    }
}

/// What became of the result file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResultFile {
    /// Its text, unparsed, at most [`RESULT_MAX`] bytes.
    Text(String),
    /// Why it could not be taken: too large, no regular file, not UTF-8.
    Error(String),
}

/// `exit.json`: how a run ended. Facts only; what follows for the job is decided elsewhere.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Exit {
    /// The run.
    pub run_id: RunId,
    /// Nothing was started, because the run had been given up: `void` stands, or its directory is gone.
    #[serde(default)]
    pub voided: bool,
    /// Nothing was started, because it could not be.
    pub never_started: Option<SpawnError>,
    /// What was started.
    pub started: Option<Started>,
    /// The main process' exit status, if it exited.
    pub exit_code: Option<i32>,
    /// The signal that ended the main process, if one did.
    pub signal: Option<i32>,
    /// Who ended it.
    pub cause: Cause,
    /// How long it was allowed to write nothing, in milliseconds.
    #[serde(default)]
    pub silence_timeout_ms: Option<u64>,
    /// Processes of the tree that were still there when the main process had ended, and were ended.
    pub processes_killed: u32,
    /// Processes that could not be ended within the bound; only containment `sweep` gives up.
    #[serde(default)]
    pub processes_left: u32,
    /// CPU time of the whole tree in user mode, in seconds.
    pub user_cpu_seconds: f64,
    /// CPU time of the whole tree in the kernel, in seconds.
    pub system_cpu_seconds: f64,
    /// Peak memory in bytes: of the tree where a memory controller counts it, else of its largest process.
    pub peak_memory_bytes: u64,
    /// Whether the memory limit ended a process; unknown without a memory controller.
    pub oom_killed: Option<bool>,
    /// Bytes of output that are kept.
    pub log_bytes_kept: u64,
    /// Bytes of output that are not.
    pub log_bytes_dropped: u64,
    /// The result file, if there was one.
    pub result: Option<ResultFile>,
}

impl Exit {
    /// The end of a run of which nothing is known yet.
    #[must_use]
    pub const fn new(run_id: RunId) -> Self {
        Self {
            run_id,
            voided: false,
            never_started: None,
            started: None,
            exit_code: None,
            signal: None,
            cause: Cause::Exited,
            silence_timeout_ms: None,
            processes_killed: 0,
            processes_left: 0,
            user_cpu_seconds: 0.0,
            system_cpu_seconds: 0.0,
            peak_memory_bytes: 0,
            oom_killed: None,
            log_bytes_kept: 0,
            log_bytes_dropped: 0,
            result: None,
        }
    }
}

/// What a replica asks a shim.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Request {
    /// Start what stands in the run's directory. The first word to every shim; it does nothing before it, and goes where
    /// it does not come.
    Begin {
        /// The run, of which a shim that was forked ahead knows nothing before.
        run_id: RunId,
        /// What stands in `spec.json` otherwise: told to one that was forked ahead, which need not read it there then.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        spec: Option<Box<Spec>>,
    },
    /// End the tree: TERM now, KILL after the grace.
    Terminate {
        /// From TERM to KILL, in milliseconds.
        grace_ms: u64,
        /// Why.
        reason: Reason,
    },
    /// The end is stored in the database: nothing needs to be made durable any more.
    Stored,
    /// Follow the lease of this replica from now on: it has adopted the run. Answered by [`Report::Following`].
    Follow {
        /// The new owner, whose lease file stands beside the former one's.
        replica_id: ReplicaId,
    },
}

/// What a shim tells a replica, in this order; a new connection hears at once what has happened so far.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Report {
    /// Who speaks: to whoever comes through the socket in the run's directory.
    Hello {
        /// The version of the binary.
        version: String,
        /// The run.
        run_id: RunId,
    },
    /// The program runs.
    Started(Started),
    /// The lease of this replica is followed from now on. Said again to whoever connects later.
    Following {
        /// Whose.
        replica_id: ReplicaId,
    },
    /// So many bytes of output have come in all: said while it grows, twice a second at the most, and dropped where
    /// somebody does not listen.
    Output {
        /// Kept and dropped together.
        bytes: u64,
    },
    /// KILL was sent, again and again, and processes of the tree live on all the same.
    Unending,
    /// The tree is empty, `exit.json` stands (or could not be written).
    Exit(Box<Exit>),
}
