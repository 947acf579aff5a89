//! Replicas as operators see them: who is there, and who is to claim nothing more.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use super::super::{Db, Error, Result, Statement, statement};
use crate::model::ReplicaId;

pub(super) const LIST: Statement = statement!("replicas/list", [BOOL, INT8]);
pub(super) const SET_DRAINING: Statement = statement!("replicas/set_draining", [UUID_ARRAY, BOOL]);

/// A boot of an orch process, as the database knows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReplicaLine {
    /// The boot.
    pub replica_id: ReplicaId,
    /// For people.
    pub name: String,
    /// Where it runs.
    pub host: String,
    /// `live`, `dead` or `left`.
    pub state: String,
    /// Whether it claims nothing more.
    pub draining: bool,
    /// The version of orch.
    pub version: Option<String>,
    /// What it serves.
    pub agents: Vec<String>,
    /// For routing.
    pub labels: BTreeMap<String, Value>,
    /// Its slots.
    pub max_concurrency: i32,
    /// Its runs that have not ended, so far as the database knows.
    pub open_runs: i64,
    /// When it registered.
    pub started_at: Timestamp,
    /// Seconds until its lease ends; negative once it has.
    pub lease_left_seconds: f64,
}

impl ReplicaLine {
    /// Whether its runs are its own.
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.state == "live"
    }
}

impl Db {
    /// At most `limit` replicas, live ones first, then the youngest; with `all` also those that are dead or left and own
    /// nothing.
    pub async fn list_replicas(&self, all: bool, limit: i64) -> Result<Vec<ReplicaLine>> {
        self.query(&LIST, &[&all, &limit]).await?.iter().map(line).collect()
    }

    /// Tells replicas to claim nothing more, or to claim again. Answers for each that is live whether that was new to it.
    pub async fn set_draining(&self, replicas: &[ReplicaId], draining: bool) -> Result<Vec<(ReplicaId, bool)>> {
        let ids: Vec<Uuid> = replicas.iter().map(|replica| replica.0).collect();
        let rows = self.query(&SET_DRAINING, &[&ids, &draining]).await?;
        rows.iter().map(|row| Ok((ReplicaId(row.try_get("replica_id")?), row.try_get("changed")?))).collect()
    }
}

fn line(row: &tokio_postgres::Row) -> Result<ReplicaLine> {
    let labels: Value = row.try_get("labels")?;
    Ok(ReplicaLine {
        replica_id: ReplicaId(row.try_get("replica_id")?),
        name: row.try_get("name")?,
        host: row.try_get("host")?,
        state: row.try_get("state")?,
        draining: row.try_get("draining")?,
        version: row.try_get("version")?,
        agents: row.try_get("agents")?,
        labels: serde_json::from_value(labels).map_err(|error| Error::Server {
            code: "?????".to_owned(),
            message: format!("a replica's labels could not be read: {error}"),
        })?,
        max_concurrency: row.try_get("max_concurrency")?,
        open_runs: row.try_get("open_runs")?,
        started_at: row.try_get("started_at")?,
        lease_left_seconds: row.try_get("lease_left_seconds")?,
    })
}
