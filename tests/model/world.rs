//! The machine that the search drives: its settings, what may happen next, and what then is.

use orch::model::{JobStatus, Outcome};
use stateright::{Model, Property};

use crate::{
    database, machine, properties, replica,
    state::{BOOTS, DIRS, Database, Dir, Job, Known, Life, Once, Replica, Row, Run, State, Tree, boot},
};

/// How the protocol is broken, to see that the search finds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Broken {
    /// As it is built.
    Nothing,
    /// The shims do not look at their lease.
    NoFence,
    /// The clock is read when the answer to a renewal is there.
    ClockReadAfterReply,
    /// A replica is declared dead the moment its lease is over.
    ReapWithoutGrace,
    /// A settle goes by its `run_id` alone.
    SettleWithoutReplicaId,
    /// All boots of a state directory write one lease file.
    OneLeaseFile,
    /// A late result leaves its run as the reap closed it.
    LateResultTwice,
    /// The successor keeps its own, shorter lease.
    AdoptionWithoutRaise,
    /// A successor that is declared dead while its adoption is executed takes the run all the same.
    AdoptionByTheDead,
    /// A run is given up without `void`.
    GiveUpWithoutVoid,
    /// A run is given up although its lock is held.
    RequeueWhileLocked,
}

/// What the search may do.
#[derive(Debug, Clone, Copy)]
pub(crate) struct World {
    pub(crate) broken: Broken,
    pub(crate) jobs: usize,
    /// Runs a job, at the most.
    pub(crate) runs: usize,
    /// Which state directories may crash.
    pub(crate) crashes: [bool; DIRS],
    /// Whether a planned stop with a longer lease may stand in for the crash.
    pub(crate) handovers: bool,
    /// Whether the database is away once, for as long as it likes.
    pub(crate) outage: bool,
    /// Whether its clock jumps ahead once, by G.
    pub(crate) clock_jump: bool,
    /// Whether a claim may be executed after its asker has given it up, or is gone.
    pub(crate) stray_claims: bool,
    /// Whether an operator retries a failed job once.
    pub(crate) retry: bool,
    /// Whether the answer to a renewal may take longer than a moment.
    pub(crate) slow_answers: bool,
    /// Whether it is asked of every state that all jobs end from there, once nothing fails any more.
    pub(crate) calms_down: bool,
    /// What its search must see for its silence to mean something.
    pub(crate) shows: &'static [&'static str],
}

/// One step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// One unit passes, on every clock.
    Clock,
    DatabaseClockJumps,
    DatabaseGoes,
    DatabaseComesBack,
    Crash(usize),
    HandOver(usize),
    /// A new boot registers.
    Register(usize),
    /// A renewal is sent and executed.
    Renew(usize),
    /// Its answer is heard.
    HearRenewal(usize),
    Claim(usize, usize),
    HearClaim(usize),
    /// The reply to a claim was lost, or came too late.
    ForgetClaim(usize),
    /// A claim is sent and forgotten, and on its way.
    SendStrayClaim(usize, usize),
    StrayClaimArrives(usize),
    ShimTakesLock(usize),
    Ends(usize, Outcome),
    Settle(usize),
    /// What the renewal lists and nobody knows is taken up, or given up.
    TakeUp(usize),
    /// A new boot looks at what an earlier one left.
    Recover(usize),
    CommitAdoption(usize),
    HearAdoption(usize),
    FollowLease(usize),
    Supersede(usize),
    DeclareDead(u8),
    SeeOrphan(usize),
    Reap(usize),
    Retry(usize),
}

impl World {
    /// The places of a job's runs.
    pub(crate) fn runs_of(&self, job: usize) -> std::ops::Range<usize> {
        job * self.runs..(job + 1) * self.runs
    }

    /// Whose run it is.
    pub(crate) fn job_of(&self, run: usize) -> usize {
        run / self.runs
    }

