//! The loop that hears wake-ups: while the replica waits for a job, an enqueue tells it on a connection of its own.
//!
//! Hints, and nothing but: a lost connection, or a pooler through which nothing is heard, means that the replica polls.
//! Says that the replica waits only where it does, since an enqueue pays for whoever waits, and never reads or writes a job.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep, sleep_until},
};
use tracing::warn;

use super::{
    Boot,
    outage::{Outage, jittered},
};
use crate::db::{Db, Error, Result, wake::Listener};

/// How long a replica may be busy before it says so: less than this is one job that came and was begun.
const BUSY_AFTER: Duration = Duration::from_millis(5);
/// How often the connection is looked at on which nothing is heard: a network may have forgotten it.
const CHECK_EVERY: Duration = Duration::from_secs(30);
/// Before another try where nothing is heard: somebody would have to change how the database is reached.
const UNHEARD_PAUSE: Duration = Duration::from_mins(10);
/// Who has just filled all its slots tells so many others, and they tell as many.
const OTHERS: i32 = 2;
/// A replica that was busy before tells others no more often than this.
const OTHERS_AFTER: Duration = Duration::from_millis(100);

/// What the claim loop and this one tell each other.
#[derive(Debug)]
pub(super) struct Wake {
    /// Whether the replica has a free slot and found nothing for it.
    waits: watch::Sender<bool>,
    /// A claim filled every free slot: the agent of the last job, and whether the replica had been waiting.
    filled: watch::Sender<(String, bool)>,
    /// There may be a job.
    hint: Notify,
}

impl Default for Wake {
    fn default() -> Self {
        Self {
            waits: watch::Sender::new(false),
            filled: watch::Sender::new((String::new(), false)),
            hint: Notify::new(),
        }
    }
}

impl Wake {
    /// The replica waits for a job, or does not.
    pub(super) fn set_waiting(&self, waits: bool) {
        self.waits.send_if_modified(|now| std::mem::replace(now, waits) != waits);
    }

    /// A claim filled every free slot, and there may be more for others. Said before [`Wake::set_waiting`].
    pub(super) fn filled(&self, agent: &str) {
        self.filled.send_replace((agent.to_owned(), *self.waits.borrow()));
    }

    /// Somebody said that there may be a job; once for all that was said since.
    pub(super) async fn hinted(&self) {
        self.hint.notified().await;
    }
}

/// Listens until the boot is over, on connections made where `db` makes its own.
pub(super) async fn run(boot: Arc<Boot>, db: Db) -> &'static str {
    let mut outage = Outage::new("listen for wake-ups; polling meanwhile", Duration::from_secs(30));
    while boot.settings().notify && !boot.is_over() {
        let pause = tokio::select! {
            ended = listen(&boot, &db, &mut outage) => match ended {
                Ok(()) => jittered(UNHEARD_PAUSE),
                Err(error) => outage.failed(&error),
            },
            () = boot.over() => break,
        };
        tokio::select! {
            () = sleep(pause) => {}
            () = boot.over() => break,
        }
    }
    boot.over().await;
    "wake"
}

/// Listens on one connection until it ends, which is an error. Fine where there is nothing to be heard.
async fn listen(boot: &Boot, db: &Db, outage: &mut Outage) -> Result<()> {
    let Some(mut listener) = db.listen_for(boot.replica_id(), boot.db()).await? else {
        warn!(
            "nothing is heard on a connection of its own, as through a pooler in transaction mode; polling. Name a way past \
             it in renewal_url, or say notify = false"
        );
        return Ok(());
    };
    outage.worked();
    let wake = &boot.wake;
    let (mut waits, mut filled) = (wake.waits.subscribe(), wake.filled.subscribe());
    filled.mark_unchanged();
    let mut said = false;
    let mut busy_since = None;
    let mut told_others = Instant::now();
    loop {
        let is_waiting = *waits.borrow_and_update();
        if is_waiting && !said {
            say(&listener, true).await?;
            said = true;
            // What was enqueued before this was said told nobody.
            boot.claim_nudge.notify_one();
        }
        busy_since = if is_waiting || !said { None } else { busy_since.or_else(|| Some(Instant::now())) };
        tokio::select! {
            heard = listener.heard() => match heard {
                Some(()) => wake.hint.notify_one(),
                None => return Err(Error::Unavailable("the connection ended".to_owned())),
            },
            _ = waits.changed() => {}
            () = sleep_until(busy_since.unwrap_or_else(Instant::now) + BUSY_AFTER), if busy_since.is_some() => {
                say(&listener, false).await?;
                said = false;
            }
            _ = filled.changed() => {
                let (agent, had_waited) = filled.borrow_and_update().clone();
                if had_waited || told_others.elapsed() > OTHERS_AFTER {
                    listener.pass_on(&agent, OTHERS).await?;
                    told_others = Instant::now();
                }
            }
            () = sleep(CHECK_EVERY), if said => listener.check().await?,
        }
    }
}

