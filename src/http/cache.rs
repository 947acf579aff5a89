//! Counts the queue at most once a second for everybody who asks, and the finished jobs of a day at a bounded cost.
//!
//! Live statuses are counted by the first request that finds them older than a second; others wait for that count.
//! A day of finished jobs may be a million rows: once counting them is slow it moves to the background and repeats no
//! sooner than [`REST`] times what it took, so that asking often never costs more than a small share of the database.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::Mutex;

use crate::db::{
    self, Db,
    queue::{Finished, Live},
};

/// How long a count is good for.
const FRESH: Duration = Duration::from_secs(1);

/// A count of finished jobs that took longer than this is no longer waited for.
const WORTH_WAITING: Duration = Duration::from_millis(10);

/// How many times its own duration a count of finished jobs is good for.
const REST: u32 = 20;

/// The two counts that make a summary.
#[derive(Debug, Clone)]
pub(super) struct Counted {
    pub(super) live: Arc<Live>,
    pub(super) finished: Arc<Finished>,
}

#[derive(Debug)]
struct Timed<T> {
    value: Arc<T>,
    at: Instant,
    took: Duration,
}

/// The counts of one process.
#[derive(Debug)]
pub(super) struct QueueCache {
    db: Db,
    live: Mutex<Option<Timed<Live>>>,
    finished: Arc<Mutex<Option<Timed<Finished>>>>,
    /// Held while the background counts.
    counting: Arc<Mutex<()>>,
}

impl QueueCache {
    pub(super) fn new(db: Db) -> Self {
        Self { db, live: Mutex::default(), finished: Arc::default(), counting: Arc::default() }
    }

    /// Counts that are at most a second old, or were made for this request.
    pub(super) async fn counted(&self) -> db::Result<Counted> {
        // Finished first: a job that ends in between is then in neither rather than in both.
        let finished = self.finished().await?;
        Ok(Counted { live: self.live().await?, finished })
    }

    /// As [`QueueCache::counted`], without the finished ones.
    pub(super) async fn live(&self) -> db::Result<Arc<Live>> {
        let mut cached = self.live.lock().await;
        if let Some(counted) = cached.as_ref().filter(|counted| counted.at.elapsed() < FRESH) {
            return Ok(counted.value.clone());
        }
        let counted = timed(self.db.count_live()).await?;
        let value = counted.value.clone();
        *cached = Some(counted);
        Ok(value)
    }

    async fn finished(&self) -> db::Result<Arc<Finished>> {
        let mut cached = self.finished.lock().await;
        if let Some(counted) = cached.as_ref() {
            let good_for = FRESH.max(counted.took * REST);
            if counted.at.elapsed() < good_for {
                return Ok(counted.value.clone());
            }
            if counted.took > WORTH_WAITING {
                self.count_in_background();
                return Ok(counted.value.clone());
            }
        }
        let counted = timed(self.db.count_finished()).await?;
        let value = counted.value.clone();
        *cached = Some(counted);
        Ok(value)
    }

    fn count_in_background(&self) {
        let Ok(alone) = self.counting.clone().try_lock_owned() else { return };
        let (db, cached) = (self.db.clone(), self.finished.clone());
        tokio::spawn(async move {
            match timed(db.count_finished()).await {
                Ok(counted) => *cached.lock().await = Some(counted),
                Err(error) => tracing::warn!(%error, "could not count finished jobs; the older count stays"),
            }
            drop(alone);
        });
    }
}

async fn timed<T>(count: impl Future<Output = db::Result<T>>) -> db::Result<Timed<T>> {
    let at = Instant::now();
    let value = Arc::new(count.await?);
    Ok(Timed { value, at, took: at.elapsed() })
}
