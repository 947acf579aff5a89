//! The reaper: the tick that declares replicas dead by their lease, settles what they left as lost by the token it saw,
//! and sanitizes. Any replica may; none has to. It never raises: what fails is logged and tried at the next tick.

use std::{sync::Arc, time::Duration};

use tokio::time::sleep;
use tracing::{info, warn};

use super::{
    Boot,
    outage::{Outage, jittered},
    resolve,
};
use crate::{
    db::{
        Db, Result,
        reaper::{Found, Timing},
        runs::{Answer, Ending, Owned},
    },
    model::{ClosedBy, JobId, Outcome},
};

/// The most rows of one statement.
const BATCH: i64 = 500;
/// The most batches of one kind in one tick: a tick is bounded.
const BATCHES: usize = 40;
/// Rows that the walk of the primary key looks at in a tick.
const WALK: i64 = 2_000;
/// Of the rows that wait for others, how many predecessors are looked at in a tick.
const PREDECESSORS: i64 = 20_000;
/// Rows that the walk looks at in a statement when it goes over the whole table at startup: so few that the server does not
/// think it worth compiling.
const WALK_AT_STARTUP: i64 = 5_000;

/// What a reaper goes by.
#[derive(Debug, Clone, Copy)]
pub struct Reaper {
    /// L, H and G.
    pub timing: Timing,
    /// The origin's switch: gates the sweep of impossible rows, and nothing else.
    pub sanitize_impossible: bool,
    /// Where the walk of the primary key goes on.
    walked_to: i64,
    /// Where the reap goes on, if a tick did not come to the end.
    reaped_to: i64,
    /// Where the walk over the jobs that wait for others goes on.
    waits_walked_to: JobId,
}

/// What one tick did.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Done {
    /// Replicas declared dead.
    pub dead: usize,
    /// Runs settled as lost.
    pub reaped: usize,
    /// Impossible rows repaired.
    pub impossible: usize,
    /// Open runs closed that no job ran.
    pub idle_runs: usize,
    /// Running rows without an owner sent back to the queue.
    pub ownerless: usize,
    /// Jobs let go that waited for a replica which will never answer.
    pub released: usize,
    /// Jobs let go, or cancelled, that waited for jobs which had ended.
    pub resolved: usize,
}

impl Done {
    fn add(&mut self, other: Self) {
        let Self { dead, reaped, impossible, idle_runs, ownerless, released, resolved } = other;
        self.dead += dead;
        self.reaped += reaped;
        self.impossible += impossible;
        self.idle_runs += idle_runs;
        self.ownerless += ownerless;
        self.released += released;
        self.resolved += resolved;
    }
}

/// Repairs impossible rows before the first claim: a claim takes such a row as it finds it, and nobody would ever hear of
/// it. Never raises: what fails here is tried at the first tick.
pub(super) async fn before_the_first_claim(boot: &Boot) {
    if boot.settings().impossible_queued_sanitize_enabled
        && let Err(error) = sanitize_impossible(boot.db()).await
    {
        warn!(%error, "failed to sanitize at startup; the next tick tries again");
    }
}

/// Ticks until the boot is over.
pub(super) async fn run(boot: Arc<Boot>) -> &'static str {
    let settings = boot.settings();
    let mut reaper = Reaper::new(boot.timing(), settings.impossible_queued_sanitize_enabled);
    let mut outage = Outage::new("reap and sanitize", Duration::from_secs(30));
    if !settings.reaper_enabled {
        boot.over().await;
        return "reaper";
    }
    let mut whole = true;
    loop {
        boot.pulses().reap();
        let pause = match reaper.step(boot.db(), whole).await {
            Ok(done) => {
                outage.worked();
                whole &= !reaper.is_through();
                if done != Done::default() {
                    boot.claim_nudge.notify_one();
                }
                // A large table is walked at startup without a rest, and a step of that is as good as a tick.
                if whole { Duration::ZERO } else { jittered(settings.reap_interval).min(settings.reap_interval) }
            }
            Err(error) => outage.failed(&error).max(settings.reap_interval),
        };
        tokio::select! {
            () = sleep(pause) => {}
            () = boot.reap_nudge.notified() => {}
            () = boot.over() => return "reaper",
        }
    }
}

impl Reaper {
    /// A reaper that has not ticked yet.
    #[must_use]
    pub const fn new(timing: Timing, sanitize_impossible: bool) -> Self {
        Self { timing, sanitize_impossible, walked_to: 0, reaped_to: 0, waits_walked_to: JobId(0) }
    }

    /// One tick: one statement when there is nothing to do. `whole` walks the whole table, in as many as it takes.
    pub async fn tick(&mut self, db: &Db, whole: bool) -> Result<Done> {
        if !whole {
            return self.step(db, false).await;
        }
        (self.walked_to, self.waits_walked_to) = (0, JobId(0));
        let mut done = Done::default();
        loop {
            done.add(self.step(db, true).await?);
            if self.is_through() {
                return Ok(done);
            }
        }
    }