async fn say(listener: &Listener, waits: bool) -> Result<()> {
    if listener.set_waiting(waits).await? {
        return Ok(());
    }
    Err(Error::Unavailable("the server has not yet let go of the connection before".to_owned()))
}

/// When to look for jobs although nobody said that there is one.
///
/// An enqueue leaves the wake-up to another whose commit is near (`orch.wake`), or finds nobody waiting, and may commit
/// much later. So looks are close together after a job or a hint, and ever further apart: what a transaction enqueued that
/// went on for a while is found a while after its commit, and within the poll interval at the latest.
#[derive(Debug)]
pub(super) struct Looks {
    longest: Duration,
    next: Duration,
    first: Duration,
    in_vain: u32,
}

impl Looks {
    const FIRST: Duration = Duration::from_millis(20);
    const LONGER: u32 = 4;
    /// So many hints in a row may bring nothing before they are heard more slowly: somebody enqueues what cannot run.
    const PATIENCE: u32 = 4;
    const SLOWEST: Duration = Duration::from_millis(100);

    /// Far apart after `longest`; always where there are no hints.
    pub(super) fn new(longest: Duration, hints: bool) -> Self {
        let first = if hints { Self::FIRST.min(longest) } else { longest };
        Self { longest, next: longest, first, in_vain: 0 }
    }

    /// A look found a job.
    pub(super) fn found(&mut self) {
        self.next = self.first;
        self.in_vain = 0;
    }

    /// A look found nothing: how long until the next.
    pub(super) fn found_nothing(&mut self) -> Duration {
        let pause = jittered(self.next);
        self.next = self.next.saturating_mul(Self::LONGER).min(self.longest);
        pause
    }

    /// A hint has come: how long to wait for more of them before the look.
    pub(super) fn hinted(&mut self) -> Duration {
        self.in_vain = self.in_vain.saturating_add(1);
        match self.in_vain.checked_sub(Self::PATIENCE) {
            None => {
                self.next = self.first;
                Duration::ZERO
            }
            Some(beyond) => Duration::from_millis(2 << beyond.min(8)).min(Self::SLOWEST),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_are_close_together_after_a_job_and_no_further_apart_than_a_poll() {
        let poll = Duration::from_secs(1);
        let mut looks = Looks::new(poll, true);
        let between = |pause: Duration, base: u64| {
            let base = Duration::from_millis(base);
            assert!(pause >= base / 2 && pause <= base * 3 / 2, "{pause:?} around {base:?}");
        };
        between(looks.found_nothing(), 1000);
        looks.found();
        for base in [20, 80, 320, 1000, 1000] {
            between(looks.found_nothing(), base);
        }
        assert_eq!(looks.hinted(), Duration::ZERO);
        between(looks.found_nothing(), 20);
    }

    #[test]
    fn hints_in_vain_are_heard_more_slowly_until_one_brings_a_job() {
        let mut looks = Looks::new(Duration::from_secs(1), true);
        let delays: Vec<_> = (0..20).map(|_| looks.hinted()).collect();
        assert!(delays[..3].iter().all(Duration::is_zero), "{delays:?}");
        assert!(delays.is_sorted() && delays[19] == Looks::SLOWEST, "{delays:?}");
        looks.found();
        assert_eq!(looks.hinted(), Duration::ZERO);
    }

    #[test]
    fn without_hints_every_look_is_a_poll_apart() {
        let poll = Duration::from_millis(400);
        let mut looks = Looks::new(poll, false);
        looks.found();
        assert!(looks.found_nothing() >= poll / 2);
    }
}
