//! `latency`: from before the enqueue to the first thing that the job's program does, beside the least that could be done
//! for it: INSERT and NOTIFY, an UPDATE that claims, a spawn.
//!
//! The program is `tee`, which opens a pipe with a name; whoever reads there sees it begin.

use std::{
    fs::File,
    io::Read as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use nix::{sys::stat::Mode, unistd::mkfifo};
use tokio::{
    sync::mpsc,
    time::{sleep, timeout},
};
use tokio_postgres::{Client, Statement};

use super::{
    Options,
    figure::{Figure, Unit, quantile},
    scratch::Scratch,
    through::{AGENT, Replica, Work},
};
use crate::{
    config::Settings,
    db::{Db, Server, jobs::NewJob},
};

const PROGRAM: &str = "/usr/bin/tee";
/// What a job inherits where nothing else is said.
const ENVIRONMENT: [&str; 2] = ["LANG", "PATH"];
/// Slots of the replica.
const SLOTS: usize = 8;
/// A start that takes longer will not come.
const PATIENCE: Duration = Duration::from_mins(1);

/// Milliseconds, p50 and p99.
pub(super) async fn measure(settings: &Settings, scratch: &Scratch, options: &Options) -> anyhow::Result<Vec<Figure>> {
    let mut pipe = Pipe::make(scratch.dir.path())?;
    let words = [PROGRAM.to_owned(), pipe.path.to_string_lossy().into_owned()];
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let db = Db::new(scratch.server.clone(), 2, settings.prepared_statements)?;
    let replica = Replica::start(settings.clone(), scratch, SLOTS, Work::Command(&words)).await?;
    let mut bare = Bare::connect(&scratch.server).await?;
    let job = NewJob { agent: AGENT.to_owned(), project: "bench".to_owned(), ..NewJob::default() };
    let (mut p50, mut p99) = (Vec::new(), Vec::new());
    for round in 0..=options.rounds {
        let samples = if round == 0 { 10 } else { options.samples };
        let (mut orch, mut least) = (Vec::new(), Vec::new());
        for _ in 0..samples {
            between().await;
            let begun = Instant::now();
            db.enqueue_job(&job).await.context("failed to enqueue")?;
            orch.push(pipe.begins_after(begun).await?);
            replica.idle().await?;
            between().await;
            least.push(bare.sample(&mut pipe).await?);
        }
        if round > 0 {
            let at = |part| (quantile(orch.iter().copied(), part), quantile(least.iter().copied(), part));
            p50.push(at(0.5));
            p99.push(at(0.99));
        }
    }
    replica.stop().await?;
    let name = |part| format!("enqueue to process start, {part}");
    let ceiling = "INSERT and NOTIFY, one UPDATE, one spawn, in one loop";
    Ok(vec![
        Figure::new(name("p50"), Unit::Milliseconds, ceiling, p50),
        Figure::new(name("p99"), Unit::Milliseconds, ceiling, p99),
    ])
}

/// Neither in step with anything, nor before the queue is at rest.
async fn between() {
    sleep(Duration::from_millis(rand::random_range(5..25))).await;
}

/// A pipe with a name, and who tells when a program has opened it.
struct Pipe {
    path: PathBuf,
    opened: mpsc::UnboundedReceiver<Instant>,
}

impl Pipe {
    fn make(dir: &Path) -> anyhow::Result<Self> {
        let path = dir.join("begins");
        mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR).context("failed to make a pipe with a name")?;
        let (say, opened) = mpsc::unbounded_channel();
        let at = path.clone();
        // Ends with the process: nobody opens the pipe any more, and a thread that waits costs nothing.
        thread::spawn(move || {
            while let Ok(mut pipe) = File::open(&at) {
                if say.send(Instant::now()).is_err() {
                    return;
                }
                let mut rest = Vec::new();
                // What comes is of no interest, only its end.
                let _ = pipe.read_to_end(&mut rest);
            }
        });
        Ok(Self { path, opened })
    }

    /// Milliseconds from then until a program opened it.
    async fn begins_after(&mut self, begun: Instant) -> anyhow::Result<f64> {
        let opened = timeout(PATIENCE, self.opened.recv()).await.context("the job did not start; see the log")?;
        let opened = opened.context("the thread that watches the pipe has ended")?;
        Ok(opened.duration_since(begun).as_secs_f64() * 1000.0)
    }
}

/// Two connections: one enqueues, the other listens, claims and completes.
struct Bare {
    producer: Client,
    insert: Statement,
    worker: Client,
    claim: Statement,
    complete: Statement,
    heard: mpsc::UnboundedReceiver<()>,
}

impl Bare {
    async fn connect(server: &Server) -> anyhow::Result<Self> {
        let (producer, _) = server.connect().await?;
        let (worker, heard) = server.connect_hearing().await?;
        worker.batch_execute("listen bare").await?;
        let insert = producer
            .prepare("with job as (insert into public.bare (payload) values ('{}')) select pg_notify('bare', '')")
            .await?;
        let claim = worker.prepare(super::raw::CLAIM).await?;
        let complete = worker.prepare(super::raw::COMPLETE).await?;
        Ok(Self { producer, insert, worker, claim, complete, heard })
    }

    async fn sample(&mut self, pipe: &mut Pipe) -> anyhow::Result<f64> {
        let begun = Instant::now();
        let enqueue = self.producer.query(&self.insert, &[]);
        let work = async {
            self.heard.recv().await.context("the connection that listens has ended")?;
            let rows = self.worker.query(&self.claim, &[&1_i64]).await?;
            let ids: Vec<i64> = rows.iter().map(|row| row.get(0)).collect();
            let child = Command::new(PROGRAM)
                .arg(&pipe.path)
                // As a job gets it: the program reads its locale by it, which takes a third of its start.
                .env_clear()
                .envs(ENVIRONMENT.iter().filter_map(|name| Some((name, std::env::var_os(name)?))))
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()?;
            anyhow::Ok((ids, child))
        };
        let (enqueued, worked) = tokio::join!(enqueue, work);
        enqueued?;
        let (ids, mut child) = worked?;
        let took = pipe.begins_after(begun).await?;
        tokio::task::spawn_blocking(move || child.wait()).await??;
        self.worker.execute(&self.complete, &[&ids]).await?;
        Ok(took)
    }
}
