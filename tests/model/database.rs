//! The statements, each at the moment of its execution, by the guards of `model::ownership` and the rules of settling.

use orch::model::{
    Backoff, ClosedBy, Counts, Facts, JobStatus, Next, OnLost, Outcome, Reaped, Rules,
    ownership::{self, Adopting, Delivery, Expiry, JobRow, Tick, Token},
    settle as rule, settle_late,
};

use crate::{
    machine::{G, HEARTBEAT, L, UNIT, at, units},
    state::{Boot, Known, Row, Run, RunRow, State, Tree, dir_of},
    world::{Broken, World},
};

const RULES: Rules = Rules {
    max_attempts: 1,
    backoff: Backoff { base: 0.0, factor: 1.0, max: 0.0 },
    on_lost: OnLost::Requeue,
    max_lost: 2,
    max_transient: 100,
    max_interrupted: 100,
    lease: 12.0,
    timeout: None,
};

fn token(job: &crate::state::Job) -> Option<Token<u8, Boot>> {
    job.token.map(|(run, owner)| Token { run, owner })
}

/// `sql/reaper/tick.sql`: the outage rule.
pub(crate) fn tick(state: &mut State) {
    let wait = (state.db.wait > 0).then(|| at(state.db.wait));
    let until = ownership::wait_until(&Tick {
        now: at(0),
        last_tick_at: Some(at(-state.db.silent)),
        wait_until: wait,
        failover: false,
        lease: units(L),
        heartbeat: HEARTBEAT,
        reap_grace: units(G),
    });
    if until != wait {
        state.db.waited = true;
    }
    let left = until.map_or(0, |until| until.saturating_sub(at(0)).as_secs());
    // Time passes in whole units, so what is due between two of them is due at the second.
    state.db.wait = left.div_ceil(UNIT) as i8;
    state.db.silent = 0;
}

/// Whether `sql/runs/claim.sql` would take the job.
pub(crate) fn may_claim(world: &World, state: &State, by: Boot, job: usize) -> bool {
    let job = &state.jobs[job];
    ownership::may_claim(state.is_live(by), job.status, false) && job.attempt < world.runs as u8
}

/// `sql/runs/claim.sql`, for one job.
pub(crate) fn claim(world: &World, state: &mut State, by: Boot, job: usize, known: Known) {
    if !may_claim(world, state, by, job) {
        return;
    }
    let place = world.runs_of(job).start + state.jobs[job].attempt as usize;
    state.runs[place] = Run { row: RunRow::Open, owner: by, claimant: by, known, ..Run::unused() };
    let job = &mut state.jobs[job];
    job.status = JobStatus::Running;
    job.token = Some((place as u8, by));
    job.attempt += 1;
}

/// What a settle with this owner's token would come to now.
pub(crate) fn deliver(world: &World, state: &State, run: usize, owner: Boot) -> Delivery {
    delivery(world, state, run, owner, ClosedBy::Owner)
}

fn delivery(world: &World, state: &State, run: usize, owner: Boot, by: ClosedBy) -> Delivery {
    let it = &state.runs[run];
    let job = &state.jobs[world.job_of(run)];
    let closed = match it.row {
        RunRow::None | RunRow::Open => None,
        RunRow::Closed(outcome) => Some((outcome, ClosedBy::Owner)),
        RunRow::Reaped => Some((Outcome::Lost, ClosedBy::Reap)),
    };
    // Without the replica_id in its WHERE a settle takes whoever owns the run by now.
    let owner = if world.broken == Broken::SettleWithoutReplicaId { it.owner } else { owner };
    let job_row = JobRow { status: job.status, token: token(job), last_run: job.last_run, awaits_replica: false };
    let newest = world.runs_of(world.job_of(run)).start + job.attempt as usize - 1;
    let run_row = ownership::RunRow { owner: it.owner, closed, has_newer: run < newest };
    ownership::deliver(&Token { run: run as u8, owner }, by, &job_row, &run_row)
}

fn facts(state: &State, job: usize, outcome: Outcome, after_outage: bool) -> Facts {
    let job = &state.jobs[job];
    Facts {
        outcome,
        cancel_pending: false,
        counts: Counts {
            failures: job.failures.into(),
            lost: job.lost.into(),
            transients: 0,
            interruptions: job.interruptions.into(),
        },
        lasted: 1.0,
        says_when: false,
        jitter: 1.0,
        after_outage: after_outage && state.db.waited,
    }
}

fn follow(state: &mut State, job: usize, run: usize, next: &Next) {
    let job = &mut state.jobs[job];
    job.status = next.status;
    job.token = None;
    job.last_run = Some(run as u8);
    job.failures = next.counts.failures as u8;
    job.lost = next.counts.lost as u8;
    job.interruptions = next.counts.interruptions as u8;
}

