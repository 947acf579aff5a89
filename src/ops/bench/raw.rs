//! Ceilings in SQL without orch: a table that holds the least of a queue, an UPDATE that claims, one that completes, and no
//! history. What any queue on this database could reach.

use std::time::Instant;

use futures_util::future::try_join_all;
use tokio_postgres::{Client, Statement};

use super::figure::per_second;
use crate::db::Server;

/// As in `docs/performance.md`: HOT completions, since the index is on a flag that they do not touch.
const TABLE: &str = "
    create table public.bare (
        id       bigint generated always as identity primary key,
        status   text not null default 'queued',
        ready    boolean not null default true,
        priority smallint not null default 0,
        run_at   timestamptz not null default now(),
        payload  jsonb not null default '{}',
        done_at  timestamptz
    ) with (fillfactor = 50);
    create index bare_ready on public.bare (priority desc, run_at, id) where ready";
const FILL: &str = "insert into public.bare (payload) select '{}' from generate_series(1, $1::bigint)";
pub(super) const CLAIM: &str = "
    update public.bare b set status = 'running', ready = false
      from (select id from public.bare where ready and run_at <= now()
             order by priority desc, run_at, id limit $1 for update skip locked) p
     where b.id = p.id
    returning b.id";
pub(super) const COMPLETE: &str = "update public.bare set status = 'succeeded', done_at = now() where id = any ($1)";

/// Makes the table.
pub(super) async fn make_table(server: &Server) -> anyhow::Result<()> {
    let (setup, _) = server.connect().await?;
    setup.batch_execute(TABLE).await?;
    Ok(())
}

/// Connections to the scratch database with the two statements prepared.
pub(super) struct Bare {
    clients: Vec<Worker>,
}

struct Worker {
    client: Client,
    claim: Statement,
    complete: Statement,
}

impl Bare {
    pub(super) async fn connect(server: &Server, clients: usize) -> anyhow::Result<Self> {
        let made = (0..clients).map(|_| async {
            let (client, _) = server.connect().await?;
            let claim = client.prepare(CLAIM).await?;
            let complete = client.prepare(COMPLETE).await?;
            anyhow::Ok(Worker { client, claim, complete })
        });
        Ok(Self { clients: try_join_all(made).await? })
    }

    /// Fills the table, then says how many a second are claimed and completed in batches of so many.
    pub(super) async fn drain(&self, jobs: usize, batch: i64) -> anyhow::Result<f64> {
        let Some(first) = self.clients.first() else { anyhow::bail!("a ceiling needs a connection") };
        first.client.execute(FILL, &[&(jobs as i64)]).await?;
        let begun = Instant::now();
        try_join_all(self.clients.iter().map(|worker| worker.drain(batch))).await?;
        Ok(per_second(jobs, begun.elapsed()))
    }
}

impl Worker {
    async fn drain(&self, batch: i64) -> anyhow::Result<()> {
        loop {
            let rows = self.client.query(&self.claim, &[&batch]).await?;
            if rows.is_empty() {
                return Ok(());
            }
            let ids: Vec<i64> = rows.iter().map(|row| row.get(0)).collect();
            self.client.execute(&self.complete, &[&ids]).await?;
        }
    }
}
