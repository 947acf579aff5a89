//! Ceilings in SQL without orch: a table that holds the least of a queue, an UPDATE that claims, one that completes, and no
//! history; and the same with the least of a history. What any queue on this database could reach.

use std::time::Instant;

use futures_util::future::try_join_all;
use tokio_postgres::{Client, Statement};
use uuid::Uuid;

use super::figure::per_second;
use crate::{db::Server, model::RunId};

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
/// The least that knows each run by itself, never opens two of one job, and finds those of a job.
const HISTORY: &str = "
    create table public.bare_runs (
        run_id     uuid primary key,
        job_id     bigint not null,
        claimed_at timestamptz not null default now(),
        ended_at   timestamptz,
        outcome    text
    ) with (fillfactor = 70);
    create unique index bare_runs_open on public.bare_runs (job_id) where ended_at is null;
    create index bare_runs_job on public.bare_runs (job_id)";
const CLAIM_AND_OPEN: &str = "
    with claimed as (
        update public.bare b set status = 'running', ready = false
          from (select id, row_number() over () as place
                  from (select id from public.bare where ready and run_at <= now()
                         order by priority desc, run_at, id limit $1 for update skip locked) l) p
         where b.id = p.id
        returning b.id, ($2::uuid[])[p.place] as run_id
    )
    insert into public.bare_runs (run_id, job_id) select run_id, id from claimed returning job_id, run_id";
const COMPLETE_AND_CLOSE: &str = "
    with completed as (update public.bare set status = 'succeeded', done_at = now() where id = any ($1))
    update public.bare_runs set ended_at = now(), outcome = 'succeeded' where run_id = any ($2)";

/// Makes the tables.
pub(super) async fn make_table(server: &Server) -> anyhow::Result<()> {
    let (setup, _) = server.connect().await?;
    setup.batch_execute(TABLE).await?;
    setup.batch_execute(HISTORY).await?;
    Ok(())
}

/// What is written of a job beside its own row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum History {
    /// Nothing.
    None,
    /// A row a run, from the claim on.
    Runs,
}

/// Connections to the scratch database with the statements prepared.
pub(super) struct Bare {
    clients: Vec<Worker>,
}

struct Worker {
    client: Client,
    claim: Statement,
    complete: Statement,
    claim_and_open: Statement,
    complete_and_close: Statement,
}

impl Bare {
    pub(super) async fn connect(server: &Server, clients: usize) -> anyhow::Result<Self> {
        let made = (0..clients).map(|_| async {
            let (client, _) = server.connect().await?;
            anyhow::Ok(Worker {
                claim: client.prepare(CLAIM).await?,
                complete: client.prepare(COMPLETE).await?,
                claim_and_open: client.prepare(CLAIM_AND_OPEN).await?,
                complete_and_close: client.prepare(COMPLETE_AND_CLOSE).await?,
                client,
            })
        });
        Ok(Self { clients: try_join_all(made).await? })
    }

    /// Fills the table, then says how many a second are claimed and completed in batches of so many.
    pub(super) async fn drain(&self, jobs: usize, batch: i64, history: History) -> anyhow::Result<f64> {
        let Some(first) = self.clients.first() else { anyhow::bail!("a ceiling needs a connection") };
        first.client.execute(FILL, &[&(jobs as i64)]).await?;
        let begun = Instant::now();
        try_join_all(self.clients.iter().map(|worker| async move {
            while match history {
                History::None => worker.step(batch).await?,
                History::Runs => worker.step_with_history(batch).await?,
            } {}
            anyhow::Ok(())
        }))
        .await?;
        Ok(per_second(jobs, begun.elapsed()))
    }
}

impl Worker {
    /// One batch. Whether there was one.
    async fn step(&self, batch: i64) -> anyhow::Result<bool> {
        let rows = self.client.query(&self.claim, &[&batch]).await?;
        let ids: Vec<i64> = rows.iter().map(|row| row.get(0)).collect();
        self.client.execute(&self.complete, &[&ids]).await?;
        Ok(!rows.is_empty())
    }

    async fn step_with_history(&self, batch: i64) -> anyhow::Result<bool> {
        let names: Vec<Uuid> = (0..batch).map(|_| RunId::new().0).collect();
        let rows = self.client.query(&self.claim_and_open, &[&batch, &names]).await?;
        let (ids, runs): (Vec<i64>, Vec<Uuid>) =
            rows.iter().map(|row| (row.get::<_, i64>(0), row.get::<_, Uuid>(1))).unzip();
        self.client.execute(&self.complete_and_close, &[&ids, &runs]).await?;
        Ok(!rows.is_empty())
    }
}
