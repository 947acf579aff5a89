//! When a schedule ticks, and which of the ticks that are due are to fire.
//!
//! Owns the meaning of a cron expression and of an interval, daylight saving time included, and of the catch-up policies.
//! Everything is a function of its arguments and of the rules of time zones ([`zone`]); nothing here knows what time it is.

mod cron;
mod plan;
pub mod zone;

pub use cron::Cron;
use jiff::{SignedDuration, Timestamp};
pub use plan::{AT_ONCE, Plan, Standing, plan};

super::words! {
    /// What becomes of ticks that fell due while nobody looked.
    CatchUp as "catch_up" {
        /// They are left out.
        Skip = "skip",
        /// One run stands for all of them: the latest, or the next one that is due on time.
        One = "one",
        /// The latest of them fire, as many as the schedule allows.
        All = "all",
    }
}

super::words! {
    /// What becomes of a tick while the job of the one before is live.
    Overlap as "overlap" {
        /// The tick is left out.
        Skip = "skip",
        /// Its job runs after that one.
        Queue = "queue",
        /// That one is cancelled, and its job runs once it has ended.
        Replace = "replace",
    }
}

super::words! {
    /// What became of a tick.
    Answer as "answer" {
        /// Its job was enqueued.
        Fired = "fired",
        /// It was left out, since the job before was live.
        Skipped = "skipped",
        /// What is in its way must be gone first: it is tried again.
        Waits = "waits",
        /// The database refused its job.
        Refused = "refused",
        /// There was none: only the next one was written.
        Planned = "planned",
        /// The schedule cannot be read.
        Unread = "unread",
    }
}

/// What is wrong with a schedule: a fragment that says which part, and what it could be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Fault(pub String);

/// When a schedule ticks.
#[derive(Debug, Clone)]
pub enum Rhythm {
    /// By a clock on a wall somewhere.
    Cron(Box<Cron>),
    /// Every so long, counted from an instant: no drift, and no clock on any wall.
    Every {
        /// How long, more than zero.
        every: SignedDuration,
        /// The instant that is counted from; no tick is before it.
        anchor: Timestamp,
    },
}

impl Rhythm {
    /// By a cron expression, as clocks show it in the zone of this name.
    pub fn cron(expression: &str, zone: &str) -> Result<Self, Fault> {
        Cron::parse(expression, zone::find(zone)?).map(|cron| Self::Cron(Box::new(cron)))
    }

    /// Every so long, from an instant on.
    pub fn every(every: SignedDuration, anchor: Timestamp) -> Result<Self, Fault> {
        if every < SignedDuration::from_secs(1) {
            return Err(Fault(format!("an interval of {every:#} is too short: it is at least 1s")));
        }
        Ok(Self::Every { every, anchor })
    }

    /// The first tick behind an instant; none where it never ticks again. Depends on nothing that came before: the ticks
    /// found one by one are those of the whole range.
    #[must_use]
    pub fn next_after(&self, after: Timestamp) -> Option<Timestamp> {
        match self {
            Self::Cron(cron) => cron.next_after(after),
            Self::Every { anchor, .. } if after < *anchor => Some(*anchor),
            Self::Every { every, anchor } => {
                let every = every.as_nanos();
                let gone = (after.as_nanosecond() - anchor.as_nanosecond()) / every;
                let next = anchor.as_nanosecond().checked_add((gone + 1).checked_mul(every)?)?;
                Timestamp::from_nanosecond(next).ok()
            }
        }
    }

    /// The ticks behind an instant, in order.
    pub fn ticks_after(&self, after: Timestamp) -> impl Iterator<Item = Timestamp> {
        std::iter::successors(self.next_after(after), |tick| self.next_after(*tick))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_interval_is_counted_from_its_anchor_and_does_not_drift() {
        let anchor = "2026-01-01T00:00:10Z".parse().unwrap();
        let rhythm = Rhythm::every(SignedDuration::from_mins(15), anchor).unwrap();
        let next = |after: &str| rhythm.next_after(after.parse().unwrap()).unwrap().to_string();
        assert_eq!(next("2025-06-01T00:00:00Z"), "2026-01-01T00:00:10Z", "no tick is before the anchor");
        assert_eq!(next("2026-01-01T00:00:10Z"), "2026-01-01T00:15:10Z");
        assert_eq!(next("2026-03-29T01:07:00.5Z"), "2026-03-29T01:15:10Z", "whatever the clocks on the walls do");
        assert_eq!(rhythm.next_after(Timestamp::MAX), None);
        for bad in [SignedDuration::ZERO, SignedDuration::from_millis(999), SignedDuration::from_secs(-5)] {
            assert!(Rhythm::every(bad, anchor).unwrap_err().to_string().contains("at least 1s"));
        }
    }

    proptest! {
        #[test]
        fn ticks_of_an_interval_one_by_one_are_those_of_the_whole_range(
            every in 1_000_000_i64..10_000_000_000, anchor in 0_i64..2_000_000_000, after in 0_i64..2_000_000_000,
        ) {
            let anchor = Timestamp::from_second(anchor).unwrap();
            let rhythm = Rhythm::every(SignedDuration::from_micros(every), anchor).unwrap();
            let after = Timestamp::from_second(after).unwrap();
            for tick in rhythm.ticks_after(after).take(20) {
                prop_assert!(tick > after && tick >= anchor);
                prop_assert_eq!((tick.as_microsecond() - anchor.as_microsecond()) % every, 0);
                prop_assert_eq!(rhythm.next_after(tick - SignedDuration::from_nanos(1)), Some(tick));
            }
        }
    }
}