    fn apply(&self, state: &mut State, action: Action) {
        match action {
            Action::Clock => machine::pass_time(self, state),
            Action::DatabaseClockJumps => machine::jump(state),
            Action::DatabaseGoes => state.db.outage = Once::Now,
            Action::DatabaseComesBack => state.db.outage = Once::Over,
            Action::Crash(dir) => replica::crash(state, dir),
            Action::HandOver(dir) => replica::hand_over(self, state, dir),
            Action::Register(dir) => replica::register(self, state, dir),
            Action::Renew(dir) => replica::renew(state, dir),
            Action::HearRenewal(dir) => replica::hear_renewal(self, state, dir),
            Action::Claim(dir, job) => {
                let by = state.present(dir);
                database::claim(self, state, by, job, Known::Asked);
            }
            Action::HearClaim(run) => {
                state.runs[run].known = Known::Yes;
                state.runs[run].tree = Tree::Starting;
            }
            Action::ForgetClaim(run) => state.runs[run].known = Known::No,
            Action::SendStrayClaim(dir, job) => state.jobs[job].stray_claim = Some(state.present(dir)),
            Action::StrayClaimArrives(job) => {
                if let Some(by) = state.jobs[job].stray_claim.take() {
                    database::claim(self, state, by, job, Known::No);
                }
            }
            Action::ShimTakesLock(run) => machine::take_lock(self, state, run),
            Action::Ends(run, outcome) => machine::end(state, run, outcome),
            Action::Settle(run) => database::settle(self, state, run),
            Action::TakeUp(run) => replica::take_up(self, state, run),
            Action::Recover(run) => replica::recover(self, state, run),
            Action::CommitAdoption(run) => database::commit_adoption(self, state, run),
            Action::HearAdoption(run) => replica::hear_adoption(state, run),
            Action::FollowLease(run) => {
                if let Tree::Lives(_, told) = state.runs[run].tree {
                    state.runs[run].tree = Tree::Lives(state.runs[run].owner, told);
                }
            }
            Action::Supersede(dir) => {
                let former = boot(dir, state.dirs[dir].boot - 1);
                state.replicas[former as usize].row = Row::Dead;
            }
            Action::DeclareDead(replica) => state.replicas[replica as usize].row = Row::Dead,
            Action::SeeOrphan(run) => state.runs[run].reap = database::orphan(self, state, run),
            Action::Reap(run) => database::reap(self, state, run),
            Action::Retry(job) => database::retry(state, job),
        }
        machine::send_what_is_due(state);
        machine::forget_what_is_over(self, state);
    }
}

impl Model for World {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let fresh = Replica { row: Row::None, lease: machine::OVER, deadline: machine::PAST };
        let mut replicas = [fresh; DIRS * BOOTS];
        for dir in 0..DIRS {
            replicas[boot(dir, 0) as usize] = Replica { row: Row::Live, lease: machine::L, deadline: machine::L };
        }
        let job = Job {
            status: JobStatus::Queued,
            token: None,
            last_run: None,
            attempt: 0,
            failures: 0,
            lost: 0,
            interruptions: 0,
            retried: false,
            stray_claim: None,
        };
        vec![State {
            db: Database { outage: Once::Ahead, silent: 0, wait: 0, waited: false, jumped: false },
            replicas,
            dirs: [Dir { boot: 0, life: Life::Up, crashed: false, answer: None }; DIRS],
            jobs: [job; 2],
            runs: [Run::unused(); 4],
            foreign_start: false,
            robbed: false,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        self.choices(state, actions);
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = *last;
        self.apply(&mut state, action);
        // Which machine is which makes no difference, unless one of them alone may crash.
        if self.crashes[0] == self.crashes[1] {
            state = state.min(state.mirrored());
        }
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut asked = properties::rules();
        asked.extend(self.calms_down.then(properties::every_job_ends));
        asked.extend(properties::sights().into_iter().filter(|sight| self.shows.contains(&sight.name)));
        asked
    }
}
