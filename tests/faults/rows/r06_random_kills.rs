//! Row 6: `kill -9` of replicas, spawners and shims at random, of three nodes under load. A replica is started again at
//! once, in time, too late, or never, and another node comes in its stead. No job is lost, none lives twice, and a run whose
//! replica came back in time has not noticed.
//!
//! Shims are killed where their run is in a pid namespace: a `cgroup` alone needs a living replica for that.

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{self, Signal},
    unistd::Pid,
};
use rand::{RngExt as _, seq::IndexedRandom as _};

use crate::{
    bound::{BOUND_AFTER_OUTAGE, IN_TIME, LEASE, RECOVERY},
    case::{BOUND, Case},
    recovery::Recovery,
    support::{eventually_within, say},
    witness,
};

/// Between two kills, on average.
const PACE: Duration = Duration::from_millis(220);
/// Jobs that are kept unfinished.
const LOAD: i64 = 24;
const NODES: usize = 3;

/// What the jobs do: the payload is how many seconds.
const AGENTS: [(&str, &str, &str); 4] = [
    ("plain", "sleep \"$(cat)\"", "pidns"),
    ("deaf", "trap '' TERM; s=$(cat); setsid -f sleep 1000; sleep \"$s\"", "pidns"),
    ("noisy", "s=$(cat); seq 2000; sleep \"$s\"; seq 2000", "pidns"),
    ("kept", "s=$(cat); setsid -f sleep 1000; sleep \"$s\"", "cgroup"),
];

pub(crate) async fn two_hundred(case: &mut Case) {
    Chaos::new(case).run(200).await;
}

pub(crate) async fn two_thousand(case: &mut Case) {
    Chaos::new(case).run(2000).await;
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Replica,
    Spawner,
    Shim,
}

/// A node as the row knows it.
struct Place {
    name: String,
    /// Since when nobody is ready there; `None` while somebody is.
    down_since: Option<Instant>,
    /// When a replica is to be started again; `None` while one is started, or where none ever is.
    again_at: Option<Instant>,
    is_abandoned: bool,
    /// Times, by the database's clock, in which nobody was ready, and how long each was.
    absences: Vec<(f64, Duration)>,
}

struct Chaos<'a> {
    case: &'a mut Case,
    recovery: Recovery,
    places: Vec<Place>,
    kills: HashMap<&'static str, usize>,
    shims_killed: HashSet<String>,
}

impl<'a> Chaos<'a> {
    fn new(case: &'a mut Case) -> Self {
        for (setting, value) in [("MAX_LOST", "1000"), ("MAX_INTERRUPTED", "1000"), ("MAX_CONCURRENCY", "8")] {
            case.orch.set(&format!("ORCH_{setting}"), value);
        }
        for (name, script, containment) in AGENTS {
            let backoff = "backoff = { base = \"100ms\", factor = 1.5, max = \"1s\" }";
            case.agent(name, script, &format!("containment = \"{containment}\"\n{backoff}"));
        }
        let recovery = Recovery::start(case.db.config());
        Self { case, recovery, places: Vec::new(), kills: HashMap::new(), shims_killed: HashSet::new() }
    }

