//! Counts the queue at most once a second for everybody who asks.
//!
//! Live statuses are counted by the first request that finds them older than a second; others wait for that count.
//! A day of finished jobs may be a million rows. Where counting them all is slow, a request counts only what was added
//! since, and the whole is counted in the background, no sooner than [`REST`] times what it took.

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

/// How many times its own duration a whole count of finished jobs is good for: at most a 200th of the time is spent on it.
const REST: u32 = 200;

/// The two counts that make a summary.
#[derive(Debug, Clone)]
pub(super) struct Counted {
    pub(super) live: Arc<Live>,
    pub(super) finished: Arc<Finished>,
}

#[derive(Debug)]
struct LiveCount {
    value: Arc<Live>,
    at: Instant,
}

#[derive(Debug)]
struct FinishedCount {
    value: Arc<Finished>,
    at: Instant,
    /// When all of it was last counted, and how long that took.
    whole_at: Instant,
    whole_took: Duration,
}

/// The counts of one process.
#[derive(Debug)]
pub(super) struct QueueCache {
    db: Db,
    live: Mutex<Option<LiveCount>>,
    finished: Arc<Mutex<Option<FinishedCount>>>,
    /// Held while the background counts.
    counting: Arc<Mutex<()>>,
}

impl QueueCache {
    pub(super) fn new(db: Db) -> Self {
        Self { db, live: Mutex::default(), finished: Arc::default(), counting: Arc::default() }
    }

    /// Counts that are at most a second old.
    pub(super) async fn counted(&self) -> db::Result<Counted> {
        // Finished first: a job that ends in between is then in neither rather than in both.
        let finished = self.finished().await?;
        Ok(Counted { live: self.live().await?, finished })
    }

    /// As [`QueueCache::counted`], without the finished ones.
    pub(super) async fn live(&self) -> db::Result<Arc<Live>> {
        let mut cached = self.live.lock().await;
        if let Some(count) = cached.as_ref().filter(|count| count.at.elapsed() < FRESH) {
            return Ok(count.value.clone());
        }
        let at = Instant::now();
        let value = Arc::new(self.db.count_live().await?);
        *cached = Some(LiveCount { value: value.clone(), at });
        Ok(value)
    }

    /// Makes the first count of finished jobs, so that no request waits for it. What fails is tried by the first request.
    pub(super) async fn warm_up(&self) {
        drop(self.finished().await);
    }

    async fn finished(&self) -> db::Result<Arc<Finished>> {
        let mut cached = self.finished.lock().await;
        let Some(count) = cached.as_mut() else {
            let whole = count_whole(&self.db).await?;
            return Ok(cached.insert(whole).value.clone());
        };
        if count.at.elapsed() < FRESH {
            return Ok(count.value.clone());
        }
        let due = count.whole_at.elapsed() >= count.whole_took * REST;
        if due && count.whole_took * REST < FRESH {
            *count = count_whole(&self.db).await?;
        } else {
            if due {
                self.count_in_background();
            }
            let at = Instant::now();
            count.value = Arc::new(self.db.count_finished_after((*count.value).clone()).await?);
            count.at = at;
        }
        Ok(count.value.clone())
    }

    /// Counts all that finished while requests go on with what they have.
    fn count_in_background(&self) {
        let Ok(alone) = self.counting.clone().try_lock_owned() else { return };
        let (db, cached) = (self.db.clone(), self.finished.clone());
        tokio::spawn(async move {
            match count_whole(&db).await {
                Ok(count) => *cached.lock().await = Some(count),
                Err(error) => tracing::warn!(%error, "could not count finished jobs; the earlier count stays"),
            }
            drop(alone);
        });
    }
}

async fn count_whole(db: &Db) -> db::Result<FinishedCount> {
    let at = Instant::now();
    let value = Arc::new(db.count_finished().await?);
    Ok(FinishedCount { value, at, whole_at: at, whole_took: at.elapsed() })
}
