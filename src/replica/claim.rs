//! The loop that claims: as many jobs as there are free slots, in one statement.

use std::{sync::Arc, time::Duration};

use tokio::time::sleep;
use tracing::{debug, warn};

use super::{
    Boot, launch,
    outage::{Outage, jittered},
    wake::Looks,
};
use crate::{
    db::{Error, Result, runs::Claimed},
    failpoint::{self, Point},
    model::RunId,
};

/// The most jobs of one claim: beyond this a batch costs latency and gains nothing.
const BATCH: usize = 100;

/// The longest wait for a free slot before the loop turns.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// The constraint that has the last word on gates: a job refused by it only found its gate taken.
pub(super) const GATE_CONSTRAINT: &str = "jobs_running_gate";

/// Claims until the boot stops claiming.
pub(super) async fn run(boot: Arc<Boot>) -> &'static str {
    let mut outage = Outage::new("claim jobs", Duration::from_secs(5));
    let mut looks = Looks::new(boot.settings().poll_interval, boot.settings().notify);
    while !boot.claiming_ends().is_cancelled() {
        boot.pulses().claim();
        let ticked = tick(&boot).await;
        boot.wake.set_waiting(matches!(ticked, Ok(Ticked::Nothing)));
        let pause = match ticked {
            Ok(Ticked::More) => {
                outage.worked();
                looks.found();
                continue;
            }
            Ok(Ticked::Nothing) => {
                outage.worked();
                looks.found_nothing()
            }
            Ok(Ticked::NotNow) => {
                outage.worked();
                boot.spawn_trouble.left().unwrap_or_else(|| jittered(boot.settings().poll_interval))
            }
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
    /// Something was claimed: look again as soon as a slot is free.
    More,
    /// There is a free slot, and the queue has nothing for it at the moment.
    Nothing,
    /// Nothing was looked for.
    NotNow,
}

/// Waits for a free slot, then claims for all that are free, and begins what it got.
pub(super) async fn tick(boot: &Arc<Boot>) -> Result<Ticked> {
    if boot.spawn_trouble.left().is_some() {
        return Ok(Ticked::NotNow);
    }
    let agents: Vec<String> = boot.agents().keys().cloned().collect();
    let mut slots = tokio::select! {
        slots = boot.slots().free(BATCH) => slots,
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
    let run_ids: Vec<RunId> = (0..wanted).map(|_| RunId::new()).collect();
    boot.local().claiming(&run_ids);
    // After the names are known: who stops the claiming then waits for what these may still bring.
    if boot.claiming_ends().is_cancelled() {
        boot.local().claimed(&run_ids);
        return Ok(Ticked::NotNow);
    }
    let claimed = match boot.db().claim_jobs(&boot.claimant(), &agents, &run_ids, None).await {
        Err(error) if error.is_about_data() => {
            warn!(%error, "a claim was refused; repeating it one job at a time");
            one_by_one(boot, &agents, &run_ids).await
        }
        claimed => claimed,
    };
    let claimed = claimed.inspect_err(|_| boot.local().claimed(&run_ids))?;
    let count = claimed.len();
    if count == wanted
        && let Some(last) = claimed.last()
    {
        boot.wake.filled(&last.agent);
    }
    if count > 0 {
        failpoint::hit(Point::ClaimCommitted);
    }
    for (job, slot) in claimed.into_iter().zip(slots.drain(..)) {
        debug!(job_id = %job.owned.job_id(), run_id = %job.owned.run_id(), attempt = job.attempt, "claimed");
        let orders = boot.local().begin(job.owned.run_id(), job.owned.job_id());
        tokio::spawn(launch::run(boot.clone(), job, orders, slot));
    }
    boot.local().claimed(&run_ids);
    // Fewer than wanted is not the end of the queue: jobs of one gate that stood side by side count as one.
    Ok(if count > 0 { Ticked::More } else { Ticked::Nothing })
}

/// One bad row stops nobody: each of the jobs that the claim looked at is claimed by itself, and one that cannot be is
/// held with the database's words.
async fn one_by_one(boot: &Boot, agents: &[String], run_ids: &[RunId]) -> Result<Vec<Claimed>> {
    let mut claimed = Vec::new();
    let mut names = run_ids.iter();
    let Some(mut name) = names.next() else { return Ok(claimed) };
    for job_id in boot.db().list_claimable(&boot.claimant(), agents, run_ids.len() + 10).await? {
        match boot.db().claim_jobs(&boot.claimant(), agents, std::slice::from_ref(name), Some(&[job_id.0])).await {
            Ok(one) => {
                if !one.is_empty() {
                    claimed.extend(one);
                    match names.next() {
                        Some(next) => name = next,
                        None => break,
                    }
                }
            }
            Err(error) if error.constraint() == Some(GATE_CONSTRAINT) => {}
            Err(error @ (Error::Data { .. } | Error::Refused { .. })) => {
                warn!(%job_id, %error, "a job cannot be claimed; holding it");
                boot.db().hold_offender(job_id, &format!("it could not be claimed: {error}")).await?;
            }
            // What was claimed so far is begun; the rest waits for the next tick.
            Err(error) if claimed.is_empty() => return Err(error),
            Err(error) => {
                warn!(%error, "stopped repeating a claim");
                break;
            }
        }
    }
    Ok(claimed)
}
