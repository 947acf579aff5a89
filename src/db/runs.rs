//! Runs: claim, stamp and settle, the one door into `running` and the one out of it.
//!
//! Owns the proof of ownership: an [`Owned`] is minted only from a row that proved it, and is consumed by the settle.
//! Never decides how a run ended (the replica does) nor what follows for its job (`orch.settle_rule` does).

use std::time::Duration;

use jiff::Timestamp;
use tokio_postgres::Row;

use super::{Db, Error, Result, Statement, statement};
use crate::model::{ClosedBy, Containment, JobId, JobStatus, Outcome, ReplicaId, RunId};

const CLAIM: Statement = statement!("runs/claim", [UUID, UUID_ARRAY, TEXT_ARRAY, BOOL, TEXT, TEXT, JSONB, INT8_ARRAY]);
const CLAIMABLE: Statement = statement!("runs/claimable", [TEXT_ARRAY, INT8, BOOL]);
const HOLD_OFFENDER: Statement = statement!("runs/hold_offender", [INT8, TEXT]);
const STAMP: Statement = statement!("runs/stamp", [UUID, INT8_ARRAY, UUID_ARRAY, INT4_ARRAY, INT8_ARRAY, TEXT_ARRAY]);
const SETTLE: Statement = statement!(
    "runs/settle",
    [
        INT8_ARRAY,
        UUID_ARRAY,
        UUID_ARRAY,
        TEXT_ARRAY,
        TEXT_ARRAY,
        INT4_ARRAY,
        INT4_ARRAY,
        TEXT_ARRAY,
        TEXT_ARRAY,
        TIMESTAMPTZ_ARRAY,
        FLOAT8_ARRAY,
        INT4_ARRAY,
        INT8_ARRAY,
        TEXT_ARRAY,
        FLOAT8_ARRAY,
        FLOAT8_ARRAY,
        INT8_ARRAY,
        INT8_ARRAY,
        INT8_ARRAY,
        INT4_ARRAY,
        FLOAT8_ARRAY,
    ]
);
const CANCELLED: Statement = statement!("runs/cancelled", [UUID]);
const OWNED: Statement = statement!("runs/owned", [UUID]);

pub(super) const STATEMENTS: &[&Statement] = &[&CLAIM, &CLAIMABLE, &HOLD_OFFENDER, &STAMP, &SETTLE, &CANCELLED, &OWNED];

/// The proof that a replica owned a run when the database last said so. Spent by settling it.
#[derive(Debug, PartialEq, Eq)]
#[expect(clippy::struct_field_names, reason = "the names are the columns of the token")]
pub struct Owned {
    job_id: JobId,
    run_id: RunId,
    replica_id: ReplicaId,
}

impl Owned {
    /// From a row with `job_id`, `run_id` and `replica_id`, of a statement that found the job running just so.
    pub(super) fn from_row(row: &Row) -> Result<Self> {
        Ok(Self {
            job_id: JobId(row.try_get("job_id")?),
            run_id: RunId(row.try_get("run_id")?),
            replica_id: ReplicaId(row.try_get("replica_id")?),
        })
    }

    /// As [`Owned::from_row`], where the statement named the owner in its condition.
    pub(super) fn from_row_of(row: &Row, replica_id: ReplicaId) -> Result<Self> {
        Ok(Self { job_id: JobId(row.try_get("job_id")?), run_id: RunId(row.try_get("run_id")?), replica_id })
    }

    /// The job.
    #[must_use]
    pub const fn job_id(&self) -> JobId {
        self.job_id
    }

    /// The run.
    #[must_use]
    pub const fn run_id(&self) -> RunId {
        self.run_id
    }

    /// The owner that the database named.
    #[must_use]
    pub const fn replica_id(&self) -> ReplicaId {
        self.replica_id
    }

    /// This run, ended: what the settle takes.
    #[must_use]
    pub const fn ended(self, ending: Ending) -> Settlement {
        Settlement { owned: self, ending }
    }
}

/// Who claims, and by which rules.
#[derive(Debug, Clone)]
pub struct Claimant {
    /// The replica.
    pub replica_id: ReplicaId,
    /// Its host, for people.
    pub host: String,
    /// The boot of its machine.
    pub boot_id: String,
    /// Whether a job's gate is enforced (`serial_gate_enabled`).
    pub serial_gate: bool,
    /// Its part of the retry rules.
    pub rules: ClaimantRules,
}

