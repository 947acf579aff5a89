//! The loop that has shims forked ahead: a run that finds one begins a millisecond sooner than one whose directory is made and
//! whose shim is forked for it.
//!
//! Only a matter of speed: whatever fails here, the run is started without. A spare shim has the name of a run that a claim
//! may open, holds no lock, and goes when this process does.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::Notify,
    time::{Instant, sleep},
};
use tracing::debug;

use super::{Boot, Executor, launch};
use crate::{
    model::RunId,
    shim::{
        client::WaitingShim,
        protocol::{RunDir, SpareDir, Spec, Word},
    },
};

/// How many wait. One would do for a job now and then; what comes in crowds is held up by other things.
const SPARES: usize = 2;
/// After one was used: the program that it starts is not to share the machine with the next fork.
const PAUSE: Duration = Duration::from_millis(10);
/// How often the oldest makes way for a new one: a process whose age is asked is to be hardly older than its run, and one that
/// has died without a word is not to be counted on for long.
const RENEW_EVERY: Duration = Duration::from_secs(30);
/// After one could not be had.
const TROUBLE: Duration = Duration::from_secs(10);

/// A shim and the directory that it waits in.
#[derive(Debug)]
pub(super) struct Spare {
    dir: SpareDir,
    shim: WaitingShim,
    made_at: Instant,
}

/// Those that wait, and how many are lent.
#[derive(Debug, Default)]
pub(super) struct Spares {
    inner: Mutex<Inner>,
    missing: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    waiting: Vec<Spare>,
    lent: usize,
    /// The boot is over: none waits any more.
    closed: bool,
}

impl Inner {
    const fn count(&self) -> usize {
        self.waiting.len() + self.lent
    }
}

/// Those whose names a claim gives to the runs that it asks for. One that is not given back is gone, with its name: whatever
/// became of the claim, no other may open that run.
#[derive(Debug)]
pub(super) struct Lent<'a> {
    spares: &'a Spares,
    count: usize,
    left: Vec<Spare>,
}

impl Spares {
    /// At most so many, for one claim.
    pub(super) fn lend(&self, at_most: usize) -> Lent<'_> {
        let mut inner = self.lock();
        let kept = inner.waiting.len().saturating_sub(at_most);
        let taken = inner.waiting.split_off(kept);
        let count = taken.len();
        inner.lent += count;
        drop(inner);
        let (left, gone) = taken.into_iter().partition(|spare| spare.shim.is_there());
        discard(gone);
        Lent { spares: self, count, left }
    }

    /// No more. Returns those that wait; one that is given back later goes at once.
    fn close(&self) -> Vec<Spare> {
        let mut inner = self.lock();
        inner.closed = true;
        std::mem::take(&mut inner.waiting)
    }

    /// Has the one go that has waited longest.
    fn drop_oldest(&self) {
        let mut inner = self.lock();
        let waiting = &mut inner.waiting;
        let oldest = (0..waiting.len()).min_by_key(|place| waiting[*place].made_at).map(|place| waiting.remove(place));
        drop(inner);
        discard(oldest.into_iter().collect());
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lent<'_> {
    /// The runs that they may become.
    pub(super) fn names(&self) -> impl Iterator<Item = RunId> {
        self.left.iter().map(|spare| spare.dir.run_id())
    }

    /// The one of this run, if the run has its name.
    pub(super) fn take(&mut self, run_id: RunId) -> Option<Spare> {
        let place = self.left.iter().position(|spare| spare.dir.run_id() == run_id)?;
        Some(self.left.swap_remove(place))
    }

    /// The claim was answered, and those that are left were not among the answer.
    pub(super) fn give_back(mut self) {
        let mut inner = self.spares.lock();
        if !inner.closed {
            inner.waiting.append(&mut self.left);
        }
    }
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        let mut inner = self.spares.lock();
        inner.lent -= self.count;
        let (count, closed) = (inner.count(), inner.closed);
        drop(inner);
        let left = std::mem::take(&mut self.left);
        if closed {
            // Nobody waits for what is done beside the loops any more.
            drop(remove(&left));
            return;
        }
        if count < SPARES {
            self.spares.missing.notify_one();
        }
        discard(left);
    }
}

/// Their shims go; so do their directories, in time.
pub(super) fn discard(spares: Vec<Spare>) {
    if !spares.is_empty() {
        drop(tokio::task::spawn_blocking(move || remove(&spares)));
    }
}

/// What cannot be removed now is removed by the next boot.
fn remove(spares: &[Spare]) -> std::io::Result<()> {
    spares.iter().try_for_each(|spare| spare.dir.remove())
}

impl Spare {
    /// Makes its directory that of the run. Its shim then waits for nothing but the word; after an error there is neither.
    pub(super) fn become_run(self, dir: &RunDir, spec: &Spec, payload: &[u8]) -> std::io::Result<(WaitingShim, Word)> {
        self.dir.become_run(dir, spec, payload).map(|word| (self.shim, word))
    }
}

/// Keeps some ready until the boot is over.
pub(super) async fn run(boot: Arc<Boot>) -> &'static str {
    let wanted = match boot.executor() {
        Executor::Processes => SPARES.min(boot.settings().max_concurrency),
        Executor::Nothing => 0,
    };
    loop {
        let filled = fill(&boot, wanted).await;
        let next = async {
            match filled {
                Ok(()) => {
                    tokio::select! {
                        () = boot.spares.missing.notified() => sleep(PAUSE).await,
                        () = sleep(RENEW_EVERY) => boot.spares.drop_oldest(),
                    }
                }
                Err(error) => {
                    debug!(%error, "no shim could be forked ahead");
                    sleep(TROUBLE).await;
                }
            }
        };
        tokio::select! {
            () = next => {}
            () = boot.over() => break,
        }
    }
    let left = boot.spares.close();
    drop(launch::blocking(move || remove(&left)).await);
    "spares"
}

async fn fill(boot: &Boot, wanted: usize) -> anyhow::Result<()> {
    while boot.spares.lock().count() < wanted {
        let spare = make(boot).await?;
        boot.spares.lock().waiting.push(spare);
    }
    Ok(())
}

async fn make(boot: &Boot) -> anyhow::Result<Spare> {
    let state_dir = boot.settings().state_dir.clone();
    let dir = launch::blocking(move || SpareDir::make(&state_dir)).await?;
    match boot.spawner().fork_ahead(&dir).await {
        Ok(shim) => Ok(Spare { dir, shim, made_at: Instant::now() }),
        Err(error) => {
            drop(launch::blocking(move || dir.remove()).await);
            Err(error.into())
        }
    }
}
