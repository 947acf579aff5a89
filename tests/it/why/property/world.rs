//! The world in which the acts are done, by the product's own statements; and what is true of it that no row says.

use std::{collections::BTreeMap, time::Duration};

use orch::{
    db::{
        Db, Error,
        jobs::{NewJob, When},
        reaper::Timing,
        replicas::Registration,
        runs::{Adoption, Answer, Claimant, ClaimantRules, Closing, Ending, Look, Owned},
    },
    model::{Backoff, ClosedBy, JobId, OnLost, Outcome, ReplicaId, RunId},
    replica::{Reaper, resolve::resolve},
};
use proptest::sample::Index;
use tokio_postgres::Client;

use super::acts::{AGENTS, Act, LIMITS, Place, until};
use crate::{played::agent, reaper::no_outage, support::TestDb};

/// So long that none runs out by itself.
const LEASE: f64 = 86_400.0;
const TIMING: Timing = Timing { lease: LEASE, heartbeat: 5.0, reap_grace: 5.0 };

/// A boot of a replica.
pub(super) struct Boot {
    pub(super) claimant: Claimant,
    pub(super) agents: Vec<String>,
    pub(super) slots: usize,
    label: bool,
    state_dir_id: String,
}

impl Boot {
    pub(super) const fn id(&self) -> ReplicaId {
        self.claimant.replica_id
    }
}

pub(super) struct World {
    pub(super) db: Db,
    pub(super) client: Client,
    pub(super) replicas: Vec<Boot>,
    /// Whether they keep gates: `serial_gate_enabled`.
    pub(super) gates: bool,
    running: Vec<Owned>,
    /// Those that a reap has closed, and whose owner does not know it yet.
    lost: Vec<Owned>,
    /// Those that were taken from their replicas, whose processes have not ended yet.
    ending: Vec<Owned>,
    /// Whether every replica takes the same jobs.
    pub(super) alike: bool,
}

impl World {
    pub(super) async fn new(test: &TestDb, places: &[Place]) -> Self {
        let db = test.db();
        // One fails for good at the third time and is tried again at once, the other at the first; and is held where its
        // run is lost.
        let mut registered: Vec<_> = AGENTS.iter().map(|name| agent(name)).collect();
        registered[0].max_attempts = 3;
        registered[0].backoff = Backoff { base: 0.001, factor: 1.0, max: 0.001 };
        registered[1].limits = vec!["l2".to_owned()];
        registered[1].on_lost = OnLost::Hold;
        db.register_agents(&registered.iter().collect::<Vec<_>>()).await.unwrap();
        for (limit, max) in LIMITS.iter().zip([Some(1), Some(2), Some(1), None]) {
            db.set_limit(limit, max).await.unwrap();
        }
        db.set_project("serial", None, Some(true)).await.unwrap();
        let alike = places.iter().all(|(agents, label, _)| (agents, label) == (&places[0].0, &places[0].1));
        let mut world = Self {
            db,
            client: test.client().await,
            replicas: Vec::new(),
            gates: true,
            running: Vec::new(),
            lost: Vec::new(),
            ending: Vec::new(),
            alike,
        };
        for (agents, label, slots) in places {
            let agents = agents.iter().map(|name| (*name).to_owned()).collect();
            world.start(agents, *label, *slots, None).await;
        }
        world
    }

    /// Starts a replica, on a directory of its own or on that of a former boot.
    async fn start(&mut self, agents: Vec<String>, label: bool, slots: usize, state_dir_id: Option<String>) {
        let replica_id = ReplicaId::new();
        let state_dir_id = state_dir_id.unwrap_or_else(|| replica_id.to_string());
        let labels: BTreeMap<String, String> =
            label.then(|| ("zone".to_owned(), "eu".to_owned())).into_iter().collect();
        let registration = Registration {
            replica_id,
            name: "played".to_owned(),
            host: "stage".to_owned(),
            boot_id: "boot".to_owned(),
            state_dir_id: state_dir_id.clone(),
            version: "test".to_owned(),
            agents: agents.clone(),
            labels,
            max_concurrency: slots,
            lease: LEASE,
        };
        self.db.register_replica(&registration).await.unwrap();
        let claimant = Claimant {
            replica_id,
            host: "stage".to_owned(),
            boot_id: "boot".to_owned(),
            serial_gate: self.gates,
            rules: ClaimantRules { max_lost: 3, max_transient: 100, max_interrupted: 100, lease: LEASE },
        };
        self.replicas.push(Boot { claimant, agents, slots, label, state_dir_id });
    }

