//! What happens on a machine without any replica: clocks, shims, and the ends of trees, by `model::fence`.

use std::time::Duration;

use orch::model::{
    JobStatus, Outcome,
    fence::{self, Due, Facts, Stage},
    ownership::Delivery,
};

use crate::{
    database,
    state::{Boot, Known, Life, Replica, Row, Run, RunRow, State, Told, Tree, boot, dir_of},
    world::{Broken, World},
};

/// One unit of the model, in the seconds of the functions that it asks. H is a quarter of it.
pub(crate) const UNIT: u64 = 4;
pub(crate) const HEARTBEAT: Duration = Duration::from_secs(1);
/// L, K and G in units, and the longer lease of a planned stop.
pub(crate) const L: i8 = 3;
pub(crate) const K: i8 = 1;
pub(crate) const G: i8 = 1;
/// The longest wait for the answer to a renewal.
const PATIENCE: i8 = 1;
pub(crate) const HANDOVER_LEASE: i8 = 5;
/// A lease that is over for so long is over for good, and so is a deadline.
pub(crate) const OVER: i8 = -(G + 1);
pub(crate) const PAST: i8 = -1;
/// A silence longer than L/2.
const SILENT: i8 = 2;
/// Where every state stands: its times are before and after this.
const NOW: u64 = 1_000;

/// The moment `left` units from now.
pub(crate) const fn at(left: i8) -> Duration {
    Duration::from_secs((NOW as i64 + left as i64 * UNIT as i64) as u64)
}

pub(crate) const fn units(count: i8) -> Duration {
    Duration::from_secs(count as u64 * UNIT)
}

/// The deadline in the lease file that `by` writes and its runs read.
fn file(world: &World, by: u8) -> usize {
    match world.broken {
        Broken::OneLeaseFile => boot(dir_of(by), 0) as usize,
        _ => by as usize,
    }
}

/// Writes a deadline, never backwards.
pub(crate) fn write_deadline(world: &World, state: &mut State, by: u8, left: i8) {
    let file = &mut state.replicas[file(world, by)].deadline;
    *file = left.max(*file);
}

/// Time may pass unless a shim has not done yet what it does within it: a tree that is killed is gone by the lease's end.
pub(crate) fn time_may_pass(state: &State) -> bool {
    state.runs.iter().all(|run| !matches!(run.tree, Tree::Lives(_, Told::Kill)))
}

/// One unit on every clock. Whoever is there ticks, and every shim looks at its lease, more than once in a unit.
pub(crate) fn pass_time(world: &World, state: &mut State) {
    for Replica { lease, deadline, .. } in &mut state.replicas {
        *lease = (*lease - 1).max(OVER);
        *deadline = (*deadline - 1).max(PAST);
    }
    for dir in &mut state.dirs {
        if let Some(answer) = &mut dir.answer {
            answer.age += 1;
        }
        // By then nobody waits for it any more.
        dir.answer = dir.answer.filter(|answer| world.slow_answers && answer.age <= PATIENCE);
    }
    let db = &mut state.db;
    db.wait = (db.wait - 1).max(0);
    db.silent = (db.silent + 1).min(SILENT);
    if state.db_answers() && state.somebody_is_up() {
        database::tick(state);
    }
    if world.broken != Broken::NoFence {
        for run in 0..state.runs.len() {
            fence(world, state, run);
        }
    }
}

/// The database's clock jumps ahead, by as much as G allows for.
pub(crate) fn jump(state: &mut State) {
    for replica in &mut state.replicas {
        replica.lease = (replica.lease - G).max(OVER);
    }
    state.db.wait = (state.db.wait - G).max(0);
    state.db.silent = (state.db.silent + G).min(SILENT);
    state.db.jumped = true;
}

/// A shim looks at the lease that its run follows.
fn fence(world: &World, state: &mut State, run: usize) {
    let Tree::Lives(follows, told) = state.runs[run].tree else { return };
    let lease = at(state.replicas[file(world, follows)].deadline);
    let mut ending = match told {
        Told::Nothing => Stage::Living,
        // It had its TERM a unit ago at the latest, which is longer than K/2: its KILL is due, whatever was renewed since.
        Told::Term => Stage::Term { kill_at: at(0) },
        Told::Kill => return,
    };
    let mut told = told;
    loop {
        let facts = Facts { now: at(0), lease, grace: units(K), timeout_at: None, silent_at: None, stage: ending };
        match facts.due() {
            Due::Nothing { .. } => break,
            Due::Term { kill_at, .. } => {
                ending = ending.told(kill_at);
                told = Told::Term;
            }
            Due::Kill => {
                told = Told::Kill;
                break;
            }
        }
    }
    state.runs[run].tree = Tree::Lives(follows, told);
}

