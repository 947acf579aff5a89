//! Orch's own statements without its loops: claim and settle by hand, through the functions of `db`. The ceiling of the
//! engine, and what the cost of a claim is measured with.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use futures_util::future::try_join_all;

use super::{figure::per_second, through};
use crate::{
    config::Settings,
    db::{
        Db,
        replicas::Registration,
        runs::{Answer, Claimant, ClaimantRules, Claimed, Ending, Look},
    },
    model::{ClosedBy, Marks, Outcome, ReplicaId, Round, RunId},
};

/// Long enough for any bench.
const LEASE: Duration = Duration::from_hours(24);

/// What a replica remembers of its claims.
#[derive(Debug)]
pub(super) struct Remembered {
    marks: Marks,
    lone: bool,
    saw_all_at: Instant,
    /// Claims by the statement for any queue also where there is a smaller one.
    general: bool,
}

impl Remembered {
    /// Of one that has only the statement for any queue.
    pub(super) fn general() -> Self {
        Self { general: true, ..Self::default() }
    }
}

impl Default for Remembered {
    fn default() -> Self {
        Self { marks: Marks::default(), lone: true, saw_all_at: Instant::now(), general: false }
    }
}

/// A replica in name alone.
#[derive(Debug)]
pub(super) struct Hand {
    db: Db,
    poll: Duration,
    claimant: Claimant,
    agents: Vec<String>,
}

impl Hand {
    /// Registers it with a lease that lasts.
    pub(super) async fn register(settings: &Settings, db: Db) -> anyhow::Result<Self> {
        let agent = through::agent(&["/bin/true"]);
        db.register_agents(&[&agent]).await?;
        let replica_id = ReplicaId::new();
        db.register_replica(&Registration {
            replica_id,
            name: "bench".to_owned(),
            host: "bench".to_owned(),
            boot_id: String::new(),
            state_dir_id: String::new(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            agents: vec![agent.name.clone()],
            labels: BTreeMap::new(),
            max_concurrency: 1,
            lease: LEASE.as_secs_f64(),
        })
        .await?;
        let claimant = Claimant {
            replica_id,
            host: "bench".to_owned(),
            boot_id: String::new(),
            serial_gate: settings.serial_gate_enabled,
            rules: ClaimantRules {
                max_lost: settings.max_lost,
                max_transient: settings.max_transient,
                max_interrupted: settings.max_interrupted,
                lease: LEASE.as_secs_f64(),
            },
        };
        Ok(Self { db, poll: settings.poll_interval, claimant, agents: vec![agent.name] })
    }

    /// Claims up to so many, of a queue that is one lane.
    pub(super) async fn claim(&self, jobs: usize) -> anyhow::Result<Vec<Claimed>> {
        let run_ids: Vec<RunId> = (0..jobs).map(|_| RunId::new()).collect();
        let look = Look { lone: true, ..Look::default() };
        Ok(self.db.claim_jobs(&self.claimant, &self.agents, &run_ids, &look).await?.jobs)
    }

    /// Claims as the loop of a replica does, which remembers where the claim before found its jobs.
    pub(super) async fn claim_again(&self, jobs: usize, memory: &mut Remembered) -> anyhow::Result<Vec<Claimed>> {
        let run_ids: Vec<RunId> = (0..jobs).map(|_| RunId::new()).collect();
        let marks = memory.marks.take(memory.saw_all_at.elapsed());
        let look = Look {
            window: Round::default().window(jobs),
            marks,
            lone: memory.lone && !memory.general,
            ..Look::default()
        };
        let asked_at = Instant::now();
        let mut claim = self.db.claim_jobs(&self.claimant, &self.agents, &run_ids, &look).await?;
        memory.lone = claim.lone;
        let looked = claim.looked(jobs, asked_at.elapsed());
        if memory.marks.saw(std::mem::take(&mut claim.heads), looked, self.poll) {
            memory.saw_all_at = Instant::now();
        }
        Ok(claim.jobs)
    }

    /// Settles them as succeeded.
    pub(super) async fn settle(&self, claimed: Vec<Claimed>) -> anyhow::Result<()> {
        let mut left: Vec<_> = claimed.into_iter().map(|job| job.owned.ended(ending())).collect();
        while !left.is_empty() {
            let answers = self.db.settle_runs(left).await.map_err(|(error, _)| error)?;
            left = answers
                .into_iter()
                .filter_map(|answer| match answer {
                    // Another's claim has the row under its lock for a moment: it saw it claimable, and came too late.
                    Answer::Busy(settlement) => Some(settlement),
                    _ => None,
                })
                .collect();
        }
        Ok(())
    }

    /// Claims and settles what is queued, with so many side by side, in batches of so many. How many a second.
    pub(super) async fn drain(&self, jobs: usize, side_by_side: usize, batch: usize) -> anyhow::Result<f64> {
        let begun = Instant::now();
        try_join_all((0..side_by_side).map(|_| async {
            loop {
                let claimed = self.claim(batch).await?;
                if claimed.is_empty() {
                    return anyhow::Ok(());
                }
                self.settle(claimed).await?;
            }
        }))
        .await?;
        Ok(per_second(jobs, begun.elapsed()))
    }

    /// Says goodbye.
    pub(super) async fn leave(self) -> anyhow::Result<()> {
        self.db.leave_replica(self.claimant.replica_id).await?;
        Ok(())
    }
}

/// A run that did nothing, and did it well.
pub(super) fn ending() -> Ending {
    Ending { error: None, ..Ending::bare(Outcome::Succeeded, ClosedBy::Owner, "") }
}
