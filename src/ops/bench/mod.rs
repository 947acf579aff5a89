//! `orch bench`: what the whole system does, beside the ceiling of this machine measured in the same call. A figure
//! without its ceiling says more about the machine than about orch, so there is none.
//!
//! Works in a database of its own, made for it and dropped after, and in a temporary state directory: the queue that the
//! connection leads to is never touched.

mod bare;
mod scratch;
mod through;

use std::time::Duration;

use anyhow::Context as _;
use serde::Serialize;

use crate::{config::Settings, db::Server};

/// What to measure.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Runs of `/bin/true` in each round.
    pub runs: usize,
    /// How many at a time.
    pub concurrency: usize,
    /// Rounds; the figure is their median.
    pub rounds: usize,
}

/// A figure beside its ceiling.
#[derive(Debug, Clone, Serialize)]
pub struct Figure {
    /// What was measured.
    pub name: &'static str,
    /// Per second, the median of the rounds.
    pub per_second: f64,
    /// What this machine does without orch, per second, the median of the same rounds.
    pub ceiling_per_second: f64,
    /// The one by the other.
    pub ratio: f64,
    /// Every round: orch, then the ceiling.
    pub rounds: Vec<(f64, f64)>,
}

/// Runs of `/bin/true` a second through queue, spawner, shim and settle, beside a bare spawn loop.
pub async fn run(settings: Settings, database: &Server, options: Options) -> anyhow::Result<Figure> {
    let scratch = scratch::Scratch::create(database).await.context("failed to make a database for the bench")?;
    let measured = rounds(settings, &scratch, options).await;
    scratch.drop().await;
    let rounds = measured?;
    let per_second = median(rounds.iter().map(|(orch, _)| *orch));
    let ceiling_per_second = median(rounds.iter().map(|(_, bare)| *bare));
    Ok(Figure {
        name: "runs of /bin/true",
        per_second,
        ceiling_per_second,
        ratio: per_second / ceiling_per_second,
        rounds,
    })
}

async fn rounds(settings: Settings, scratch: &scratch::Scratch, options: Options) -> anyhow::Result<Vec<(f64, f64)>> {
    let replica = through::Replica::start(settings, scratch, options.concurrency).await?;
    let mut rounds = Vec::with_capacity(options.rounds);
    // The first pass warms caches, connections and prepared statements, and is thrown away.
    replica.pass(options.runs / 10 + options.concurrency).await?;
    for _ in 0..options.rounds {
        // Interleaved, so that a slow minute of the machine slows both.
        let bare = tokio::task::spawn_blocking(move || bare::spawns(options.runs, options.concurrency)).await??;
        let orch = replica.pass(options.runs).await?;
        rounds.push((orch, bare));
    }
    replica.stop().await?;
    Ok(rounds)
}

fn per_second(count: usize, took: Duration) -> f64 {
    count as f64 / took.as_secs_f64().max(1e-9)
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