/// The replica's part of the rules that a claim writes into `agent_runs.rules`.
#[derive(Debug, Clone, Copy, serde::Serialize)]
pub struct ClaimantRules {
    /// Losses after which a job is failed as poisoned.
    pub max_lost: i32,
    /// Transient ends after which a job is held.
    pub max_transient: i32,
    /// Interruptions after which a job is held.
    pub max_interrupted: i32,
    /// L, in seconds.
    pub lease: f64,
}

/// A claimed job, and all that its launch needs.
#[derive(Debug)]
pub struct Claimed {
    /// The proof.
    pub owned: Owned,
    /// Which run of the job this is, from 1 on.
    pub attempt: i32,
    /// The job's project.
    pub project: String,
    /// The job's agent.
    pub agent: String,
    /// The payload, as JSON text.
    pub payload: String,
    /// How the run before ended, if it did not end well.
    pub previous_error: Option<String>,
    /// The job's timeout, else the agent's.
    pub timeout: Option<Duration>,
}

/// A process that a run's shim has started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Process {
    /// For people; nothing is ever decided by it.
    pub pid: i32,
    /// When it started, in clock ticks since boot.
    pub pid_started: i64,
    /// What holds its tree.
    pub containment: Containment,
}

/// What a run used. Seconds and bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Usage {
    /// User CPU, seconds.
    pub user_cpu: f64,
    /// System CPU, seconds.
    pub system_cpu: f64,
    /// Peak memory, bytes.
    pub peak_memory: i64,
    /// Log bytes kept.
    pub log_kept: i64,
    /// Log bytes dropped.
    pub log_dropped: i64,
    /// Processes killed after the main process had ended.
    pub processes_killed: i32,
}

/// How a run ended: facts for the settle, which alone decides what follows.
#[derive(Debug, Clone, PartialEq)]
pub struct Ending {
    /// How.
    pub outcome: Outcome,
    /// Who says so.
    pub closed_by: ClosedBy,
    /// The exit status, if the command exited.
    pub exit_code: Option<i32>,
    /// The signal, if one ended it.
    pub signal: Option<i32>,
    /// For people, and for the next attempt's `ORCH_PREVIOUS_ERROR`.
    pub error: Option<String>,
    /// The result, as JSON text.
    pub result: Option<String>,
    /// When a transient run wants to be tried again.
    pub retry_at: Option<Timestamp>,
    /// The process, where there was one.
    pub process: Option<Process>,
    /// How long it ran.
    pub lasted: Option<Duration>,
    /// What it used, where that is known.
    pub usage: Option<Usage>,
}

impl Ending {
    /// An end of which nothing is known but what to call it, and why.
    #[must_use]
    pub fn bare(outcome: Outcome, closed_by: ClosedBy, error: impl Into<String>) -> Self {
        Self {
            outcome,
            closed_by,
            exit_code: None,
            signal: None,
            error: Some(error.into()),
            result: None,
            retry_at: None,
            process: None,
            lasted: None,
            usage: None,
        }
    }
}

/// A run and its end, ready to be settled.
#[derive(Debug)]
pub struct Settlement {
    owned: Owned,
    ending: Ending,
}

impl Settlement {
    /// The run.
    #[must_use]
    pub const fn run_id(&self) -> RunId {
        self.owned.run_id
    }

    /// The job.
    #[must_use]
    pub const fn job_id(&self) -> JobId {
        self.owned.job_id
    }

    /// How it ended.
    #[must_use]
    pub const fn ending(&self) -> &Ending {
        &self.ending
    }
}

/// What the database made of a settlement.
#[derive(Debug)]
pub enum Answer {
    /// Done: the job's next status.
    Settled(RunId, JobStatus),
    /// No longer the settler's: a normal answer, and the end of it.
    NotYours(RunId),
    /// Another transaction holds the row: send it again.
    Busy(Settlement),
    /// The database refuses it whatever is said: send it again later, and tell people.
    Refused(Settlement, Error),
}

