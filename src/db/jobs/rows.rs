//! The shapes of jobs and runs as people and programs read them.

use jiff::Timestamp;
use serde::Serialize;
use serde_json::value::RawValue;
use tokio_postgres::Row;

use crate::{
    db::{Error, Result, dependencies::Dependencies},
    model::{ClosedBy, Containment, JobId, JobStatus, Outcome, ReplicaId, RunId, UnknownWord},
};

/// One job in a list.
#[derive(Debug, Clone, Serialize)]
pub struct JobLine {
    /// The job.
    pub id: JobId,
    /// Where it stands.
    pub status: JobStatus,
    /// For whom.
    pub project: String,
    /// What.
    pub agent: String,
    /// Higher first.
    pub priority: i16,
    /// Not before.
    pub run_at: Timestamp,
    /// Runs started.
    pub attempt: i32,
    /// Counted failures.
    pub failures: i32,
    /// The run, while it runs.
    pub run_id: Option<RunId>,
    /// The process, for people.
    pub pid: Option<i32>,
    /// The owner's name.
    pub replica: Option<String>,
    /// Where it runs.
    pub host: Option<String>,
    /// Whose old process must end first.
    pub awaits_replica: Option<ReplicaId>,
    /// The jobs that must succeed first, as far as it is not known that they have.
    pub waits_for: Vec<JobId>,
    /// When somebody wanted it to be cancelled.
    pub cancel_requested_at: Option<Timestamp>,
    /// When it was enqueued.
    pub created_at: Timestamp,
    /// When its run was claimed.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
    /// How its last run ended, if not well.
    pub error: Option<String>,
    /// The database's clock when this was read.
    #[serde(skip)]
    pub read_at: Timestamp,
}

/// One job, whole.
#[derive(Debug, Serialize)]
pub struct Job {
    /// What a list shows of it.
    #[serde(flatten)]
    pub line: JobLine,
    /// Counted failures after which it is failed; the agent's where there is none.
    pub max_attempts: Option<i32>,
    /// Lost runs.
    pub lost_count: i32,
    /// Transient ends.
    pub transient_count: i32,
    /// Interruptions.
    pub interrupted_count: i32,
    /// Its gate.
    pub gate: Option<String>,
    /// The limits that it needs, beside those of its agent.
    pub limits: Option<Vec<String>>,
    /// Labels that its replica must have.
    pub require: Option<Box<RawValue>>,
    /// Its labels.
    pub labels: Option<Box<RawValue>>,
    /// Its dedupe key.
    pub dedupe_key: Option<String>,
    /// After how many seconds a run is ended; the agent's where there is none.
    pub timeout_seconds: Option<f64>,
    /// The last run that ended.
    pub last_run_id: Option<RunId>,
    /// Seconds until its owner's lease ends, while it runs; negative once it has.
    pub lease_left_seconds: Option<f64>,
    /// Seconds since its run's last output arrived in the database, or since its program was started, while it runs.
    pub output_age_seconds: Option<f64>,
    /// What its runs are given.
    pub payload: Box<RawValue>,
    /// What the last run answered.
    pub result: Option<Box<RawValue>>,
}

/// A page of jobs, the newest first.
#[derive(Debug, Serialize)]
pub struct Page {
    /// The jobs.
    pub jobs: Vec<JobLine>,
    /// The last of them, where another page follows; the page after begins before it.
    pub next: Option<JobId>,
}

/// One job with its runs, and the jobs around it.
#[derive(Debug, Serialize)]
pub struct Whole {
    /// The job.
    #[serde(flatten)]
    pub job: Job,
    /// Which jobs it runs after, and which run after it.
    #[serde(flatten)]
    pub dependencies: Dependencies,
    /// Its runs, the first one first.
    pub runs: Vec<Run>,
}

/// One run of a job.
#[derive(Debug, Serialize)]
pub struct Run {
    /// The run.
    pub run_id: RunId,
    /// Which of the job, from 1 on.
    pub attempt: i32,
    /// Its owner.
    pub replica_id: Option<ReplicaId>,
    /// Its owner's name.
    pub replica: Option<String>,
    /// Where it ran.
    pub host: Option<String>,
    /// The process, for people.
    pub pid: Option<i32>,
    /// When it was claimed.
    pub claimed_at: Timestamp,
    /// When its process was there.
    pub spawned_at: Option<Timestamp>,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
    /// How it ended.
    pub outcome: Option<Outcome>,
    /// The exit status.
    pub exit_code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// What went wrong.
    pub error: Option<String>,
    /// What it answered.
    pub result: Option<Box<RawValue>>,
    /// Who wrote its end.
    pub closed_by: Option<ClosedBy>,
    /// What held its tree.
    pub containment: Option<Containment>,
    /// User CPU.
    pub user_cpu_seconds: Option<f64>,
    /// System CPU.
    pub system_cpu_seconds: Option<f64>,
    /// Peak memory.
    pub peak_memory_bytes: Option<i64>,
    /// Output kept.
    pub log_bytes_kept: Option<i64>,
    /// Output dropped.
    pub log_bytes_dropped: Option<i64>,
    /// Processes killed after the main process had ended.
    pub processes_killed: Option<i32>,
}

/// A job that a filter named.
#[derive(Debug, Clone, Serialize)]
pub struct Selected {
    /// The job.
    pub id: JobId,
    /// Where it stood.
    pub status: JobStatus,
    /// For whom.
    pub project: String,
    /// What.
    pub agent: String,
}

/// Where an awaited job stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// Its status.
    pub status: JobStatus,
    /// The run, while it runs.
    pub run_id: Option<RunId>,
    /// The last run that ended.
    pub last_run_id: Option<RunId>,
    /// How that ended.
    pub last_outcome: Option<Outcome>,
    /// What went wrong, for people.
    pub error: Option<String>,
}

