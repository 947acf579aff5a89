//! Which of the ticks that are due fire, and where the schedule goes on.

use std::iter::successors;

use jiff::{SignedDuration, Timestamp};

use super::{CatchUp, Rhythm};

/// The most ticks of one schedule that fire after one look: what is left is due at the next.
pub const AT_ONCE: usize = 20;

/// Where a schedule stands, by the database's clock.
#[derive(Debug, Clone, Copy)]
pub struct Standing {
    /// The first tick that has neither fired nor been left out.
    pub first: Timestamp,
    /// Now.
    pub now: Timestamp,
    /// A tick that is due for longer was missed; any other is on time, and always fires.
    pub grace: SignedDuration,
    /// What becomes of those that were missed.
    pub catch_up: CatchUp,
    /// How many of them fire, with [`CatchUp::All`].
    pub most: usize,
}

/// What is to be done about the ticks that are due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// These fire, in order.
    pub fire: Vec<Timestamp>,
    /// The next tick: later than those, and perhaps due as well. None where it never ticks again.
    pub next: Option<Timestamp>,
    /// The first tick that is left out because it was missed.
    pub left_out: Option<Timestamp>,
}

/// Decides about the ticks from `first` to `now`. Whoever does what it says and asks again, with the next tick as the
/// first, leaves out no tick that the policy wants and fires none twice, however the asking is cut into pieces.
#[must_use]
pub fn plan(rhythm: &Rhythm, standing: &Standing) -> Plan {
    let Standing { first, now, .. } = *standing;
    // A tick at this instant is on time.
    let cut = now.checked_sub(standing.grace).unwrap_or(Timestamp::MIN);
    let begin = if first < cut { resume(rhythm, standing, cut) } else { Some(first) };
    let mut plan = Plan { fire: Vec::new(), next: begin, left_out: (begin != Some(first)).then_some(first) };
    while let Some(tick) = plan.next.filter(|tick| *tick <= now && plan.fire.len() < AT_ONCE) {
        plan.fire.push(tick);
        plan.next = rhythm.next_after(tick);
    }
    plan
}

/// The first tick that fires where some were missed.
fn resume(rhythm: &Rhythm, standing: &Standing, cut: Timestamp) -> Option<Timestamp> {
    let on_time = rhythm.next_after(before(cut));
    let missed = match standing.catch_up {
        CatchUp::Skip => None,
        CatchUp::One if on_time.is_some_and(|tick| tick <= standing.now) => None,
        CatchUp::One => earliest_of_last(1, rhythm, standing.first, cut),
        CatchUp::All => earliest_of_last(standing.most, rhythm, standing.first, cut),
    };
    missed.or(on_time)
}

/// Of the last `count` ticks from `first` on and before `cut` the earliest. Looks back twice as far until there are as
/// many: a year of seconds is not walked through for its last three.
fn earliest_of_last(count: usize, rhythm: &Rhythm, first: Timestamp, cut: Timestamp) -> Option<Timestamp> {
    let mut span = SignedDuration::from_mins(1);
    loop {
        let from = cut.checked_sub(span).unwrap_or(Timestamp::MIN).max(first);
        let start = if from > first { rhythm.next_after(before(from)) } else { Some(first) };
        let ticks: Vec<Timestamp> =
            successors(start, |tick| rhythm.next_after(*tick)).take_while(|tick| *tick < cut).collect();
        if ticks.len() >= count || from == first {
            return ticks.len().checked_sub(count).map_or(ticks.first(), |place| ticks.get(place)).copied();
        }
        span = span.saturating_mul(2);
    }
}

/// The last instant before one.
fn before(instant: Timestamp) -> Timestamp {
    instant.checked_sub(SignedDuration::from_nanos(1)).unwrap_or(instant)
}

#[cfg(test)]
mod tests;