    /// How many of its slots a replica has free: its own count, which no row says.
    pub(super) fn free(&self, boot: &Boot) -> usize {
        let own = |run: &&Owned| run.replica_id() == boot.id();
        boot.slots.saturating_sub(self.running.iter().chain(&self.ending).filter(own).count())
    }

    /// Does it. What the database refuses in words has changed nothing.
    pub(super) async fn act(&mut self, act: &Act) {
        match self.try_to(act).await {
            Ok(()) | Err(Error::Refused { .. }) => {}
            Err(error) => panic!("{act:?}: {error:?}"),
        }
    }

    async fn try_to(&mut self, act: &Act) -> orch::db::Result<()> {
        match act.clone() {
            Act::Enqueue { agent, project, priority, gate, limits, label, later, after } => {
                let mut jobs = Vec::new();
                for index in &after {
                    jobs.extend(self.any_job(index).await);
                }
                let job = NewJob {
                    agent: agent.to_owned(),
                    project: project.to_owned(),
                    priority,
                    run_at: later.then_some(When::In(Duration::from_hours(1))),
                    gate: gate.map(str::to_owned),
                    limits: limits.into_iter().map(str::to_owned).collect(),
                    require: label.then(|| BTreeMap::from([("zone".to_owned(), "eu".to_owned())])),
                    after: jobs,
                    ..NewJob::default()
                };
                self.db.enqueue_job(&job).await.map(drop)
            }
            Act::Claim { replica, slots } => {
                let boot = replica.get(&self.replicas);
                let free = self.free(boot).min(slots);
                if free > 0 {
                    let claim =
                        self.db.claim_jobs(&boot.claimant, &boot.agents, &run_ids(free), &Look::default()).await?;
                    self.running.extend(claim.jobs.into_iter().map(|job| job.owned));
                }
                Ok(())
            }
            Act::Settle { run, outcome, closes, resolves } => {
                let Some(run) = take(&mut self.running, run) else { return Ok(()) };
                let close_limit = closes.map(|(limit, passes)| Closing {
                    limit: limit.to_owned(),
                    until: until(passes).unwrap_or(When::In(Duration::from_hours(1))),
                    reason: None,
                });
                self.settle(run, outcome, close_limit, resolves).await
            }
            Act::SettleLate { run, outcome } => match take(&mut self.lost, run) {
                Some(run) => self.settle(run, outcome, None, true).await,
                None => Ok(()),
            },
            Act::Take { run, hold } => {
                let Some(run) = take(&mut self.running, run) else { return Ok(()) };
                let status = if hold { "held" } else { "queued" };
                let taken = "update orch.jobs set status = $1 where id = $2 and status = 'running' and run_id = $3";
                let taken = self.client.execute(taken, &[&status, &run.job_id().0, &run.run_id().0]).await.unwrap();
                assert_eq!(taken, 1, "{run:?} ran");
                self.ending.push(run);
                Ok(())
            }
            Act::Acknowledge { ended } => {
                let Some(run) = take(&mut self.ending, ended) else { return Ok(()) };
                self.db.acknowledge_ended(run.replica_id(), run.job_id(), Some(run.run_id())).await.map(drop)
            }
            Act::TakeOver { replica, all } => self.take_over(replica.index(self.replicas.len()), all).await,
            Act::Die { replica } => {
                let dead = self.replicas.remove(replica.index(self.replicas.len()));
                let over = "update orch.replicas set lease_until = now() - interval '1 min' where replica_id = $1";
                self.client.execute(over, &[&dead.id().0]).await.unwrap();
                no_outage(&self.client).await;
                Reaper::new(TIMING, true).tick(&self.db, false).await?;
                self.ending.retain(|run| run.replica_id() != dead.id());
                self.lost.extend(self.running.extract_if(.., |run| run.replica_id() == dead.id()));
                self.start(dead.agents, dead.label, dead.slots, None).await;
                Ok(())
            }
            Act::Tick => Reaper::new(TIMING, true).tick(&self.db, false).await.map(drop),
            Act::Bound { limit, max } => self.db.set_limit(limit, max).await.map(drop),
            Act::Close { limit, passes } => self.db.close_limit(limit, until(passes), Some("played")).await.map(drop),
            Act::Open { limit } => self.db.open_limit(limit).await.map(drop),
            Act::Pause { what } => self.db.pause(what, None, None).await.map(drop),
            Act::Resume { what } => self.db.resume(what).await.map(drop),
            Act::Change { job, change } => match self.any_job(&job).await {
                Some(id) => self.db.change_jobs(change, &[id]).await.map(drop),
                None => Ok(()),
            },
            Act::Priority { job, priority } => match self.any_job(&job).await {
                Some(id) => self.db.set_job(id, Some(priority), None).await.map(drop),
                None => Ok(()),
            },
            Act::Drain { replica, on } => self.db.set_draining(&[replica.get(&self.replicas).id()], on).await.map(drop),
            Act::Rules { project, weight, serial } => {
                self.db.set_project(project, Some(weight), serial).await.map(drop)
            }
            Act::Gates { on } => {
                self.gates = on;
                for boot in &mut self.replicas {
                    boot.claimant.serial_gate = on;
                }
                Ok(())
            }
        }
    }