    async fn run(mut self, kills: usize) {
        for _ in 0..NODES {
            self.add_place();
        }
        eventually_within(BOUND, "the first replicas to be ready", async || {
            self.look_around().await;
            self.places.iter().all(|place| place.down_since.is_none()).then_some(())
        })
        .await;
        let mut next = Instant::now();
        while self.kills.values().sum::<usize>() < kills {
            self.feed().await;
            self.look_around().await;
            if Instant::now() >= next {
                self.kill_something().await;
                next += PACE.mul_f64(self.case.random.random_range(0.2..1.8));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self.come_to_rest().await;
        self.judge().await;
    }

    fn add_place(&mut self) {
        let name = format!("node-{}", self.places.len());
        self.case.add_node(&name).start();
        let absences = vec![];
        self.places.push(Place {
            name,
            down_since: Some(Instant::now()),
            again_at: None,
            is_abandoned: false,
            absences,
        });
    }

    /// Keeps jobs waiting: most are short, some live through several deaths.
    async fn feed(&mut self) {
        let unfinished = "select count(*) from orch.jobs where finished_at is null";
        let unfinished: i64 = self.case.sql.query_one(unfinished, &[]).await.unwrap().get(0);
        for _ in unfinished..LOAD {
            let (agent, ..) = AGENTS.choose(&mut self.case.random).expect("there are some");
            let range = if self.case.random.random_ratio(1, 5) { 4.0..12.0 } else { 0.05..1.5 };
            let seconds: f64 = self.case.random.random_range(range);
            self.case.enqueue_with(agent, &serde_json::json!(seconds)).await;
        }
    }

    /// Starts what is due, and notes who has become ready.
    async fn look_around(&mut self) {
        for place in &mut self.places {
            if place.again_at.is_some_and(|at| at <= Instant::now()) {
                place.again_at = None;
                self.case.node(&place.name).start();
            }
            if let Some(since) = place.down_since
                && self.case.node(&place.name).is_up()
                && self.case.node(&place.name).is_ready().await
            {
                let absence = since.elapsed();
                place.absences.push((now(&self.case.sql).await - absence.as_secs_f64(), absence));
                place.down_since = None;
            }
        }
    }

    async fn kill_something(&mut self) {
        let kind = match self.case.random.random_range(0..100) {
            0..40 => Kind::Replica,
            40..60 => Kind::Spawner,
            _ => Kind::Shim,
        };
        let ready: Vec<usize> =
            (0..self.places.len()).filter(|place| self.places[*place].down_since.is_none()).collect();
        let Some(place) = ready.choose(&mut self.case.random).copied() else { return };
        let done = match kind {
            // One stays, so that the reaper ticks: what follows where nobody does is row 22.
            Kind::Replica => ready.len() > 1 && self.kill_replica(place).await,
            Kind::Spawner => self.case.node(&self.places[place].name).spawner().is_some_and(kill),
            Kind::Shim => self.kill_shim().await,
        };
        if done {
            let name = match kind {
                Kind::Replica => "replicas",
                Kind::Spawner => "spawners",
                Kind::Shim => "shims",
            };
            *self.kills.entry(name).or_default() += 1;
        }
    }

    async fn kill_replica(&mut self, place: usize) -> bool {
        let name = self.places[place].name.clone();
        self.case.node(&name).kill().await;
        self.recovery.is_away("killed", &name, now(&self.case.sql).await);
        let random = &mut self.case.random;
        let after = match random.random_range(0..100) {
            0..45 => Some(random.random_range(0.0..0.3)),
            45..70 => Some(random.random_range(0.5..2.0)),
            70..88 => Some(LEASE.as_secs_f64() + random.random_range(0.0..3.0)),
            _ => None,
        };
        let killed = Instant::now();
        let place = &mut self.places[place];
        place.down_since = Some(killed);
        place.again_at = after.map(|seconds| killed + Duration::from_secs_f64(seconds));
        if after.is_none() {
            place.is_abandoned = true;
            place.absences.push((now(&self.case.sql).await, Duration::from_hours(24)));
            self.add_place();
        }
        true
    }

    /// Of any node, also one whose replica is dead.
    async fn kill_shim(&mut self) -> bool {
        let names: Vec<String> = self.places.iter().map(|place| place.name.clone()).collect();
        let mut shims = Vec::new();
        for name in names {
            let found = self.case.node(&name).shims();
            shims.extend(found.into_iter().map(|(run, pid)| (name.clone(), run, pid)));
        }
        let Some((node, run, pid)) = shims.choose(&mut self.case.random).cloned() else { return false };
        let contained = "select from orch.jobs where run_id = $1::text::uuid and agent <> 'kept'";
        if self.case.sql.query_opt(contained, &[&run]).await.unwrap().is_none() || !kill(pid) {
            return false;
        }
        self.recovery.shim_died(&node, &run, now(&self.case.sql).await);
        self.shims_killed.insert(run);
        true
    }

    /// Whoever is to come back does, and the queue drains.
    async fn come_to_rest(&mut self) {
        eventually_within(LEASE + BOUND, "the replicas to be back", async || {
            self.look_around().await;
            self.places.iter().all(|place| place.is_abandoned || place.down_since.is_none()).then_some(())
        })
        .await;
        let unfinished = "select count(*) from orch.jobs where finished_at is null";
        eventually_within(BOUND_AFTER_OUTAGE * 2, "the queue to drain", async || {
            (self.case.sql.query_one(unfinished, &[]).await.unwrap().get::<_, i64>(0) == 0).then_some(())
        })
        .await;
    }

    async fn judge(self) {
        let took: Vec<Duration> = self.recovery.all().into_iter().map(|run| run.took).collect();
        let counts = "select count(*), count(*) filter (where status <> 'succeeded') from orch.jobs";
        let counts = self.case.sql.query_one(counts, &[]).await.unwrap();
        let (jobs, others): (i64, i64) = (counts.get(0), counts.get(1));
        let kills = |what| self.kills.get(what).copied().unwrap_or_default();
        let (p50, max) = (took.get(took.len() / 2).copied(), took.last().copied());
        let (p50, max) = (p50.unwrap_or_default().as_secs_f64(), max.unwrap_or_default());
        say(&format!(
            "row 6: {} kills ({} replicas, {} spawners, {} shims), {jobs} jobs; {} orphaned runs recovered in {p50:.2} s \
             (p50), {:.2} s (max), bound {:.2} s",
            self.kills.values().sum::<usize>(),
            kills("replicas"),
            kills("spawners"),
            kills("shims"),
            took.len(),
            max.as_secs_f64(),
            RECOVERY.as_secs_f64(),
        ));
        assert_eq!(others, 0, "jobs that did not succeed in the end");
        assert!(!took.is_empty() && max <= BOUND, "an orphaned run recovered only after {max:?}");
        self.none_was_lost_without_need().await;
    }

    /// A run that began and did not succeed had its shim killed, or its replica away for too long.
    async fn none_was_lost_without_need(&self) {
        let failed = "select r.run_id::text, r.job_id, r.outcome, r.error, p.name,
                extract(epoch from r.claimed_at)::float8, extract(epoch from r.ended_at)::float8
            from orch.agent_runs r join orch.replicas p using (replica_id) where r.outcome <> 'succeeded'";
        let mut without_need = Vec::new();
        for row in self.case.sql.query(failed, &[]).await.unwrap() {
            let (run, job, node): (String, i64, String) = (row.get(0), row.get(1), row.get(4));
            let (claimed, ended): (f64, f64) = (row.get(5), row.get(6));
            let began = witness::intervals(&self.case.witness(), job).iter().any(|interval| interval.run_id == run);
            let place = self.places.iter().find(|place| place.name == node).expect("a node of the row's");
            let was_away = place
                .absences
                .iter()
                .any(|(at, absence)| *absence > IN_TIME && *at < ended && at + absence.as_secs_f64() > claimed);
            if began && !self.shims_killed.contains(&run) && !was_away {
                without_need.push(format!("run {run} of job {job} on {node}: {:?}", row.get::<_, Option<&str>>(3)));
            }
        }
        assert!(without_need.is_empty(), "runs that ended without need:\n{}", without_need.join("\n"));
    }
}

/// Whether there was somebody to kill: a process may have ended since it was found.
fn kill(pid: i32) -> bool {
    signal::kill(Pid::from_raw(pid), Signal::SIGKILL).is_ok()
}

/// The database's clock.
async fn now(sql: &tokio_postgres::Client) -> f64 {
    sql.query_one("select extract(epoch from clock_timestamp())::float8", &[]).await.unwrap().get(0)
}
