//! A database and a state directory for one bench, gone after it.

use anyhow::Context as _;
use tokio_postgres::Client;
use tracing::warn;
use uuid::Uuid;

use super::through::AGENT;
use crate::db::Server;

/// Finished jobs that a round leaves to the next.
const KEPT: i64 = 5_000;

/// A migrated database of the bench's own, with the table of the ceilings.
#[derive(Debug)]
pub(super) struct Scratch {
    admin: Client,
    name: String,
    /// How to connect to it.
    pub server: Server,
    /// For the state directories of its replicas, and whatever else goes with it.
    pub dir: tempfile::TempDir,
}

impl Scratch {
    /// Makes it beside the database that `server` leads to.
    pub(super) async fn create(server: &Server) -> anyhow::Result<Self> {
        Self::try_create(server).await.context("failed to make a database for the bench")
    }

    async fn try_create(server: &Server) -> anyhow::Result<Self> {
        let (admin, _) = server.connect().await?;
        let name = format!("orch_bench_{}", Uuid::new_v4().simple());
        // A name cannot be a parameter; this one is made of hexadecimal digits.
        admin.batch_execute(&format!("create database {name}")).await?;
        let server = server.clone().with_database(&name);
        crate::db::schema::migrate(&server).await?;
        super::raw::make_table(&server).await?;
        let dir = tempfile::Builder::new().prefix("orch-bench-").tempdir()?;
        Ok(Self { admin, name, server, dir })
    }

    /// Puts so many jobs, evenly of so many projects, into the queue, with fresh statistics.
    pub(super) async fn fill(&self, jobs: usize, projects: usize) -> anyhow::Result<()> {
        let (client, _) = self.server.connect().await?;
        let fill = "insert into orch.jobs (agent, project)
                    select $1, 'bench-' || n % $3 from generate_series(1, $2::bigint) n";
        client.execute(fill, &[&AGENT, &(jobs as i64), &(projects as i64)]).await?;
        client.batch_execute("analyze orch.jobs").await?;
        Ok(())
    }

    /// How many transactions this database has seen. The asker is in another one.
    pub(super) async fn transactions(&self) -> anyhow::Result<i64> {
        let count = "select xact_commit + xact_rollback from pg_stat_database where datname = $1";
        Ok(self.admin.query_one(count, &[&self.name]).await?.try_get(0)?)
    }

    /// Clears up after a round, as the server does in a quiet minute: what is measured next does not wade through the dead
    /// rows of what was before. What finished last stays, as it does in a queue that is in use, and plans are made for it;
    /// what is older is pruned, since every replica that starts walks over it.
    pub(super) async fn tidy(&self) -> anyhow::Result<()> {
        let (client, _) = self.server.connect().await?;
        for prune in [
            "delete from orch.agent_runs where job_id <= (select max(id) from orch.jobs) - $1",
            "delete from orch.jobs where id <= (select max(id) from orch.jobs) - $1",
            "delete from public.bare_runs where job_id <= (select max(id) from public.bare) - $1",
            "delete from public.bare where id <= (select max(id) from public.bare) - $1",
        ] {
            client.execute(prune, &[&KEPT]).await?;
        }
        for table in ["orch.jobs", "orch.agent_runs", "public.bare", "public.bare_runs"] {
            client.batch_execute(&format!("vacuum (analyze) {table}")).await?;
        }
        Ok(())
    }

    /// Drops it.
    pub(super) async fn drop(self) {
        if let Err(error) = self.admin.batch_execute(&format!("drop database {} with (force)", self.name)).await {
            warn!(%error, database = self.name, "failed to drop the bench's database; drop it by hand");
        }
    }
}
