//! The loop that claims: as many jobs as there are free slots, in one statement.
//!
//! Owns what a replica remembers from claim to claim: how far it has come in its round over the lanes, and which projects
//! are ahead of their share. All of it may be lost at any time; the database alone says what may run.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::time::{Instant, sleep};
use tracing::{debug, warn};

use super::{
    Boot, launch,
    outage::{Outage, jittered},
    wake::Looks,
};
use crate::{
    db::{
        Error, Result,
        runs::{CLAIM_MAX, Claim, Look},
    },
    failpoint::{self, Point},
    model::{Marks, Round, RunId, Shares, Window},
};

/// The first pause after a claim that found what it wanted in the hands of another one; it doubles while that goes on.
const SOON: Duration = Duration::from_millis(10);

/// After a claim that left slots free: what it began is on its way by then, and need not share the machine with a look for
/// more. Whoever enqueues meanwhile is found by that look.
const BEGUN: Duration = Duration::from_millis(5);

/// A pause after a round in vain is so many times as long as all its windows but the last: with a hundred thousand lanes,
/// looking for nothing is never most of what the server does.
const REST: u32 = 9;

/// The longest wait for a free slot before the loop turns.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// The constraint that has the last word on gates: a job refused by it only found its gate taken.
pub(super) const GATE_CONSTRAINT: &str = "jobs_running_gate";

/// What is remembered from claim to claim.
#[derive(Debug)]
pub(super) struct Memory {
    round: Round,
    shares: Shares,
    marks: Marks,
    /// All that waited was one lane, when last seen.
    lone: bool,
    /// When the last claim that looked at everything had its answer.
    saw_all_at: Instant,
    /// Another claim had locked what this one wanted, since something was claimed here.
    contended: bool,
    /// How often in a row that was all that a round came to.
    outdone: u32,
    /// How long this round has looked so far.
    looked: Duration,
}

/// Claims until the boot stops claiming.
pub(super) async fn run(boot: Arc<Boot>) -> &'static str {
    let mut outage = Outage::new("claim jobs", Duration::from_secs(5));
    let mut looks = Looks::new(boot.settings().poll_interval, boot.settings().notify);
    let mut memory = Memory::new();
    while !boot.claiming_ends().is_cancelled() {
        boot.pulses().claim();
        let ticked = tick(&boot, &mut memory, outage.patience()).await;
        if ticked.is_ok() {
            outage.worked();
        }
        if matches!(ticked, Ok(Ticked::Unseen)) {
            continue;
        }
        let rest = std::mem::take(&mut memory.looked).saturating_mul(REST);
        boot.wake.set_waiting(matches!(ticked, Ok(Ticked::Nothing | Ticked::Outdone(_))));
        let poll = boot.settings().poll_interval;
        let pause = match ticked {
            Ok(Ticked::More | Ticked::Unseen) => {
                looks.found();
                continue;
            }
            Ok(Ticked::Some) => {
                looks.found();
                BEGUN.min(poll)
            }
            Ok(Ticked::Outdone(times)) => jittered(SOON.saturating_mul(1 << times.min(10)).min(poll)),
            Ok(Ticked::Nothing) => looks.found_nothing().max(rest.min(LONGEST_WAIT)),
            Ok(Ticked::NotNow) => boot.spawn_trouble.left().unwrap_or_else(|| jittered(poll)),
            Err(error) => outage.failed(&error),
        };
        let is_able = boot.spawn_trouble.left().is_none();
        tokio::select! {
            () = sleep(pause) => {}
            () = boot.claim_nudge.notified(), if is_able => {}
            () = hinted(&boot, &mut looks), if is_able => {}
            () = boot.over() => break,
        }
    }
    boot.wake.set_waiting(false);
    boot.over().await;
    "claim"
}

/// Waits for a hint, and where hints have been in vain for more of them, while nobody need give any.
async fn hinted(boot: &Boot, looks: &mut Looks) {
    boot.wake.hinted().await;
    let pause = looks.hinted();
    if !pause.is_zero() {
        boot.wake.set_waiting(false);
        sleep(pause).await;
    }
}