impl Db {
    /// Claims at most `run_ids.len()` jobs. After [`Error::Unavailable`] it is unknown whether it took effect: the
    /// runs it may have opened show up in the replica's next renewal and are given up there.
    pub async fn claim_jobs(
        &self,
        claimant: &Claimant,
        agents: &[String],
        run_ids: &[RunId],
        only: Option<&[i64]>,
    ) -> Result<Vec<Claimed>> {
        let ids: Vec<uuid::Uuid> = run_ids.iter().map(|id| id.0).collect();
        let rules = serde_json::to_value(claimant.rules)
            .map_err(|error| Error::Server { code: "?????".into(), message: error.to_string() })?;
        let rows = self
            .query(
                &CLAIM,
                &[
                    &claimant.replica_id.0,
                    &ids,
                    &agents,
                    &claimant.serial_gate,
                    &claimant.host,
                    &claimant.boot_id,
                    &rules,
                    &only,
                ],
            )
            .await?;
        rows.iter().map(|row| claimed(row, claimant.replica_id)).collect()
    }

    /// The jobs that a claim would look at now, best first.
    pub async fn list_claimable(&self, claimant: &Claimant, agents: &[String], limit: usize) -> Result<Vec<JobId>> {
        let rows = self.query(&CLAIMABLE, &[&agents, &(limit as i64), &claimant.serial_gate]).await?;
        rows.iter().map(|row| Ok(JobId(row.try_get("job_id")?))).collect()
    }

    /// Holds a job that cannot be claimed. Whether it was still claimable until now.
    pub async fn hold_offender(&self, job_id: JobId, error: &str) -> Result<bool> {
        Ok(self.query_opt(&HOLD_OFFENDER, &[&job_id.0, &error]).await?.is_some())
    }

    /// Stamps the processes of runs. Returns the runs that were still this replica's.
    pub async fn stamp_runs(&self, replica_id: ReplicaId, stamps: &[(JobId, RunId, Process)]) -> Result<Vec<RunId>> {
        let jobs: Vec<i64> = stamps.iter().map(|(job, _, _)| job.0).collect();
        let runs: Vec<uuid::Uuid> = stamps.iter().map(|(_, run, _)| run.0).collect();
        let pids: Vec<i32> = stamps.iter().map(|(_, _, process)| process.pid).collect();
        let started: Vec<i64> = stamps.iter().map(|(_, _, process)| process.pid_started).collect();
        let containments: Vec<&str> = stamps.iter().map(|(_, _, process)| process.containment.as_str()).collect();
        let rows = self.query(&STAMP, &[&replica_id.0, &jobs, &runs, &pids, &started, &containments]).await?;
        rows.iter().map(|row| Ok(RunId(row.try_get("run_id")?))).collect()
    }

    /// Settles a batch. One bad row stops nobody: a batch that fails for its data is repeated one by one, and a run
    /// whose result is refused is settled without it, as failed with the database's message. An error (with the
    /// whole batch back) means that the database cannot be asked now: send it again, it may or may not have happened.
    pub async fn settle_runs(&self, batch: Vec<Settlement>) -> Result<Vec<Answer>, (Error, Vec<Settlement>)> {
        match self.settle_batch(&batch).await {
            Ok(rows) => Ok(answers(batch, &rows)),
            Err(error) if !error.is_about_data() => Err((error, batch)),
            Err(_) => {
                let mut all = Vec::with_capacity(batch.len());
                let mut rest = batch.into_iter();
                while let Some(one) = rest.next() {
                    match self.settle_one(one).await {
                        Ok(answer) => all.extend(answer),
                        // Some may be answered, and each answer is heard but once; the others are sent again.
                        Err((_, one)) => {
                            all.push(Answer::Busy(one));
                            all.extend(rest.by_ref().map(Answer::Busy));
                        }
                    }
                }
                Ok(all)
            }
        }
    }

    async fn settle_one(&self, mut one: Settlement) -> Result<Vec<Answer>, (Error, Settlement)> {
        match self.settle_batch(std::slice::from_ref(&one)).await {
            Ok(rows) => return Ok(answers(vec![one], &rows)),
            Err(error) if error.is_about_data() => {
                one.ending.result = None;
                one.ending.outcome = Outcome::Failed;
                one.ending.error = Some(format!("the database refused the result: {error}"));
            }
            Err(error) => return Err((error, one)),
        }
        match self.settle_batch(std::slice::from_ref(&one)).await {
            Ok(rows) => Ok(answers(vec![one], &rows)),
            Err(error) if error.is_about_data() => Ok(vec![Answer::Refused(one, error)]),
            Err(error) => Err((error, one)),
        }
    }

