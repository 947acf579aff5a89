//! Statistics and dead rows of the tables that every run writes: what the server's own autovacuum does as well, a minute
//! late. Owns no row.

use std::time::Duration;

use super::{Db, Result, Statement, statement};

const LOOK: Statement = statement!("upkeep/look", [INT8, FLOAT8]);
const VACUUM_JOBS: Statement = statement!("upkeep/vacuum_jobs", []);
const VACUUM_RUNS: Statement = statement!("upkeep/vacuum_runs", []);
const ANALYZE_JOBS: Statement = statement!("upkeep/analyze_jobs", []);
const ANALYZE_RUNS: Statement = statement!("upkeep/analyze_runs", []);

pub(super) const STATEMENTS: &[&Statement] = &[&LOOK, &VACUUM_JOBS, &VACUUM_RUNS, &ANALYZE_JOBS, &ANALYZE_RUNS];

/// What a table wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    /// Which one.
    pub table: Table,
    /// Its dead rows removed and its statistics made; else the statistics alone.
    pub vacuum: bool,
}

/// A table that every run writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Table {
    /// `orch.jobs`
    Jobs,
    /// `orch.agent_runs`
    AgentRuns,
}

impl Db {
    /// The tables that want something: vacuumed are those with so many dead rows, not more often than `rest` says.
    pub async fn wanted_upkeep(&self, dead_rows: i64, rest: Duration) -> Result<Vec<Wanted>> {
        let rows = self.query(&LOOK, &[&dead_rows, &rest.as_secs_f64()]).await?;
        rows.iter()
            .map(|row| {
                let table = match row.try_get("table_name")? {
                    "jobs" => Table::Jobs,
                    _ => Table::AgentRuns,
                };
                Ok(Wanted { table, vacuum: row.try_get("vacuum")? })
            })
            .collect()
    }

    /// Does what a table wants; nothing where another session is at it.
    pub async fn keep_up(&self, wanted: Wanted) -> Result<()> {
        let statement = match (wanted.table, wanted.vacuum) {
            (Table::Jobs, true) => &VACUUM_JOBS,
            (Table::Jobs, false) => &ANALYZE_JOBS,
            (Table::AgentRuns, true) => &VACUUM_RUNS,
            (Table::AgentRuns, false) => &ANALYZE_RUNS,
        };
        self.query(statement, &[]).await?;
        Ok(())
    }
}
