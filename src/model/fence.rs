//! When a run's tree is told to end, as a function of facts: its owner's lease, a timeout, silence, what was told before.
//!
//! Owns the arithmetic of the fence: TERM at the lease's end less K, KILL at the lease's end less K/2, and no grace of any
//! other ending beyond that, so that by the lease's end nothing of the run lives. It signals nobody: `shim::tend` does what
//! it says, and the model of `tests/model` goes by the same functions.

use std::time::Duration;

/// Between two rounds of KILL.
const ROUND: Duration = Duration::from_millis(50);
/// The lease is read at least this often, and at least five times within K.
const LOOK_MOST: Duration = Duration::from_secs(1);
/// A K of nearly nothing must not make the shim spin.
const LOOK_LEAST: Duration = Duration::from_millis(10);

/// Whether so much of a lease that ends at `lease` is left at `now` that a run may start: twice K.
#[must_use]
pub fn may_start(now: Duration, lease: Duration, grace: Duration) -> bool {
    lease.saturating_sub(now) >= grace.saturating_mul(2)
}

/// From one look at the lease to the next, whatever any timer says.
#[must_use]
pub fn look_every(grace: Duration) -> Duration {
    (grace / 5).clamp(LOOK_LEAST, LOOK_MOST)
}

/// Which limit a tree has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// The lease of the replica that it follows is about to run out.
    Lease,
    /// Its main process has run for as long as it may.
    Timeout,
    /// Its main process has written nothing for as long as it may.
    Silence,
}

/// How far the end of a tree has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// It was told nothing.
    Living,
    /// TERM was sent.
    Term {
        /// When it is KILL, if the lease does not end before.
        kill_at: Duration,
    },
    /// KILL was sent, once or more.
    Kill {
        /// For the first time.
        since: Duration,
        /// When whoever is still there is killed again.
        again_at: Duration,
    },
}

impl Stage {
    /// After a KILL at `now`.
    #[must_use]
    pub fn killed(self, now: Duration) -> Self {
        let since = if let Self::Kill { since, .. } = self { since } else { now };
        Self::Kill { since, again_at: now.saturating_add(ROUND) }
    }

    /// After a TERM, or after one more wish to end what has had its TERM: that can only shorten the grace.
    #[must_use]
    pub fn told(self, kill_at: Duration) -> Self {
        match self {
            Self::Living => Self::Term { kill_at },
            Self::Term { kill_at: before } => Self::Term { kill_at: before.min(kill_at) },
            Self::Kill { .. } => self,
        }
    }
}

/// What is known at one moment. All times are on `CLOCK_BOOTTIME`.
#[derive(Debug, Clone, Copy)]
pub struct Facts {
    /// The moment.
    pub now: Duration,
    /// D, until when the owner's runs are its own.
    pub lease: Duration,
    /// K, `kill_grace`.
    pub grace: Duration,
    /// When the main process has run for too long.
    pub timeout_at: Option<Duration>,
    /// When it has been silent for too long.
    pub silent_at: Option<Duration>,
    /// How far the end has come.
    pub stage: Stage,
}

/// What is to be done now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// Nothing, as long as the facts stay as they are, until then.
    Nothing {
        /// Later than now.
        until: Duration,
    },
    /// TERM to the whole tree.
    Term {
        /// Why.
        limit: Limit,
        /// When it will be KILL.
        kill_at: Duration,
    },
    /// KILL to the whole tree.
    Kill,
}

