//! Spawner and shim without a queue: directories, forks, supervision and the end of each run, as a replica asks for them, and
//! no database.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use tokio::task::{JoinSet, spawn_blocking};

use super::figure::per_second;
use crate::{
    model::{JobId, ReplicaId, RunId},
    shim::{
        client::{Ended, LeaseFile, Spawner, boottime, own_exe},
        protocol::{RunDir, Spec},
    },
};

/// Longer than any bench.
const LEASE: Duration = Duration::from_hours(24);

/// Runs a second of this program, with so many side by side, in a state directory below `home`.
pub(super) async fn runs(home: &Path, program: &str, runs: usize, concurrency: usize) -> anyhow::Result<f64> {
    let home = tempfile::Builder::new().prefix("alone-").tempdir_in(home)?;
    let replica_id = ReplicaId::new();
    let _lease = LeaseFile::create(home.path(), replica_id, boottime() + LEASE)?;
    let spawner = Spawner::start(own_exe(), home.path().to_owned(), Duration::ZERO).await?;
    let left = Arc::new(AtomicUsize::new(runs));
    let begun = Instant::now();
    let mut workers = JoinSet::new();
    for _ in 0..concurrency {
        let (spawner, left, home) = (spawner.clone(), left.clone(), home.path().to_owned());
        let program = program.to_owned();
        workers.spawn(async move {
            while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok() {
                one(&spawner, &home, replica_id, &program).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(worker) = workers.join_next().await {
        worker.context("a worker of the bench panicked")??;
    }
    let figure = per_second(runs, begun.elapsed());
    spawner.shutdown().await;
    Ok(figure)
}

/// One run, from its directory to the end of that.
async fn one(spawner: &Spawner, home: &Path, replica_id: ReplicaId, program: &str) -> anyhow::Result<()> {
    let dir = RunDir::new(home, RunId::new());
    let spec = Spec {
        kill_grace_ms: 10_000,
        log_cap: 1 << 20,
        ..Spec::bare(dir.run_id(), JobId(1), replica_id, vec![program.to_owned()])
    };
    let made = dir.clone();
    spawn_blocking(move || made.create(&spec, b"{}")).await??;
    let mut handle = spawner.launch(&dir).await?;
    match handle.ended().await {
        Ended::Exit(exit) if exit.exit_code == Some(0) => {}
        other => bail!("{program} ended otherwise than it was to: {other:?}"),
    }
    handle.stored().await;
    Ok(spawn_blocking(move || dir.retire()).await??)
}
