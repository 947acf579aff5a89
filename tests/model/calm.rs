//! Whether every job comes to its end once the faults are over: from any state, without one more of them.

use orch::model::JobStatus;
use stateright::Model as _;

use crate::{
    state::{BOOTS, DIRS, Life, State},
    world::{Action, World},
};

/// Twice the longest wait: L + G, and the tick in which they are seen to be over.
const UNITS: usize = 10;
/// More steps than two replicas can do before time has to pass.
const STEPS: usize = 60;

/// Whether all jobs come to their end from here, if nothing fails any more, every message arrives, and everybody does what
/// there is to do. Where the model has no room for a further run or boot, nobody can say.
pub(crate) fn comes_to_its_end(world: &World, from: &State) -> bool {
    let mut state = *from;
    for _ in 0..UNITS {
        for _ in 0..STEPS {
            match next(world, &state) {
                Some(after) => state = after,
                None => break,
            }
        }
        if is_over(world, &state) {
            return true;
        }
        match world.next_state(&state, Action::Clock) {
            Some(after) => state = after,
            // Nothing happens any more, not even with time.
            None => return false,
        }
    }
    false
}

/// The first thing to do that changes anything.
fn next(world: &World, state: &State) -> Option<State> {
    let mut actions = Vec::new();
    world.choices(state, &mut actions);
    actions.into_iter().filter(|action| is_no_fault(*action)).find_map(|action| world.next_state(state, action))
}

fn is_no_fault(action: Action) -> bool {
    !matches!(
        action,
        Action::Clock
            | Action::DatabaseClockJumps
            | Action::DatabaseGoes
            | Action::Crash(_)
            | Action::HandOver(_)
            | Action::ForgetClaim(_)
            | Action::SendStrayClaim(..)
            | Action::Retry(_)
    )
}

fn is_over(world: &World, state: &State) -> bool {
    let nobody_comes =
        (0..DIRS).all(|dir| state.dirs[dir].life != Life::Up && usize::from(state.dirs[dir].boot) + 1 == BOOTS);
    nobody_comes
        || state.jobs[..world.jobs].iter().all(|job| match job.status {
            JobStatus::Succeeded | JobStatus::Failed => true,
            JobStatus::Queued => usize::from(job.attempt) == world.runs,
            _ => false,
        })
}
