//! The table of settling as a pure function, for the model and for readers. What runs is `orch.settle_rule` in SQL, so
//! that any replica settles by the same definition; a test holds the two together over random facts.

use super::{JobStatus, OnLost, Outcome, Rules};

/// How often a job has ended in each of the ways that are counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Counted failures: failed and timed out.
    pub failures: i32,
    /// Losses that were somebody's fault.
    pub lost: i32,
    /// Transient ends.
    pub transients: i32,
    /// Interruptions in a row of short runs.
    pub interruptions: i32,
}

/// The facts of one settle.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Facts {
    /// How the run ended.
    pub outcome: Outcome,
    /// Whether somebody wants the job to be cancelled.
    pub cancel_pending: bool,
    /// The counts before.
    pub counts: Counts,
    /// How long the run lasted, in seconds.
    pub lasted: f64,
    /// Whether the run itself said when it wants to be tried again.
    pub says_when: bool,
    /// 0.5 to 1.5.
    pub jitter: f64,
    /// Whether the reaper waited out an outage of late: a loss is nobody's fault then.
    pub after_outage: bool,
}

/// When a job that goes back to the queue is due.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Due {
    /// At once.
    Now,
    /// After so many seconds.
    After(f64),
    /// When the run said.
    AsSaid,
}

/// What follows for the job.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Next {
    /// Its status.
    pub status: JobStatus,
    /// When it is due, if it is queued.
    pub due: Option<Due>,
    /// The counts after.
    pub counts: Counts,
}

/// Decides what follows for a job from how its run ended.
#[must_use]
pub fn settle(facts: &Facts, rules: &Rules) -> Next {
    let mut counts = facts.counts;
    match facts.outcome {
        Outcome::Failed | Outcome::TimedOut => counts.failures += 1,
        Outcome::Transient => counts.transients += 1,
        Outcome::Interrupted if facts.lasted > rules.lease => counts.interruptions = 1,
        Outcome::Interrupted => counts.interruptions += 1,
        Outcome::Lost if !facts.after_outage => counts.lost += 1,
        Outcome::Lost | Outcome::Succeeded | Outcome::Cancelled | Outcome::SpawnFailed => {}
    }
    let until = |count: i32, most: i32, then: JobStatus| if count >= most { then } else { JobStatus::Queued };
    let status = match facts.outcome {
        Outcome::Succeeded => JobStatus::Succeeded,
        _ if facts.cancel_pending => JobStatus::Cancelled,
        Outcome::Cancelled => JobStatus::Cancelled,
        Outcome::SpawnFailed => JobStatus::Failed,
        Outcome::Failed | Outcome::TimedOut => until(counts.failures, rules.max_attempts, JobStatus::Failed),
        Outcome::Transient => until(counts.transients, rules.max_transient, JobStatus::Held),
        Outcome::Interrupted => until(counts.interruptions, rules.max_interrupted, JobStatus::Held),
        Outcome::Lost => match rules.on_lost {
            OnLost::Hold => JobStatus::Held,
            OnLost::Fail => JobStatus::Failed,
            OnLost::Requeue => until(counts.lost, rules.max_lost, JobStatus::Failed),
        },
    };
    let waits = match facts.outcome {
        Outcome::Failed | Outcome::TimedOut => counts.failures,
        Outcome::Transient => counts.transients,
        Outcome::Interrupted => counts.interruptions - 1,
        Outcome::Lost => (counts.lost - 1).max(0),
        Outcome::Succeeded | Outcome::Cancelled | Outcome::SpawnFailed => 0,
    };
    let due = (status == JobStatus::Queued).then(|| match (facts.outcome, waits) {
        (Outcome::Transient, _) if facts.says_when => Due::AsSaid,
        (_, 0) => Due::Now,
        (_, waits) => Due::After(facts.jitter * backoff(rules, waits)),
    });
    Next { status, due, counts }
}

