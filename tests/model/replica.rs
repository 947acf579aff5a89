//! What a replica does and knows: renewals, giving up, and the start after another boot.

use orch::model::{Outcome, ownership};

use crate::{
    database,
    machine::{self, HANDOVER_LEASE, L, at, units},
    state::{Answer, BOOTS, Boot, Known, Life, Replica, Row, RunRow, State, Tree, boot, dir_of},
    world::{Broken, World},
};

/// Runs of a state directory.
fn here(state: &State, dir: usize) -> impl Iterator<Item = usize> + use<> {
    let runs = state.runs;
    (0..runs.len()).filter(move |run| runs[*run].row != RunRow::None && dir_of(runs[*run].claimant) == dir)
}

/// The process is gone, and with it all that it knew. Shims, files and what was sent stay.
pub(crate) fn crash(state: &mut State, dir: usize) {
    state.dirs[dir].life = Life::Down;
    state.dirs[dir].crashed = true;
    state.dirs[dir].answer = None;
    for run in here(state, dir) {
        state.runs[run].known = Known::No;
    }
}

/// A planned stop: one last, longer lease, granted and written; the runs stay.
pub(crate) fn hand_over(world: &World, state: &mut State, dir: usize) {
    let by = state.present(dir);
    let lease = &mut state.replicas[by as usize].lease;
    *lease = HANDOVER_LEASE.max(*lease);
    machine::write_deadline(world, state, by, HANDOVER_LEASE);
    crash(state, dir);
}

/// Whether a new boot may register: after an end of the process, or, once it was told that it is dead, when nothing of its
/// runs is left.
pub(crate) fn may_register(state: &State, dir: usize) -> bool {
    let is_empty = || !here(state, dir).any(|run| matches!(state.runs[run].tree, Tree::Starting | Tree::Lives(..)));
    let is_next = match state.dirs[dir].life {
        Life::Up => false,
        Life::Down => true,
        Life::ToldDead => is_empty(),
    };
    is_next && usize::from(state.dirs[dir].boot) + 1 < BOOTS && state.db_answers()
}

pub(crate) fn register(world: &World, state: &mut State, dir: usize) {
    for run in here(state, dir) {
        state.runs[run].known = Known::No;
    }
    state.dirs[dir].boot += 1;
    state.dirs[dir].life = Life::Up;
    state.dirs[dir].answer = None;
    let by = state.present(dir);
    let deadline = state.replicas[by as usize].deadline;
    state.replicas[by as usize] = Replica { row: Row::Live, lease: L, deadline };
    machine::write_deadline(world, state, by, L);
}

/// Whether a crash would matter: there is something that it knows, owns or has asked for.
pub(crate) fn has_something_to_lose(state: &State, dir: usize) -> bool {
    let stray = |by: Option<Boot>| by == Some(state.present(dir));
    state.jobs.iter().any(|job| stray(job.stray_claim))
        || here(state, dir).any(|run| {
            let run = &state.runs[run];
            run.row == RunRow::Open || run.known != Known::No || !matches!(run.tree, Tree::None | Tree::Gone)
        })
}

/// Whether a renewal could change anything, or tell anything that is not known.
pub(crate) fn may_renew(state: &State, dir: usize) -> bool {
    let by = state.present(dir);
    let replica = &state.replicas[by as usize];
    let (all, looked_after) = database::known(state, by);
    let listed = database::listed(state, by);
    replica.row != Row::Live
        || replica.lease < L
        || replica.deadline < L
        || listed & !all != 0
        || looked_after & !listed != 0
}

/// A renewal is executed the moment it is sent: one that takes longer leaves D earlier, which harms nobody. An answer that
/// was not heard until now is not heard any more.
pub(crate) fn renew(state: &mut State, dir: usize) {
    let by = state.present(dir);
    let live = state.is_live(by);
    let (all, looked_after) = database::known(state, by);
    let listed = if live { database::listed(state, by) } else { 0 };
    if live {
        let lease = &mut state.replicas[by as usize].lease;
        let until = ownership::renewed(at(*lease), at(0), units(L));
        *lease = if until > at(*lease) { L } else { *lease };
    }
    state.dirs[dir].answer =
        Some(Answer { age: 0, live, unknown: listed & !all, missing: if live { looked_after & !listed } else { 0 } });
}

