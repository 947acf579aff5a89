//! What the loops of one boot share, and how a boot registers and leaves.

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, bail};
use tokio::{
    sync::{Notify, Semaphore, mpsc, watch},
    time::sleep,
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{Agents, Start, local::LocalRuns, outage::Outage, settle, stamp, state_dir};
use crate::{
    config::Settings,
    db::{
        Db,
        reaper::Timing,
        replicas::{Other, Registration},
        runs::{Claimant, ClaimantRules},
    },
    model::ReplicaId,
    shim::client::Spawner,
};

/// One boot: a name, a lease, and what its loops share.
#[derive(Debug)]
pub struct Boot {
    replica_id: ReplicaId,
    settings: Settings,
    db: Db,
    spawner: Spawner,
    identity: state_dir::Identity,
    agents: watch::Receiver<Agents>,
    local: LocalRuns,
    slots: Arc<Semaphore>,
    settlements: mpsc::UnboundedSender<settle::Request>,
    stamps: mpsc::UnboundedSender<stamp::Stamp>,
    claiming: CancellationToken,
    declared_dead: CancellationToken,
    /// Something ended or was released: a claim may find more than the last one did.
    pub(super) claim_nudge: Notify,
    /// The reconcile has work that need not wait for the heartbeat.
    pub(super) renew_nudge: Notify,
    pub(super) spawn_trouble: super::outage::Pause,
}

/// The receiving ends of what the loops are sent.
pub(super) struct Queues {
    pub settlements: mpsc::UnboundedReceiver<settle::Request>,
    pub stamps: mpsc::UnboundedReceiver<stamp::Stamp>,
}

impl Boot {
    pub(super) fn new(start: &Start, spawner: Spawner) -> (Arc<Self>, Queues) {
        let (settlements, settlements_rx) = mpsc::unbounded_channel();
        let (stamps, stamps_rx) = mpsc::unbounded_channel();
        let boot = Self {
            replica_id: ReplicaId::new(),
            settings: start.settings.clone(),
            db: start.db.clone(),
            spawner,
            identity: start.state_dir.identity().clone(),
            agents: start.agents.clone(),
            local: LocalRuns::default(),
            slots: Arc::new(Semaphore::new(start.settings.max_concurrency)),
            settlements,
            stamps,
            claiming: start.shutdown.drain.child_token(),
            declared_dead: CancellationToken::new(),
            claim_nudge: Notify::new(),
            renew_nudge: Notify::new(),
            spawn_trouble: super::outage::Pause::default(),
        };
        (Arc::new(boot), Queues { settlements: settlements_rx, stamps: stamps_rx })
    }

    /// This boot's name for the database.
    #[must_use]
    pub fn replica_id(&self) -> ReplicaId {
        self.replica_id
    }

    pub(super) fn settings(&self) -> &Settings {
        &self.settings
    }

    pub(super) fn db(&self) -> &Db {
        &self.db
    }

    pub(super) fn spawner(&self) -> &Spawner {
        &self.spawner
    }

    pub(super) fn local(&self) -> &LocalRuns {
        &self.local
    }

    pub(super) fn slots(&self) -> &Arc<Semaphore> {
        &self.slots
    }

    pub(super) fn identity(&self) -> &state_dir::Identity {
        &self.identity
    }

    pub(super) fn agents(&self) -> Agents {
        self.agents.borrow().clone()
    }

    pub(super) fn settlements(&self) -> &mpsc::UnboundedSender<settle::Request> {
        &self.settlements
    }

    pub(super) fn stamps(&self) -> &mpsc::UnboundedSender<stamp::Stamp> {
        &self.stamps
    }

    /// Cancelled when nothing more is to be claimed.
    pub(super) fn claiming_ends(&self) -> &CancellationToken {
        &self.claiming
    }

    pub(super) fn stop_claiming(&self) {
        self.claiming.cancel();
    }

    /// Cancelled once the database said that this boot is dead.
    pub(super) fn declared_dead(&self) -> &CancellationToken {
        &self.declared_dead
    }

    /// Whether this boot is to end.
    pub(super) fn is_over(&self) -> bool {
        self.claiming.is_cancelled() || self.declared_dead.is_cancelled()
    }

    /// When this boot is to end: it was told to stop, or declared dead.
    pub(super) async fn over(&self) {
        tokio::select! {
            () = self.claiming.cancelled() => {}
            () = self.declared_dead.cancelled() => {}
        }
    }

    pub(super) fn timing(&self) -> Timing {
        Timing {
            lease: self.settings.lease.as_secs_f64(),
            heartbeat: self.settings.heartbeat.as_secs_f64(),
            reap_grace: self.settings.reap_grace.as_secs_f64(),
        }
    }

    pub(super) fn claimant(&self) -> Claimant {
        Claimant {
            replica_id: self.replica_id,
            host: self.identity.host.clone(),
            boot_id: self.identity.boot_id.clone(),
            serial_gate: self.settings.serial_gate_enabled,
            rules: ClaimantRules {
                max_lost: self.settings.max_lost,
                max_transient: self.settings.max_transient,
                max_interrupted: self.settings.max_interrupted,
                lease: self.settings.lease.as_secs_f64(),
            },
        }
    }

    /// Registers agents and the boot itself, and returns the former boots of this state directory.
    ///
    /// Until runs can be fenced by their lease, a second live replica is refused: the younger of two that register at
    /// once looks again after it has registered, and goes.
    pub(super) async fn register(&self) -> anyhow::Result<Vec<Other>> {
        self.refuse_second(None).await?;
        let agents = self.agents();
        self.db.register_agents(&agents.values().collect::<Vec<_>>()).await.context("failed to register the agents")?;
        self.db
            .register_replica(&Registration {
                replica_id: self.replica_id,
                name: self.settings.name.clone(),
                host: self.identity.host.clone(),
                boot_id: self.identity.boot_id.clone(),
                state_dir_id: self.identity.state_dir_id(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                agents: agents.keys().cloned().collect(),
                labels: self.settings.labels.clone(),
                max_concurrency: self.settings.max_concurrency,
                lease: self.settings.lease.as_secs_f64(),
            })
            .await
            .context("failed to register this replica")?;
        match self.refuse_second(Some(self.replica_id)).await {
            Ok(former) => Ok(former),
            Err(error) => {
                self.leave().await;
                Err(error)
            }
        }
    }

    /// The former boots of this state directory; an error where another replica is live. Of two that have registered
    /// at the same moment, `me` yields only to one with a smaller name, so that one of them stays.
    async fn refuse_second(&self, me: Option<ReplicaId>) -> anyhow::Result<Vec<Other>> {
        let others = self.db.list_other_replicas(self.replica_id).await.context("failed to look for other replicas")?;
        let (former, foreign): (Vec<_>, Vec<_>) =
            others.into_iter().partition(|other| self.identity.is_same_directory(&other.state_dir_id));
        let rival = foreign.iter().find(|other| {
            other.live
                && other.lease_left > -self.settings.reap_grace.as_secs_f64()
                && me.is_none_or(|me| other.replica_id < me)
        });
        if let Some(rival) = rival {
            bail!(
                "another replica is live on this database: {} on host {} (replica_id {}, lease left {:.0} s); this version \
                 runs one replica a database, so stop that one first, or, if its machine is gone, start again in {:.0} s",
                rival.name,
                rival.host,
                rival.replica_id,
                rival.lease_left.max(0.0),
                (rival.lease_left + self.settings.reap_grace.as_secs_f64()).max(1.0).ceil(),
            );
        }
        Ok(former)
    }

    /// Says goodbye, if nothing of this boot is open; otherwise its lease, or its successor, decides.
    pub(super) async fn leave(&self) {
        match self.db.leave_replica(self.replica_id).await {
            Ok(true) => info!(replica_id = %self.replica_id, "left"),
            Ok(false) => warn!(replica_id = %self.replica_id, "not leaving: runs are open, or declared dead meanwhile"),
            Err(error) => warn!(%error, "failed to say goodbye; the lease will run out by itself"),
        }
    }

    /// Loop: after each new reading of the agents' file, tells the database.
    pub(super) async fn follow_agents(self: Arc<Self>) -> &'static str {
        let mut readings = self.agents.clone();
        let mut outage = Outage::new("register the agents as read again", Duration::from_secs(5));
        loop {
            tokio::select! {
                changed = readings.changed() => if changed.is_err() { std::future::pending::<()>().await },
                () = self.over() => return "agents",
            }
            // Until the database knows them their jobs would be claimed by rules that nobody wrote.
            loop {
                let agents = readings.borrow_and_update().clone();
                match self.tell_agents(&agents).await {
                    Ok(()) => {
                        outage.worked();
                        info!(agents = agents.len(), "serving the agents as read again");
                        break;
                    }
                    Err(error) => tokio::select! {
                        () = sleep(outage.failed(&error)) => {}
                        () = self.over() => return "agents",
                    },
                }
            }
        }
    }

    async fn tell_agents(&self, agents: &Agents) -> crate::db::Result<()> {
        let names: Vec<String> = agents.keys().cloned().collect();
        self.db.register_agents(&agents.values().collect::<Vec<_>>()).await?;
        self.db.serve_agents(self.replica_id, &names).await.map(drop)
    }
}
