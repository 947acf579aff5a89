//! How loops behave while something is broken: one log line when it begins, one when it is over, and a pause with
//! jitter that grows in between.

use std::{
    fmt::Display,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use tracing::{info, warn};

use crate::db::ANSWER_WITHIN;

/// How long a loop waits for an answer that may be asked for again, the first time.
const FIRST_PATIENCE: Duration = Duration::from_secs(5);

/// The troubles of one loop.
#[derive(Debug)]
pub(super) struct Outage {
    what: &'static str,
    failures: u32,
    longest: Duration,
}

impl Outage {
    /// For a loop that does `what`, as in "failed to claim jobs", and pauses at most for `longest`.
    pub(super) const fn new(what: &'static str, longest: Duration) -> Self {
        Self { what, failures: 0, longest }
    }

    /// It failed: says so once, and how long to pause.
    pub(super) fn failed(&mut self, error: &dyn Display) -> Duration {
        if self.failures == 0 {
            warn!(%error, "failed to {}; going on trying", self.what);
        }
        self.failures = self.failures.saturating_add(1);
        let doubled = Duration::from_millis(100).saturating_mul(1 << self.failures.min(10));
        jittered(doubled.min(self.longest))
    }

    /// How long to wait for an answer this time. A firewall that forgets one connection is silent on that one alone, and what
    /// waits behind it should not wait for long; on a line that is slow throughout, it is longer the next time.
    pub(super) fn patience(&self) -> Duration {
        FIRST_PATIENCE.saturating_mul(1 << self.failures.min(10)).min(ANSWER_WITHIN)
    }

    /// It worked: says so if it had not. Whether it had not.
    pub(super) fn worked(&mut self) -> bool {
        let had_failed = self.failures > 0;
        if had_failed {
            info!(failures = self.failures, "managed to {} again", self.what);
            self.failures = 0;
        }
        had_failed
    }
}

/// A duration times 0.5 to 1.5, so that many replicas do not act in step.
#[must_use]
pub(super) fn jittered(duration: Duration) -> Duration {
    duration.mul_f64(0.5 + rand::random::<f64>())
}

/// Claims pause while processes cannot be started: longer with each failure, at once over with a success.
#[derive(Debug, Default)]
pub(super) struct Pause(Mutex<Option<(Instant, u32)>>);

impl Pause {
    /// A process could not be started for a reason that may pass.
    pub(super) fn trouble(&self, message: &str) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let failures = state.map_or(0, |(_, failures)| failures);
        let now = Instant::now();
        // A batch that fails together counts once.
        if state.is_some_and(|(until, _)| until > now) {
            return;
        }
        let pause = jittered(Duration::from_millis(500).saturating_mul(1 << failures.min(4)));
        warn!(
            message,
            pause_ms = pause.as_millis() as u64,
            "processes cannot be started now; not claiming for a while"
        );
        *state = Some((now + pause, failures + 1));
    }

    /// A process was started.
    pub(super) fn over(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// How long not to claim.
    pub(super) fn left(&self) -> Option<Duration> {
        let state = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.and_then(|(until, _)| until.checked_duration_since(Instant::now())).filter(|left| !left.is_zero())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_grows_with_each_failure_up_to_that_of_any_statement_and_is_short_again_once_it_worked() {
        let mut outage = Outage::new("test", Duration::from_secs(1));
        let mut patience = vec![outage.patience()];
        for _ in 0..20 {
            outage.failed(&"silence");
            patience.push(outage.patience());
        }
        assert!(patience.is_sorted() && patience[0] <= Duration::from_secs(5), "{patience:?}");
        assert_eq!(patience[20], ANSWER_WITHIN);
        outage.worked();
        assert_eq!(outage.patience(), patience[0]);
    }
}
