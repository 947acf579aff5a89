//! Runs: claim, stamp and settle, the one door into `running` and the one out of it.
//!
//! Owns the proof of ownership: an [`Owned`] is minted only from a row that proved it, and is consumed by the settle.
//! Never decides how a run ended (the replica does) nor what follows for its job (`orch.settle_rule` does).

mod settle;

use std::time::Duration;

use tokio_postgres::Row;

use super::{Db, Error, Result, Statement, statement};
use crate::model::{Containment, JobId, ReplicaId, RunId};
pub use settle::{Answer, Ending, Settlement, Usage};

const CLAIM: Statement = statement!("runs/claim", [UUID, UUID_ARRAY, TEXT_ARRAY, BOOL, TEXT, TEXT, JSONB, INT8_ARRAY]);
const CLAIMABLE: Statement = statement!("runs/claimable", [TEXT_ARRAY, INT8, BOOL]);
const HOLD_OFFENDER: Statement = statement!("runs/hold_offender", [INT8, TEXT]);
const STAMP: Statement = statement!("runs/stamp", [UUID, INT8_ARRAY, UUID_ARRAY, INT4_ARRAY, INT8_ARRAY, TEXT_ARRAY]);
const CANCELLED: Statement = statement!("runs/cancelled", [UUID]);
const OWNED: Statement = statement!("runs/owned", [UUID]);

pub(super) const STATEMENTS: &[&Statement] =
    &[&CLAIM, &CLAIMABLE, &HOLD_OFFENDER, &STAMP, &settle::SETTLE, &CANCELLED, &OWNED];

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