impl JobLine {
    pub(super) fn from_row(row: &Row) -> Result<Self> {
        Ok(Self {
            id: JobId(row.try_get("id")?),
            status: word(row, "status")?,
            project: row.try_get("project")?,
            agent: row.try_get("agent")?,
            priority: row.try_get("priority")?,
            run_at: row.try_get("run_at")?,
            attempt: row.try_get("attempt")?,
            failures: row.try_get("failures")?,
            run_id: row.try_get::<_, Option<_>>("run_id")?.map(RunId),
            pid: row.try_get("pid")?,
            replica: row.try_get("replica")?,
            host: row.try_get("host")?,
            awaits_replica: row.try_get::<_, Option<_>>("awaits_replica")?.map(ReplicaId),
            waits_for: row
                .try_get::<_, Option<Vec<i64>>>("waits_for")?
                .map_or_else(Vec::new, |ids| ids.into_iter().map(JobId).collect()),
            cancel_requested_at: row.try_get("cancel_requested_at")?,
            created_at: row.try_get("created_at")?,
            started_at: row.try_get("started_at")?,
            finished_at: row.try_get("finished_at")?,
            error: row.try_get("error")?,
            read_at: row.try_get("read_at")?,
        })
    }
}

impl Job {
    pub(super) fn from_row(row: &Row) -> Result<Self> {
        Ok(Self {
            line: JobLine::from_row(row)?,
            max_attempts: row.try_get("max_attempts")?,
            lost_count: row.try_get("lost_count")?,
            transient_count: row.try_get("transient_count")?,
            interrupted_count: row.try_get("interrupted_count")?,
            gate: row.try_get("gate")?,
            limits: row.try_get("limits")?,
            require: json(row, "require")?,
            labels: json(row, "labels")?,
            dedupe_key: row.try_get("dedupe_key")?,
            timeout_seconds: row.try_get("timeout_seconds")?,
            last_run_id: row.try_get::<_, Option<_>>("last_run_id")?.map(RunId),
            lease_left_seconds: row.try_get("lease_left_seconds")?,
            output_age_seconds: row.try_get("output_age_seconds")?,
            payload: json(row, "payload")?.ok_or_else(|| disagreement("payload", "it is null"))?,
            result: json(row, "result")?,
        })
    }
}

impl Run {
    pub(super) fn from_row(row: &Row) -> Result<Self> {
        Ok(Self {
            run_id: RunId(row.try_get("run_id")?),
            attempt: row.try_get("attempt")?,
            replica_id: row.try_get::<_, Option<_>>("replica_id")?.map(ReplicaId),
            replica: row.try_get("replica")?,
            host: row.try_get("host")?,
            pid: row.try_get("pid")?,
            claimed_at: row.try_get("claimed_at")?,
            spawned_at: row.try_get("spawned_at")?,
            ended_at: row.try_get("ended_at")?,
            outcome: word_opt(row, "outcome")?,
            exit_code: row.try_get("exit_code")?,
            signal: row.try_get("signal")?,
            error: row.try_get("error")?,
            result: json(row, "result")?,
            closed_by: word_opt(row, "closed_by")?,
            containment: word_opt(row, "containment")?,
            user_cpu_seconds: row.try_get("user_cpu_seconds")?,
            system_cpu_seconds: row.try_get("system_cpu_seconds")?,
            peak_memory_bytes: row.try_get("peak_memory_bytes")?,
            log_bytes_kept: row.try_get("log_bytes_kept")?,
            log_bytes_dropped: row.try_get("log_bytes_dropped")?,
            processes_killed: row.try_get("processes_killed")?,
        })
    }
}

impl Selected {
    pub(super) fn from_row(row: &Row) -> Result<Self> {
        Ok(Self {
            id: JobId(row.try_get("id")?),
            status: word(row, "status")?,
            project: row.try_get("project")?,
            agent: row.try_get("agent")?,
        })
    }
}

impl Progress {
    pub(super) fn from_row(row: &Row) -> Result<Self> {
        Ok(Self {
            status: word(row, "status")?,
            run_id: row.try_get::<_, Option<_>>("run_id")?.map(RunId),
            last_run_id: row.try_get::<_, Option<_>>("last_run_id")?.map(RunId),
            last_outcome: word_opt(row, "last_outcome")?,
            error: row.try_get("error")?,
        })
    }
}

/// A word of the model.
pub(in crate::db) fn word<T: std::str::FromStr<Err = UnknownWord>>(row: &Row, column: &str) -> Result<T> {
    word_opt(row, column)?.ok_or_else(|| disagreement(column, "it is null"))
}

/// As [`word`], where there may be none.
pub(in crate::db) fn word_opt<T: std::str::FromStr<Err = UnknownWord>>(row: &Row, column: &str) -> Result<Option<T>> {
    let word: Option<&str> = row.try_get(column)?;
    word.map(|word| word.parse().map_err(|error: UnknownWord| disagreement(column, &error.to_string()))).transpose()
}

/// JSON that came as text: it is passed on as it is, however deep it is nested.
pub(in crate::db) fn json(row: &Row, column: &str) -> Result<Option<Box<RawValue>>> {
    let text: Option<String> = row.try_get(column)?;
    text.map(|text| RawValue::from_string(text).map_err(|error| disagreement(column, &error.to_string()))).transpose()
}

/// The statement and the code disagree about a column.
pub(in crate::db) fn disagreement(column: &str, what: &str) -> Error {
    Error::Server { code: "?????".to_owned(), message: format!("column {column} could not be read: {what}") }
}