/// What a late result finds: a reap closed its run as lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reaped {
    /// The job's status now; `None` if the job has gone on since, and is no longer this run's.
    pub status: Option<JobStatus>,
    /// Whether the reap counted the loss.
    pub lost_counted: bool,
    /// Whether another live job has the job's dedupe key.
    pub key_taken: bool,
}

/// Decides what a late result makes of its job: its row of the table, as if it had come in time, with the loss taken
/// back. `None`: it is written to its run only.
#[must_use]
pub fn settle_late(facts: &Facts, reaped: &Reaped, rules: &Rules) -> Option<Next> {
    let mut facts = *facts;
    facts.after_outage = false;
    facts.counts.lost = (facts.counts.lost - i32::from(reaped.lost_counted)).max(0);
    let next = settle(&facts, rules);
    let live = matches!(next.status, JobStatus::Queued | JobStatus::Held);
    match reaped.status? {
        JobStatus::Failed if reaped.key_taken && live => None,
        // Not the reap held it but an operator, meanwhile: that is not undone.
        JobStatus::Held if rules.on_lost != OnLost::Hold && next.status == JobStatus::Queued => {
            Some(Next { status: JobStatus::Held, ..next })
        }
        JobStatus::Queued | JobStatus::Held | JobStatus::Failed => Some(next),
        JobStatus::Running | JobStatus::Succeeded | JobStatus::Cancelled => None,
    }
}