    async fn settle(
        &self,
        run: Owned,
        outcome: Outcome,
        close_limit: Option<Closing>,
        resolves: bool,
    ) -> orch::db::Result<()> {
        let mut ending = Ending::bare(outcome, ClosedBy::Owner, "as played");
        ending.retry_at = (outcome == Outcome::Transient).then_some(When::In(Duration::ZERO));
        ending.close_limit = close_limit;
        let answers = self.db.settle_runs(vec![run.ended(ending)]).await.map_err(|(error, _)| error)?;
        if resolves {
            resolve(&self.db, answers.awaited.clone(), Vec::new()).await?;
        }
        for answer in answers {
            assert!(matches!(answer, Answer::Settled(..) | Answer::Late(..) | Answer::Noted(_)), "{answer:?}");
        }
        Ok(())
    }

    /// As a start does: it adopts what lives of its former boot, ends what the database does not grant, and declares that
    /// boot dead where nothing is left of it.
    async fn take_over(&mut self, former: usize, all: bool) -> orch::db::Result<()> {
        let Boot { agents, slots, label, state_dir_id, claimant } = &self.replicas[former];
        let former = claimant.replica_id;
        let state_dir_id = state_dir_id.clone();
        self.start(agents.clone(), *label, *slots, Some(state_dir_id.clone())).await;
        let successor = self.replicas[self.replicas.len() - 1].id();
        let mut owned: Vec<Owned> = self.running.extract_if(.., |run| run.replica_id() == former).collect();
        if !all {
            let kept: Vec<Owned> = owned.extract_if(owned.len() / 2.., |_| true).collect();
            self.running.extend(kept);
        }
        for adoption in self.db.adopt_runs(successor, owned).await.map_err(|(error, _)| error)? {
            match adoption {
                Adoption::Adopted(run) => self.running.push(run),
                other => panic!("{other:?}"),
            }
        }
        if self.db.supersede_replica(former, &state_dir_id).await? {
            self.replicas.retain(|boot| boot.id() != former);
            self.ending.retain(|run| run.replica_id() != former);
        }
        Ok(())
    }

    async fn any_job(&self, index: &Index) -> Option<JobId> {
        let ids = "select coalesce(array_agg(j.id order by j.id), '{}') from orch.jobs j";
        let ids: Vec<i64> = self.client.query_one(ids, &[]).await.unwrap().get(0);
        (!ids.is_empty()).then(|| JobId(*index.get(&ids)))
    }
}

fn take(runs: &mut Vec<Owned>, index: Index) -> Option<Owned> {
    (!runs.is_empty()).then(|| runs.swap_remove(index.index(runs.len())))
}

pub(super) fn run_ids(count: usize) -> Vec<RunId> {
    (0..count).map(|_| RunId::new()).collect()
}
