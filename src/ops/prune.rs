//! Removes what ended longer than `keep_finished` ago: jobs with their runs and logs, replicas that are gone, events.
//!
//! Every replica does it now and then, side by side with others: a piece that one works on is passed over by the next. It
//! goes in small pieces, and rests after each for several times as long as that took, so that a database with much to
//! remove is never busy with it. Never touches what lives; the statements look at that again, under their locks.

use std::time::{Duration, Instant};

use tokio::time::sleep;
use tracing::{debug, info, warn};

use crate::{
    db::{Db, Result},
    model::JobId,
};

/// From one round to the next, half as long to one and a half times.
const EVERY: Duration = Duration::from_mins(10);

/// Jobs that are looked at, and so deleted, in one piece.
const JOBS: i64 = 200;

/// Chunks of logs that are deleted in one piece: 8 MiB of output or so.
const CHUNKS: i64 = 64;

/// Replicas and events that are deleted in one piece.
const ROWS: i64 = 500;

/// The rest after a piece is so many times as long as the piece took.
const REST: u32 = 4;

/// The shortest rest.
const SHORTEST_REST: Duration = Duration::from_millis(20);

/// What one round removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Jobs, with their runs.
    pub jobs: i64,
    /// Chunks of their logs.
    pub chunks: i64,
    /// Replicas.
    pub replicas: i64,
    /// Events.
    pub events: i64,
}

/// Prunes now and then, for as long as it is polled. What fails is logged and tried again.
pub async fn run(db: Db, keep: Duration) {
    let mut failing = false;
    loop {
        // Not all at once after a deploy.
        sleep(EVERY.mul_f64(rand::random::<f64>() + 0.5)).await;
        match prune(&db, keep).await {
            Ok(pruned) if pruned == Pruned::default() => failing = false,
            Ok(Pruned { jobs, chunks, replicas, events }) => {
                failing = false;
                info!(jobs, chunks, replicas, events, "removed what ended longer than keep_finished ago");
            }
            Err(error) if failing => debug!(%error, "failed again to remove what ended long ago"),
            Err(error) => {
                failing = true;
                warn!(%error, "failed to remove what ended longer than keep_finished ago; trying again later");
            }
        }
    }
}

/// One round over all that ended longer than `keep` ago. May be cut off anywhere, and repeated.
pub async fn prune(db: &Db, keep: Duration) -> Result<Pruned> {
    let mut pruned = Pruned::default();
    let mut after = Some(JobId(i64::MIN));
    while let Some(from) = after {
        let began = Instant::now();
        let found = db.find_old_jobs(from, JOBS, keep).await?;
        rest(began).await;
        if !found.jobs.is_empty() {
            pruned.chunks += until_fewer(CHUNKS, || db.prune_logs(&found.jobs, keep, CHUNKS)).await?;
            let began = Instant::now();
            pruned.jobs += db.prune_jobs(&found.jobs, keep).await?;
            rest(began).await;
        }
        after = found.next_after;
    }
    pruned.replicas = until_fewer(ROWS, || db.prune_replicas(keep, ROWS)).await?;
    pruned.events = until_fewer(ROWS, || db.prune_events(keep, ROWS)).await?;
    Ok(pruned)
}

/// Deletes piece after piece until one was not full; how many in all.
async fn until_fewer<P: Future<Output = Result<i64>>>(limit: i64, mut piece: impl FnMut() -> P) -> Result<i64> {
    let mut all = 0;
    loop {
        let began = Instant::now();
        let deleted = piece().await?;
        rest(began).await;
        all += deleted;
        if deleted < limit {
            return Ok(all);
        }
    }
}

async fn rest(began: Instant) {
    sleep((began.elapsed() * REST).max(SHORTEST_REST)).await;
}
