//! `orch bench run`: runs of `/bin/true` a second through the whole system, beside what this machine does without it.

use anyhow::bail;
use clap::{Args, Subcommand};

use super::{context::Context, exit::Exit, output};
use crate::ops::bench;

/// What to measure.
#[derive(Debug, Subcommand)]
pub(super) enum BenchCommand {
    /// Runs of /bin/true a second, from the queue to the settled row, beside a bare spawn loop
    Run(RunArgs),
}

/// How to measure it.
#[derive(Debug, Args)]
pub(super) struct RunArgs {
    /// Runs in each round
    #[arg(long, default_value_t = 2000)]
    runs: usize,
    /// How many at a time
    #[arg(long, default_value_t = 8)]
    concurrency: usize,
    /// Rounds; the figure is their median
    #[arg(long, default_value_t = 3)]
    rounds: usize,
}

pub(super) async fn run(context: &Context, command: BenchCommand) -> anyhow::Result<Exit> {
    let BenchCommand::Run(args) = command;
    if [args.runs, args.concurrency, args.rounds].contains(&0) {
        bail!("--runs, --concurrency and --rounds must be at least 1");
    }
    let options = bench::Options { runs: args.runs, concurrency: args.concurrency, rounds: args.rounds };
    let figure = bench::run(context.settings.clone(), &context.database()?.server, options).await?;
    if context.json {
        output::document(&figure)?;
    } else {
        output::line(&format!(
            "{}: {:.0} a second, {:.2} of the bare spawn loop's {:.0} a second ({} at a time, median of {} rounds of {})",
            figure.name,
            figure.per_second,
            figure.ratio,
            figure.ceiling_per_second,
            args.concurrency,
            args.rounds,
            args.runs
        ))?;
    }
    Ok(Exit::Done)
}
