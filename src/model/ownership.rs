//! Who may write what of a run, and when ownership ends, as functions of facts.
//!
//! What runs is SQL: each of these names the statement whose guard it repeats, for readers and for the search in
//! `tests/model`; `tests/it/ownership_rule.rs` holds twins together. Generic over names, since a guard only compares them.
//! Times are since any one moment, and all of one clock: the database's, but for [`deadline`].

use std::time::Duration;

use super::{ClosedBy, JobStatus, Outcome};

/// What an owner shows with every write: zero rows where it is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Token<R, O> {
    /// The run.
    pub run: R,
    /// The replica that owns it.
    pub owner: O,
}

/// D, on the machine's clock: until when a replica's runs are its own, if the renewal that was sent after `asked_at` was
/// granted. (`replica::renew`; the clock is read *before* it is sent, so that this is never later than the grant.)
#[must_use]
pub fn deadline(asked_at: Duration, lease: Duration) -> Duration {
    asked_at + lease
}

/// The lease after a renewal, where the row is still live. Twin: `sql/replicas/renew.sql`.
#[must_use]
pub fn renewed(lease_until: Duration, now: Duration, lease: Duration) -> Duration {
    lease_until.max(now + lease)
}

/// Whether a claim takes the job. Twin: `sql/runs/claim.sql`, without agents, gates and order.
#[must_use]
pub fn may_claim(claimant_is_live: bool, status: JobStatus, awaits_replica: bool) -> bool {
    claimant_is_live && status == JobStatus::Queued && !awaits_replica
}

/// What the tick goes by.
#[derive(Debug, Clone, Copy)]
pub struct Tick {
    /// Now.
    pub now: Duration,
    /// When somebody ticked last.
    pub last_tick_at: Option<Duration>,
    /// Until when nobody is declared dead.
    pub wait_until: Option<Duration>,
    /// Whether the server's timeline changed.
    pub failover: bool,
    /// L.
    pub lease: Duration,
    /// H.
    pub heartbeat: Duration,
    /// G.
    pub reap_grace: Duration,
}

/// The outage rule: until when nobody is declared dead, after this tick. After an outage every lease looks expired at once,
/// so everybody gets time to renew first. Twin: `sql/reaper/tick.sql`.
#[must_use]
pub fn wait_until(tick: &Tick) -> Option<Duration> {
    let outage = tick.last_tick_at.is_none_or(|at| at + tick.lease / 2 < tick.now);
    let wait = if tick.failover {
        tick.lease + tick.reap_grace
    } else if outage {
        tick.heartbeat * 3 + tick.reap_grace
    } else {
        return tick.wait_until;
    };
    tick.wait_until.max(Some(tick.now + wait))
}

/// What a replica is declared dead by.
#[derive(Debug, Clone, Copy)]
pub struct Expiry {
    /// Now.
    pub now: Duration,
    /// Until when its runs are its own.
    pub lease_until: Duration,
    /// Until when nobody is declared dead.
    pub wait_until: Option<Duration>,
    /// When somebody ticked last.
    pub last_tick_at: Option<Duration>,
    /// Whether the server's timeline is the one that the last tick saw.
    pub same_timeline: bool,
    /// L.
    pub lease: Duration,
    /// G.
    pub reap_grace: Duration,
}

/// The reap guard: whether a live replica is declared dead, the one point where ownership ends. Twin:
/// `sql/reaper/declare_dead.sql`.
#[must_use]
pub fn may_declare_dead(expiry: &Expiry) -> bool {
    expiry.lease_until + expiry.reap_grace < expiry.now
        && expiry.wait_until.is_none_or(|until| until <= expiry.now)
        && expiry.last_tick_at.is_some_and(|at| at + expiry.lease / 2 >= expiry.now)
        && expiry.same_timeline
}

/// What the reap takes: the token of a running row whose owner is not live. Twin: `sql/reaper/orphans.sql`.
#[must_use]
pub fn orphan<R, O>(row: Option<Token<R, O>>, owner_is_live: bool) -> Option<Token<R, O>> {
    row.filter(|_| !owner_is_live)
}

