//! What the database says of its own health: guards, constraints, indexes, violations.
//!
//! Owns the list of what must be there. Never repairs anything.

use super::{Db, Result, Statement, statement};

const VIOLATIONS: Statement = statement!("doctor/violations", [INT8]);
const TRIGGERS: Statement = statement!("doctor/triggers", []);
const CHECKS: Statement = statement!("doctor/checks", []);
const INDEXES: Statement = statement!("doctor/indexes", []);
const SERVER: Statement = statement!("doctor/server", []);

pub(super) const STATEMENTS: &[&Statement] = &[&VIOLATIONS, &TRIGGERS, &CHECKS, &INDEXES, &SERVER];

/// A row that breaks an invariant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Which invariant.
    pub invariant: String,
    /// The job or run.
    pub what: String,
}

/// A guard as the catalog knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guard {
    /// The table.
    pub table: String,
    /// The guard's name.
    pub name: String,
    /// Whether it works: a trigger that always fires, a constraint that is enforced and was checked, an index that is
    /// whole.
    pub works: bool,
}

/// What the server says of itself and of the replicas on it.
#[derive(Debug, Clone, PartialEq)]
pub struct Server {
    /// Of Postgres.
    pub version: String,
    /// The database.
    pub database: String,
    /// Whether it is a standby, which takes no writes.
    pub in_recovery: bool,
    /// Replicas that are live.
    pub live_replicas: i64,
    /// Live ones whose lease has run out.
    pub late_replicas: i64,
    /// Since the last tick of any reaper; none where there never was one. Seconds.
    pub last_tick_seconds: Option<f64>,
}

impl Db {
    /// At most `limit` rows that break an invariant.
    pub async fn violations(&self, limit: i64) -> Result<Vec<Violation>> {
        let rows = self.query(&VIOLATIONS, &[&limit]).await?;
        rows.iter()
            .map(|row| Ok(Violation { invariant: row.try_get("invariant")?, what: row.try_get("what")? }))
            .collect()
    }

    /// The triggers on orch's tables.
    pub async fn triggers(&self) -> Result<Vec<Guard>> {
        self.guards(&TRIGGERS, |row| Ok(row.try_get::<_, &str>("firing")? == "A")).await
    }

    /// The CHECKs and foreign keys on orch's tables.
    pub async fn checks(&self) -> Result<Vec<Guard>> {
        self.guards(&CHECKS, |row| Ok(row.try_get("valid")?)).await
    }

    /// The indexes on orch's tables, with whether each is unique.
    pub async fn indexes(&self) -> Result<Vec<Guard>> {
        self.guards(&INDEXES, |row| Ok(row.try_get("valid")?)).await
    }

    /// What the server says of itself.
    pub async fn server(&self) -> Result<Server> {
        let rows = self.query(&SERVER, &[]).await?;
        let row =
            rows.first().ok_or_else(|| super::Error::Server { code: "?????".into(), message: "no row".into() })?;
        Ok(Server {
            version: row.try_get("version")?,
            database: row.try_get("database")?,
            in_recovery: row.try_get("in_recovery")?,
            live_replicas: row.try_get("live_replicas")?,
            late_replicas: row.try_get("late_replicas")?,
            last_tick_seconds: row.try_get("last_tick_seconds")?,
        })
    }

    async fn guards(
        &self,
        statement: &Statement,
        works: impl Fn(&tokio_postgres::Row) -> Result<bool>,
    ) -> Result<Vec<Guard>> {
        let rows = self.query(statement, &[]).await?;
        rows.iter()
            .map(|row| Ok(Guard { table: row.try_get("table")?, name: row.try_get("name")?, works: works(row)? }))
            .collect()
    }
}
