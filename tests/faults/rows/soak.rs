//! The long run: random mixes of faults for as long as `ORCH_SOAK` says (`60m`; five minutes by itself), under both judges
//! all the while. `just soak 60m` runs it with a release build.
//!
//! Four machines share a Postgres of the row's own, each behind a proxy. A round is four minutes of faults; then everything
//! is mended and everybody is left alone, until each job has come to its end: a job that does not is stuck. The first
//! machine's replica is never killed nor stopped, so that its memory and descriptors can be watched for the whole time.
//!
//! What is left out, because the documentation names it as a limit: a shim that is killed in a `cgroup` while no replica of
//! its state directory lives, and a machine whose shims and jobs are frozen together.

mod faults;
mod jobs;
mod operator;
mod places;
mod report;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use rand::RngExt as _;

use self::{faults::Fault, places::Place, report::Sample};
use crate::{
    auditor,
    bound::{BOUND_AFTER_HANDOVER, BUSY, LEASE},
    case::{BOUND, Case},
    proxy::Trap,
    recovery::{At, Recovery, now},
    support::{eventually_within, say},
    witness,
};

/// Between two faults, on average.
const PACE: Duration = Duration::from_millis(1800);
/// Between two acts of an operator, on average.
const OPERATOR_PACE: Duration = Duration::from_millis(2500);
/// Of faults, before everybody is left alone.
const ROUND: Duration = Duration::from_mins(4);
const MACHINES: usize = 4;
/// Within which every job ends once nothing fails any more: a reply that was lost is waited for half a minute, and the
/// longest job begins anew.
const AT_REST_WITHIN: Duration = Duration::from_mins(2);

pub(crate) async fn random_mixes_of_faults(case: &mut Case) {
    let time = std::env::var("ORCH_SOAK").unwrap_or_else(|_| "5m".to_owned());
    let time = humantime::parse_duration(&time).expect("ORCH_SOAK is a duration, as in 60m");
    case.move_to_own_server().await;
    Soak::new(case).run(time).await;
}

/// What is to be done at a later time.
enum Due {
    Start(usize),
    Thaw(usize),
    Heal(usize),
    Room(usize),
    ClaimAgain(usize, String),
    LetGo(usize, Trap, At),
    Release(i64),
    Open(&'static str, &'static str),
    DatabaseBack(At),
}

struct Soak<'a> {
    case: &'a mut Case,
    recovery: Recovery,
    places: Vec<Place>,
    /// How many machines there were.
    machines: usize,
    due: Vec<(Instant, Due)>,
    /// Set, and not sprung yet.
    traps: Vec<(usize, Fault, Trap, Duration)>,
    database_is_away: bool,
    faults: BTreeMap<&'static str, usize>,
    acts: BTreeMap<&'static str, usize>,
    jobs: BTreeSet<i64>,
    cancelled: BTreeSet<i64>,
    samples: Vec<Sample>,
    began: Instant,
}

impl<'a> Soak<'a> {
    fn new(case: &'a mut Case) -> Self {
        for (setting, value) in [("MAX_LOST", "1000"), ("MAX_INTERRUPTED", "1000"), ("MAX_TRANSIENT", "1000")] {
            case.orch.set(&format!("ORCH_{setting}"), value);
        }
        jobs::add_agents(case);
        let recovery = Recovery::start(case.config());
        Self {
            case,
            recovery,
            places: Vec::new(),
            machines: 0,
            due: Vec::new(),
            traps: Vec::new(),
            database_is_away: false,
            faults: BTreeMap::new(),
            acts: BTreeMap::new(),
            jobs: BTreeSet::new(),
            cancelled: BTreeSet::new(),
            samples: Vec::new(),
            began: Instant::now(),
        }
    }

    async fn run(mut self, time: Duration) {
        for _ in 0..MACHINES {
            let place = self.new_machine().await;
            self.places.push(place);
            self.start(self.places.len() - 1);
        }
        self.until_all_are_ready().await;
        self.make_limits().await;
        self.began = Instant::now();
        while self.began.elapsed() < time {
            let left = time.saturating_sub(self.began.elapsed());
            self.round(left.min(ROUND)).await;
            self.come_to_rest().await;
            self.look_closely().await;
            say(&self.progress().await);
        }
        self.report().await;
    }

