//! Making sure that nothing of a run lives, or ever will: by its lock, `void`, and a sweep that finds nothing.
//!
//! Whoever holds the run's lock decides whether it ever starts. Nothing here believes a pid.

use std::{io, sync::Arc, time::Duration};

use tokio::{sync::watch, time::sleep};
use tracing::{info, warn};

use super::{Boot, adopt, launch, local::Order, ship};
use crate::{
    db::runs::{Ending, Owned},
    model::{ClosedBy, Outcome, RunId},
    shim::{
        client::{RunHandle, attach, sweep},
        protocol::{Exit, Reason, RunDir, RunLock},
    },
};

/// Between two looks at something that nobody announces: a lock, an emptied tree.
pub(super) const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// How often it is tried to read how a run ended.
const READ_AGAIN: u32 = 50;

/// What is known of a run once nothing of it lives.
#[derive(Debug)]
pub(super) struct Remains {
    /// What its shim wrote, if it came that far.
    pub exit: Option<Exit>,
    /// How many processes the sweep ended.
    pub killed: u32,
    /// No process of it ever existed.
    pub never_began: bool,
}

/// Ends a live shim's tree with `grace` between TERM and KILL, waits until its lock is free, forbids a late start, and
/// sweeps until nothing is left. Takes as long as it takes: a run is not settled while anything of it lives.
pub(super) async fn make_sure_nothing_lives(boot: &Boot, dir: &RunDir, grace: Duration) -> Remains {
    let run_id = dir.run_id();
    // Once a run, however often it is tried: a full disk fails for every run at once, and for long.
    let mut said = false;
    let lock = loop {
        match take_lock(dir).await {
            Ok(Some(lock)) => break Arc::new(lock),
            Ok(None) => end_live_shim(boot, dir, grace, &mut said).await,
            Err(error) => {
                if !std::mem::replace(&mut said, true) {
                    launch::log_dir_error(run_id, &error);
                }
                sleep(LOOK_AGAIN * 20).await;
            }
        }
    };
    let (mut killed, mut unending) = (0, None);
    said = false;
    loop {
        let swept = {
            let (dir, lock) = (dir.clone(), lock.clone());
            launch::blocking(move || sweep(&dir, &lock)).await
        };
        match swept {
            Ok(swept) => {
                killed += swept.killed;
                if swept.remaining == 0 {
                    break;
                }
                // A sweep takes a second over it.
                if !std::mem::replace(&mut said, true) {
                    unending = boot.unending(run_id);
                }
            }
            Err(error) if !said => {
                launch::log_dir_error(run_id, &error);
                said = true;
            }
            Err(_) => {}
        }
        sleep(LOOK_AGAIN * 4).await;
    }
    drop(unending);
    let lock = Arc::new(lock);
    for left in (0..READ_AGAIN).rev() {
        let (dir, lock) = (dir.clone(), lock.clone());
        match launch::blocking(move || Ok((dir.read_exit()?, !lock.has_begun()?))).await {
            Ok((exit, never_began)) => return Remains { exit, killed, never_began },
            // Such as too many open files: it passes, and a result is worth waiting for.
            Err(error) if left > 0 && error.kind() != io::ErrorKind::InvalidData => sleep(LOOK_AGAIN * 4).await,
            Err(error) => {
                warn!(%run_id, %error, "failed to read how the run ended; it counts as one that left no word");
                break;
            }
        }
    }
    Remains { exit: None, killed, never_began: false }
}

/// The run's lock with `void` written under it; `None` while a shim holds it.
async fn take_lock(dir: &RunDir) -> io::Result<Option<RunLock>> {
    let dir = dir.clone();
    launch::blocking(move || {
        let Some(lock) = dir.try_lock_or_make()? else { return Ok(None) };
        if !dir.exit_path().try_exists()? {
            // On a full disk it may be impossible to write; a run without its spec cannot start either.
            dir.write_void(&lock).or_else(|error| remove_if_there(&dir.spec_path()).map_err(|_| error))?;
        }
        Ok(Some(lock))
    })
    .await
}