    async fn settle_batch(&self, batch: &[Settlement]) -> Result<Vec<Row>> {
        fn column<'a, T>(batch: &'a [Settlement], field: impl Fn(&'a Ending) -> T) -> Vec<T> {
            batch.iter().map(|one| field(&one.ending)).collect()
        }
        let jobs: Vec<i64> = batch.iter().map(|one| one.owned.job_id.0).collect();
        let runs: Vec<uuid::Uuid> = batch.iter().map(|one| one.owned.run_id.0).collect();
        let replicas: Vec<uuid::Uuid> = batch.iter().map(|one| one.owned.replica_id.0).collect();
        let jitter: Vec<f64> = batch.iter().map(|_| 0.5 + rand::random::<f64>()).collect();
        self.query(
            &SETTLE,
            &[
                &jobs,
                &runs,
                &replicas,
                &column(batch, |end| end.closed_by.as_str()),
                &column(batch, |end| end.outcome.as_str()),
                &column(batch, |end| end.exit_code),
                &column(batch, |end| end.signal),
                &column(batch, |end| end.error.as_deref().map(without_nul)),
                &column(batch, |end| end.result.as_deref()),
                &column(batch, |end| end.retry_at),
                &jitter,
                &column(batch, |end| end.process.map(|process| process.pid)),
                &column(batch, |end| end.process.map(|process| process.pid_started)),
                &column(batch, |end| end.process.map(|process| process.containment.as_str())),
                &column(batch, |end| end.usage.map(|usage| usage.user_cpu)),
                &column(batch, |end| end.usage.map(|usage| usage.system_cpu)),
                &column(batch, |end| end.usage.map(|usage| usage.peak_memory)),
                &column(batch, |end| end.usage.map(|usage| usage.log_kept)),
                &column(batch, |end| end.usage.map(|usage| usage.log_dropped)),
                &column(batch, |end| end.usage.map(|usage| usage.processes_killed)),
                &column(batch, |end| end.lasted.map(|lasted| lasted.as_secs_f64())),
            ],
        )
        .await
    }

    /// The runs of a replica whose jobs somebody wants to be cancelled.
    pub async fn list_cancelled(&self, replica_id: ReplicaId) -> Result<Vec<RunId>> {
        let rows = self.query(&CANCELLED, &[&replica_id.0]).await?;
        rows.iter().map(|row| Ok(RunId(row.try_get("run_id")?))).collect()
    }

    /// The open runs of a replica with the agents they run: of a former boot, to be settled by its successor.
    pub async fn list_owned(&self, replica_id: ReplicaId) -> Result<Vec<(Owned, String)>> {
        let rows = self.query(&OWNED, &[&replica_id.0]).await?;
        rows.iter().map(|row| Ok((Owned::from_row(row)?, row.try_get("agent")?))).collect()
    }
}

fn claimed(row: &Row, replica_id: ReplicaId) -> Result<Claimed> {
    let timeout: Option<f64> = row.try_get("timeout_seconds")?;
    Ok(Claimed {
        owned: Owned::from_row_of(row, replica_id)?,
        attempt: row.try_get("attempt")?,
        project: row.try_get("project")?,
        agent: row.try_get("agent")?,
        payload: row.try_get("payload")?,
        previous_error: row.try_get("previous_error")?,
        timeout: timeout.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()),
    })
}

/// Pairs settlements with the rows that answer them; one that no row answers is sent again.
fn answers(batch: Vec<Settlement>, rows: &[Row]) -> Vec<Answer> {
    let by_run: std::collections::HashMap<uuid::Uuid, (&str, Option<&str>)> = rows
        .iter()
        .filter_map(|row| {
            Some((row.try_get("run_id").ok()?, (row.try_get("answer").ok()?, row.try_get("next_status").ok()?)))
        })
        .collect();
    batch
        .into_iter()
        .map(|one| match by_run.get(&one.owned.run_id.0) {
            Some(("settled", Some(status))) => {
                Answer::Settled(one.owned.run_id, status.parse().unwrap_or(JobStatus::Held))
            }
            Some(("not_yours", _)) => Answer::NotYours(one.owned.run_id),
            _ => Answer::Busy(one),
        })
        .collect()
}

/// Postgres text holds no NUL.
fn without_nul(text: &str) -> std::borrow::Cow<'_, str> {
    if text.contains('\0') { text.replace('\0', "\u{fffd}").into() } else { text.into() }
}