/// What an adoption goes by, as its snapshot shows it.
#[derive(Debug, Clone, Copy)]
pub struct Adopting {
    /// Whether the successor is live.
    pub successor_is_live: bool,
    /// Whether the former owner is still live.
    pub owner_is_live: bool,
}

impl Adopting {
    /// Whether the snapshot lets the adoption go on, to compare and swap under the row's lock. Twin: `sql/runs/adopt.sql`.
    #[must_use]
    pub fn may_go_on(self) -> bool {
        self.successor_is_live && self.owner_is_live
    }
}

/// Compares and swaps: the row's token after an adoption, or `None` where it is not the one that was seen. Twin:
/// `sql/runs/adopt.sql`.
#[must_use]
pub fn adopted<R: PartialEq, O: PartialEq>(
    row: Option<Token<R, O>>,
    seen: &Token<R, O>,
    successor: O,
) -> Option<Token<R, O>> {
    row.filter(|row| row == seen).map(|row| Token { owner: successor, ..row })
}

/// The successor's lease after an adoption: at least the former owner's, since until it is told otherwise the run lives by
/// that one. Twin: `sql/runs/adopt.sql`.
#[must_use]
pub fn raised(own: Duration, former: Duration) -> Duration {
    own.max(former)
}

/// A job as a settle finds it.
#[derive(Debug, Clone, Copy)]
pub struct JobRow<R, O> {
    /// Where it stands.
    pub status: JobStatus,
    /// Who runs it.
    pub token: Option<Token<R, O>>,
    /// The run that ended last, unless an operator has queued the job anew.
    pub last_run: Option<R>,
    /// Whether an old process of it is being ended first.
    pub awaits_replica: bool,
}

/// A run as a settle finds it.
#[derive(Debug, Clone, Copy)]
pub struct RunRow<O> {
    /// Whose it is, or was when it was closed.
    pub owner: O,
    /// How and by whom it was closed, if it was.
    pub closed: Option<(Outcome, ClosedBy)>,
    /// Whether its job has begun a newer run.
    pub has_newer: bool,
}

/// What becomes of a settle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// It ends the run; [`super::settle()`] says what follows.
    Settles,
    /// A reap has closed the run as lost: [`super::settle_late`] says what follows, by the job's status, `None` where the
    /// job is no longer this run's.
    Late(Option<JobStatus>),
    /// The owner's side closed it before: this was heard the first time.
    Already,
    /// No longer: a normal answer.
    NotYours,
}

