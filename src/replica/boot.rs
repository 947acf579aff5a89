//! What the loops of one boot share, and how a boot registers and leaves.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::Context as _;
use tokio::{
    sync::{Notify, mpsc, watch},
    time::sleep,
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{
    Agents, Executor, Start, local::LocalRuns, outage::Outage, pulse::Pulses, settle, ship, slots::Slots,
    spares::Spares, stamp, state_dir, unending::Unending, upkeep::Settles, wake::Wake,
};
use crate::{
    config::Settings,
    db::{
        Db,
        reaper::Timing,
        replicas::{Other, Registration},
        runs::{Claimant, ClaimantRules},
    },
    model::{JobId, ReplicaId, RunId},
    shim::client::{LeaseFile, Spawner, boottime, remove_lease},
};

/// One boot: a name, a lease, and what its loops share.
#[derive(Debug)]
pub struct Boot {
    replica_id: ReplicaId,
    executor: Executor,
    settings: Settings,
    db: Db,
    spawner: Spawner,
    identity: state_dir::Identity,
    agents: watch::Receiver<Agents>,
    local: LocalRuns,
    slots: Arc<Slots>,
    draining: AtomicBool,
    /// As the lease file has it, in milliseconds on the machine's boot clock.
    deadline_ms: AtomicU64,
    pulses: Pulses,
    settlements: mpsc::UnboundedSender<settle::Request>,
    stamps: mpsc::UnboundedSender<stamp::Stamp>,
    ended: mpsc::UnboundedSender<JobId>,
    shipper: ship::Shipper,
    renewed: watch::Sender<()>,
    claiming: CancellationToken,
    declared_dead: CancellationToken,
    /// Something ended or was released: a claim may find more than the last one did.
    pub(super) claim_nudge: Notify,
    /// The database answers again.
    pub(super) reap_nudge: Notify,
    /// Likewise.
    pub(super) settle_nudge: Notify,
    pub(super) wake: Wake,
    pub(super) settles: Settles,
    /// The reconcile has work that need not wait for the heartbeat.
    pub(super) renew_nudge: Notify,
    pub(super) spawn_trouble: super::outage::Pause,
    pub(super) spares: Spares,
    unending: watch::Sender<BTreeSet<RunId>>,
}

/// The receiving ends of what the loops are sent.
pub(super) struct Queues {
    pub settlements: mpsc::UnboundedReceiver<settle::Request>,
    pub stamps: mpsc::UnboundedReceiver<stamp::Stamp>,
    pub ended: mpsc::UnboundedReceiver<JobId>,
    pub logs: mpsc::Receiver<ship::Request>,
}

impl Boot {
    pub(super) fn new(start: &Start, spawner: Spawner) -> (Arc<Self>, Queues) {
        let (settlements, settlements_rx) = mpsc::unbounded_channel();
        let (stamps, stamps_rx) = mpsc::unbounded_channel();
        let (ended, ended_rx) = mpsc::unbounded_channel();
        let (shipper, logs) = ship::Shipper::new(&start.settings, start.db.clone());
        let boot = Self {
            replica_id: ReplicaId::new(),
            executor: start.executor,
            settings: start.settings.clone(),
            db: start.db.clone(),
            spawner,
            identity: start.state_dir.identity().clone(),
            agents: start.agents.clone(),
            local: LocalRuns::default(),
            slots: Slots::new(start.settings.max_concurrency),
            draining: AtomicBool::new(false),
            deadline_ms: AtomicU64::new(0),
            pulses: Pulses::default(),
            settlements,
            stamps,
            ended,
            shipper,
            renewed: start.renewed.clone(),
            unending: start.unending.clone(),
            claiming: start.shutdown.drain.child_token(),
            declared_dead: CancellationToken::new(),
            claim_nudge: Notify::new(),
            reap_nudge: Notify::new(),
            settle_nudge: Notify::new(),
            wake: Wake::default(),
            settles: Settles::default(),
            renew_nudge: Notify::new(),
            spawn_trouble: super::outage::Pause::default(),
            spares: Spares::default(),
        };
        (Arc::new(boot), Queues { settlements: settlements_rx, stamps: stamps_rx, ended: ended_rx, logs })
    }

    /// This boot's name for the database.
    #[must_use]
    pub fn replica_id(&self) -> ReplicaId {
        self.replica_id
    }

    pub(super) const fn executor(&self) -> Executor {
        self.executor
    }

    pub(super) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Counts a run among those that no KILL ends, for as long as the answer lives.
    pub(super) fn unending(&self, run_id: RunId) -> Option<Unending> {
        Unending::new(&self.unending, run_id)
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

    pub(super) fn slots(&self) -> &Arc<Slots> {
        &self.slots
    }

    pub(super) fn pulses(&self) -> &Pulses {
        &self.pulses
    }

    /// The lease file says so from now on.
    pub(super) fn set_deadline(&self, deadline: Duration) {
        self.deadline_ms.store(u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Whether a run that was claimed now could start: a shim starts nothing with less than 2K of its lease left.
    pub(super) fn could_start(&self) -> bool {
        let deadline = Duration::from_millis(self.deadline_ms.load(Ordering::Relaxed));
        deadline.saturating_sub(boottime()) >= self.settings.kill_grace * 2
    }

    /// Whether the database said that this replica is to claim nothing more.
    pub(super) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    pub(super) fn set_draining(&self, draining: bool) {
        if self.draining.swap(draining, Ordering::Relaxed) != draining {
            if draining {
                info!("draining: nothing more is claimed here");
            } else {
                info!("no longer draining: claiming again");
                self.claim_nudge.notify_one();
            }
        }
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

    /// Has the jobs looked at that wait for these, which have ended.
    pub(super) fn resolve(&self, ended: &[JobId]) {
        for job_id in ended {
            // The loop is gone only when the process is about to be; then the tick of another does it.
            let _ = self.ended.send(*job_id);
        }
    }

    pub(super) fn stamps(&self) -> &mpsc::UnboundedSender<stamp::Stamp> {
        &self.stamps
    }

    pub(super) const fn shipper(&self) -> &ship::Shipper {
        &self.shipper
    }

    /// The database granted a renewal of the lease.
    pub(super) fn tell_renewed(&self) {
        self.renewed.send_replace(());
    }

    /// The database answers again. Renewals try often; the others, whose pauses have grown meanwhile, need not find out by
    /// themselves.
    pub(super) fn nudge_all(&self) {
        for nudge in [&self.claim_nudge, &self.reap_nudge, &self.settle_nudge] {
            nudge.notify_one();
        }
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

    /// Registers agents and the boot itself. Returns the former boots of this state directory, and this one's lease: its
    /// deadline counts from before the database was asked.
    pub(super) async fn register(&self) -> anyhow::Result<(Vec<Other>, LeaseFile)> {
        let agents = self.agents();
        self.db.register_agents(&agents.values().collect::<Vec<_>>()).await.context("failed to register the agents")?;
        let asked_at = boottime();
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
        match self.begin(asked_at + self.settings.lease).await {
            Ok(begun) => Ok(begun),
            Err(error) => {
                self.leave().await;
                Err(error)
            }
        }
    }

    async fn begin(&self, deadline: Duration) -> anyhow::Result<(Vec<Other>, LeaseFile)> {
        let others = self.db.list_other_replicas(self.replica_id).await.context("failed to look for former boots")?;
        let lease = LeaseFile::create(&self.settings.state_dir, self.replica_id, deadline)
            .context("failed to write the lease into the state directory, without which no run may start")?;
        self.set_deadline(deadline);
        let is_former = |other: &Other| self.identity.is_same_directory(&other.state_dir_id);
        Ok((others.into_iter().filter(is_former).collect(), lease))
    }

    /// Says goodbye, if nothing of this boot is open; otherwise its lease, or its successor, decides.
    pub(super) async fn leave(&self) {
        match self.db.leave_replica(self.replica_id).await {
            Ok(true) => {
                info!(replica_id = %self.replica_id, "left");
                // No run is open, so none follows it.
                let _ = remove_lease(&self.settings.state_dir, self.replica_id);
            }
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
