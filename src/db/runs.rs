//! Runs: claim, stamp and settle, the one door into `running` and the one out of it.
//!
//! Owns the proof of ownership: an [`Owned`] is minted only from a row that proved it, and is consumed by the settle.
//! Never decides how a run ended (the replica does) nor what follows for its job (`orch.settle_rule` does).

mod claim;
mod settle;

use tokio_postgres::Row;

use super::{Db, Error, Result, Statement, statement};
use crate::model::{Containment, JobId, ReplicaId, RunId};
pub use claim::{CLAIM_MAX, Claim, Claimant, ClaimantRules, Claimed, Look};
pub use settle::{Answer, Answers, Closing, Ending, Settlement, Usage};

const STAMP: Statement = statement!("runs/stamp", [UUID, INT8_ARRAY, UUID_ARRAY, INT4_ARRAY, INT8_ARRAY, TEXT_ARRAY]);
const CANCELLED: Statement = statement!("runs/cancelled", [UUID]);
const ADOPT: Statement = statement!("runs/adopt", [UUID, INT8_ARRAY, UUID_ARRAY, UUID_ARRAY]);
const INHERITED: Statement = statement!("runs/inherited", [UUID_ARRAY, UUID_ARRAY]);

pub(super) const STATEMENTS: &[&Statement] = &[
    &claim::CLAIM,
    &claim::CLAIM_LONE,
    &claim::HOLD_OFFENDER,
    &STAMP,
    &settle::SETTLE,
    &settle::SETTLE_PLAIN,
    &CANCELLED,
    &ADOPT,
    &INHERITED,
];

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
