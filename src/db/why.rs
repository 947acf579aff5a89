//! Why jobs wait: one job, with all that is to be known, and how many wait for what. Never writes.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;
use serde_json::value::RawValue;

use super::{
    Db, Result, Statement,
    jobs::{disagreement, word},
    limits::Until,
    statement,
};
use crate::model::{JobId, JobStatus, Reason};

const JOB: Statement = statement!("why/job", [INT8, BOOL]);
const COUNT: Statement = statement!("why/count", [BOOL]);

pub(super) const STATEMENTS: &[&Statement] = &[&JOB, &COUNT];

/// How many jobs wait for which reason.
pub type Waiting = BTreeMap<Reason, i64>;

/// Where a job stands, and why.
#[derive(Debug, Serialize)]
pub struct Why {
    /// The job.
    pub job_id: JobId,
    /// Where it stands.
    pub status: JobStatus,
    /// What a waiting job waits for, by its word; of another one the status.
    pub reason: String,
    /// Since when.
    pub since: Option<Timestamp>,
    /// Until when, where that is known.
    pub until: Option<Until>,
    /// The same for people.
    pub sentence: String,
    /// What would change it.
    pub unblock: Option<String>,
    /// The facts: the limit, the gate, who holds it, the replicas, the runs.
    pub detail: Box<RawValue>,
}

impl Db {
    /// Why a job waits, what it does, or how it ended. `serial_gate` is the setting `serial_gate_enabled`. A job that is
    /// not there is refused with `OR005`.
    pub async fn why(&self, id: JobId, serial_gate: bool) -> Result<Why> {
        let rows = self.query(&JOB, &[&id.0, &serial_gate]).await?;
        let row = rows.first().ok_or_else(|| disagreement("reason", "no row came back"))?;
        let until: Option<Timestamp> = row.try_get("until")?;
        let detail: String = row.try_get("detail")?;
        Ok(Why {
            job_id: JobId(row.try_get("job_id")?),
            status: word(row, "status")?,
            reason: row.try_get("reason")?,
            since: row.try_get("since")?,
            until: until.map(Until::At).or_else(|| row.get::<_, bool>("is_for_good").then_some(Until::Opened)),
            sentence: row.try_get("sentence")?,
            unblock: row.try_get("unblock")?,
            detail: RawValue::from_string(detail).map_err(|error| disagreement("detail", &error.to_string()))?,
        })
    }

    /// How many jobs wait for which reason, without the zeros.
    pub async fn count_waiting(&self, serial_gate: bool) -> Result<Waiting> {
        let rows = self.query(&COUNT, &[&serial_gate]).await?;
        rows.iter().map(|row| Ok((word(row, "reason")?, row.try_get("jobs")?))).collect()
    }
}
