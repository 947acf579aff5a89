//! The log of a run that is watched: shipped while it grows, in time for a follower and within bounds.
//!
//! Owns when the next chunk goes. Waits for the shim's word, never by a timer, as long as there is nothing to ship.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};
use tracing::{debug, warn};

use super::{
    Inner,
    line::{Line, Step, Stuck},
};
use crate::{model::RunId, replica::outage::jittered};

/// After the first output, before it is shipped: what comes at once goes at once.
const GATHER: Duration = Duration::from_millis(50);

/// Between two shipments of one run's output. A shim reports every half second at the most; with these two and a
/// follower's own pause it stays below a second.
const REST: Duration = Duration::from_millis(200);

/// Bytes a second of one live run. What is written faster is read from the spool's tail, in leaps.
const RATE: f64 = 2.0 * 1024.0 * 1024.0;

/// Seconds' worth of [`RATE`] that a run may ship at once.
const BURST: f64 = 4.0;

impl Inner {
    /// Ships until the sender of `output` is gone, and returns where the log stands, if that is known.
    pub(super) async fn follow(
        self: Arc<Self>,
        run_id: RunId,
        mut output: watch::Receiver<u64>,
        line: Option<Line>,
    ) -> Option<Line> {
        // Where nobody watched so far, there may be output of which no report will come: it is looked for at once.
        let mut reported = line.is_some().then_some(0);
        let mut line = match line {
            Some(line) => line,
            None => self.resume(run_id, &mut output).await?,
        };
        let mut pace = Pace { debt: 0.0, at: Instant::now() };
        loop {
            while reported == Some(*output.borrow()) {
                if output.changed().await.is_err() {
                    return Some(line);
                }
            }
            if !watched_for(GATHER, &mut output).await {
                return Some(line);
            }
            // One look: what is reported after it is shipped after it.
            let now = *output.borrow();
            let come = if reported.is_some() { now } else { u64::MAX };
            reported = Some(now);
            loop {
                match line.step(&self.sender).await {
                    Ok(Step::Shipped(bytes)) => {
                        let pause = pace.spend(bytes);
                        if !pause.is_zero() && !watched_for(pause, &mut output).await {
                            return Some(line);
                        }
                        if line.position() >= come {
                            break;
                        }
                    }
                    Ok(Step::Nothing) => break,
                    // It is told again, and dealt with, at the end.
                    Ok(Step::Unknown) => return Some(line),
                    Err(Stuck::Closed(_)) => return None,
                    Err(error) => {
                        warn!(%run_id, %error, "failed to ship the output of a live run; it is tried again at its end");
                        return None;
                    }
                }
            }
            if !watched_for(REST, &mut output).await {
                return Some(line);
            }
        }
    }

    /// Asks the database where a log stands; none where the run is not watched any more before it has answered.
    async fn resume(&self, run_id: RunId, output: &mut watch::Receiver<u64>) -> Option<Line> {
        loop {
            match Line::resume(&self.db, &self.state_dir, run_id, self.cap).await {
                Ok(line) => return Some(line),
                Err(error) => debug!(%run_id, %error, "where the log stands is not known yet"),
            }
            if !watched_for(jittered(Duration::from_secs(1)), output).await {
                return None;
            }
        }
    }
}

/// Waits so long; false at once when the run is not watched any more.
async fn watched_for(pause: Duration, output: &mut watch::Receiver<u64>) -> bool {
    let until = Instant::now() + pause;
    loop {
        tokio::select! {
            () = sleep_until(until) => return true,
            changed = output.changed() => if changed.is_err() { return false },
        }
    }
}

/// What one run has shipped above its rate.
#[derive(Debug)]
struct Pace {
    /// Seconds.
    debt: f64,
    at: Instant,
}

impl Pace {
    /// So many bytes were shipped; how long to pause now.
    fn spend(&mut self, bytes: usize) -> Duration {
        let now = Instant::now();
        self.debt = (self.debt - (now - self.at).as_secs_f64()).max(0.0) + bytes as f64 / RATE;
        self.at = now;
        Duration::from_secs_f64((self.debt - BURST).max(0.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_ships_a_burst_at_once_and_then_at_its_rate() {
        let mut pace = Pace { debt: 0.0, at: Instant::now() };
        let burst = (RATE * BURST) as usize;
        assert!(pace.spend(burst - 1).is_zero(), "a burst is free");
        let pause = pace.spend(RATE as usize).as_secs_f64();
        assert!((0.9..=1.0).contains(&pause), "a second's worth more is to be waited for: {pause} s");
        pace.at = Instant::now().checked_sub(Duration::from_mins(1)).unwrap();
        assert!(pace.spend(burst - 1).is_zero(), "a rest makes up for everything, and for no more than that");
        assert!(pace.spend(burst).as_secs_f64() > BURST - 0.1);
    }

    #[tokio::test]
    async fn a_wait_goes_on_through_reports_and_ends_with_the_watch() {
        let (reports, mut output) = watch::channel(0);
        reports.send_replace(1);
        assert!(watched_for(Duration::from_millis(5), &mut output).await);
        let began = Instant::now();
        tokio::spawn(async move {
            reports.send_replace(2);
            drop(reports);
        });
        assert!(!watched_for(Duration::from_mins(10), &mut output).await);
        assert!(began.elapsed() < Duration::from_mins(1));
    }
}
