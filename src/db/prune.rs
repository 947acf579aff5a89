//! Removal of what ended long ago: jobs with their runs and logs, replicas that are gone, events.
//!
//! Each statement is a small piece of work that looks again, under the lock, whether what it deletes may go. Never touches
//! what lives: no live job, no run of one, no live replica.

use std::time::Duration;

use super::{Db, Error, Result, Statement, statement};
use crate::model::JobId;

const FIND: Statement = statement!("prune/find", [INT8, INT8, FLOAT8]);
const LOGS: Statement = statement!("prune/logs", [INT8_ARRAY, FLOAT8, INT8]);
const JOBS: Statement = statement!("prune/jobs", [INT8_ARRAY, FLOAT8]);
const REPLICAS: Statement = statement!("prune/replicas", [FLOAT8, INT8]);
const EVENTS: Statement = statement!("prune/events", [FLOAT8, INT8]);

pub(super) const STATEMENTS: &[&Statement] = &[&FIND, &LOGS, &JOBS, &REPLICAS, &EVENTS];

/// What a piece of the walk over the jobs found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Jobs that ended long enough ago, as it looked.
    pub jobs: Vec<JobId>,
    /// Behind which job the walk goes on; none where it is over.
    pub next_after: Option<JobId>,
}

impl Db {
    /// Looks at `limit` jobs behind `after` for those that ended longer than `keep` ago.
    pub async fn find_old_jobs(&self, after: JobId, limit: i64, keep: Duration) -> Result<Found> {
        let row = self.query_opt(&FIND, &[&after.0, &limit, &keep.as_secs_f64()]).await?.ok_or_else(no_row)?;
        let jobs: Vec<i64> = row.try_get("job_ids")?;
        let next_after: Option<i64> = row.try_get("next_after")?;
        Ok(Found { jobs: jobs.into_iter().map(JobId).collect(), next_after: next_after.map(JobId) })
    }

    /// Deletes at most `limit` chunks of the logs of these jobs, where they ended longer than `keep` ago; how many.
    pub async fn prune_logs(&self, jobs: &[JobId], keep: Duration, limit: i64) -> Result<i64> {
        let ids: Vec<i64> = jobs.iter().map(|id| id.0).collect();
        self.count(&LOGS, "chunks", &[&ids, &keep.as_secs_f64(), &limit]).await
    }

    /// Deletes those of these jobs that ended longer than `keep` ago, with their runs; how many.
    pub async fn prune_jobs(&self, jobs: &[JobId], keep: Duration) -> Result<i64> {
        let ids: Vec<i64> = jobs.iter().map(|id| id.0).collect();
        self.count(&JOBS, "jobs", &[&ids, &keep.as_secs_f64()]).await
    }

    /// Deletes at most `limit` replicas whose lease ended longer than `keep` ago and that own nothing; how many.
    pub async fn prune_replicas(&self, keep: Duration, limit: i64) -> Result<i64> {
        self.count(&REPLICAS, "replicas", &[&keep.as_secs_f64(), &limit]).await
    }

    /// Deletes at most `limit` events older than `keep`; how many.
    pub async fn prune_events(&self, keep: Duration, limit: i64) -> Result<i64> {
        self.count(&EVENTS, "events", &[&keep.as_secs_f64(), &limit]).await
    }

    async fn count(&self, statement: &Statement, column: &str, params: super::Params<'_>) -> Result<i64> {
        Ok(self.query_opt(statement, params).await?.ok_or_else(no_row)?.try_get(column)?)
    }
}

/// The statement and the code disagree.
fn no_row() -> Error {
    Error::Server { code: "?????".to_owned(), message: "a count came back without a row".to_owned() }
}
