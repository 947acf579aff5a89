//! The reaper's statements: the tick, declaring dead, finding orphans, sanitizing.
//!
//! Each is guarded by what it saw and harmless when repeated by another replica at the same time. None waits for a row.

use super::{Db, Result, Statement, runs::Owned, statement};
use crate::model::{JobId, ReplicaId, RunId};

const TICK: Statement = statement!("reaper/tick", [FLOAT8, FLOAT8, FLOAT8, BOOL, INT8, INT8]);
const DECLARE_DEAD: Statement = statement!("reaper/declare_dead", [FLOAT8, FLOAT8]);
const ORPHANS: Statement = statement!("reaper/orphans", [INT8, INT8]);
const COUNT_REAPED: Statement = statement!("reaper/count_reaped", [INT8]);
const SANITIZE_IMPOSSIBLE: Statement = statement!("reaper/sanitize_impossible", [INT8]);
const SANITIZE_IDLE_RUNS: Statement = statement!("reaper/sanitize_idle_runs", [INT8]);
const SANITIZE_OWNERLESS: Statement = statement!("reaper/sanitize_ownerless", [INT8_ARRAY]);
const RELEASE_UNANSWERED: Statement = statement!("reaper/release_unanswered", [INT8]);

pub(super) const STATEMENTS: &[&Statement] = &[
    &TICK,
    &DECLARE_DEAD,
    &ORPHANS,
    &COUNT_REAPED,
    &SANITIZE_IMPOSSIBLE,
    &SANITIZE_IDLE_RUNS,
    &SANITIZE_OWNERLESS,
    &RELEASE_UNANSWERED,
];

/// The durations that the reaper goes by, in seconds.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// L.
    pub lease: f64,
    /// H.
    pub heartbeat: f64,
    /// G.
    pub reap_grace: f64,
}

/// What a tick found to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Live replicas whose lease has run out.
    pub expired: bool,
    /// Open runs of replicas that are not live.
    pub orphaned: bool,
    /// Rows that carry an owner although they do not run.
    pub impossible: bool,
    /// Open runs that no job runs.
    pub idle_runs: bool,
    /// Jobs that wait for an answer of a replica that is not live.
    pub unanswered: bool,
    /// Jobs that wait for others.
    pub waits: bool,
    /// Whether an outage is being waited out: nobody is declared dead now.
    pub waiting: bool,
    /// Running jobs of the walked piece that have no owner or no open run.
    pub ownerless: Vec<i64>,
    /// Where the next piece begins; `None` at the end of the table.
    pub next_after: Option<i64>,
}

/// A replica that was declared dead.
#[derive(Debug)]
pub struct Dead {
    /// Which.
    pub replica_id: ReplicaId,
    /// Its name for people.
    pub name: String,
    /// Its machine.
    pub host: String,
    /// For how many seconds its lease had run out.
    pub overdue: f64,
}

/// An impossible row that was repaired, as it was found.
#[derive(Debug)]
pub struct Impossible {
    /// The job.
    pub job_id: JobId,
    /// Its status.
    pub status: String,
    /// The run that it claimed to have.
    pub run_id: Option<RunId>,
    /// The pid that it claimed to have; nobody was asked about it.
    pub pid: Option<i32>,
}

impl Db {
    /// One tick: notes it, applies the outage rule, looks; and walks `rows` jobs from behind the job `after`.
    pub async fn tick(&self, timing: Timing, sanitize_impossible: bool, after: i64, rows: i64) -> Result<Found> {
        let found = self
            .query(&TICK, &[&timing.lease, &timing.heartbeat, &timing.reap_grace, &sanitize_impossible, &after, &rows])
            .await?;
        let Some(row) = found.first() else {
            return Err(super::Error::Server {
                code: "OR000".into(),
                message: "orch.meta has no row; run `orch migrate`".into(),
            });
        };
        Ok(Found {
            expired: row.try_get("expired")?,
            orphaned: row.try_get("orphaned")?,
            impossible: row.try_get("impossible")?,
            idle_runs: row.try_get("idle_runs")?,
            unanswered: row.try_get("unanswered")?,
            waits: row.try_get("waits")?,
            waiting: row.try_get("waiting")?,
            ownerless: row.try_get("ownerless")?,
            next_after: row.try_get("next_after")?,
        })
    }

    /// Declares replicas dead whose lease ran out longer than the grace ago.
    pub async fn declare_dead(&self, timing: Timing) -> Result<Vec<Dead>> {
        let rows = self.query(&DECLARE_DEAD, &[&timing.reap_grace, &timing.lease]).await?;
        rows.iter()
            .map(|row| {
                Ok(Dead {
                    replica_id: ReplicaId(row.try_get("replica_id")?),
                    name: row.try_get("name")?,
                    host: row.try_get("host")?,
                    overdue: row.try_get("overdue_seconds")?,
                })
            })
            .collect()
    }

    /// Runs of dead owners, of jobs behind `after`, as tokens to settle them by, each with the reason in words.
    pub async fn list_orphans(&self, after: i64, limit: i64) -> Result<Vec<(Owned, String)>> {
        let rows = self.query(&ORPHANS, &[&after, &limit]).await?;
        rows.iter().map(|row| Ok((Owned::from_row(row)?, row.try_get("why")?))).collect()
    }

    /// Adds to `reaped_total`.
    pub async fn count_reaped(&self, reaped: i64) -> Result<()> {
        self.query(&COUNT_REAPED, &[&reaped]).await.map(drop)
    }

    /// Repairs and counts rows that carry an owner although they do not run.
    pub async fn sanitize_impossible(&self, limit: i64) -> Result<Vec<Impossible>> {
        let rows = self.query(&SANITIZE_IMPOSSIBLE, &[&limit]).await?;
        rows.iter()
            .map(|row| {
                let run_id: Option<uuid::Uuid> = row.try_get("run_id")?;
                Ok(Impossible {
                    job_id: JobId(row.try_get("job_id")?),
                    status: row.try_get("status")?,
                    run_id: run_id.map(RunId),
                    pid: row.try_get("pid")?,
                })
            })
            .collect()
    }

    /// Closes open runs that no job runs.
    pub async fn sanitize_idle_runs(&self, limit: i64) -> Result<Vec<(RunId, JobId)>> {
        let rows = self.query(&SANITIZE_IDLE_RUNS, &[&limit]).await?;
        rows.iter().map(|row| Ok((RunId(row.try_get("run_id")?), JobId(row.try_get("job_id")?)))).collect()
    }

    /// Sends running rows without an owner or an open run back to the queue.
    pub async fn sanitize_ownerless(&self, job_ids: &[i64]) -> Result<Vec<JobId>> {
        self.query(&SANITIZE_OWNERLESS, &[&job_ids])
            .await?
            .iter()
            .map(|row| Ok(JobId(row.try_get("job_id")?)))
            .collect()
    }

    /// Lets jobs go on that wait for a replica which is not live.
    pub async fn release_unanswered(&self, limit: i64) -> Result<Vec<JobId>> {
        self.query(&RELEASE_UNANSWERED, &[&limit]).await?.iter().map(|row| Ok(JobId(row.try_get("job_id")?))).collect()
    }
}
