//! Counts the queue at most once a second for everybody who asks, and answers soon whatever a count costs.
//!
//! A request that finds the count older than a second has it made anew, and waits for it only so long: then it takes the
//! count before, whose `counted_at` says how old it is. What waits costs by lanes, of which there may be a hundred thousand:
//! a count is good for [`PAUSE`] times what it took, up to [`STALE`]. A day of finished jobs may be a million rows; where counting them
//! all is slow, only what was added since is counted, and the whole in the background, no sooner than [`REST`] times what
//! it took.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync;

use crate::db::{
    self, Db,
    queue::{Finished, Live, Switches},
};

/// How long a count is good for, at least.
const FRESH: Duration = Duration::from_secs(1);

/// How many times its own duration a count is good for: however often it is asked for, a fifth of the time is spent on it.
const PAUSE: u32 = 4;

/// How long a request waits for a new count where there is one before.
const SOON: Duration = Duration::from_millis(30);

/// A count older than this is no answer any more: the new one is waited for.
const STALE: Duration = Duration::from_secs(10);

/// How many times its own duration a whole count of finished jobs is good for: at most a 200th of the time is spent on it.
const REST: u32 = 200;

/// The two counts that make a summary.
#[derive(Debug, Clone)]
pub(super) struct Counted {
    pub(super) live: Arc<Live>,
    pub(super) finished: Arc<Finished>,
    at: Instant,
    took: Duration,
}

impl Counted {
    fn is_fresh(&self) -> bool {
        self.at.elapsed() < (self.took * (PAUSE + 1)).clamp(FRESH, STALE)
    }
}

/// The counts of one process; clones are the same one.
#[derive(Debug, Clone)]
pub(super) struct QueueCache(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    db: Db,
    switches: Switches,
    latest: Mutex<Option<Counted>>,
    /// Held by the one who counts.
    finished: sync::Mutex<Option<FinishedCount>>,
    /// Held while the background counts a whole day.
    whole: Arc<sync::Mutex<()>>,
}

#[derive(Debug)]
struct FinishedCount {
    value: Arc<Finished>,
    /// When all of it was last counted, and how long that took.
    whole_at: Instant,
    whole_took: Duration,
}

impl QueueCache {
    pub(super) fn new(db: Db, switches: Switches) -> Self {
        let (latest, finished, whole) = Default::default();
        Self(Arc::new(Inner { db, switches, latest, finished, whole }))
    }

    /// Makes the first count of a day's finished jobs, so that no request waits for it. What fails is tried by the first
    /// request.
    pub(super) async fn warm_up(&self) {
        let mut finished = self.0.finished.lock().await;
        if finished.is_none() {
            *finished = FinishedCount::whole(&self.0.db).await.ok();
        }
    }

    /// The latest counts: not older than a second, unless counting takes longer than one should wait.
    pub(super) async fn counted(&self) -> db::Result<Counted> {
        let latest = self.latest();
        if let Some(fresh) = latest.clone().filter(Counted::is_fresh) {
            return Ok(fresh);
        }
        let before = latest.filter(|counted| counted.at.elapsed() < STALE);
        // A task of its own: it goes on when this request takes the count before, or is given up.
        let cache = self.clone();
        let counting = tokio::spawn(async move { cache.count().await });
        let counted = match before {
            None => counting.await,
            Some(before) => match tokio::time::timeout(SOON, counting).await {
                Ok(counted) => counted,
                Err(_) => return Ok(before),
            },
        };
        counted.unwrap_or_else(|broken| Err(db::Error::Unavailable(broken.to_string())))
    }

    fn latest(&self) -> Option<Counted> {
        self.0.latest.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Counts, unless somebody else just has.
    async fn count(&self) -> db::Result<Counted> {
        let mut known = self.0.finished.lock().await;
        if let Some(fresh) = self.latest().filter(Counted::is_fresh) {
            return Ok(fresh);
        }
        let at = Instant::now();
        // Finished first: a job that ends in between is then in neither rather than in both.
        let finished = self.count_finished(&mut known).await?;
        let live = Arc::new(self.0.db.count_live(self.0.switches).await?);
        let counted = Counted { live, finished, at, took: at.elapsed() };
        *self.0.latest.lock().unwrap_or_else(PoisonError::into_inner) = Some(counted.clone());
        Ok(counted)
    }

    async fn count_finished(&self, known: &mut Option<FinishedCount>) -> db::Result<Arc<Finished>> {
        let Some(count) = known else {
            return Ok(known.insert(FinishedCount::whole(&self.0.db).await?).value.clone());
        };
        let rest = count.whole_took * REST;
        if count.whole_at.elapsed() >= rest {
            if rest < FRESH {
                *count = FinishedCount::whole(&self.0.db).await?;
                return Ok(count.value.clone());
            }
            self.count_whole_in_background();
        }
        count.value = Arc::new(self.0.db.count_finished_after((*count.value).clone()).await?);
        Ok(count.value.clone())
    }

    /// Counts all that finished while requests go on with what they have.
    fn count_whole_in_background(&self) {
        let Ok(alone) = self.0.whole.clone().try_lock_owned() else { return };
        let cache = self.clone();
        tokio::spawn(async move {
            match FinishedCount::whole(&cache.0.db).await {
                Ok(count) => *cache.0.finished.lock().await = Some(count),
                Err(error) => tracing::warn!(%error, "could not count finished jobs; the earlier count stays"),
            }
            drop(alone);
        });
    }
}

impl FinishedCount {
    async fn whole(db: &Db) -> db::Result<Self> {
        let whole_at = Instant::now();
        let value = Arc::new(db.count_finished().await?);
        Ok(Self { value, whole_at, whole_took: whole_at.elapsed() })
    }
}
