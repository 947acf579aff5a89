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
const ADOPT: Statement = statement!("runs/adopt", [UUID, INT8_ARRAY, UUID_ARRAY, UUID_ARRAY]);
const INHERITED: Statement = statement!("runs/inherited", [UUID_ARRAY, UUID_ARRAY]);

pub(super) const STATEMENTS: &[&Statement] =
    &[&CLAIM, &CLAIMABLE, &HOLD_OFFENDER, &STAMP, &settle::SETTLE, &CANCELLED, &ADOPT, &INHERITED];

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

/// What the database says of a run that a start found.
#[derive(Debug)]
pub struct Inherited {
    /// Its token, as the database has it.
    pub owned: Owned,
    /// The agent of its job, unless that is gone.
    pub agent: Option<String>,
    /// Whether the run still counts.
    pub standing: Standing,
}

/// How a run stands in the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Its job runs it.
    Open,
    /// A reap closed it as lost; its result may still be heard, once.
    Lost,
    /// It is over and answered for.
    Closed,
}

/// What became of an adoption.
#[derive(Debug)]
pub enum Adoption {
    /// The run is the successor's: its new token.
    Adopted(Owned),
    /// Another transaction holds the row: send it again.
    Busy(Owned),
    /// The database no longer grants it: what lives of it must end.
    NotYours(Owned),
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

    /// What the database says of the open runs of `former` boots and of the runs of these directories.
    pub async fn list_inherited(&self, former: &[ReplicaId], found: &[RunId]) -> Result<Vec<Inherited>> {
        let former: Vec<uuid::Uuid> = former.iter().map(|id| id.0).collect();
        let found: Vec<uuid::Uuid> = found.iter().map(|id| id.0).collect();
        self.query(&INHERITED, &[&former, &found]).await?.iter().map(inherited).collect()
    }

    /// Moves runs to their successor by compare-and-swap. Every run comes back with its answer. After an error it is
    /// unknown whether they were moved: sent again, the answer says so.
    pub async fn adopt_runs(
        &self,
        successor: ReplicaId,
        runs: Vec<Owned>,
    ) -> Result<Vec<Adoption>, (Error, Vec<Owned>)> {
        let jobs: Vec<i64> = runs.iter().map(|run| run.job_id.0).collect();
        let ids: Vec<uuid::Uuid> = runs.iter().map(|run| run.run_id.0).collect();
        let former: Vec<uuid::Uuid> = runs.iter().map(|run| run.replica_id.0).collect();
        let rows = match self.query(&ADOPT, &[&successor.0, &jobs, &ids, &former]).await {
            Ok(rows) => rows,
            Err(error) => return Err((error, runs)),
        };
        let answers: std::collections::HashMap<uuid::Uuid, String> =
            rows.iter().filter_map(|row| Some((row.try_get("run_id").ok()?, row.try_get("answer").ok()?))).collect();
        Ok(runs
            .into_iter()
            .map(|run| match answers.get(&run.run_id.0).map(String::as_str) {
                Some("adopted") => Adoption::Adopted(Owned { replica_id: successor, ..run }),
                Some("not_yours") => Adoption::NotYours(run),
                _ => Adoption::Busy(run),
            })
            .collect())
    }
}

fn inherited(row: &Row) -> Result<Inherited> {
    Ok(Inherited {
        owned: Owned::from_row(row)?,
        agent: row.try_get("agent")?,
        standing: match row.try_get("standing")? {
            "open" => Standing::Open,
            "lost" => Standing::Lost,
            _ => Standing::Closed,
        },
    })
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
