//! The loop that fires the ticks of schedules. Any replica may; none has to, and each tick is fired once.
//!
//! A look says what is due by the database's clock; when a schedule ticks next is computed here; and one statement fires, in
//! one transaction, those whose row is still as it was seen. Between the two nothing is held: a replica that dies there has
//! done nothing, and one that is frozen there comes too late. Nothing here reads the machine's clock.

use std::{sync::Arc, time::Duration};

use tokio::time::sleep;
use tracing::{debug, warn};

use super::{
    Boot,
    outage::{Outage, jittered},
};
use crate::{
    db::{
        Db, Result,
        schedules::{Due, Fired, Look, Step},
    },
    model::schedule::{Answer, Fault, Standing, plan},
};

/// Schedules of one look.
const BATCH: i64 = 50;
/// Steps of one statement: each is a subtransaction, and with more than 64 the server keeps them elsewhere.
const STEPS: usize = 50;
/// Looks of one tick: a tick is bounded.
const ROUNDS: usize = 40;
/// The longest sleep: a new schedule is seen within it.
const LONGEST_SLEEP: Duration = Duration::from_secs(5);
/// How long what could not be fired is left alone: another replica is at it, or it waits for a job's end.
const AGAIN: Duration = Duration::from_millis(500);
/// Replicas that wait for the same tick wake one after the other, within so long.
const SPREAD: Duration = Duration::from_millis(50);

/// What one tick did.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Ticked {
    /// Jobs enqueued.
    pub fired: usize,
    /// Ticks left out, since the job before was live.
    pub skipped: usize,
    /// Ticks whose job the database refused, and schedules that cannot be read.
    pub refused: usize,
    /// Until there is something to do again, so far as is known.
    pub wait: Option<Duration>,
}

/// Ticks until the boot is over.
pub(super) async fn run(boot: Arc<Boot>) -> &'static str {
    let mut outage = Outage::new("fire the ticks of schedules", Duration::from_secs(5));
    loop {
        let pause = match tick(boot.db()).await {
            Ok(ticked) => {
                outage.worked();
                if ticked.fired > 0 {
                    boot.claim_nudge.notify_one();
                }
                let wait = ticked.wait.unwrap_or(LONGEST_SLEEP).min(LONGEST_SLEEP);
                wait + SPREAD.mul_f64(rand::random::<f64>())
            }
            Err(error) => outage.failed(&error),
        };
        tokio::select! {
            () = sleep(pause) => {}
            () = boot.over() => return "schedule",
        }
    }
}

/// One tick: one statement when nothing is due, else two for each batch.
///
/// # Errors
/// Where the database failed; what one schedule is to blame for is told in its row.
pub async fn tick(db: &Db) -> Result<Ticked> {
    let mut ticked = Ticked::default();
    for _ in 0..ROUNDS {
        let look = db.due_schedules(BATCH).await?;
        ticked.wait = look.wait.map(|wait| Duration::try_from(wait).unwrap_or_default());
        let steps = steps(&look);
        if steps.is_empty() {
            return Ok(ticked);
        }
        let mut answered = 0;
        for batch in steps.chunks(STEPS) {
            for fired in db.fire_ticks(batch).await? {
                answered += usize::from(fired.answer != Answer::Waits);
                tell(&fired, &mut ticked);
            }
        }
        if answered == 0 {
            ticked.wait = Some(jittered(AGAIN).min(ticked.wait.unwrap_or(AGAIN)));
            return Ok(ticked);
        }
    }
    ticked.wait = Some(Duration::ZERO);
    Ok(ticked)
}

/// What is to be done for what is due, computed from what was seen alone.
#[must_use]
pub fn steps(look: &Look) -> Vec<Step> {
    look.due.iter().flat_map(|due| steps_of(due, look).unwrap_or_else(|fault| vec![unread(due, fault)])).collect()
}

/// The steps of one schedule: its ticks that fire, in order, or only where it goes on.
fn steps_of(due: &Due, look: &Look) -> Result<Vec<Step>, Fault> {
    let rhythm = due.rhythm()?;
    let first = if due.planned { Some(due.next_tick_at) } else { rhythm.next_after(due.base_at) };
    let Some(first) = first else {
        return Err(Fault("it never ticks: there is no such day, or it is past".to_owned()));
    };
    let plan = plan(
        &rhythm,
        &Standing { first, now: look.now, grace: due.grace, catch_up: due.catch_up, most: due.catch_up_max },
    );
    let step = Step {
        name: due.name.clone(),
        revision: due.revision,
        seen: due.next_tick_at,
        tick: None,
        next: plan.next,
        left_out: plan.left_out,
        error: None,
    };
    if plan.fire.is_empty() {
        return Ok(vec![step]);
    }
    let nexts = plan.fire.iter().skip(1).copied().map(Some).chain([plan.next]);
    let seens = [due.next_tick_at].into_iter().chain(plan.fire.iter().skip(1).copied());
    let left_out = [plan.left_out].into_iter().chain(std::iter::repeat(None));
    let ticks = plan.fire.iter().copied();
    Ok(ticks
        .zip(nexts)
        .zip(seens)
        .zip(left_out)
        .map(|(((tick, next), seen), left_out)| Step { seen, tick: Some(tick), next, left_out, ..step.clone() })
        .collect())
}

fn unread(due: &Due, fault: Fault) -> Step {
    Step {
        name: due.name.clone(),
        revision: due.revision,
        seen: due.next_tick_at,
        tick: None,
        next: None,
        left_out: None,
        error: Some(fault.0),
    }
}

fn tell(fired: &Fired, ticked: &mut Ticked) {
    let Fired { name, tick_at, answer, job_id, error } = fired;
    let tick_at = tick_at.map(|at| at.to_string());
    match answer {
        Answer::Fired => {
            debug!(schedule = name, tick_at, job_id = job_id.map(|id| id.0), "enqueued the job of a tick");
            ticked.fired += 1;
        }
        Answer::Skipped => {
            debug!(schedule = name, tick_at, live = job_id.map(|id| id.0), "left out a tick: the job before is live");
            ticked.skipped += 1;
        }
        Answer::Waits => {
            debug!(schedule = name, tick_at, for_job = job_id.map(|id| id.0), "a tick waits for the job before to end");
        }
        // Said once: it stands in the schedule's row until it is over.
        Answer::Refused | Answer::Unread => {
            if let Some(error) = error {
                let what = if *answer == Answer::Unread { "read a schedule" } else { "enqueue the job of a tick" };
                warn!(schedule = name, tick_at, error, "failed to {what}; going on trying");
            }
            ticked.refused += 1;
        }
        Answer::Planned => debug!(schedule = name, "computed the next tick of a schedule"),
    }
}
