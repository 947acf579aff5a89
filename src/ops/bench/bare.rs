//! The ceiling: the same program started as fast as the standard library can, unsupervised and without a database.

use std::{
    process::{Command, Stdio},
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::Instant,
};

use anyhow::{Context as _, ensure};

/// Spawns a second, with so many waited for side by side.
pub(super) fn spawns(runs: usize, concurrency: usize) -> anyhow::Result<f64> {
    let left = AtomicUsize::new(runs);
    let begun = Instant::now();
    thread::scope(|scope| {
        let workers: Vec<_> = (0..concurrency)
            .map(|_| {
                scope.spawn(|| {
                    while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok() {
                        let status = Command::new("/bin/true")
                            .env_clear()
                            .stdin(Stdio::null())
                            .stdout(Stdio::null())
                            .stderr(Stdio::null())
                            .status()
                            .context("failed to start /bin/true")?;
                        ensure!(status.success(), "/bin/true failed: {status}");
                    }
                    Ok(())
                })
            })
            .collect();
        workers.into_iter().try_for_each(|worker| {
            worker.join().unwrap_or_else(|_| Err(anyhow::anyhow!("a thread of the bare loop panicked")))
        })
    })?;
    Ok(super::figure::per_second(runs, begun.elapsed()))
}