/// What a tick came to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ticked {
    /// As many were claimed as there were free slots: look again as soon as one is free.
    More,
    /// Some were, and slots are left: look again, but first let those begin.
    Some,
    /// There are lanes that were not looked at yet: go on with them.
    Unseen,
    /// What there was had just been locked by another claim, so many times in a row: look again soon.
    Outdone(u32),
    /// There is a free slot, and the queue has nothing for it at the moment.
    Nothing,
    /// Nothing was looked for.
    NotNow,
}

impl Memory {
    fn new() -> Self {
        Self {
            round: Round::default(),
            shares: Shares::default(),
            marks: Marks::default(),
            lone: true,
            saw_all_at: Instant::now(),
            contended: false,
            outdone: 0,
            looked: Duration::ZERO,
        }
    }

    /// Where to look for jobs for so many slots.
    fn look(&mut self, slots: usize) -> Look {
        let (window, marks) = (self.round.window(slots), self.marks.take(self.saw_all_at.elapsed()));
        let lone = self.lone && window.is_first();
        Look { window, ahead: self.shares.ahead(), marks, only: None, lone }
    }

    /// Notes what a claim for so many jobs saw of its window and took, and how long it was at it.
    fn learn(&mut self, claim: &mut Claim, window: &Window, wanted: usize, took: Duration, poll: Duration) -> Ticked {
        let mut taken: HashMap<&str, usize> = HashMap::new();
        for job in &claim.jobs {
            *taken.entry(job.project.as_str()).or_default() += 1;
        }
        self.shares.claimed(&claim.in_sight, &taken, claim.seen.is_all_of(window));
        self.contended |= claim.contended;
        self.lone = claim.lone;
        let looked = claim.looked(wanted, took);
        if self.marks.saw(std::mem::take(&mut claim.heads), looked, poll) {
            self.saw_all_at = Instant::now();
        } else {
            // Of a round it says nothing: what it did not look at may have jobs as well.
            return if taken.is_empty() { Ticked::Unseen } else { Ticked::More };
        }
        let unseen = self.round.saw(&claim.seen, !taken.is_empty(), claim.contended);
        self.looked += if unseen { took } else { Duration::ZERO };
        // Fewer than wanted is not the end of the queue: what one limit or gate lets through now is not all that waits.
        if !taken.is_empty() {
            (self.contended, self.outdone) = (false, 0);
            if claim.jobs.len() == wanted { Ticked::More } else { Ticked::Some }
        } else if unseen {
            Ticked::Unseen
        } else if std::mem::take(&mut self.contended) {
            self.outdone += 1;
            Ticked::Outdone(self.outdone)
        } else {
            Ticked::Nothing
        }
    }
}

