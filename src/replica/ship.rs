//! Logs off the machine: what shims spool is shipped to the database, while runs live and at their ends.
//!
//! Owns who ships which log, and a run's directory once the run is settled. A run never waits for it: its output goes to a
//! file, and a log that is written faster than it is shipped loses its middle, as the spool's bound has it anyway. A run
//! that says nothing costs nothing.

mod line;
mod live;
mod send;

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use line::{Line, Step, Stuck};
pub(super) use send::{Request, run};
use tokio::{
    sync::{Semaphore, mpsc, watch},
    task::JoinHandle,
    time::sleep,
};
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use super::{Boot, launch::blocking, outage::jittered};
use crate::{
    config::Settings,
    db::Db,
    failpoint::{self, Point},
    model::RunId,
    shim::protocol::RunDir,
};

/// Ended runs whose directories wait to be shipped and retired, at the most; the next start does what is beyond.
const MOST_ENDING: usize = 10_000;

/// Directories that are removed side by side.
const RETIRED_AT_ONCE: usize = 8;

/// Ships the logs of one boot.
#[derive(Debug, Clone)]
pub(super) struct Shipper(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    db: Db,
    state_dir: PathBuf,
    cap: u64,
    sender: send::Sender,
    lines: Mutex<HashMap<RunId, Known>>,
    ending: TaskTracker,
    retiring: Semaphore,
}

/// What is known of a log without asking the database.
#[derive(Debug)]
enum Known {
    /// Nothing of it was shipped.
    Fresh,
    /// This task ships it, and hands over where it stands once nobody watches the run any more.
    Followed(JoinHandle<Option<Line>>),
}

impl Shipper {
    pub(super) fn new(settings: &Settings, db: Db) -> (Self, mpsc::Receiver<Request>) {
        let (sender, requests) = send::channel();
        let inner = Inner {
            db,
            state_dir: settings.state_dir.clone(),
            cap: settings.log_cap,
            sender,
            lines: Mutex::default(),
            ending: TaskTracker::new(),
            retiring: Semaphore::new(RETIRED_AT_ONCE),
        };
        (Self(Arc::new(inner)), requests)
    }

    /// Waits until the logs of all runs that have ended are stored, at most so long. Whether they are.
    pub(super) async fn drained(&self, within: Duration) -> bool {
        self.0.ending.close();
        let done = tokio::time::timeout(within, self.0.ending.wait()).await.is_ok();
        if !done {
            warn!(runs = self.0.ending.len(), "the output of runs is not stored yet; the next start ships it");
        }
        done
    }
}

/// A run was claimed just now: nothing of its log has been shipped.
pub(super) fn begin(boot: &Boot, run_id: RunId) {
    boot.shipper().0.lines().insert(run_id, Known::Fresh);
}

/// Ships the output of a live run while it is watched: until the sender of `output`, which says how many bytes have come,
/// is gone.
pub(super) fn follow(boot: &Boot, run_id: RunId, output: watch::Receiver<u64>) {
    let inner = boot.shipper().0.clone();
    let mut lines = boot.shipper().0.lines();
    let line =
        matches!(lines.remove(&run_id), Some(Known::Fresh)).then(|| Line::new(&inner.state_dir, run_id, inner.cap));
    lines.insert(run_id, Known::Followed(tokio::spawn(inner.follow(run_id, output, line))));
}

/// The run of this directory is over and answered for, or was never heard of: ships its log to the end and removes the
/// directory, beside whatever else goes on.
pub(super) fn finish(boot: &Boot, dir: RunDir) {
    let inner = &boot.shipper().0;
    let known = inner.lines().remove(&dir.run_id());
    if inner.ending.len() >= MOST_ENDING {
        warn!(run_id = %dir.run_id(), "too many logs wait to be stored; the next start ships this one");
        return;
    }
    inner.ending.spawn(inner.clone().finish(dir, known));
}

impl Inner {
    fn lines(&self) -> MutexGuard<'_, HashMap<RunId, Known>> {
        // Nothing that holds this lock can panic half-way through a change.
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn finish(self: Arc<Self>, dir: RunDir, known: Option<Known>) {
        let run_id = dir.run_id();
        match self.ship_rest(&dir, known).await {
            Ok(()) => {}
            // The next start finds the directory and does it.
            Err(Stuck::Closed(_)) => return,
            Err(error) => {
                warn!(%run_id, %error, "failed to ship the rest of a run's output; the next start tries again");
                return;
            }
        }
        let Ok(_turn) = self.retiring.acquire().await else { return };
        if let Err(error) = blocking(move || dir.retire()).await {
            warn!(%run_id, %error, "failed to remove the run's directory; the next start tries again");
        }
        failpoint::hit(Point::DirectoryRemoved);
    }

    async fn ship_rest(&self, dir: &RunDir, known: Option<Known>) -> Result<(), Stuck> {
        let run_id = dir.run_id();
        let log = dir.log_path();
        if !blocking(move || log.try_exists()).await? {
            return Ok(());
        }
        let line = match known {
            Some(Known::Fresh) => Some(Line::new(&self.state_dir, run_id, self.cap)),
            // A task that panicked has said so.
            Some(Known::Followed(task)) => task.await.unwrap_or(None),
            None => None,
        };
        let mut line = match line {
            Some(line) => line,
            None => self.resume_at_the_end(run_id).await?,
        };
        loop {
            match line.step(&self.sender).await? {
                Step::Shipped(_) => {}
                Step::Nothing => return line.end(&self.sender).await,
                Step::Unknown => {
                    debug!(%run_id, "the database does not know this run; its output is dropped");
                    return Ok(());
                }
            }
        }
    }

    async fn resume_at_the_end(&self, run_id: RunId) -> Result<Line, Stuck> {
        loop {
            match Line::resume(&self.db, &self.state_dir, run_id, self.cap).await {
                Ok(line) => return Ok(line),
                Err(error) => debug!(%run_id, %error, "where the log stands is not known yet"),
            }
            if self.sender.is_closed() {
                return Err(send::Closed.into());
            }
            sleep(jittered(Duration::from_secs(1))).await;
        }
    }
}
