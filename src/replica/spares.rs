//! The loop that has shims forked ahead: a run that finds one begins a millisecond sooner than one whose directory is made and
//! whose shim is forked for it.
//!
//! Only a matter of speed: whatever fails here, the run is started without. A spare shim knows no run and holds no lock, and
//! goes when this process does.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{sync::Notify, time::sleep};
use tracing::debug;

use super::{Boot, Executor, launch};
use crate::shim::{
    client::WaitingShim,
    protocol::{RunDir, SpareDir, Spec},
};

/// How many wait. One would do for a job now and then; what comes in crowds is held up by other things.
const SPARES: usize = 2;
/// After one was used: the program that it starts is not to share the machine with the next fork.
const PAUSE: Duration = Duration::from_millis(10);
/// After one could not be had.
const TROUBLE: Duration = Duration::from_secs(10);

/// A shim and the directory that it waits in.
#[derive(Debug)]
pub(super) struct Spare {
    dir: SpareDir,
    shim: WaitingShim,
}

/// Those that wait.
#[derive(Debug, Default)]
pub(super) struct Spares {
    waiting: Mutex<Vec<Spare>>,
    taken: Notify,
}

impl Spares {
    /// One that is ready, if there is one.
    pub(super) fn take(&self) -> Option<Spare> {
        loop {
            let spare = self.lock().pop()?;
            self.taken.notify_one();
            if spare.shim.is_there() {
                return Some(spare);
            }
            drop(spare.dir.remove());
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Spare>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Spare {
    /// Makes its directory that of the run. Its shim then waits for nothing but the word; after an error there is neither.
    pub(super) fn become_run(self, dir: &RunDir, spec: &Spec, payload: &[u8]) -> std::io::Result<WaitingShim> {
        self.dir.become_run(dir, spec, payload).map(|()| self.shim)
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
                    boot.spares.taken.notified().await;
                    sleep(PAUSE).await;
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
    let left = std::mem::take(&mut *boot.spares.lock());
    drop(launch::blocking(move || left.iter().try_for_each(|spare| spare.dir.remove())).await);
    "spares"
}

async fn fill(boot: &Boot, wanted: usize) -> anyhow::Result<()> {
    while boot.spares.lock().len() < wanted {
        let spare = make(boot).await?;
        boot.spares.lock().push(spare);
    }
    Ok(())
}

async fn make(boot: &Boot) -> anyhow::Result<Spare> {
    let state_dir = boot.settings().state_dir.clone();
    let dir = launch::blocking(move || SpareDir::make(&state_dir)).await?;
    match boot.spawner().fork_ahead(&dir).await {
        Ok(shim) => Ok(Spare { dir, shim }),
        Err(error) => {
            drop(launch::blocking(move || dir.remove()).await);
            Err(error.into())
        }
    }
}
