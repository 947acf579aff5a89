//! Jobs that run after others: resolving what waits, and reading who waits for whom.
//!
//! Owns nothing of a run: what it changes does not run, and is changed by the one function of the database that decides
//! what becomes of a job when those it waits for have ended. None of it waits for a row.

use serde::Serialize;
use tokio_postgres::Row;

use super::{Db, Error, Result, Statement, jobs::word_opt, statement};
use crate::model::{JobId, JobStatus};

const RESOLVE: Statement = statement!("dependencies/resolve", [INT8_ARRAY, INT8_ARRAY, INT4]);
const WALK: Statement = statement!("dependencies/walk", [INT8, INT8, INT8]);
const OF_JOB: Statement = statement!("dependencies/of_job", [INT8, INT8]);

pub(super) const STATEMENTS: &[&Statement] = &[&RESOLVE, &WALK, &OF_JOB];

/// What one round of resolving did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Round {
    /// How many jobs wait for nobody any more.
    pub released: usize,
    /// Jobs that were cancelled; others may wait for them.
    pub cancelled: Vec<JobId>,
    /// Jobs that wait for fewer than before, to be looked at once more.
    pub shortened: Vec<JobId>,
    /// Whether some were in other hands, or too many.
    pub more: bool,
}

/// What a piece of the walk over the waiting jobs found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overdue {
    /// Jobs that wait for what has ended.
    pub jobs: Vec<JobId>,
    /// Behind which job the walk goes on; none at its end.
    pub next_after: Option<JobId>,
}

/// Another job, as one sees it from a job that runs after it, or before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Neighbour {
    /// The other job.
    pub id: JobId,
    /// Where it stands; none where it was removed.
    pub status: Option<JobStatus>,
    /// What it runs.
    pub agent: Option<String>,
    /// Whether the one still waits for the other.
    pub pending: bool,
}

/// The first of a job's neighbours, and how many there are.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Neighbours {
    /// How many there are.
    pub total: i64,
    /// The first of them.
    pub jobs: Vec<Neighbour>,
}

/// Who waits for whom, around one job.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Dependencies {
    /// The jobs that it was enqueued after; what it still waits for comes first.
    pub after: Neighbours,
    /// The jobs that were enqueued after it.
    pub awaited_by: Neighbours,
}

impl Db {
    /// One round: looks at the jobs that wait for `ended`, and at the jobs `waiting`, at `most` of them.
    pub async fn resolve_waits(&self, ended: &[JobId], waiting: &[JobId], most: i32) -> Result<Round> {
        let row = self.query_opt(&RESOLVE, &[&numbers(ended), &numbers(waiting), &most]).await?;
        let row = row.ok_or_else(no_row)?;
        let released: i64 = row.try_get("released")?;
        Ok(Round {
            released: released as usize,
            cancelled: ids(&row, "cancelled")?,
            shortened: ids(&row, "shortened")?,
            more: row.try_get("more")?,
        })
    }

    /// Walks over at most `rows` waiting jobs, with about `predecessors` in all, from behind the job `after`.
    pub async fn walk_waiting(&self, after: JobId, rows: i64, predecessors: i64) -> Result<Overdue> {
        let row = self.query_opt(&WALK, &[&after.0, &rows, &predecessors]).await?.ok_or_else(no_row)?;
        let next_after: Option<i64> = row.try_get("next_after")?;
        Ok(Overdue { jobs: ids(&row, "job_ids")?, next_after: next_after.map(JobId) })
    }

    /// Who waits for whom around a job; at most `limit` of each kind.
    pub async fn dependencies_of_job(&self, id: JobId, limit: i64) -> Result<Dependencies> {
        let mut all = Dependencies::default();
        for row in self.query(&OF_JOB, &[&id.0, &limit]).await? {
            let side = if row.try_get("before")? { &mut all.after } else { &mut all.awaited_by };
            side.total = row.try_get("total")?;
            side.jobs.push(Neighbour {
                id: JobId(row.try_get("job_id")?),
                status: word_opt(&row, "status")?,
                agent: row.try_get("agent")?,
                pending: row.try_get("pending")?,
            });
        }
        Ok(all)
    }
}

fn numbers(ids: &[JobId]) -> Vec<i64> {
    ids.iter().map(|id| id.0).collect()
}

fn ids(row: &Row, column: &str) -> Result<Vec<JobId>> {
    let ids: Vec<i64> = row.try_get(column)?;
    Ok(ids.into_iter().map(JobId).collect())
}

fn no_row() -> Error {
    Error::Server { code: "?????".to_owned(), message: "resolving was answered without a row".to_owned() }
}
