//! What may happen next.

use orch::model::{JobStatus, Outcome};

use crate::{
    database, machine, replica,
    state::{BOOTS, Boot, DIRS, Known, Life, Once, RunRow, State, Told, Tree, dir_of},
    world::{Action, World},
};

impl World {
    /// Everything that may happen next.
    pub(crate) fn choices(&self, state: &State, actions: &mut Vec<Action>) {
        if machine::time_may_pass(state) {
            actions.push(Action::Clock);
        }
        self.faults(state, actions);
        self.of_replicas(state, actions);
        self.of_jobs(state, actions);
        self.of_runs(state, actions);
    }

    /// How a job's program ends if nobody ends it: the first job's well, the other's not. A single one may do either.
    fn endings(&self, job: usize) -> &'static [Outcome] {
        match (self.jobs, job) {
            (1, _) => &[Outcome::Succeeded, Outcome::Failed],
            (_, 0) => &[Outcome::Succeeded],
            _ => &[Outcome::Failed],
        }
    }

    fn faults(&self, state: &State, actions: &mut Vec<Action>) {
        if self.clock_jump && !state.db.jumped {
            actions.push(Action::DatabaseClockJumps);
        }
        match state.db.outage {
            Once::Ahead if self.outage => actions.push(Action::DatabaseGoes),
            Once::Now => actions.push(Action::DatabaseComesBack),
            _ => {}
        }
        for (dir, it) in state.dirs.iter().enumerate() {
            if self.crashes[dir] && !it.crashed && it.life != Life::Down && replica::has_something_to_lose(state, dir) {
                actions.push(Action::Crash(dir));
                if self.handovers && it.life == Life::Up && state.db_answers() && state.is_live(state.present(dir)) {
                    actions.push(Action::HandOver(dir));
                }
            }
        }
    }

    fn of_replicas(&self, state: &State, actions: &mut Vec<Action>) {
        for (dir, it) in state.dirs.iter().enumerate() {
            if replica::may_register(state, dir) {
                actions.push(Action::Register(dir));
            }
            if it.answer.is_some() {
                actions.push(Action::HearRenewal(dir));
            }
            if it.life != Life::Up || !state.db_answers() {
                continue;
            }
            if replica::may_renew(state, dir) {
                actions.push(Action::Renew(dir));
            }
            for job in 0..self.jobs {
                if database::may_claim(self, state, state.present(dir), job) {
                    actions.push(Action::Claim(dir, job));
                }
                let is_free = state.jobs[job].stray_claim.is_none() && state.jobs[job].attempt < self.runs as u8;
                if self.stray_claims && is_free && state.is_live(state.present(dir)) {
                    actions.push(Action::SendStrayClaim(dir, job));
                }
            }
            if replica::may_supersede(self, state, dir) {
                actions.push(Action::Supersede(dir));
            }
        }
    }

    fn of_jobs(&self, state: &State, actions: &mut Vec<Action>) {
        if !state.db_answers() {
            return;
        }
        for (job, it) in state.jobs.iter().enumerate().take(self.jobs) {
            if it.stray_claim.is_some_and(|by| database::may_claim(self, state, by, job)) {
                actions.push(Action::StrayClaimArrives(job));
            }
            if self.retry && !it.retried && matches!(it.status, JobStatus::Failed) {
                actions.push(Action::Retry(job));
            }
        }
        for replica in 0..(DIRS * BOOTS) as Boot {
            if database::may_declare_dead(self, state, replica) {
                actions.push(Action::DeclareDead(replica));
            }
        }
    }

    fn of_runs(&self, state: &State, actions: &mut Vec<Action>) {
        for (place, run) in state.runs.iter().enumerate().take(self.jobs * self.runs) {
            if run.row == RunRow::None {
                continue;
            }
            let dir = dir_of(run.claimant);
            let is_up = state.dirs[dir].life == Life::Up;
            match run.tree {
                Tree::Starting => actions.push(Action::ShimTakesLock(place)),
                Tree::Lives(_, Told::Nothing) => {
                    let endings = self.endings(self.job_of(place));
                    actions.extend(endings.iter().map(|ending| Action::Ends(place, *ending)));
                    if state.dirs[dir].life == Life::ToldDead {
                        actions.push(Action::Ends(place, Outcome::Interrupted));
                    }
                }
                Tree::Lives(..) => actions.push(Action::Ends(place, Outcome::Interrupted)),
                Tree::None | Tree::Gone => {}
            }
            match (run.known, run.adoption) {
                (Known::Asked, None) if run.owner == run.claimant && run.tree == Tree::None => {
                    if is_up {
                        actions.push(Action::HearClaim(place));
                    }
                    actions.push(Action::ForgetClaim(place));
                }
                (Known::Asked, None) => actions.push(Action::HearAdoption(place)),
                (Known::Listed, _) => actions.push(Action::TakeUp(place)),
                _ => {}
            }
            if let (Known::Yes, Tree::Lives(follows, _)) = (run.known, run.tree)
                && follows != run.owner
                && run.owner == state.present(dir)
            {
                actions.push(Action::FollowLease(place));
            }
            if !state.db_answers() {
                continue;
            }
            if is_up && replica::may_recover(state, place) {
                actions.push(Action::Recover(place));
            }
            if run.settle.is_some() {
                actions.push(Action::Settle(place));
            }
            if run.adoption.is_some() {
                actions.push(Action::CommitAdoption(place));
            }
            if run.reap.is_some() {
                actions.push(Action::Reap(place));
            } else if state.somebody_is_up() && database::orphan(self, state, place).is_some() {
                actions.push(Action::SeeOrphan(place));
            }
        }
    }
}