/// The wait number `waits`, in seconds, before jitter. The exponent is capped so that it cannot overflow.
fn backoff(rules: &Rules, waits: i32) -> f64 {
    let grown = (rules.backoff.factor.ln() * f64::from(waits - 1)).min(100.0).exp();
    (rules.backoff.base * grown).min(rules.backoff.max)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::Backoff;

    fn rules() -> Rules {
        Rules {
            max_attempts: 3,
            backoff: Backoff { base: 5.0, factor: 2.0, max: 60.0 },
            on_lost: OnLost::Requeue,
            max_lost: 3,
            max_transient: 100,
            max_interrupted: 100,
            lease: 60.0,
            timeout: None,
        }
    }

    fn facts(outcome: Outcome) -> Facts {
        Facts {
            outcome,
            cancel_pending: false,
            counts: Counts::default(),
            lasted: 1.0,
            says_when: false,
            jitter: 1.0,
            after_outage: false,
        }
    }

    #[test]
    fn failures_wait_longer_each_time_until_no_attempt_is_left() {
        let mut facts = facts(Outcome::Failed);
        let mut seen = Vec::new();
        for _ in 0..3 {
            let next = settle(&facts, &rules());
            facts.counts = next.counts;
            seen.push((next.status, next.due));
        }
        assert_eq!(
            seen,
            [
                (JobStatus::Queued, Some(Due::After(5.0))),
                (JobStatus::Queued, Some(Due::After(10.0))),
                (JobStatus::Failed, None)
            ]
        );
    }

    #[test]
    fn a_loss_is_tried_again_at_once_and_the_third_one_poisons() {
        let mut facts = facts(Outcome::Lost);
        let mut seen = Vec::new();
        for _ in 0..3 {
            let next = settle(&facts, &rules());
            facts.counts = next.counts;
            seen.push((next.status, next.due));
        }
        assert_eq!(
            seen,
            [
                (JobStatus::Queued, Some(Due::Now)),
                (JobStatus::Queued, Some(Due::After(5.0))),
                (JobStatus::Failed, None)
            ]
        );
    }

    /// What a reap leaves of a job.
    fn reaped(facts: &Facts, rules: &Rules) -> (Reaped, Counts) {
        let next = settle(&Facts { outcome: Outcome::Lost, says_when: false, ..*facts }, rules);
        let lost_counted = next.counts.lost > facts.counts.lost;
        (Reaped { status: Some(next.status), lost_counted, key_taken: false }, next.counts)
    }

    #[test]
    fn a_job_that_has_gone_on_takes_no_late_result() {
        for status in [None, Some(JobStatus::Running), Some(JobStatus::Succeeded), Some(JobStatus::Cancelled)] {
            let reaped = Reaped { status, lost_counted: true, key_taken: false };
            assert_eq!(settle_late(&facts(Outcome::Succeeded), &reaped, &rules()), None, "{status:?}");
        }
    }

    #[test]
    fn an_operators_hold_stays_and_a_taken_key_keeps_a_failed_job_from_coming_back() {
        let held = Reaped { status: Some(JobStatus::Held), lost_counted: true, key_taken: false };
        let next = settle_late(&facts(Outcome::Interrupted), &held, &rules()).unwrap();
        assert_eq!(next.status, JobStatus::Held);
        let by_reap = Rules { on_lost: OnLost::Hold, ..rules() };
        assert_eq!(settle_late(&facts(Outcome::Interrupted), &held, &by_reap).unwrap().status, JobStatus::Queued);
        let failed = Reaped { status: Some(JobStatus::Failed), lost_counted: true, key_taken: true };
        assert_eq!(settle_late(&facts(Outcome::Interrupted), &failed, &rules()), None);
        assert_eq!(settle_late(&facts(Outcome::Succeeded), &failed, &rules()).unwrap().status, JobStatus::Succeeded);
    }

    proptest! {
        #[test]
        fn a_result_that_is_accepted_late_leaves_what_it_would_have_left_in_time(
            outcome in prop::sample::select(Outcome::ALL),
            on_lost in prop::sample::select(OnLost::ALL),
            counts in (0..5, 0..5, 0..5, 0..5),
            lasted in 0.0..200.0f64,
            after_outage: bool,
        ) {
            let rules = Rules { on_lost, ..rules() };
            let counts = Counts { failures: counts.0, lost: counts.1, transients: counts.2, interruptions: counts.3 };
            let before = Facts { counts, lasted, after_outage, ..facts(outcome) };
            let (reaped, left) = reaped(&before, &rules);
            let late = settle_late(&Facts { counts: left, ..before }, &reaped, &rules);
            // An owner's own loss is counted also soon after an outage.
            let in_time = settle(&Facts { after_outage: false, ..before }, &rules);
            prop_assert_eq!(late, Some(in_time));
        }

        #[test]
        fn interruptions_losses_in_an_outage_and_transient_ends_never_count_as_failures(
            outcome in prop::sample::select(Outcome::ALL),
            failures in 0..100,
            pending: bool,
        ) {
            let before = Counts { failures, ..Counts::default() };
            let next = settle(&Facts { counts: before, cancel_pending: pending, after_outage: true, ..facts(outcome) }, &rules());
            let counted = matches!(outcome, Outcome::Failed | Outcome::TimedOut);
            prop_assert_eq!(next.counts.failures, failures + i32::from(counted));
            prop_assert_eq!(next.counts.lost, 0);
        }

        #[test]
        fn a_wanted_cancel_ends_the_job_whatever_the_outcome_but_success(outcome in prop::sample::select(Outcome::ALL)) {
            let next = settle(&Facts { cancel_pending: true, ..facts(outcome) }, &rules());
            let expected = if outcome == Outcome::Succeeded { JobStatus::Succeeded } else { JobStatus::Cancelled };
            prop_assert_eq!(next.status, expected);
        }

        #[test]
        fn no_wait_is_longer_than_the_longest_or_overflows(failures in 0..i32::MAX - 1, factor in 1.0..1e10f64) {
            let mut rules = rules();
            rules.max_attempts = i32::MAX;
            rules.backoff.factor = factor;
            let before = Counts { failures, ..Counts::default() };
            match settle(&Facts { counts: before, ..facts(Outcome::Failed) }, &rules).due {
                Some(Due::After(wait)) => prop_assert!((0.0..=60.0).contains(&wait)),
                other => prop_assert!(other.is_none(), "{other:?}"),
            }
        }
    }
}
