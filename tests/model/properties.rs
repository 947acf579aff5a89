//! What must always hold, and what the search must have seen for its silence to mean something.

use orch::model::{JobStatus, Outcome};
use stateright::Property;

use crate::{
    calm::comes_to_its_end,
    state::{Once, Run, RunRow, State, Tree},
    world::World,
};

/// No two live processes of one job: the promise itself.
pub(crate) const ONE_PROCESS: &str = "no job has two live processes";
/// A late result counts once.
pub(crate) const ONE_LATE: &str = "no late result is taken twice";
/// The token of a reap is that of a dead owner.
pub(crate) const NO_ROBBERY: &str = "a reap takes from the dead alone";

pub(crate) const ALL_END: &str = "all jobs succeed or fail";
pub(crate) const RUNS_AGAIN: &str = "a reaped job runs again";
pub(crate) const LATE_END: &str = "a late result ends its job";
pub(crate) const ADOPTED: &str = "an adopted run follows its successor";
pub(crate) const OUTLIVED: &str = "a run outlives an outage";
pub(crate) const GIVEN_UP: &str = "a run is given up before its shim comes";
pub(crate) const RETRIED: &str = "a retried job runs again";

/// What must always hold.
pub(crate) fn rules() -> Vec<Property<World>> {
    vec![
        Property::always(ONE_PROCESS, |world, state: &State| each_job(world, |runs, _| living(&state.runs[runs]) <= 1)),
        Property::always("no run is settled twice", |_, state: &State| state.runs.iter().all(|run| run.settles <= 1)),
        Property::always(ONE_LATE, |_, state: &State| state.runs.iter().all(|run| run.lates <= 1)),
        Property::always("nothing starts on an expired or foreign lease", |_, state: &State| !state.foreign_start),
        Property::always(NO_ROBBERY, |_, state: &State| !state.robbed),
        Property::always("a job has an owner exactly while it runs", |world, state: &State| {
            each_job(world, |_, job| {
                let job = &state.jobs[job];
                (job.status == JobStatus::Running) == job.token.is_some()
            })
        }),
        Property::always("a job and its open run name one owner", one_owner),
        Property::always("attempts and counts add up", add_up),
    ]
}

/// Likewise, and asked only where it is wanted: each answer is a search of its own.
pub(crate) fn every_job_ends() -> Property<World> {
    Property::always("every job ends once nothing fails any more", |world: &World, state: &State| {
        comes_to_its_end(world, state)
    })
}

/// What a search may be asked to have seen. Only that is looked for, since each costs a look at every state.
pub(crate) fn sights() -> Vec<Property<World>> {
    vec![
        Property::sometimes(ALL_END, |world, state: &State| {
            each_job(world, |_, job| matches!(state.jobs[job].status, JobStatus::Succeeded | JobStatus::Failed))
        }),
        Property::sometimes(RUNS_AGAIN, |world, state: &State| {
            any_job(world, |runs, _| {
                let runs = &state.runs[runs];
                runs.iter().any(|run| run.row == RunRow::Reaped) && living(runs) == 1
            })
        }),
        Property::sometimes(LATE_END, |world, state: &State| {
            any_job(world, |runs, job| {
                let is_over = matches!(state.jobs[job].status, JobStatus::Succeeded | JobStatus::Failed);
                is_over && state.runs[runs.start].lates == 1 && state.jobs[job].attempt == 1
            })
        }),
        Property::sometimes(ADOPTED, |_, state: &State| {
            state.runs.iter().any(|run| matches!(run.tree, Tree::Lives(follows, _) if follows != run.claimant))
        }),
        Property::sometimes(OUTLIVED, |_, state: &State| {
            state.db.outage == Once::Over && state.db.waited && state.runs.iter().any(Run::lives)
        }),
        Property::sometimes(GIVEN_UP, |_, state: &State| {
            state.runs.iter().any(|run| run.void && run.tree == Tree::Starting && run.settle.is_some())
        }),
        Property::sometimes(RETRIED, |world, state: &State| {
            any_job(world, |runs, job| state.jobs[job].retried && living(&state.runs[runs]) == 1)
        }),
    ]
}

fn each_job(world: &World, holds: impl Fn(std::ops::Range<usize>, usize) -> bool) -> bool {
    (0..world.jobs).all(|job| holds(world.runs_of(job), job))
}

fn any_job(world: &World, holds: impl Fn(std::ops::Range<usize>, usize) -> bool) -> bool {
    (0..world.jobs).any(|job| holds(world.runs_of(job), job))
}

fn living(runs: &[Run]) -> usize {
    runs.iter().filter(|run| run.lives()).count()
}

fn one_owner(world: &World, state: &State) -> bool {
    each_job(world, |runs, job| {
        runs.clone().all(|place| {
            let run = &state.runs[place];
            let runs_it = state.jobs[job].token.is_some_and(|(run, _)| run as usize == place);
            let is_open = run.row == RunRow::Open;
            runs_it == is_open && (!is_open || state.jobs[job].token == Some((place as u8, run.owner)))
        })
    })
}

/// Every attempt has its row; every row that counts is counted, since the last retry.
fn add_up(world: &World, state: &State) -> bool {
    each_job(world, |runs, job| {
        let job = &state.jobs[job];
        let count = |wanted: &dyn Fn(&Run) -> bool| state.runs[runs.clone()].iter().filter(|run| wanted(run)).count();
        let attempts = count(&|run| run.row != RunRow::None);
        let failed = count(&|run| run.row == RunRow::Closed(Outcome::Failed));
        let lost = count(&|run| run.lost_counted);
        let exact = !job.retried;
        let adds_up =
            |counted: u8, rows: usize| if exact { usize::from(counted) == rows } else { usize::from(counted) <= rows };
        usize::from(job.attempt) == attempts
            && (!exact || usize::from(job.failures) <= failed)
            && adds_up(job.lost, lost)
    })
}
