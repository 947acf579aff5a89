//! What `orch bench` asks of its own database.

use super::{Db, Error, Result, Statement, statement};

const ENQUEUE: Statement = statement!("bench/enqueue", [TEXT, INT8]);
const MEASURE: Statement = statement!("bench/measure", [INT8, INT8]);
const STORED: Statement = statement!("bench/stored", []);

pub(super) const STATEMENTS: &[&Statement] = &[&ENQUEUE, &MEASURE, &STORED];

/// How far a pass of the bench has come.
#[derive(Debug, Clone, Copy)]
pub struct Pass {
    /// Whether any job waits or runs; the rest is known once none does.
    pub live: bool,
    /// Runs that succeeded.
    pub succeeded: i64,
    /// From the first claim to the last settle.
    pub seconds: Option<f64>,
}

impl Db {
    /// Enqueues `count` jobs in one call; returns the first and the last number.
    pub async fn enqueue_for_bench(&self, agent: &str, count: i64) -> Result<(i64, i64)> {
        let row = self.query_opt(&ENQUEUE, &[&agent, &count]).await?.ok_or_else(nothing)?;
        Ok((row.try_get("first")?, row.try_get("last")?))
    }

    /// Looks at the jobs of a pass.
    pub async fn measure_for_bench(&self, first: i64, last: i64) -> Result<Pass> {
        let row = self.query_opt(&MEASURE, &[&first, &last]).await?.ok_or_else(nothing)?;
        Ok(Pass { live: row.try_get("live")?, succeeded: row.try_get("succeeded")?, seconds: row.try_get("seconds")? })
    }

    /// Bytes of output that have arrived.
    pub async fn stored_for_bench(&self) -> Result<i64> {
        Ok(self.query_opt(&STORED, &[]).await?.ok_or_else(nothing)?.try_get("bytes")?)
    }
}

fn nothing() -> Error {
    Error::Server { code: "?????".into(), message: "an aggregate without a row".into() }
}