/// The settle's guard: `shown` is the owner's token, a former boot's, or what a reap saw. Twin: `sql/runs/settle.sql`,
/// which looks once in its snapshot and again under the locks of job and run.
#[must_use]
pub fn deliver<R: PartialEq, O: PartialEq>(
    shown: &Token<R, O>,
    by: ClosedBy,
    job: &JobRow<R, O>,
    run: &RunRow<O>,
) -> Delivery {
    if job.status == JobStatus::Running && job.token.as_ref() == Some(shown) {
        return Delivery::Settles;
    }
    let owners = |by| matches!(by, ClosedBy::Owner | ClosedBy::Successor);
    if !owners(by) || run.owner != shown.owner {
        return Delivery::NotYours;
    }
    match run.closed {
        Some((Outcome::Lost, ClosedBy::Reap)) => {
            let waits = matches!(job.status, JobStatus::Queued | JobStatus::Held | JobStatus::Failed);
            let is_its = job.last_run.as_ref() == Some(&shown.run) && !job.awaits_replica && !run.has_newer;
            Delivery::Late(Some(job.status).filter(|_| waits && is_its))
        }
        Some((_, closed_by)) if owners(closed_by) => Delivery::Already,
        _ => Delivery::NotYours,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const fn s(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    const SEEN: Token<u8, u8> = Token { run: 1, owner: 1 };

    proptest! {
        /// The clock is read before the statement is sent, and that reaches the database later.
        #[test]
        fn nobody_is_declared_dead_before_its_runs_are_over(
            asked_at in 0_u64..1_000, under_way in 0_u64..1_000, lease in 1_u64..100, grace in 0_u64..10,
            jump in 0_u64..10, now in 0_u64..3_000,
        ) {
            let granted = renewed(s(0), s(asked_at + under_way), s(lease));
            let over = may_declare_dead(&Expiry {
                now: s(now + jump),
                lease_until: granted,
                wait_until: None,
                last_tick_at: Some(s(now + jump)),
                same_timeline: true,
                lease: s(lease),
                reap_grace: s(grace),
            });
            prop_assert!(!over || jump > grace || s(now) > deadline(s(asked_at), s(lease)));
        }

        #[test]
        fn after_a_silence_nobody_is_declared_dead_until_all_had_time_to_renew(
            last in prop::option::of(0_u64..1_000), wait in prop::option::of(0_u64..2_000), now in 1_000_u64..2_000,
            failover: bool,
        ) {
            let tick = Tick {
                now: s(now), last_tick_at: last.map(s), wait_until: wait.map(s), failover, lease: s(60), heartbeat: s(5),
                reap_grace: s(5),
            };
            let after = wait_until(&tick);
            prop_assert!(after >= tick.wait_until, "it never moves backwards");
            let silent = last.is_none_or(|last| now - last > 30);
            if silent || failover {
                prop_assert!(after >= Some(s(now + 20)));
                prop_assert!(!failover || after >= Some(s(now + 65)));
            } else {
                prop_assert_eq!(after, tick.wait_until);
            }
        }
    }

    #[test]
    fn an_adoption_takes_what_it_saw_and_nothing_else() {
        assert_eq!(adopted(Some(SEEN), &SEEN, 2), Some(Token { run: 1, owner: 2 }));
        for row in [None, Some(Token { run: 2, ..SEEN }), Some(Token { owner: 3, ..SEEN })] {
            assert_eq!(adopted(row, &SEEN, 2), None);
        }
    }

    fn job(status: JobStatus, token: Option<Token<u8, u8>>) -> JobRow<u8, u8> {
        JobRow { status, token, last_run: Some(1), awaits_replica: false }
    }

    fn run(closed: Option<(Outcome, ClosedBy)>) -> RunRow<u8> {
        RunRow { owner: 1, closed, has_newer: false }
    }

    #[test]
    fn a_run_is_settled_by_its_token_and_by_nothing_else() {
        let settles = |token| deliver(&SEEN, ClosedBy::Reap, &job(JobStatus::Running, token), &run(None));
        assert_eq!(settles(Some(SEEN)), Delivery::Settles);
        // Adopted meanwhile: the run is the same, its owner is not.
        assert_eq!(settles(Some(Token { owner: 2, ..SEEN })), Delivery::NotYours);
        assert_eq!(settles(Some(Token { run: 2, ..SEEN })), Delivery::NotYours);
    }

    #[test]
    fn a_late_result_counts_once_and_only_while_the_job_is_still_its_own() {
        let lost = run(Some((Outcome::Lost, ClosedBy::Reap)));
        let queued = job(JobStatus::Queued, None);
        let late = |job, run| deliver(&SEEN, ClosedBy::Owner, &job, &run);
        assert_eq!(late(queued, lost), Delivery::Late(Some(JobStatus::Queued)));
        assert_eq!(late(queued, RunRow { has_newer: true, ..lost }), Delivery::Late(None));
        assert_eq!(late(JobRow { last_run: None, ..queued }, lost), Delivery::Late(None));
        assert_eq!(late(JobRow { awaits_replica: true, ..queued }, lost), Delivery::Late(None));
        assert_eq!(late(job(JobStatus::Cancelled, None), lost), Delivery::Late(None));
        assert_eq!(late(queued, RunRow { owner: 2, ..lost }), Delivery::NotYours);
        assert_eq!(late(queued, run(Some((Outcome::Failed, ClosedBy::Owner)))), Delivery::Already);
        // What a reap says, it says once.
        assert_eq!(deliver(&SEEN, ClosedBy::Reap, &queued, &lost), Delivery::NotYours);
    }
}