/// The answer: a deadline, and what differs from what is known here.
pub(crate) fn hear_renewal(world: &World, state: &mut State, dir: usize) {
    let Some(answer) = state.dirs[dir].answer.take() else { return };
    let by = state.present(dir);
    if !answer.live {
        state.dirs[dir].life = Life::ToldDead;
        return;
    }
    let asked = if world.broken == Broken::ClockReadAfterReply { 0 } else { -answer.age };
    let left = ownership::deadline(at(asked), units(L));
    let left = if left > at(0) { L + asked } else { 0 };
    machine::write_deadline(world, state, by, left);
    for run in here(state, dir) {
        let it = state.runs[run];
        if answer.unknown & 1 << run != 0 && it.known == Known::No {
            state.runs[run].known = Known::Listed;
        }
        if answer.missing & 1 << run != 0 && it.known == Known::Yes && it.lives() {
            machine::end(state, run, Outcome::Interrupted);
        }
    }
}

/// Looks who holds the run's lock. Where nobody does, forbids a late start, and tells that it was given up, unless it left
/// word of its end. Whether it was given up.
fn give_up(world: &World, state: &mut State, run: usize, owner: Boot) -> bool {
    let it = &mut state.runs[run];
    if it.lives() && world.broken != Broken::RequeueWhileLocked {
        return false;
    }
    it.void |= world.broken != Broken::GiveUpWithoutVoid;
    it.told.get_or_insert(Outcome::Interrupted);
    it.settle = Some(owner);
    it.known = Known::Yes;
    true
}

/// A run that the renewal lists and nobody here knows: the reply to its claim or its adoption was not heard.
pub(crate) fn take_up(world: &World, state: &mut State, run: usize) {
    let owner = state.runs[run].owner;
    if !give_up(world, state, run, owner) {
        state.runs[run].known = Known::Yes;
    }
}

/// Whether a start finds the run among what former boots left.
pub(crate) fn may_recover(state: &State, run: usize) -> bool {
    let it = &state.runs[run];
    let present = state.present(dir_of(it.claimant));
    let is_left = it.claimant != present && it.owner != present;
    let is_there = it.row == RunRow::Open || it.told.is_some() || it.lives() || it.tree == Tree::Starting;
    it.known == Known::No && is_left && is_there
}

/// A new boot looks at a run of a former one.
pub(crate) fn recover(world: &World, state: &mut State, run: usize) {
    let it = state.runs[run];
    let present = state.present(dir_of(it.claimant));
    if it.row == RunRow::Open && state.is_live(it.owner) {
        if !give_up(world, state, run, it.owner) && database::may_adopt(state, it.owner, present) {
            state.runs[run].known = Known::Asked;
            state.runs[run].adoption = Some((it.owner, present));
        }
        return;
    }
    end_what_is_left(state, run);
}

/// The database does not grant it (any more): whatever lives is ended, nothing begins, and a result may be told late.
fn end_what_is_left(state: &mut State, run: usize) {
    if state.runs[run].lives() {
        machine::end(state, run, Outcome::Interrupted);
    }
    let it = &mut state.runs[run];
    it.void = true;
    it.known = Known::Seen;
    if it.told.is_some() && it.settle.is_none() {
        it.settle = Some(it.owner);
    }
}

/// The answer to an adoption.
pub(crate) fn hear_adoption(state: &mut State, run: usize) {
    let present = state.present(dir_of(state.runs[run].claimant));
    if state.runs[run].owner == present {
        state.runs[run].known = Known::Yes;
    } else {
        end_what_is_left(state, run);
    }
}

/// Whether the former boot of this directory is declared dead by its successor: nothing of it is left.
pub(crate) fn may_supersede(world: &World, state: &State, dir: usize) -> bool {
    let Some(n) = state.dirs[dir].boot.checked_sub(1) else { return false };
    let former = boot(dir, n);
    let open = |run: &usize| {
        let token = state.jobs[world.job_of(*run)].token;
        token == Some((*run as u8, former))
            || (state.runs[*run].row == RunRow::Open && state.runs[*run].owner == former)
    };
    let unseen = |run: &usize| may_recover(state, *run);
    state.is_live(former) && !here(state, dir).any(|run| open(&run) || unseen(&run))
}