    /// Faults and acts, one after the other and several at a time.
    async fn round(&mut self, time: Duration) {
        let end = Instant::now() + time;
        let (mut next_fault, mut next_act, mut next_look) = (Instant::now(), Instant::now(), Instant::now());
        while Instant::now() < end {
            self.do_what_is_due().await;
            self.look_after_machines().await;
            if !self.database_is_away {
                self.feed().await;
            }
            if Instant::now() >= next_fault && self.some_fault().await {
                next_fault += PACE.mul_f64(self.case.random.random_range(0.1..1.9));
            }
            if Instant::now() >= next_act && !self.database_is_away && self.some_act().await {
                next_act += OPERATOR_PACE.mul_f64(self.case.random.random_range(0.1..1.9));
            }
            if Instant::now() >= next_look {
                next_look += Duration::from_secs(1);
                self.look();
                if !self.database_is_away {
                    self.no_limit_is_exceeded().await;
                }
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// What the judges have seen so far; the first thing ends the run.
    fn look(&self) {
        let seen = self.case.auditor.seen();
        assert!(seen.is_empty(), "the auditor saw:\n{}", seen.join("\n"));
        let overlaps = std::fs::read_to_string(self.case.witness().join("overlaps")).unwrap_or_default();
        assert!(overlaps.is_empty(), "the witness saw two processes of one job:\n{overlaps}");
    }

    async fn do_what_is_due(&mut self) {
        while let Some(place) = self.due.iter().position(|(at, _)| *at <= Instant::now()) {
            let (_, due) = self.due.swap_remove(place);
            self.carry_out(due).await;
        }
        for place in (0..self.traps.len()).rev() {
            if self.traps[place].2.is_sprung() {
                let (at, fault, trap, after) = self.traps.swap_remove(place);
                self.count(fault);
                self.due.push((Instant::now() + after, Due::LetGo(at, trap, now())));
            }
        }
    }

    async fn carry_out(&mut self, due: Due) {
        match due {
            Due::Start(place) => self.start(place),
            Due::Thaw(place) => self.thaw(place),
            Due::Heal(place) => self.heal(place),
            Due::Room(place) => self.places[place].make_room(),
            Due::ClaimAgain(place, replica_id) => {
                self.places[place].is_draining = false;
                // It may be gone.
                let _ = self.case.orch.run(["drain", "--off", &replica_id]).await;
            }
            Due::LetGo(place, trap, since) => {
                trap.let_go();
                self.recovery.may_renew_late(&self.places[place].name, since, now());
            }
            Due::Release(_) | Due::Open(..) if self.database_is_away => {
                self.due.push((Instant::now() + Duration::from_millis(500), due));
            }
            Due::Release(job) => self.release(job).await,
            Due::Open(open, what) => drop(self.case.sql.execute(open, &[&what]).await.unwrap()),
            Due::DatabaseBack(since) => {
                self.case.server().come_back().await;
                self.case.reconnect().await;
                self.database_is_away = false;
                self.recovery.database_was_away(since, now());
            }
        }
    }

    fn later(&mut self, after: std::ops::Range<f64>, due: Due) {
        let after = Duration::from_secs_f64(self.case.random.random_range(after));
        self.due.push((Instant::now() + after, due));
    }

    fn count(&mut self, fault: Fault) {
        *self.faults.entry(fault.name()).or_default() += 1;
    }

    async fn until_all_are_ready(&mut self) {
        eventually_within(LEASE + BOUND_AFTER_HANDOVER, "all replicas to be ready", async || {
            self.look_after_machines().await;
            self.places.iter().all(Place::is_ready).then_some(())
        })
        .await;
    }

    /// Everything is mended, whoever is down comes back, and every job comes to its end.
    async fn come_to_rest(&mut self) {
        // The database first, since the others need it.
        self.due.sort_by_key(|(_, due)| !matches!(due, Due::DatabaseBack(_)));
        for (_, due) in std::mem::take(&mut self.due) {
            self.carry_out(due).await;
        }
        // A trap that nobody has come to.
        for (_, _, trap, _) in self.traps.drain(..) {
            trap.let_go();
        }
        eventually_within(LEASE + BOUND + BOUND_AFTER_HANDOVER, "all replicas to be ready again", async || {
            self.do_what_is_due().await;
            self.look_after_machines().await;
            self.places.iter().all(Place::is_ready).then_some(())
        })
        .await;
        let mut left = String::new();
        let unfinished = "select format('%s %s %s %s', j.id, j.agent, j.status, j.error) from orch.jobs j
            where finished_at is null order by id";
        let began = Instant::now();
        while began.elapsed() < AT_REST_WITHIN {
            self.do_what_is_due().await;
            self.look_after_machines().await;
            let rows = self.case.sql.query(unfinished, &[]).await.unwrap();
            if rows.is_empty() {
                return;
            }
            left = rows.iter().map(|row| row.get::<_, String>(0)).collect::<Vec<_>>().join("\n");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("stuck: these jobs did not come to an end although nothing fails any more:\n{left}");
    }

    /// While nothing runs: all that the judges can say, and how much each replica holds.
    async fn look_closely(&mut self) {
        self.look();
        let audit = auditor::violations(&self.case.sql).await.expect("the auditor's query");
        let view = self.case.sql.query("select invariant::text, what::text from orch.violations", &[]).await.unwrap();
        assert!(audit.is_empty() && view.is_empty(), "violations at rest: {audit:?}; orch.violations: {view:?}");
        self.case.runs_add_up().await;
        let overlaps = witness::overlaps(&self.case.witness());
        assert!(overlaps.is_empty(), "the witness saw two processes of one job:\n{}", overlaps.join("\n"));
        self.no_job_is_lost().await;
        for recovered in self.recovery.all() {
            assert!(recovered.took <= recovered.bound + BUSY, "a run recovered too late: {recovered:?}");
        }
        self.sample();
    }
}