impl Facts {
    /// What these facts ask for.
    #[must_use]
    pub fn due(&self) -> Due {
        let (now, term_at, kill_by) =
            (self.now, self.lease.saturating_sub(self.grace), self.lease.saturating_sub(self.grace / 2));
        let at = match self.stage {
            Stage::Living => {
                // The fence first: what comes too late for all of them was frozen, and that is nobody's failure.
                let ends = [
                    (Some(term_at), Limit::Lease, kill_by),
                    (self.timeout_at, Limit::Timeout, now.saturating_add(self.grace)),
                    (self.silent_at, Limit::Silence, now.saturating_add(self.grace)),
                ];
                if let Some((_, limit, kill_at)) = ends.into_iter().find(|(at, ..)| at.is_some_and(|at| at <= now)) {
                    return Due::Term { limit, kill_at };
                }
                ends.into_iter().filter_map(|(at, ..)| at).min().unwrap_or(term_at)
            }
            Stage::Term { kill_at } => kill_at.min(kill_by),
            Stage::Kill { again_at, .. } => again_at,
        };
        if at <= now { Due::Kill } else { Due::Nothing { until: at } }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const fn ms(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    fn moment() -> impl Strategy<Value = Duration> {
        (0_u64..200_000).prop_map(ms)
    }

    fn stage() -> impl Strategy<Value = Stage> {
        prop_oneof![
            Just(Stage::Living),
            moment().prop_map(|kill_at| Stage::Term { kill_at }),
            (moment(), moment()).prop_map(|(since, again_at)| Stage::Kill { since, again_at }),
        ]
    }

    prop_compose! {
        fn facts()(
            now in moment(), lease in moment(), grace in (0_u64..40_000).prop_map(ms), stage in stage(),
            timeout_at in prop::option::of(moment()), silent_at in prop::option::of(moment()),
        ) -> Facts {
            Facts { now, lease, grace, timeout_at, silent_at, stage }
        }
    }

    proptest! {
        #[test]
        fn the_fence_outranks_everything(facts in facts()) {
            let (term_at, kill_by) = (facts.lease.saturating_sub(facts.grace), facts.lease.saturating_sub(facts.grace / 2));
            match (facts.stage, facts.due()) {
                (_, Due::Nothing { until }) if until <= facts.now => prop_assert!(false, "it would spin"),
                (Stage::Living, Due::Nothing { until }) => prop_assert!(facts.now < term_at && until <= term_at),
                (Stage::Living, Due::Term { limit, kill_at }) => {
                    prop_assert_eq!(limit == Limit::Lease, facts.now >= term_at);
                    prop_assert!(limit != Limit::Lease || kill_at == kill_by);
                }
                (Stage::Living, Due::Kill) => prop_assert!(false, "nobody is killed without a TERM"),
                (Stage::Term { .. }, Due::Nothing { until }) => prop_assert!(facts.now < kill_by && until <= kill_by),
                (Stage::Term { .. } | Stage::Kill { .. }, Due::Term { .. }) => prop_assert!(false, "told twice"),
                (Stage::Term { kill_at }, Due::Kill) => prop_assert!(facts.now >= kill_at.min(kill_by)),
                (Stage::Kill { again_at, .. }, due) => prop_assert_eq!(due == Due::Kill, facts.now >= again_at),
            }
        }

        #[test]
        fn a_longer_lease_never_ends_a_tree_sooner(facts in facts(), more in moment()) {
            let at = |facts: &Facts| if let Due::Nothing { until } = facts.due() { until } else { facts.now };
            let longer = Facts { lease: facts.lease + more, ..facts };
            prop_assert!(at(&longer) >= at(&facts));
        }

        /// Wake-ups that come late, renewals that come or do not: TERM is never sent before the lease that is seen allows,
        /// and once it was, no renewal puts the KILL off.
        #[test]
        fn a_lease_that_ends_is_felt_whatever_is_renewed_later(
            grace in (10_u64..20_000).prop_map(ms),
            steps in prop::collection::vec((1_u64..3_000, prop::option::of(0_u64..60_000)), 1..200),
        ) {
            let (mut now, mut lease, mut stage) = (Duration::ZERO, grace * 2, Stage::Living);
            let mut kill_by = None;
            for (step, renewal) in steps {
                now += ms(step);
                lease = renewal.map_or(lease, |left| lease.max(now + ms(left)));
                loop {
                    match (Facts { now, lease, grace, timeout_at: None, silent_at: None, stage }).due() {
                        Due::Nothing { until } => {
                            prop_assert!(until > now);
                            break;
                        }
                        Due::Term { limit, kill_at } => {
                            prop_assert_eq!(limit, Limit::Lease);
                            prop_assert!(now + grace >= lease && kill_by.is_none());
                            kill_by = Some(lease.saturating_sub(grace / 2));
                            stage = stage.told(kill_at);
                        }
                        Due::Kill => stage = stage.killed(now),
                    }
                }
                let is_killed = matches!(stage, Stage::Kill { .. });
                prop_assert_eq!(is_killed, kill_by.is_some_and(|by| now >= by));
                prop_assert!(stage != Stage::Living || now + grace < lease);
            }
        }
    }

    #[test]
    fn a_run_may_start_with_twice_the_grace_left() {
        assert!(may_start(ms(1_000), ms(3_000), ms(1_000)));
        assert!(!may_start(ms(1_001), ms(3_000), ms(1_000)));
        assert!(!may_start(ms(9_000), ms(3_000), ms(1_000)));
    }

    #[test]
    fn the_lease_is_read_every_second_or_five_times_within_the_grace() {
        assert_eq!([60_000, 5_000, 300, 0].map(|grace| look_every(ms(grace))), [ms(1_000), ms(1_000), ms(60), ms(10)]);
    }

    #[test]
    fn a_further_wish_only_shortens_the_grace() {
        let told = Stage::Living.told(ms(50)).told(ms(70)).told(ms(40));
        assert_eq!(told, Stage::Term { kill_at: ms(40) });
        let killed = told.killed(ms(40)).killed(ms(90));
        assert_eq!(killed, Stage::Kill { since: ms(40), again_at: ms(140) });
        assert_eq!(killed.told(ms(1)), killed);
    }
}
