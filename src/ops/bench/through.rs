//! The whole system: a replica of the bench's own, from the enqueue to the settled row.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use tokio::{sync::watch, task::JoinHandle};

use super::{figure::per_second, scratch::Scratch};
use crate::{
    agents::{Agent, Stdin},
    config::Settings,
    db::Db,
    model::{Backoff, OnLost},
    replica::{self, Executor, Shutdown, Start, StateDir},
};

/// The agent whose runs are measured.
pub(super) const AGENT: &str = "bench";
/// A pass that takes longer than this has not been slow, it hangs.
const PATIENCE: Duration = Duration::from_mins(5);
/// Between two looks, rare enough not to be part of what is measured.
const LOOK_AGAIN: Duration = Duration::from_millis(250);
/// Where nothing is measured meanwhile.
const LOOK_SOON: Duration = Duration::from_millis(5);

/// What the jobs are.
#[derive(Debug, Clone, Copy)]
pub(super) enum Work<'a> {
    /// This command, as a run of it always is.
    Command(&'a [&'a str]),
    /// Nothing, and no process.
    Nothing,
}

/// A replica in this process, on the scratch database.
#[derive(Debug)]
pub(super) struct Replica {
    db: Db,
    shutdown: Shutdown,
    task: JoinHandle<anyhow::Result<()>>,
    _agents: watch::Sender<replica::Agents>,
    _state_dir: tempfile::TempDir,
}

impl Replica {
    pub(super) async fn start(
        mut settings: Settings,
        scratch: &Scratch,
        concurrency: usize,
        work: Work<'_>,
    ) -> anyhow::Result<Self> {
        let home = tempfile::Builder::new().prefix("replica-").tempdir_in(scratch.dir.path())?;
        let (executor, command) = match work {
            Work::Command(words) => (Executor::Processes, words),
            Work::Nothing => (Executor::Nothing, &["/bin/true"][..]),
        };
        settings.max_concurrency = concurrency;
        settings.state_dir = home.path().to_owned();
        settings.agents = BTreeMap::from([(AGENT.to_owned(), agent(command))]);
        let state_dir = StateDir::open(&settings.state_dir)?;
        let (agents, receiver) = watch::channel(Arc::new(settings.agents.clone()));
        let shutdown = Shutdown::default();
        let db = Db::new(scratch.server.clone(), settings.pool_size, settings.prepared_statements)?;
        let start = Start {
            executor,
            db: db.clone(),
            renewals: Db::new(scratch.server.clone(), replica::MOST_RENEWALS, settings.prepared_statements)?,
            settings,
            state_dir,
            agents: receiver,
            shutdown: shutdown.clone(),
            paused: watch::Sender::new(None),
            renewed: watch::Sender::new(()),
            unending: watch::Sender::default(),
        };
        let (ready, is_ready) = tokio::sync::oneshot::channel();
        let mut ready = Some(ready);
        let ready = move |_| {
            if let Some(ready) = ready.take() {
                // Whoever waited may have given up.
                let _ = ready.send(());
            }
        };
        let mut task = tokio::spawn(replica::run(start, ready));
        tokio::select! {
            _ = is_ready => {}
            ended = &mut task => {
                ended??;
                bail!("the bench's replica ended before it was ready");
            }
        }
        Ok(Self { db, shutdown, task, _agents: agents, _state_dir: home })
    }

    /// Enqueues so many jobs in one call and says how many a second ended, from the first claim to the last settle.
    pub(super) async fn pass(&self, agent: &str, runs: usize) -> anyhow::Result<f64> {
        let (first, last) = self.db.enqueue_for_bench(agent, runs as i64).await.context("failed to enqueue")?;
        let begun = Instant::now();
        loop {
            let pass = self.db.measure_for_bench(first, last).await?;
            if let (false, Some(seconds)) = (pass.live, pass.seconds) {
                let succeeded = pass.succeeded as usize;
                anyhow::ensure!(succeeded == runs, "only {succeeded} of {runs} runs succeeded");
                return Ok(per_second(runs, Duration::from_secs_f64(seconds)));
            }
            if begun.elapsed() > PATIENCE || self.task.is_finished() {
                bail!("of {runs} runs some did not end; see the log");
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// Enqueues one job and says how long it took until so many bytes of its output had arrived in the database.
    pub(super) async fn arrival(&self, agent: &str, bytes: i64) -> anyhow::Result<Duration> {
        let before = self.db.stored_for_bench().await?;
        let begun = Instant::now();
        self.db.enqueue_for_bench(agent, 1).await.context("failed to enqueue")?;
        while self.db.stored_for_bench().await? < before + bytes {
            anyhow::ensure!(begun.elapsed() < PATIENCE, "the output of a run did not arrive; see the log");
            tokio::time::sleep(LOOK_SOON).await;
        }
        Ok(begun.elapsed())
    }

    /// Waits until every job has ended.
    pub(super) async fn idle(&self) -> anyhow::Result<()> {
        let begun = Instant::now();
        while self.db.measure_for_bench(0, 0).await?.live {
            if begun.elapsed() > PATIENCE || self.task.is_finished() {
                bail!("the queue did not come to rest; see the log");
            }
            tokio::time::sleep(LOOK_SOON).await;
        }
        Ok(())
    }

    pub(super) async fn stop(self) -> anyhow::Result<()> {
        self.shutdown.drain.cancel();
        self.task.await?
    }
}

/// An agent with this command, and all else by default.
pub(super) fn agent(command: &[&str]) -> Agent {
    Agent {
        name: AGENT.to_owned(),
        command: command.iter().map(|word| (*word).to_owned()).collect(),
        env: BTreeMap::new(),
        pass_env: Vec::new(),
        redact: Vec::new(),
        cwd: None,
        user: None,
        stdin: Stdin::Null,
        timeout: None,
        silence_timeout: None,
        max_attempts: 1,
        backoff: Backoff::default(),
        on_lost: OnLost::Requeue,
        containment: None,
        memory_max: None,
        pids_max: None,
        success_codes: vec![0],
        limits: Vec::new(),
    }
}