    /// Whether the walks have come to the end of what there is.
    const fn is_through(&self) -> bool {
        self.walked_to == 0 && self.waits_walked_to.0 == 0
    }

    /// A tick that walks on from where the one before came to; with `far`, further than a tick does.
    async fn step(&mut self, db: &Db, far: bool) -> Result<Done> {
        let mut done = Done::default();
        let found = self.look(db, if far { WALK_AT_STARTUP } else { WALK }, &mut done).await?;
        if found.expired && !found.waiting {
            for dead in db.declare_dead(self.timing).await? {
                warn!(replica_id = %dead.replica_id, name = dead.name, host = dead.host, overdue_s = dead.overdue,
                    "declared a replica dead: its lease had run out");
                done.dead += 1;
            }
        }
        if found.orphaned || done.dead > 0 {
            done.reaped = self.reap(db, &mut done.resolved).await?;
        }
        if found.impossible {
            done.impossible = sanitize_impossible(db).await?;
        }
        if found.idle_runs {
            for (run_id, job_id) in db.sanitize_idle_runs(BATCH).await? {
                warn!(%job_id, %run_id, "closed an open run that no job runs");
                done.idle_runs += 1;
            }
        }
        if found.unanswered {
            done.released = db.release_unanswered(BATCH).await?.len();
        }
        if found.waits {
            done.resolved += self.walk_waiting(db).await?;
        } else {
            self.waits_walked_to = JobId(0);
        }
        Ok(done)
    }

    /// The tick's own statement, and the repair of what its walk found.
    async fn look(&mut self, db: &Db, rows: i64, done: &mut Done) -> Result<Found> {
        let found = db.tick(self.timing, self.sanitize_impossible, self.walked_to, rows).await?;
        if !found.ownerless.is_empty() {
            for job_id in db.sanitize_ownerless(&found.ownerless).await? {
                warn!(%job_id, "a running job had no owner or no open run; sent it back to the queue");
                done.ownerless += 1;
            }
        }
        self.walked_to = found.next_after.unwrap_or(0);
        Ok(found)
    }

    /// Resolves waits that nobody has: whoever settled the last run that a job waits for may have died right after.
    async fn walk_waiting(&mut self, db: &Db) -> Result<usize> {
        let found = db.walk_waiting(self.waits_walked_to, WALK, PREDECESSORS).await?;
        let done = resolve::resolve(db, Vec::new(), found.jobs).await?;
        self.waits_walked_to = found.next_after.unwrap_or(JobId(0));
        Ok(done.released + done.cancelled)
    }

    /// Settles the runs of dead owners as lost, by the tokens that were seen. A reap is a settle like any other: one that
    /// was adopted or settled in between is no longer the one that was seen, and zero rows is the answer. A tick that
    /// does not come to the end goes on there at the next.
    async fn reap(&mut self, db: &Db, resolved: &mut usize) -> Result<usize> {
        let mut reaped = 0;
        for _ in 0..BATCHES {
            let orphans = db.list_orphans(self.reaped_to, BATCH).await?;
            let end = orphans.last().map(|(owned, _)| owned.job_id().0);
            self.reaped_to = end.filter(|_| orphans.len() as i64 == BATCH).unwrap_or(0);
            let lost = |(owned, why): (Owned, String)| owned.ended(Ending::bare(Outcome::Lost, ClosedBy::Reap, why));
            let batch = orphans.into_iter().map(lost).collect();
            let mut settled = 0;
            let answers = db.settle_runs(batch).await.map_err(|(error, _)| error)?;
            let awaited = answers.awaited.clone();
            for answer in answers {
                match answer {
                    Answer::Settled(run_id, next) => {
                        info!(%run_id, %next, "reaped");
                        settled += 1;
                    }
                    Answer::Refused(settlement, error) => {
                        warn!(job_id = %settlement.job_id(), %error, "failed to reap a job; trying at the next tick");
                    }
                    // Settled or adopted meanwhile; a busy one is found again by the next tick.
                    // The others are told to an owner's side alone.
                    Answer::NotYours(_)
                    | Answer::Busy(_)
                    | Answer::Already(_)
                    | Answer::Late(..)
                    | Answer::Noted(_) => {}
                }
            }
            let done = resolve::resolve(db, awaited, Vec::new()).await?;
            *resolved += done.released + done.cancelled;
            if settled > 0 {
                db.count_reaped(settled).await?;
                reaped += settled as usize;
            }
            if self.reaped_to == 0 {
                break;
            }
        }
        Ok(reaped)
    }
}

async fn sanitize_impossible(db: &Db) -> Result<usize> {
    let mut repaired = 0;
    for _ in 0..BATCHES {
        let rows = db.sanitize_impossible(BATCH).await?;
        for row in &rows {
            warn!(job_id = %row.job_id, status = row.status, run_id = ?row.run_id.map(|id| id.to_string()), pid = row.pid,
                "repaired an impossible row: it carried an owner although it did not run");
        }
        repaired += rows.len();
        if (rows.len() as i64) < BATCH {
            break;
        }
    }
    Ok(repaired)
}
