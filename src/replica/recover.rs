//! The start: what former boots of this state directory left, run by run.
//!
//! A live run is adopted, and the claims wait for that alone. What ended meanwhile is settled from its `exit.json` by the
//! former owner's token, what never began is given up, and what the database no longer grants is ended; all that goes on
//! beside the claims, since a row that is not settled yet is not claimed either.
//!
//! The evidence is the shim's lock, the sweep and `exit.json`, and only where the kernel says that this is the same
//! directory, in the same pid namespace, in the same boot of the machine; elsewhere the lease decides, and an `exit.json`
//! proves that its run ended. No row is requeued while its run's lock is held.

use std::{collections::HashMap, path::PathBuf, sync::Arc};

use futures_util::{StreamExt as _, stream};
use tokio::{task::JoinSet, time::sleep};
use tracing::{info, warn};

use super::{
    Boot,
    adopt::{self, Adopted, Live},
    give_up::{self, Life},
    launch,
    outage::Outage,
    outcome, settle, ship,
};
use crate::{
    db::{
        replicas::Other,
        runs::{Ending, Inherited, Owned, Standing},
    },
    model::{ClosedBy, Outcome, ReplicaId, RunId},
    shim::{
        client::{list_leases, remove_leases},
        protocol::RunDir,
    },
};

/// How many runs are looked at side by side.
const SIDE_BY_SIDE: usize = 64;

/// An open run of a former boot.
struct Left {
    owned: Owned,
    agent: Option<String>,
    dir: RunDir,
}

/// Takes over what former boots left. Comes back when every live run is adopted or refused.
pub(super) async fn former_boots(boot: &Arc<Boot>, former: Vec<Other>) -> anyhow::Result<()> {
    // The leases that there are now: a later boot of this process makes its own before all of this is done with.
    let (found, leases) = {
        let state_dir = boot.settings().state_dir.clone();
        launch::blocking(move || Ok((RunDir::list(&state_dir)?, list_leases(&state_dir)?))).await?
    };
    // A stop leaves everything as it is, for the next start.
    let Some(inherited) = list(boot, &former, &found).await else { return Ok(()) };
    if !inherited.is_empty() || !found.is_empty() {
        info!(runs = inherited.len(), directories = found.len(), "looking after what an earlier boot left");
    }
    let mut rest = JoinSet::new();
    let (mut left, mut elsewhere) = (Vec::new(), Vec::new());
    let mut found: HashMap<RunId, RunDir> = found.into_iter().map(|dir| (dir.run_id(), dir)).collect();
    for Inherited { owned, agent, standing } in inherited {
        let owner = former.iter().find(|other| other.replica_id == owned.replica_id());
        // A run without a directory was claimed and never prepared; it is given up like one whose start is unsure.
        let dir = found.remove(&owned.run_id());
        let dir = dir.unwrap_or_else(|| RunDir::new(&boot.settings().state_dir, owned.run_id()));
        match (standing, owner) {
            (Standing::Open, Some(owner)) if boot.identity().is_evidence_for(&owner.state_dir_id, &owner.boot_id) => {
                left.push(Left { owned, agent, dir });
            }
            (Standing::Open, Some(_)) => elsewhere.push(Left { owned, agent, dir }),
            (Standing::Open, None) => {
                warn!(run_id = %owned.run_id(), replica_id = %owned.replica_id(),
                    "a directory of another replica's run lies here (a copy?); nothing in it is believed");
            }
            (Standing::Lost, _) => drop(rest.spawn(end(boot.clone(), dir, Some((owned, agent))))),
            (Standing::Closed, _) => drop(rest.spawn(end(boot.clone(), dir, None))),
        }
    }
    // Nobody waits for these any more: pruned, or never known to this database.
    for dir in found.into_values() {
        rest.spawn(end(boot.clone(), dir, None));
    }
    if !elsewhere.is_empty() {
        rest.spawn(leave_to_lease(boot.clone(), elsewhere));
    }
    adopt_live(boot, left, &mut rest).await;
    tokio::spawn(close(boot.clone(), former, leases, rest));
    Ok(())
}

