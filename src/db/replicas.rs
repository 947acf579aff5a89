//! Replicas: registration, the lease, and leaving.
//!
//! The lease is judged by the database's clock alone; nothing here reads one of the machine's.

mod fleet;

use std::collections::BTreeMap;

pub use fleet::ReplicaLine;
use tokio_postgres::Row;

use super::{Db, Result, Statement, lineage, runs::Owned, statement};
use crate::model::{JobId, ReplicaId, RunId};

const REGISTER: Statement =
    statement!("replicas/register", [UUID, TEXT, TEXT, TEXT, TEXT, TEXT, TEXT_ARRAY, JSONB, INT4, FLOAT8]);
const OTHERS: Statement = statement!("replicas/others", [UUID]);
const RENEW: Statement = statement!("replicas/renew", [UUID, FLOAT8]);
const RENEW_ONLY: Statement = statement!("replicas/renew_only", [UUID, FLOAT8]);
const LEAVE: Statement = statement!("replicas/leave", [UUID]);
const SUPERSEDE: Statement = statement!("replicas/supersede", [UUID, TEXT]);
const DRAIN: Statement = statement!("replicas/drain", [UUID]);
const SERVE: Statement = statement!("replicas/serve", [UUID, TEXT_ARRAY]);
const ENDED: Statement = statement!("replicas/ended", [UUID, INT8, UUID]);

pub(super) const STATEMENTS: &[&Statement] = &[
    &REGISTER,
    &OTHERS,
    &RENEW,
    &RENEW_ONLY,
    &LEAVE,
    &SUPERSEDE,
    &DRAIN,
    &SERVE,
    &ENDED,
    &fleet::LIST,
    &fleet::SET_DRAINING,
];

/// What a boot says of itself when it registers.
#[derive(Debug, Clone)]
pub struct Registration {
    /// Its name for the database.
    pub replica_id: ReplicaId,
    /// Its name for people.
    pub name: String,
    /// The machine's name.
    pub host: String,
    /// The boot of the machine (`/proc/sys/kernel/random/boot_id`).
    pub boot_id: String,
    /// Which state directory it holds, as the kernel sees it.
    pub state_dir_id: String,
    /// The version of the binary.
    pub version: String,
    /// The agents that it serves.
    pub agents: Vec<String>,
    /// For routing.
    pub labels: BTreeMap<String, String>,
    /// Its slots.
    pub max_concurrency: usize,
    /// L, in seconds.
    pub lease: f64,
}

/// A replica beside the asker that is live or still owns something.
#[derive(Debug, Clone)]
pub struct Other {
    /// Its name for the database.
    pub replica_id: ReplicaId,
    /// Its name for people.
    pub name: String,
    /// Its machine.
    pub host: String,
    /// The boot of its machine when it registered.
    pub boot_id: String,
    /// Its state directory.
    pub state_dir_id: String,
    /// Whether it is live, as far as the database knows.
    pub live: bool,
    /// Seconds until its lease runs out; negative once it has.
    pub lease_left: f64,
}

/// What a renewal found.
#[derive(Debug, Default)]
pub struct Renewal {
    /// Whether the replica is still live; if not, it was declared dead and owns nothing.
    pub live: bool,
    /// Whether it is to claim nothing more, because an operator or its own stop said so.
    pub draining: bool,
    /// Its open runs, and whether their jobs are to be cancelled. `None` where the reconcile was left out.
    pub runs: Option<Vec<(Owned, bool)>>,
    /// Jobs taken from it by an operator or the sanitizer, whose old process it must end.
    pub ending: Vec<(JobId, Option<RunId>)>,
}

/// How a renewal is sent: on which connection, with the reconcile or without.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reconcile {
    /// The row and what the database says of its runs.
    Full,
    /// The row alone: `jobs` is locked by a migration.
    LeaseOnly,
}

