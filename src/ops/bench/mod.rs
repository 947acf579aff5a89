//! `orch bench`: what the whole system does, beside the ceiling of this machine measured in the same call. A figure
//! without its ceiling says more about the machine than about orch, so there is none.
//!
//! Works in a database of its own, made for it and dropped after, and in a temporary state directory: the queue that the
//! connection leads to is never touched. Rounds are interleaved, so that a slow minute of the machine slows both sides; the
//! first one warms up and is thrown away.

mod alone;
mod bare;
mod cost;
mod engine;
mod enqueue;
mod figure;
mod hand;
mod idle;
mod latency;
mod logs;
mod raw;
mod run;
mod scratch;
mod through;

pub use figure::{Figure, Unit, markdown};
use scratch::Scratch;

use crate::{config::Settings, db::Server};

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// Claim and settle by whole replicas, of jobs that do nothing.
    Engine,
    /// Runs of `/bin/true`.
    Run,
    /// From the enqueue to the start of the process.
    Latency,
    /// One by one with and without wake-ups, and in bulk.
    Enqueue,
    /// What a claim costs as the queue grows.
    Depth,
    /// What it costs after many jobs have come and gone, also under an old snapshot.
    Rot,
    /// What it costs with many projects.
    Projects,
    /// What a run may write, and how fast that gets into the database.
    Logs,
    /// What a replica without a job asks of the database.
    Idle,
}

/// All of it, in the order of the table.
pub const EVERYTHING: &[What] = &[
    What::Engine,
    What::Run,
    What::Latency,
    What::Enqueue,
    What::Depth,
    What::Rot,
    What::Projects,
    What::Logs,
    What::Idle,
];

/// How it is measured.
#[derive(Debug, Clone)]
pub struct Options {
    /// Rounds; a figure is their median.
    pub rounds: usize,
    /// Jobs of a round that do nothing.
    pub jobs: usize,
    /// Runs of `/bin/true` in a round.
    pub runs: usize,
    /// How many of those at a time.
    pub concurrency: usize,
    /// Jobs of a round whose start is timed.
    pub samples: usize,
    /// How many jobs are queued where a claim is timed, beside a shallow queue.
    pub depths: Vec<usize>,
    /// How many jobs have come and gone where a claim is timed, beside a fresh queue.
    pub churn: usize,
}

/// Measures one thing after the other, each in a database of its own beside the one that `database` leads to.
pub async fn measure(
    settings: &Settings,
    database: &Server,
    what: &[What],
    options: &Options,
) -> anyhow::Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for what in what {
        figures.extend(match what {
            What::Depth => cost::depth(settings, database, options).await?,
            What::Rot => cost::rot(settings, database, options).await?,
            What::Projects => cost::projects(settings, database, options).await?,
            What::Engine | What::Run | What::Latency | What::Enqueue | What::Logs | What::Idle => {
                let scratch = Scratch::create(database).await?;
                let measured = in_one(settings, &scratch, *what, options).await;
                scratch.drop().await;
                measured?
            }
        });
    }
    Ok(figures)
}

/// What needs one database alone.
async fn in_one(settings: &Settings, scratch: &Scratch, what: What, options: &Options) -> anyhow::Result<Vec<Figure>> {
    match what {
        What::Engine => engine::measure(settings, scratch, options).await,
        What::Run => run::measure(settings, scratch, options).await,
        What::Latency => latency::measure(settings, scratch, options).await,
        What::Enqueue => enqueue::measure(settings, scratch, options).await,
        What::Logs => logs::measure(settings, scratch, options).await,
        What::Idle => idle::measure(settings, scratch, options).await,
        What::Depth | What::Rot | What::Projects => Ok(Vec::new()),
    }
}
