//! A database and a state directory for one bench, gone after it.

use tokio_postgres::Client;
use tracing::warn;
use uuid::Uuid;

use crate::db::Server;

/// A migrated database of the bench's own.
#[derive(Debug)]
pub(super) struct Scratch {
    admin: Client,
    name: String,
    /// How to connect to it.
    pub server: Server,
    /// Where its replica keeps its state.
    pub state_dir: tempfile::TempDir,
}

impl Scratch {
    /// Makes it beside the database that `server` leads to.
    pub(super) async fn create(server: &Server) -> anyhow::Result<Self> {
        let (admin, _) = server.connect().await?;
        let name = format!("orch_bench_{}", Uuid::new_v4().simple());
        // A name cannot be a parameter; this one is made of hexadecimal digits.
        admin.batch_execute(&format!("create database {name}")).await?;
        let server = server.clone().with_database(&name);
        crate::db::schema::migrate(&server).await?;
        let state_dir = tempfile::Builder::new().prefix("orch-bench-").tempdir()?;
        Ok(Self { admin, name, server, state_dir })
    }

    /// Drops it.
    pub(super) async fn drop(self) {
        if let Err(error) = self.admin.batch_execute(&format!("drop database {} with (force)", self.name)).await {
            warn!(%error, database = self.name, "failed to drop the bench's database; drop it by hand");
        }
    }
}