impl Db {
    /// Registers a boot, with its first lease.
    pub async fn register_replica(&self, boot: &Registration) -> Result<()> {
        let labels = serde_json::json!(boot.labels);
        self.query(
            &REGISTER,
            &[
                &boot.replica_id.0,
                &boot.name,
                &boot.host,
                &boot.boot_id,
                &boot.state_dir_id,
                &boot.version,
                &boot.agents,
                &labels,
                &i32::try_from(boot.max_concurrency).unwrap_or(i32::MAX),
                &boot.lease,
            ],
        )
        .await?;
        Ok(())
    }

    /// The replicas beside this one that are live or still own something, eldest first.
    pub async fn list_other_replicas(&self, replica_id: ReplicaId) -> Result<Vec<Other>> {
        self.query(&OTHERS, &[&replica_id.0]).await?.iter().map(other).collect()
    }

    /// Renews the lease; `lease` is L in seconds. An answer of a server that was left behind by a failover is none.
    pub async fn renew_replica(&self, replica_id: ReplicaId, lease: f64, reconcile: Reconcile) -> Result<Renewal> {
        let statement = match reconcile {
            Reconcile::Full => &RENEW,
            Reconcile::LeaseOnly => &RENEW_ONLY,
        };
        let rows = self.query(statement, &[&replica_id.0, &lease]).await?;
        let mut renewal = Renewal { runs: (reconcile == Reconcile::Full).then(Vec::new), ..Renewal::default() };
        for row in &rows {
            match row.try_get("kind")? {
                // The first row, so that nothing of an answer that is not believed is looked at.
                "server" => self.judge(lineage::timeline(row)?)?,
                "lease" => {
                    renewal.live = true;
                    renewal.draining = row.try_get("flag")?;
                }
                "run" => renewal
                    .runs
                    .get_or_insert_default()
                    .push((Owned::from_row_of(row, replica_id)?, row.try_get("flag")?)),
                _ => {
                    let run_id: Option<uuid::Uuid> = row.try_get("run_id")?;
                    renewal.ending.push((JobId(row.try_get("job_id")?), run_id.map(RunId)));
                }
            }
        }
        Ok(renewal)
    }

    /// Says goodbye. `false` while the replica still owns an open run: the lease decides then.
    pub async fn leave_replica(&self, replica_id: ReplicaId) -> Result<bool> {
        Ok(self.query_opt(&LEAVE, &[&replica_id.0]).await?.is_some())
    }

    /// Declares a former boot of the state directory that the caller holds dead. `false`: it is no longer live, or still
    /// has an open run.
    pub async fn supersede_replica(&self, replica_id: ReplicaId, state_dir_id: &str) -> Result<bool> {
        Ok(self.query_opt(&SUPERSEDE, &[&replica_id.0, &state_dir_id]).await?.is_some())
    }

    /// Marks a replica as draining. `false` if it is not live.
    pub async fn drain_replica(&self, replica_id: ReplicaId) -> Result<bool> {
        Ok(self.query_opt(&DRAIN, &[&replica_id.0]).await?.is_some())
    }

    /// Says which agents a replica serves from now on.
    pub async fn serve_agents(&self, replica_id: ReplicaId, agents: &[String]) -> Result<bool> {
        Ok(self.query_opt(&SERVE, &[&replica_id.0, &agents]).await?.is_some())
    }

    /// Acknowledges that a job's old process is gone. `false` if nothing waited for that.
    pub async fn acknowledge_ended(&self, replica_id: ReplicaId, job_id: JobId, run_id: Option<RunId>) -> Result<bool> {
        let row = self.query_opt(&ENDED, &[&replica_id.0, &job_id.0, &run_id.map(|id| id.0)]).await?;
        Ok(row.is_some())
    }
}

fn other(row: &Row) -> Result<Other> {
    Ok(Other {
        replica_id: ReplicaId(row.try_get("replica_id")?),
        name: row.try_get("name")?,
        host: row.try_get("host")?,
        boot_id: row.try_get("boot_id")?,
        state_dir_id: row.try_get("state_dir_id")?,
        live: row.try_get("live")?,
        lease_left: row.try_get("lease_left_seconds")?,
    })
}