/// Waits for a free slot, then claims for all that are free, and begins what it got.
///
/// A claim is given up for lost after `patience`: the runs that it may have opened are then settled as interrupted.
pub(super) async fn tick(boot: &Arc<Boot>, memory: &mut Memory, patience: Duration) -> Result<Ticked> {
    if boot.spawn_trouble.left().is_some() {
        return Ok(Ticked::NotNow);
    }
    let agents: Vec<String> = boot.agents().keys().cloned().collect();
    let mut slots = tokio::select! {
        slots = boot.slots().free(CLAIM_MAX) => slots,
        // Full for long is no fault; the loop turns all the same, so that it can be told from one that is stuck.
        () = sleep(LONGEST_WAIT) => return Ok(Ticked::NotNow),
        () = boot.over() => return Ok(Ticked::NotNow),
    };
    if agents.is_empty() || boot.is_draining() {
        return Ok(Ticked::NotNow);
    }
    // After an outage the queue may be reached before the lease is renewed: what is claimed then would not start.
    if !boot.could_start() {
        return Ok(Ticked::NotNow);
    }
    let wanted = slots.len();
    let mut spares = boot.spares.lend(wanted);
    let run_ids: Vec<RunId> = spares.names().chain(std::iter::repeat_with(RunId::new)).take(wanted).collect();
    boot.local().claiming(&run_ids);
    // After the names are known: who stops the claiming then waits for what these may still bring.
    if boot.claiming_ends().is_cancelled() {
        boot.local().claimed(&run_ids);
        return Ok(Ticked::NotNow);
    }
    let look = memory.look(wanted);
    let asked_at = Instant::now();
    let db = boot.db().clone().answering_within(patience);
    let claim = match db.claim_jobs(&boot.claimant(), &agents, &run_ids, &look).await {
        Err(error) if error.is_about_data() => {
            warn!(%error, "a claim was refused; repeating it one job at a time");
            one_by_one(boot, &agents, &run_ids, &look).await
        }
        claim => claim,
    };
    let mut claim = claim.inspect_err(|_| boot.local().claimed(&run_ids))?;
    let took = asked_at.elapsed();
    let duration_ms = took.as_secs_f64() * 1e3;
    debug!(wanted, got = claim.jobs.len(), duration_ms, "asked for jobs");
    let ticked = memory.learn(&mut claim, &look.window, wanted, took, boot.settings().poll_interval);
    if claim.jobs.len() == wanted
        && let Some(last) = claim.jobs.last()
    {
        boot.wake.filled(&last.agent);
    }
    if !claim.jobs.is_empty() {
        failpoint::hit(Point::ClaimCommitted);
    }
    for (job, slot) in claim.jobs.into_iter().zip(slots.drain(..)) {
        debug!(job_id = %job.owned.job_id(), run_id = %job.owned.run_id(), attempt = job.attempt, "claimed");
        let orders = boot.local().begin(job.owned.run_id(), job.owned.job_id());
        let spare = spares.take(job.owned.run_id());
        tokio::spawn(launch::run(boot.clone(), job, orders, slot, spare));
    }
    spares.give_back();
    boot.local().claimed(&run_ids);
    Ok(ticked)
}

/// One bad row stops nobody: each of the jobs that the claim would take is claimed by itself, and one that cannot be is
/// held with the database's words.
async fn one_by_one(boot: &Boot, agents: &[String], run_ids: &[RunId], look: &Look) -> Result<Claim> {
    let mut claim = Claim::default();
    let mut held = false;
    let mut names = run_ids.iter();
    let Some(mut name) = names.next() else { return Ok(claim) };
    for job_id in boot.db().list_claimable(&boot.claimant(), agents, run_ids, look).await? {
        let only = Look { only: Some(vec![job_id.0]), ..Look::default() };
        match boot.db().claim_jobs(&boot.claimant(), agents, std::slice::from_ref(name), &only).await {
            Ok(one) => {
                if !one.jobs.is_empty() {
                    claim.jobs.extend(one.jobs);
                    match names.next() {
                        Some(next) => name = next,
                        None => break,
                    }
                }
            }
            Err(error) if error.constraint() == Some(GATE_CONSTRAINT) => {}
            Err(error @ (Error::Data { .. } | Error::Refused { .. })) => {
                warn!(%job_id, %error, "a job cannot be claimed; holding it");
                match boot.db().hold_offender(job_id, &format!("it could not be claimed: {error}")).await {
                    Ok(is_held) => held |= is_held,
                    Err(error) if claim.jobs.is_empty() => return Err(error),
                    Err(error) => {
                        warn!(%job_id, %error, "failed to hold it");
                        break;
                    }
                }
            }
            // What was claimed so far is begun; the rest waits for the next tick.
            Err(error) if claim.jobs.is_empty() => return Err(error),
            Err(error) => {
                warn!(%error, "stopped repeating a claim");
                break;
            }
        }
    }
    // Where one was held the window is not done with: the same again, without it.
    if held {
        let Window { behind, cuts, .. } = &look.window;
        claim.seen.last_project = Some(behind.clone());
        claim.seen.cuts = cuts.get(behind).map(|lane| (behind.clone(), *lane)).into_iter().collect();
    }
    Ok(claim)
}