/// A shim that was asked for takes the lock, looks, and starts the program or does not.
pub(crate) fn take_lock(world: &World, state: &mut State, run: usize) {
    let it = state.runs[run];
    let lease = at(state.replicas[file(world, it.claimant)].deadline);
    if it.void {
        state.runs[run].tree = Tree::Gone;
    } else if fence::may_start(at(0), lease, units(K)) {
        let job = state.jobs[world.job_of(run)];
        let owns = job.token == Some((run as u8, it.claimant)) && state.is_live(it.claimant);
        state.foreign_start |= !owns || state.replicas[it.claimant as usize].lease <= 0;
        state.runs[run].tree = Tree::Lives(it.claimant, Told::Nothing);
    } else {
        state.runs[run].tree = Tree::Gone;
        state.runs[run].told.get_or_insert(Outcome::Interrupted);
    }
}

/// The tree is empty, and its shim has let go of the lock.
pub(crate) fn end(state: &mut State, run: usize, outcome: Outcome) {
    state.runs[run].tree = Tree::Gone;
    state.runs[run].told = Some(outcome);
}

/// Whoever looks after a run that has ended says so, again and again.
pub(crate) fn send_what_is_due(state: &mut State) {
    for run in 0..state.runs.len() {
        let it = state.runs[run];
        let looked_after = it.known == Known::Yes && state.dirs[dir_of(it.claimant)].life != Life::Down;
        if looked_after && it.tree == Tree::Gone && it.told.is_some() && it.settle.is_none() {
            state.runs[run].settle = Some(it.owner);
        }
    }
}

/// Forgets what cannot matter any more, so that states which differ in that alone are one.
pub(crate) fn forget_what_is_over(world: &World, state: &mut State) {
    for run in 0..state.runs.len() {
        let it = state.runs[run];
        if it.row == RunRow::None
            || it.adoption.is_some()
            || it.known == Known::Asked
            || matches!(it.tree, Tree::Starting | Tree::Lives(..))
        {
            continue;
        }
        // What is still on its way must do nothing; it is asked, once more, before it is forgotten.
        let inert = it.settle.is_none_or(|owner| {
            matches!(database::deliver(world, state, run, owner), Delivery::Already | Delivery::NotYours)
        });
        if matches!(it.row, RunRow::Closed(_)) && inert {
            state.runs[run] = it.over();
        } else if it.row == RunRow::Reaped {
            state.runs[run].reap = None;
        }
    }
    for by in 0..state.replicas.len() as Boot {
        rest(world, state, by);
    }
    for job in &mut state.jobs {
        if job.stray_claim.is_some_and(|by| state.replicas[by as usize].row == Row::Dead) {
            job.stray_claim = None;
        }
        if job.status == JobStatus::Succeeded {
            job.stray_claim = None;
        }
    }
}

/// A replica that owns nothing and is asked nothing: a former one is declared dead by whoever comes first, a present one
/// renews, and nothing keeps it from that.
fn rest(world: &World, state: &mut State, by: Boot) {
    if state.replicas[by as usize].row == Row::None {
        return;
    }
    let dir = dir_of(by);
    let runs = state.runs;
    let runs = &runs[..world.jobs * world.runs];
    let concerns = |run: &Run| {
        let follows = matches!(run.tree, Tree::Lives(follows, _) if follows == by);
        let starts = run.tree == Tree::Starting && run.claimant == by;
        let asked = run.known != Known::No && run.known != Known::Seen && dir_of(run.claimant) == dir;
        let adopts = run.adoption.is_some_and(|(former, successor)| former == by || successor == by);
        follows
            || starts
            || asked
            || adopts
            || (run.row == RunRow::Open && (run.owner == by || dir_of(run.claimant) == dir))
    };
    let reads = |run: &Run| {
        dir_of(run.claimant) == dir
            && (run.known == Known::Asked || matches!(run.tree, Tree::Starting | Tree::Lives(..)))
    };
    let is_idle = !runs.iter().any(concerns) && state.jobs.iter().all(|job| job.stray_claim != Some(by));
    let is_present = state.present(dir) == by;
    let replica = &mut state.replicas[by as usize];
    match replica.row {
        Row::Live if is_idle && is_present && state.dirs[dir].life == Life::Up => {
            (replica.lease, replica.deadline) = (L, L);
            state.dirs[dir].answer = None;
        }
        // Nothing reads it: as if the last renewal had been heard.
        Row::Live if is_present && state.dirs[dir].life == Life::Up && !runs.iter().any(reads) => {
            replica.deadline = replica.lease.max(PAST);
        }
        Row::Live if is_idle && !is_present => replica.row = Row::Dead,
        _ => {}
    }
    let followed = |run: &Run| {
        let follows = matches!(run.tree, Tree::Lives(follows, _) if follows == by);
        follows || (run.tree == Tree::Starting && run.claimant == by)
    };
    let replica = &mut state.replicas[by as usize];
    if replica.row == Row::Dead {
        replica.lease = OVER;
    }
    let writes = is_present && state.dirs[dir].life == Life::Up && replica.row == Row::Live;
    if !writes && world.broken != Broken::OneLeaseFile && !runs.iter().any(followed) {
        replica.deadline = PAST;
    }
}
