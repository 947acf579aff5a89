//! Whether the loops that others depend on still turn. One that is stuck (not slow: the database's bounds end every wait)
//! makes the replica stop renewing on purpose, so that its jobs go to somebody who can do more than hold them.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use crate::shim::client::boottime;

/// Far beyond the longest turn: a statement is given up after half a minute, and a tick has a bounded number of them.
const STUCK_AFTER: Duration = Duration::from_mins(10);

/// When each loop last turned, in seconds since the machine's boot; 0 before it has begun.
#[derive(Debug, Default)]
pub(super) struct Pulses {
    claim: AtomicU64,
    reap: AtomicU64,
}

impl Pulses {
    /// The claim loop turns.
    pub(super) fn claim(&self) {
        self.claim.store(boottime().as_secs(), Ordering::Relaxed);
    }

    /// The reap loop turns.
    pub(super) fn reap(&self) {
        self.reap.store(boottime().as_secs(), Ordering::Relaxed);
    }

    /// The loop that has not turned for too long, if one has not.
    pub(super) fn stuck(&self) -> Option<&'static str> {
        self.stuck_at(boottime())
    }

    /// Neither is expected any more: the replica stops.
    pub(super) fn stop(&self) {
        self.claim.store(0, Ordering::Relaxed);
        self.reap.store(0, Ordering::Relaxed);
    }

    fn stuck_at(&self, now: Duration) -> Option<&'static str> {
        let is_late = |last: &AtomicU64| {
            let last = last.load(Ordering::Relaxed);
            last > 0 && now.saturating_sub(Duration::from_secs(last)) > STUCK_AFTER
        };
        if is_late(&self.claim) {
            Some("claim")
        } else if is_late(&self.reap) {
            Some("reap")
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loop_is_stuck_when_it_began_and_has_not_turned_for_long() {
        let pulses = Pulses::default();
        let later = || boottime() + STUCK_AFTER + Duration::from_secs(2);
        assert_eq!(pulses.stuck_at(later()), None, "neither has begun");
        pulses.claim();
        pulses.reap();
        assert_eq!(pulses.stuck(), None);
        assert_eq!(pulses.stuck_at(later()), Some("claim"));
        pulses.claim.store(later().as_secs(), Ordering::Relaxed);
        assert_eq!(pulses.stuck_at(later()), Some("reap"));
        pulses.stop();
        assert_eq!(pulses.stuck_at(later()), None);
    }
}