fn remove_if_there(path: &std::path::Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

async fn end_live_shim(boot: &Boot, dir: &RunDir, grace: Duration, said: &mut bool) {
    match attach(dir).await {
        Ok(Some(mut handle)) => {
            handle.terminate(grace, Reason::GivenUp).await;
            let mut stuck = handle.unending();
            stuck.mark_changed();
            let (mut is_stuck, mut unending) = (false, None);
            loop {
                tokio::select! {
                    _ = handle.ended() => break,
                    Ok(()) = stuck.changed(), if !is_stuck => {
                        is_stuck = *stuck.borrow_and_update();
                        unending = if is_stuck { boot.unending(dir.run_id()) } else { None };
                    }
                }
            }
            drop(unending);
            // It waits a moment for this, then lets go of the lock.
            handle.stored().await;
        }
        Err(error) if !*said => {
            warn!(run_id = %dir.run_id(), %error, "a shim holds the run's lock and does not answer; waiting for it");
            *said = true;
        }
        Ok(None) | Err(_) => {}
    }
    sleep(LOOK_AGAIN).await;
}

/// What holds a run's lock.
pub(super) enum Life {
    /// A shim, which answers.
    Live(RunHandle),
    /// A shim that does not answer: its lease decides.
    Mute,
    /// Nobody, and no shim can begin any more.
    Gone,
}

/// Looks who holds the run's lock; where nobody does, forbids a late start.
pub(super) async fn look(dir: &RunDir) -> io::Result<Life> {
    if take_lock(dir).await?.is_some() {
        return Ok(Life::Gone);
    }
    Ok(match attach(dir).await {
        Ok(Some(handle)) => Life::Live(handle),
        Ok(None) | Err(_) => Life::Mute,
    })
}

/// Takes up a run that the database lists as ours and of which nothing is known here, because the reply to its claim or
/// to its adoption was lost. Where a shim holds it, it has begun and is ours; otherwise it is given up.
///
/// `orders` are what the run's beginning gave: it is known before this is spawned, so that no other renewal does the same.
pub(super) async fn take_up(boot: Arc<Boot>, owned: Owned, orders: watch::Receiver<Option<Order>>) {
    let (run_id, job_id) = (owned.run_id(), owned.job_id());
    let dir = RunDir::new(&boot.settings().state_dir, run_id);
    let mut said = false;
    loop {
        match look(&dir).await {
            Ok(Life::Live(handle)) => {
                info!(%job_id, %run_id, "taking up a live run that the database lists as this replica's");
                let slot = boot.slots().take();
                // Only for the exit statuses that mean success; without an answer now, 0 does.
                let found = boot.db().list_inherited(&[], &[run_id]).await.unwrap_or_default();
                let agent = found.into_iter().next().and_then(|found| found.agent);
                adopt::look_after(boot, adopt::Live { owned, agent, dir, handle }, orders, slot).await;
                return;
            }
            Ok(Life::Gone) => break,
            Err(error) if !said => {
                launch::log_dir_error(run_id, &error);
                said = true;
            }
            Ok(Life::Mute) | Err(_) => {}
        }
        sleep(LOOK_AGAIN * 4).await;
    }
    boot.local().settling(run_id);
    info!(%job_id, %run_id, "giving up a run that the database lists and nobody here knows");
    make_sure_nothing_lives(&boot, &dir, boot.settings().kill_grace).await;
    let ending = Ending::bare(Outcome::Interrupted, ClosedBy::Owner, "given up: the reply to its claim was lost");
    launch::finish(&boot, owned, ending, None, dir).await;
}

/// Answers for a job that was taken from this replica: its old process is ended, then the job may be claimed again.
pub(super) async fn end_taken(boot: Arc<Boot>, job_id: crate::model::JobId, run_id: Option<RunId>) {
    if let Some(run_id) = run_id {
        if boot.local().order(run_id, Order::Fence) || boot.local().knows(run_id) {
            // Its own task ends and settles it (and is told that it is no longer ours); the next renewal comes back here.
            return;
        }
        if !boot.local().begin_taking(run_id) {
            return;
        }
        let dir = RunDir::new(&boot.settings().state_dir, run_id);
        let path = dir.path().to_owned();
        let is_there = launch::blocking(move || path.try_exists()).await;
        if matches!(is_there, Ok(true)) {
            make_sure_nothing_lives(&boot, &dir, boot.settings().kill_grace).await;
            ship::finish(&boot, dir);
        }
        boot.local().end_taking(run_id);
        if let Err(error) = is_there {
            // Nothing is said before it is known; the next renewal comes back here.
            return launch::log_dir_error(run_id, &error);
        }
    }
    match boot.db().acknowledge_ended(boot.replica_id(), job_id, run_id).await {
        Ok(true) => {
            info!(%job_id, "the old process is gone; the job may run again");
            boot.claim_nudge.notify_one();
        }
        Ok(false) => {}
        Err(error) => {
            warn!(%job_id, %error, "failed to acknowledge that the old process is gone; the next renewal tries again");
        }
    }
}