/// `sql/runs/settle.sql` for the owner or its successor. It stays on its way: what was not answered is sent again.
pub(crate) fn settle(world: &World, state: &mut State, run: usize) {
    let it = state.runs[run];
    let (Some(owner), Some(outcome)) = (it.settle, it.told) else { return };
    let job = world.job_of(run);
    let next = match deliver(world, state, run, owner) {
        Delivery::Settles => {
            state.runs[run].settles += 1;
            Some(rule(&facts(state, job, outcome, false), &RULES))
        }
        Delivery::Late(status) => {
            state.runs[run].lates = (it.lates + 1).min(2);
            let reaped = Reaped { status, lost_counted: it.lost_counted, key_taken: false };
            let next = settle_late(&facts(state, job, outcome, false), &reaped, &RULES);
            if world.broken == Broken::LateResultTwice {
                if let Some(next) = next {
                    follow(state, job, run, &next);
                }
                return;
            }
            next
        }
        Delivery::Already | Delivery::NotYours => return,
    };
    state.runs[run].row = RunRow::Closed(outcome);
    state.runs[run].lost_counted = it.lost_counted && next.is_none();
    if let Some(next) = next {
        follow(state, job, run, &next);
    }
}

/// Whether `sql/reaper/declare_dead.sql` would declare it dead.
pub(crate) fn may_declare_dead(world: &World, state: &State, replica: Boot) -> bool {
    let it = &state.replicas[replica as usize];
    let grace = if world.broken == Broken::ReapWithoutGrace { 0 } else { G };
    it.row == Row::Live
        && state.somebody_is_up()
        && ownership::may_declare_dead(&Expiry {
            now: at(0),
            lease_until: at(it.lease),
            wait_until: (state.db.wait > 0).then(|| at(state.db.wait)),
            last_tick_at: Some(at(-state.db.silent)),
            same_timeline: true,
            lease: units(L),
            reap_grace: units(grace),
        })
}

/// `sql/reaper/orphans.sql`, for one run: the owner that is seen.
pub(crate) fn orphan(world: &World, state: &State, run: usize) -> Option<Boot> {
    let row = token(&state.jobs[world.job_of(run)]).filter(|token| token.run == run as u8)?;
    ownership::orphan(Some(row), state.is_live(row.owner)).map(|token| token.owner)
}

/// `sql/runs/settle.sql` for a reap, by the token that it saw.
pub(crate) fn reap(world: &World, state: &mut State, run: usize) {
    let Some(seen) = state.runs[run].reap.take() else { return };
    if delivery(world, state, run, seen, ClosedBy::Reap) != Delivery::Settles {
        return;
    }
    let job = world.job_of(run);
    state.robbed |= state.is_live(state.runs[run].owner);
    let next = rule(&facts(state, job, Outcome::Lost, true), &RULES);
    let it = &mut state.runs[run];
    it.settles += 1;
    it.row = RunRow::Reaped;
    it.lost_counted = next.counts.lost > state.jobs[job].lost.into();
    follow(state, job, run, &next);
}

/// The first half of `sql/runs/adopt.sql`: what its snapshot shows.
pub(crate) fn may_adopt(state: &State, former: Boot, successor: Boot) -> bool {
    Adopting { successor_is_live: state.is_live(successor), owner_is_live: state.is_live(former) }.may_go_on()
}

/// The second half: the compare-and-swap under the row's lock, and the successor's lease.
pub(crate) fn commit_adoption(world: &World, state: &mut State, run: usize) {
    let Some((former, successor)) = state.runs[run].adoption.take() else { return };
    let job = world.job_of(run);
    let seen = Token { run: run as u8, owner: former };
    // Its row is locked from the snapshot on: nobody declares it dead in between.
    if !state.is_live(successor) && world.broken != Broken::AdoptionByTheDead {
        return;
    }
    let Some(moved) = ownership::adopted(token(&state.jobs[job]), &seen, successor) else { return };
    state.jobs[job].token = Some((moved.run, moved.owner));
    state.runs[run].owner = successor;
    let lease = state.replicas[former as usize].lease;
    let own = &mut state.replicas[successor as usize];
    if own.row == Row::Live && world.broken != Broken::AdoptionWithoutRaise {
        own.lease = if ownership::raised(at(own.lease), at(lease)) > at(own.lease) { lease } else { own.lease };
    }
}

/// `orch.retry`.
pub(crate) fn retry(state: &mut State, job: usize) {
    let it = &mut state.jobs[job];
    it.status = JobStatus::Queued;
    (it.failures, it.lost, it.interruptions) = (0, 0, 0);
    it.last_run = None;
    it.retried = true;
}

/// Runs that the renewal of `by` lists: bits.
pub(crate) fn listed(state: &State, by: Boot) -> u8 {
    bits(state, |run| run.row == RunRow::Open && run.owner == by)
}

/// Runs that are known at the state directory of `by`, and those of them that are looked after: bits.
pub(crate) fn known(state: &State, by: Boot) -> (u8, u8) {
    let here = |run: &Run| dir_of(run.claimant) == dir_of(by) && run.row != RunRow::None;
    let all = bits(state, |run| here(run) && !matches!(run.known, Known::No | Known::Seen));
    let live = |run: &Run| here(run) && run.known == Known::Yes && run.settle.is_none() && run.tree != Tree::Gone;
    (all, bits(state, live))
}

fn bits(state: &State, wanted: impl Fn(&Run) -> bool) -> u8 {
    state.runs.iter().enumerate().filter(|(_, run)| wanted(run)).map(|(place, _)| 1 << place).sum()
}