/// What the database says of all that; `None` if the boot is over before it has answered.
async fn list(boot: &Boot, former: &[Other], found: &[RunDir]) -> Option<Vec<Inherited>> {
    let former: Vec<ReplicaId> = former.iter().map(|other| other.replica_id).collect();
    let found: Vec<RunId> = found.iter().map(RunDir::run_id).collect();
    let mut outage = Outage::new("list what an earlier boot left", boot.settings().heartbeat);
    loop {
        match boot.db().list_inherited(&former, &found).await {
            Ok(inherited) => return Some(inherited),
            Err(_) if boot.is_over() => return None,
            Err(error) => sleep(outage.failed(&error)).await,
        }
    }
}

/// Adopts what lives; the rest goes its way beside the claims.
async fn adopt_live(boot: &Arc<Boot>, left: Vec<Left>, rest: &mut JoinSet<()>) {
    let looked: Vec<(Left, std::io::Result<Life>)> = stream::iter(left)
        .map(async |left| {
            let life = give_up::look(&left.dir).await;
            (left, life)
        })
        .buffer_unordered(SIDE_BY_SIDE)
        .collect()
        .await;
    let mut live = Vec::new();
    for (Left { owned, agent, dir }, life) in looked {
        match life {
            Ok(Life::Live(handle)) => live.push(Live { owned, agent, dir, handle }),
            Ok(Life::Gone) => drop(rest.spawn(settle_gone(boot.clone(), Left { owned, agent, dir }))),
            Ok(Life::Mute) | Err(_) => drop(rest.spawn(listen(boot.clone(), Left { owned, agent, dir }))),
        }
    }
    let Adopted { refused, busy } = adopt::adopt(boot, live).await;
    for dir in refused {
        rest.spawn(end(boot.clone(), dir, None));
    }
    if !busy.is_empty() {
        // Somebody keeps their rows locked, which is no reason for the others to wait.
        warn!(runs = busy.len(), "live runs are not adopted yet: somebody keeps their rows locked");
        rest.spawn(adopt_busy(boot.clone(), busy));
    }
}

/// Adopts live runs whose rows are locked by somebody, for as long as that lasts.
async fn adopt_busy(boot: Arc<Boot>, mut live: Vec<Live>) {
    while !live.is_empty() {
        let Adopted { refused, busy } = adopt::adopt(&boot, live).await;
        for dir in refused {
            end(boot.clone(), dir, None).await;
        }
        live = busy;
    }
}

/// A shim holds the run and does not answer: it is left to its lease, and never settled while the lock is held. It may
/// answer later.
async fn listen(boot: Arc<Boot>, left: Left) {
    let (run_id, dir) = (left.owned.run_id(), left.dir.clone());
    warn!(%run_id, "a shim holds the run's lock and does not answer; it is left to its lease");
    let _slot = boot.slots().take();
    loop {
        sleep(give_up::LOOK_AGAIN * 4).await;
        match give_up::look(&dir).await {
            Ok(Life::Live(handle)) => {
                let Left { owned, agent, dir } = left;
                return adopt_busy(boot.clone(), vec![Live { owned, agent, dir, handle }]).await;
            }
            Ok(Life::Gone) => return settle_gone(boot.clone(), left).await,
            Ok(Life::Mute) | Err(_) => {}
        }
    }
}

/// The run's shim is gone: nothing of it lives once it is swept, and then it is settled for its former owner.
async fn settle_gone(boot: Arc<Boot>, left: Left) {
    let Left { owned, agent, dir } = left;
    let remains = give_up::make_sure_nothing_lives(&boot, &dir, boot.settings().kill_grace).await;
    let ending = match remains.exit {
        Some(exit) => judge(&boot, agent.as_deref(), &exit),
        None if remains.never_began => {
            Ending::bare(Outcome::Interrupted, ClosedBy::Successor, "the replica restarted before the run began")
        }
        None => {
            let error = format!("its replica and its shim are gone; {} of its processes were ended", remains.killed);
            Ending::bare(Outcome::Interrupted, ClosedBy::Successor, error)
        }
    };
    settle_and_retire(boot, owned, ending, dir).await;
}

