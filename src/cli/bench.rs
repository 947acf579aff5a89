//! `orch bench`: figures of the whole system, each beside its ceiling on this machine, as a table in Markdown or as JSON.

use anyhow::bail;
use clap::{Args, ValueEnum};

use super::{context::Context, exit::Exit, output};
use crate::ops::bench::{self, What};

/// What to measure, and how.
#[derive(Debug, Args)]
pub(super) struct BenchArgs {
    /// What to measure; everything where nothing is named
    what: Vec<Name>,
    /// Rounds; a figure is their median
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Jobs of a round that do nothing
    #[arg(long, default_value_t = 20_000)]
    jobs: usize,
    /// Runs of /bin/true in a round
    #[arg(long, default_value_t = 2000)]
    runs: usize,
    /// How many of those at a time
    #[arg(long, default_value_t = 8)]
    concurrency: usize,
    /// Jobs of a round whose start is timed
    #[arg(long, default_value_t = 200)]
    samples: usize,
    /// Queued jobs from which a claim is timed, beside 10,000
    #[arg(long, value_delimiter = ',', default_values_t = [1_000_000, 10_000_000])]
    depths: Vec<usize>,
    /// Jobs that have come and gone when a claim is timed
    #[arg(long, default_value_t = 500_000)]
    churn: usize,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Name {
    /// Jobs a second that do nothing, through one replica and four, beside the same statements without the loops
    Engine,
    /// Runs of /bin/true a second, from the queue to the settled row, beside a bare spawn loop
    Run,
    /// Milliseconds from the enqueue to the start of the process, beside NOTIFY, claim and spawn in one loop
    Latency,
    /// Jobs enqueued a second: one by one with wake-ups beside without, in bulk beside COPY
    Enqueue,
    /// Milliseconds of a claim from a deep queue, beside a shallow one
    Depth,
    /// Milliseconds of a claim after many jobs have come and gone, also under an old snapshot, beside a fresh queue
    Rot,
    /// Milliseconds of a claim with many projects, beside one
    Projects,
    /// Megabytes a second that a run may write, and that get into the database
    Logs,
    /// Statements a second of an idle replica
    Idle,
}

impl From<Name> for What {
    fn from(name: Name) -> Self {
        match name {
            Name::Engine => Self::Engine,
            Name::Run => Self::Run,
            Name::Latency => Self::Latency,
            Name::Enqueue => Self::Enqueue,
            Name::Depth => Self::Depth,
            Name::Rot => Self::Rot,
            Name::Projects => Self::Projects,
            Name::Logs => Self::Logs,
            Name::Idle => Self::Idle,
        }
    }
}

pub(super) async fn run(context: &Context, args: BenchArgs) -> anyhow::Result<Exit> {
    if [args.rounds, args.jobs, args.runs, args.concurrency, args.samples].contains(&0) {
        bail!("--rounds, --jobs, --runs, --concurrency and --samples must be at least 1");
    }
    let options = bench::Options {
        rounds: args.rounds,
        jobs: args.jobs,
        runs: args.runs,
        concurrency: args.concurrency,
        samples: args.samples,
        depths: args.depths,
        churn: args.churn,
    };
    let named: Vec<What> = args.what.into_iter().map(What::from).collect();
    let what = if named.is_empty() { bench::EVERYTHING } else { &named };
    let figures = bench::measure(&context.settings, &context.database()?.server, what, &options).await?;
    if context.json {
        output::document(&figures)?;
    } else {
        output::write(bench::markdown(&figures).as_bytes())?;
    }
    Ok(Exit::Done)
}
