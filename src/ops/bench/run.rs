//! `run`: runs of `/bin/true` through queue, spawner, shim and settle, and through spawner and shim alone, beside a bare spawn
//! loop.

use super::{
    Options, alone, bare,
    figure::{Figure, Unit},
    scratch::Scratch,
    through::{AGENT, Replica, Work},
};
use crate::config::Settings;

/// Runs a second.
pub(super) async fn measure(settings: &Settings, scratch: &Scratch, options: &Options) -> anyhow::Result<Vec<Figure>> {
    let Options { runs, concurrency, .. } = *options;
    let replica = Replica::start(settings.clone(), scratch, concurrency, Work::Command(&["/bin/true"])).await?;
    let (mut rounds, mut without_queue) = (Vec::new(), Vec::new());
    replica.pass(AGENT, runs / 10 + concurrency).await?;
    for _ in 0..options.rounds {
        let ceiling = tokio::task::spawn_blocking(move || bare::spawns(runs, concurrency)).await??;
        rounds.push((replica.pass(AGENT, runs).await?, ceiling));
        without_queue.push((alone::runs(scratch.dir.path(), "/bin/true", runs, concurrency).await?, ceiling));
    }
    replica.stop().await?;
    let ceiling = "std::process::Command in a loop, unsupervised";
    let name = format!("runs of /bin/true, {concurrency} at a time");
    Ok(vec![
        Figure::new(name.clone(), Unit::PerSecond, ceiling, rounds),
        Figure::new(format!("{name}, spawner and shim alone"), Unit::PerSecond, ceiling, without_queue),
    ])
}
