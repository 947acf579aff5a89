//! The start: ends what former boots of this state directory left running, and settles it.
//!
//! Claiming waits until nothing of an earlier boot lives, but not for ever until each of its runs is settled: the
//! database may refuse one, and one bad row stops nobody. What is not settled in time is tried further beside the
//! claims, and the former boot's lease decides.
//!
//! The evidence is the shim's lock, the sweep and `exit.json`, and only where the kernel says that this is the same
//! directory, in the same pid namespace, in the same boot of the machine. No row is requeued while its run's lock is held.

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures_util::{StreamExt as _, future, stream};
use tokio::{task::JoinHandle, time::timeout};
use tracing::{info, warn};

use super::{Boot, give_up, launch, outcome, settle};
use crate::{
    db::{
        replicas::Other,
        runs::{Ending, Owned},
    },
    model::{ClosedBy, Outcome, RunId},
    shim::protocol::RunDir,
};

/// How many runs are ended side by side.
const SIDE_BY_SIDE: usize = 64;

/// How long the start waits for the settles, once nothing lives any more: a refused one is told after its first answer.
const SETTLED_WITHIN: Duration = Duration::from_secs(15);

/// A run that a former boot left open, and what it ran.
struct Left {
    owned: Owned,
    agent: String,
    /// Whether what is found on this machine says anything about it.
    evidence: bool,
}

/// Ends and settles the runs of former boots, then declares those boots dead.
pub(super) async fn former_boots(boot: &Arc<Boot>, former: Vec<Other>) -> anyhow::Result<()> {
    let mut left: HashMap<RunId, Left> = HashMap::new();
    for other in &former {
        let evidence = boot.identity().is_evidence_for(&other.state_dir_id, &other.boot_id);
        for (owned, agent) in boot.db().list_owned(other.replica_id).await? {
            left.insert(owned.run_id(), Left { owned, agent, evidence });
        }
    }
    let found = {
        let state_dir = boot.settings().state_dir.clone();
        launch::blocking(move || RunDir::list(&state_dir)).await?
    };
    if !left.is_empty() || !found.is_empty() {
        info!(open = left.len(), directories = found.len(), "ending what an earlier boot left running");
    }
    // A run without a directory was claimed and never prepared; it is given up like one whose start is unsure.
    let mut dirs: HashMap<RunId, RunDir> = found.into_iter().map(|dir| (dir.run_id(), dir)).collect();
    for run_id in left.keys() {
        dirs.entry(*run_id).or_insert_with(|| RunDir::new(&boot.settings().state_dir, *run_id));
    }
    let settles: Vec<JoinHandle<()>> = stream::iter(dirs)
        .map(|(run_id, dir)| (dir, left.remove(&run_id)))
        .map(|(dir, left)| end(boot, dir, left))
        .buffer_unordered(SIDE_BY_SIDE)
        .filter_map(async |settle| settle)
        .collect()
        .await;
    // Tasks of their own: those that are not done in time go on.
    let tasks = settles.len();
    if timeout(SETTLED_WITHIN, future::join_all(settles)).await.is_err() {
        warn!(runs = tasks, "not every run of an earlier boot is settled yet; going on while that is tried further");
        return Ok(());
    }
    for other in former.iter().filter(|other| other.live) {
        if boot.identity().is_evidence_for(&other.state_dir_id, &other.boot_id) {
            boot.db().supersede_replica(other.replica_id, &other.state_dir_id).await?;
            info!(replica_id = %other.replica_id, "superseded an earlier boot of this state directory");
        } else {
            warn!(replica_id = %other.replica_id, host = other.host,
                "an earlier boot of this state directory ran elsewhere (the machine or container was restarted); its lease decides");
        }
    }
    Ok(())
}

/// Makes sure that nothing of a run lives, and begins to settle it, if there is anything to settle.
async fn end(boot: &Arc<Boot>, dir: RunDir, left: Option<Left>) -> Option<JoinHandle<()>> {
    let run_id = dir.run_id();
    let remains = give_up::make_sure_nothing_lives(&dir, boot.settings().kill_grace).await;
    let Some(Left { owned, agent, evidence }) = left else {
        // Nobody waits for it any more: settled before, or of another database.
        launch::retire(dir).await;
        return None;
    };
    let agents = boot.agents();
    let success_codes = agents.get(&agent).map_or(&[0][..], |agent| &agent.success_codes);
    let ending = match remains.exit {
        // That its shim wrote how it ended proves that it ended, wherever that was.
        Some(exit) => outcome::judge(&exit, success_codes, ClosedBy::Successor, None),
        None if !evidence => {
            warn!(%run_id, "no evidence here about this run; the lease of its replica decides");
            return None;
        }
        None if remains.never_began => {
            Ending::bare(Outcome::Interrupted, ClosedBy::Successor, "the replica restarted before the run began")
        }
        None => {
            let error = format!("its replica and its shim are gone; {} of its processes were ended", remains.killed);
            Ending::bare(Outcome::Interrupted, ClosedBy::Successor, error)
        }
    };
    Some(tokio::spawn(settle_and_retire(boot.clone(), owned, ending, dir)))
}

async fn settle_and_retire(boot: Arc<Boot>, owned: Owned, ending: Ending, dir: RunDir) {
    let (job_id, run_id, outcome) = (owned.job_id(), owned.run_id(), ending.outcome);
    if let Some(next) = settle::settle(&boot, owned.ended(ending)).await {
        info!(%job_id, %run_id, %outcome, %next, "settled a run of an earlier boot");
    } else {
        info!(%job_id, %run_id, "a run of an earlier boot had been settled already");
    }
    launch::retire(dir).await;
}