/// These were begun in another boot of the machine or another pid namespace: what is not seen here may live there, so
/// the lease decides, unless the shim left word that its run ended.
async fn leave_to_lease(boot: Arc<Boot>, mut left: Vec<Left>) {
    warn!(
        runs = left.len(),
        "no evidence here about runs of an earlier boot (the machine or container was restarted); its lease decides"
    );
    while !left.is_empty() {
        let mut open = Vec::new();
        for Left { owned, agent, dir } in left {
            let exit = {
                let dir = dir.clone();
                launch::blocking(move || dir.read_exit()).await
            };
            match exit {
                Ok(Some(exit)) => {
                    let ending = judge(&boot, agent.as_deref(), &exit);
                    tokio::spawn(settle_and_retire(boot.clone(), owned, ending, dir));
                }
                _ => open.push(Left { owned, agent, dir }),
            }
        }
        left = open;
        sleep(boot.settings().reap_interval).await;
        let runs: Vec<RunId> = left.iter().map(|left| left.owned.run_id()).collect();
        let Ok(found) = boot.db().list_inherited(&[], &runs).await else { continue };
        let is_open = |run: &Left| {
            found.iter().any(|found| found.owned.run_id() == run.owned.run_id() && found.standing == Standing::Open)
        };
        let (open, closed): (Vec<_>, Vec<_>) = left.into_iter().partition(is_open);
        for closed in closed {
            tokio::spawn(end(boot.clone(), closed.dir, Some((closed.owned, closed.agent))));
        }
        left = open;
    }
}

/// Ends whatever lives of a run that the database no longer grants, has its result heard where that may still count, and
/// lets go of its directory.
async fn end(boot: Arc<Boot>, dir: RunDir, lost: Option<(Owned, Option<String>)>) {
    // What still lives takes its slot until it is gone.
    let slot = match give_up::look(&dir).await {
        Ok(Life::Gone) => None,
        _ => Some(boot.slots().take()),
    };
    let remains = give_up::make_sure_nothing_lives(&boot, &dir, boot.settings().kill_grace).await;
    drop(slot);
    match (lost, remains.exit) {
        (Some((owned, agent)), Some(exit)) => {
            let ending = judge(&boot, agent.as_deref(), &exit);
            settle_and_retire(boot, owned, ending, dir).await;
        }
        _ => ship::finish(&boot, dir),
    }
}

fn judge(boot: &Boot, agent: Option<&str>, exit: &crate::shim::protocol::Exit) -> Ending {
    let agents = boot.agents();
    let success_codes = agent.and_then(|agent| agents.get(agent)).map_or(&[0][..], |agent| &agent.success_codes);
    outcome::judge(exit, success_codes, ClosedBy::Successor, None)
}

async fn settle_and_retire(boot: Arc<Boot>, owned: Owned, ending: Ending, dir: RunDir) {
    let (job_id, run_id) = (owned.job_id(), owned.run_id());
    let (outcome, error) = (ending.outcome, ending.error.clone());
    settle::settle(&boot, owned.ended(ending)).await.say(job_id, run_id, outcome, error.as_deref());
    boot.claim_nudge.notify_one();
    ship::finish(&boot, dir);
}

/// Once nothing of the former boots is left: declares them dead, so that nothing waits for their leases, and removes
/// their lease files, which no run follows any more.
async fn close(boot: Arc<Boot>, former: Vec<Other>, leases: Vec<PathBuf>, mut rest: JoinSet<()>) {
    while rest.join_next().await.is_some() {}
    let mut followed = vec![boot.replica_id()];
    for other in former {
        if other.live && !supersede(&boot, &other).await {
            followed.push(other.replica_id);
        }
    }
    if let Err(error) = launch::blocking(move || remove_leases(&leases, &followed)).await {
        warn!(%error, "failed to remove the leases of earlier boots");
    }
}

/// Whether the former boot is dead now.
async fn supersede(boot: &Boot, other: &Other) -> bool {
    let replica_id = other.replica_id;
    if !boot.identity().is_evidence_for(&other.state_dir_id, &other.boot_id) {
        warn!(%replica_id, host = other.host,
            "an earlier boot of this state directory ran elsewhere (the machine or container was restarted); its lease decides");
        return false;
    }
    match boot.db().supersede_replica(replica_id, &other.state_dir_id).await {
        Ok(superseded) => {
            if superseded {
                info!(%replica_id, "superseded an earlier boot of this state directory");
            }
            superseded
        }
        Err(error) => {
            warn!(%replica_id, %error, "failed to declare an earlier boot dead; its lease decides");
            false
        }
    }
}
