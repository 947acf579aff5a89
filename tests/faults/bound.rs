//! The suite's timings, and the bounds that follow from them: what the documentation promises, in its words.

use std::time::Duration;

/// L.
pub(crate) const LEASE: Duration = Duration::from_secs(6);
/// H.
pub(crate) const HEARTBEAT: Duration = Duration::from_secs(1);
/// K.
pub(crate) const KILL_GRACE: Duration = Duration::from_secs(1);
/// G.
pub(crate) const REAP_GRACE: Duration = Duration::from_millis(500);
/// Between two ticks of the reaper.
pub(crate) const TICK: Duration = Duration::from_secs(1);
/// Between two polls of the queue.
pub(crate) const POLL: Duration = Duration::from_millis(200);
/// What a planned stop renews its lease to.
pub(crate) const HANDOVER_LEASE: Duration = Duration::from_secs(12);

/// What two busy cores may add to anything.
pub(crate) const BUSY: Duration = Duration::from_secs(6);

/// A dead replica's jobs run elsewhere within this.
pub(crate) const RECOVERY: Duration = sum(&[LEASE, REAP_GRACE, TICK, POLL]);
/// As [`RECOVERY`] after a time in which nobody ticked.
pub(crate) const RECOVERY_AFTER_OUTAGE: Duration = sum(&[RECOVERY, HEARTBEAT, HEARTBEAT, HEARTBEAT, REAP_GRACE]);
/// As [`RECOVERY`] where the dead replica had handed over, or had itself taken over from one that did.
pub(crate) const RECOVERY_AFTER_HANDOVER: Duration = sum(&[HANDOVER_LEASE, REAP_GRACE, TICK, POLL]);
/// How long a replica may be away before its runs are ended.
pub(crate) const IN_TIME: Duration = LEASE.saturating_sub(KILL_GRACE).saturating_sub(HEARTBEAT);

/// [`RECOVERY`] on a busy machine.
pub(crate) const BOUND: Duration = sum(&[RECOVERY, BUSY]);
/// [`RECOVERY_AFTER_OUTAGE`] on a busy machine.
pub(crate) const BOUND_AFTER_OUTAGE: Duration = sum(&[RECOVERY_AFTER_OUTAGE, BUSY]);
/// [`RECOVERY_AFTER_HANDOVER`] on a busy machine.
pub(crate) const BOUND_AFTER_HANDOVER: Duration = sum(&[RECOVERY_AFTER_HANDOVER, BUSY]);

const fn sum(parts: &[Duration]) -> Duration {
    let mut total = Duration::ZERO;
    let mut place = 0;
    while place < parts.len() {
        total = total.saturating_add(parts[place]);
        place += 1;
    }
    total
}
