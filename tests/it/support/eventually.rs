//! The only way to wait: ask again until the fact is there, at most so long.

use std::{
    fmt::Display,
    time::{Duration, Instant},
};

const PAUSE: Duration = Duration::from_millis(20);

/// Long enough for a loaded machine with two cores; a test that needs it all is a test that fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Asks until `probe` answers, and panics with `what` if it does not within 30 seconds.
///
/// `what` is the fact that is waited for, as it would stand after "waited for": `eventually("the job to end", …)`.
pub(crate) async fn eventually<T>(what: &str, probe: impl AsyncFnMut() -> Option<T>) -> T {
    eventually_within(PATIENCE, what, probe).await
}

/// As [`eventually`], with a bound of the caller's own, and a fact that may say in the end how it stands.
pub(crate) async fn eventually_within<T>(
    bound: Duration,
    what: impl Display,
    mut probe: impl AsyncFnMut() -> Option<T>,
) -> T {
    let start = Instant::now();
    loop {
        if let Some(fact) = probe().await {
            return fact;
        }
        assert!(start.elapsed() < bound, "waited {bound:?} in vain for {what}");
        tokio::time::sleep(PAUSE).await;
    }
}
