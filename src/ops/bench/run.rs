//! `run`: runs of `/bin/true` through queue, spawner, shim and settle, beside a bare spawn loop.

use super::{
    Options, bare,
    figure::{Figure, Unit},
    scratch::Scratch,
    through::{AGENT, Replica, Work},
};
use crate::config::Settings;

/// Runs a second.
pub(super) async fn measure(settings: &Settings, scratch: &Scratch, options: &Options) -> anyhow::Result<Vec<Figure>> {
    let Options { runs, concurrency, .. } = *options;
    let replica = Replica::start(settings.clone(), scratch, concurrency, Work::Command(&["/bin/true"])).await?;
    let mut rounds = Vec::with_capacity(options.rounds);
    replica.pass(AGENT, runs / 10 + concurrency).await?;
    for _ in 0..options.rounds {
        let ceiling = tokio::task::spawn_blocking(move || bare::spawns(runs, concurrency)).await??;
        rounds.push((replica.pass(AGENT, runs).await?, ceiling));
    }
    replica.stop().await?;
    Ok(vec![Figure::new(
        format!("runs of /bin/true, {concurrency} at a time"),
        Unit::PerSecond,
        "std::process::Command in a loop, unsupervised",
        rounds,
    )])
}
