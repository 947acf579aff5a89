//! Claim and `why` agree: over random states, made by the product's own statements alone, a job is claimed exactly when
//! `why` says that nothing keeps it, or nothing but a slot.
//!
//! What is asked after every few acts, of each replica:
//! - offered slots without end, its claim takes the jobs of which `why` says `next`, `fair_share` or `no_free_slot`, and that
//!   it serves. (Where replicas serve different things, no others: a job that is behind another one here may be first there.)
//! - offered the slots that it has, its claim takes the jobs of which `why` says `next` by this replica. With gates or
//!   bounded limits in play a claim does not look behind each of them for the last slot, and the claim after it does: then
//!   it takes some, as long as one is next, and none that anything keeps but jobs before it.
//! - `orch.waiting` says of every job what `why` says, and the counts are its counts.
//!
//! `ORCH_TEST_SEED` repeats a run, and `ORCH_TEST_CASES` makes it longer. A failure is shrunk to the acts that matter.

use std::collections::{BTreeMap, BTreeSet};

use orch::{
    db::{
        Db, Error,
        jobs::{Change, NewJob, When},
        replicas::Registration,
        runs::{Claimant, ClaimantRules, Claimed, Ending, Look},
    },
    model::{ClosedBy, JobId, Outcome, ReplicaId, RunId},
};
use proptest::{
    collection::vec,
    option,
    prelude::*,
    sample::{Index, select, subsequence},
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};
use rand::{SeedableRng as _, rngs::StdRng};
use std::time::{Duration, Instant};
use tokio_postgres::Client;

use crate::{
    played::agent,
    support::{TestDb, eventually, say},
};

const AGENTS: [&str; 3] = ["a", "b", "unserved"];
const PROJECTS: [&str; 3] = ["p", "q", "serial"];
const LIMITS: [&str; 4] = ["l1", "l2", "l3", "open"];
/// Every job needs some of these unsaid.
const UNSAID: [&str; 4] = ["all", "project:p", "agent:a", "agent:b"];
/// More than there are jobs.
const ENOUGH: usize = 200;
/// In so short a time nothing comes due: the comparison waits for a moment before which that is so.
const QUICK: Duration = Duration::from_secs(2);
/// Acts between two questions.
const PACE: usize = 5;

/// A replica: what it serves, whether it has the label, its slots.
type Place = (Vec<&'static str>, bool, usize);

#[derive(Debug, Clone)]
enum Act {
    Enqueue {
        agent: &'static str,
        project: &'static str,
        priority: i16,
        gate: Option<&'static str>,
        limits: Vec<&'static str>,
        label: bool,
        later: bool,
    },
    Claim {
        replica: Index,
        slots: usize,
    },
    Settle {
        run: Index,
        outcome: Outcome,
    },
    Bound {
        limit: &'static str,
        max: Option<i32>,
    },
    /// For a moment, after which it probes, or until it is opened.
    Close {
        limit: &'static str,
        passes: bool,
    },
    Open {
        limit: &'static str,
    },
    Pause {
        what: &'static str,
    },
    Resume {
        what: &'static str,
    },
    Change {
        job: Index,
        change: Change,
    },
    Priority {
        job: Index,
        priority: i16,
    },
    Drain {
        replica: Index,
        on: bool,
    },
    Rules {
        project: &'static str,
        weight: i32,
        serial: Option<bool>,
    },
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let agent = || prop_oneof![5 => Just("a"), 2 => Just("b"), 1 => Just("unserved")];
    let enqueue = (
        agent(),
        select(&PROJECTS[..]),
        0..3_i16,
        option::weighted(0.3, select(&["g", "h"][..])),
        prop_oneof![3 => Just(Vec::new()), 2 => subsequence(&LIMITS[..], 1..=2)],
        prop::bool::weighted(0.15),
        prop::bool::weighted(0.1),
    )
        .prop_map(|(agent, project, priority, gate, limits, label, later)| Act::Enqueue {
            agent,
            project,
            priority,
            gate,
            limits,
            label,
            later,
        });
    let any_limit = || prop_oneof![3 => select(&LIMITS[..]), 1 => select(&UNSAID[..])];
    let outcomes = [Outcome::Succeeded, Outcome::Succeeded, Outcome::Failed, Outcome::Transient];
    let changes = [Change::Hold, Change::Release, Change::Cancel, Change::Retry];
    let act = prop_oneof![
        12 => enqueue,
        4 => (any::<Index>(), 1..4_usize).prop_map(|(replica, slots)| Act::Claim { replica, slots }),
        4 => (any::<Index>(), select(outcomes.to_vec())).prop_map(|(run, outcome)| Act::Settle { run, outcome }),
        2 => (any_limit(), option::of(1..3)).prop_map(|(limit, max)| Act::Bound { limit, max }),
        2 => (any_limit(), any::<bool>()).prop_map(|(limit, passes)| Act::Close { limit, passes }),
        2 => any_limit().prop_map(|limit| Act::Open { limit }),
        1 => select(&UNSAID[..]).prop_map(|what| Act::Pause { what }),
        2 => select(&UNSAID[..]).prop_map(|what| Act::Resume { what }),
        2 => (any::<Index>(), select(changes.to_vec())).prop_map(|(job, change)| Act::Change { job, change }),
        1 => (any::<Index>(), 0..4_i16).prop_map(|(job, priority)| Act::Priority { job, priority }),
        1 => (any::<Index>(), prop::bool::weighted(0.3)).prop_map(|(replica, on)| Act::Drain { replica, on }),
        1 => (select(&PROJECTS[..]), 1..4, option::weighted(0.3, any::<bool>()))
            .prop_map(|(project, weight, serial)| Act::Rules { project, weight, serial }),
    ];
    vec(act, 8..50)
}

/// One or two replicas: alike but for their slots, or different.
fn places() -> impl Strategy<Value = Vec<Place>> {
    let served = || prop_oneof![Just(vec!["a", "b"]), Just(vec!["a"]), Just(vec!["b"])];
    let alike = (served(), any::<bool>(), vec(0..4_usize, 1..=2))
        .prop_map(|(agents, label, slots)| slots.into_iter().map(|slots| (agents.clone(), label, slots)).collect());
    prop_oneof![2 => alike, 1 => vec((served(), any::<bool>(), 0..4_usize), 2..=2)]
}

struct World {
    db: Db,
    client: Client,
    replicas: Vec<(Claimant, Vec<String>, usize)>,
    running: Vec<Claimed>,
    /// Whether every replica takes the same jobs.
    alike: bool,
}

impl World {
    async fn new(test: &TestDb, places: &[Place]) -> Self {
        let db = test.db();
        let mut registered: Vec<_> = AGENTS.iter().map(|name| agent(name)).collect();
        registered[1].limits = vec!["l2".to_owned()];
        for agent in &mut registered {
            agent.max_attempts = 3;
        }
        db.register_agents(&registered.iter().collect::<Vec<_>>()).await.unwrap();
        for (limit, max) in LIMITS.iter().zip([Some(1), Some(2), Some(1), None]) {
            db.set_limit(limit, max).await.unwrap();
        }
        db.set_project("serial", None, Some(true)).await.unwrap();
        let mut replicas = Vec::new();
        for (agents, label, slots) in places {
            let replica_id = ReplicaId::new();
            let agents: Vec<String> = agents.iter().map(|name| (*name).to_owned()).collect();
            let labels: BTreeMap<String, String> =
                label.then(|| ("zone".to_owned(), "eu".to_owned())).into_iter().collect();
            let registration = Registration {
                replica_id,
                name: "played".to_owned(),
                host: "stage".to_owned(),
                boot_id: "boot".to_owned(),
                state_dir_id: replica_id.to_string(),
                version: "test".to_owned(),
                agents: agents.clone(),
                labels,
                max_concurrency: *slots,
                lease: 600.0,
            };
            db.register_replica(&registration).await.unwrap();
            let claimant = Claimant {
                replica_id,
                host: "stage".to_owned(),
                boot_id: "boot".to_owned(),
                serial_gate: true,
                rules: ClaimantRules { max_lost: 3, max_transient: 100, max_interrupted: 100, lease: 600.0 },
            };
            replicas.push((claimant, agents, *slots));
        }
        let alike = places.iter().all(|(agents, label, _)| (agents, label) == (&places[0].0, &places[0].1));
        Self { db, client: test.client().await, replicas, running: Vec::new(), alike }
    }

    /// Does it. What the database refuses in words has changed nothing.
    async fn act(&mut self, act: &Act) {
        match self.try_to(act).await {
            Ok(()) | Err(Error::Refused { .. }) => {}
            Err(error) => panic!("{act:?}: {error:?}"),
        }
    }

    async fn try_to(&mut self, act: &Act) -> orch::db::Result<()> {
        let moment = Some(When::In(Duration::from_millis(1)));
        match act.clone() {
            Act::Enqueue { agent, project, priority, gate, limits, label, later } => {
                let job = NewJob {
                    agent: agent.to_owned(),
                    project: project.to_owned(),
                    priority,
                    run_at: later.then_some(When::In(Duration::from_hours(1))),
                    gate: gate.map(str::to_owned),
                    limits: limits.into_iter().map(str::to_owned).collect(),
                    require: label.then(|| BTreeMap::from([("zone".to_owned(), "eu".to_owned())])),
                    ..NewJob::default()
                };
                self.db.enqueue_job(&job).await.map(drop)
            }
            Act::Claim { replica, slots } => {
                let (claimant, agents, max) = replica.get(&self.replicas);
                let own = |run: &&Claimed| run.owned.replica_id() == claimant.replica_id;
                let free = max.saturating_sub(self.running.iter().filter(own).count()).min(slots);
                if free > 0 {
                    let claim = self.db.claim_jobs(claimant, agents, &run_ids(free), &Look::default()).await?;
                    self.running.extend(claim.jobs);
                }
                Ok(())
            }
            Act::Settle { run, outcome } => {
                if !self.running.is_empty() {
                    let run = self.running.swap_remove(run.index(self.running.len()));
                    let mut ending = Ending::bare(outcome, ClosedBy::Owner, "as played");
                    ending.retry_at = (outcome == Outcome::Transient).then_some(When::In(Duration::ZERO));
                    self.db.settle_runs(vec![run.owned.ended(ending)]).await.map_err(|(error, _)| error)?;
                }
                Ok(())
            }
            Act::Bound { limit, max } => self.db.set_limit(limit, max).await.map(drop),
            Act::Close { limit, passes } => {
                self.db.close_limit(limit, moment.filter(|_| passes), Some("played")).await.map(drop)
            }
            Act::Open { limit } => self.db.open_limit(limit).await.map(drop),
            Act::Pause { what } => self.db.pause(what, None, None).await.map(drop),
            Act::Resume { what } => self.db.resume(what).await.map(drop),
            Act::Change { job, change } => match self.any_job(&job).await {
                Some(id) => self.db.change_jobs(change, &[id]).await.map(drop),
                None => Ok(()),
            },
            Act::Priority { job, priority } => match self.any_job(&job).await {
                Some(id) => self.db.set_job(id, Some(priority), None).await.map(drop),
                None => Ok(()),
            },
            Act::Drain { replica, on } => {
                self.db.set_draining(&[replica.get(&self.replicas).0.replica_id], on).await.map(drop)
            }
            Act::Rules { project, weight, serial } => {
                self.db.set_project(project, Some(weight), serial).await.map(drop)
            }
        }
    }

    async fn any_job(&self, index: &Index) -> Option<JobId> {
        let jobs: i64 = self.client.query_one("select count(*) from orch.jobs", &[]).await.unwrap().get(0);
        (jobs > 0).then(|| JobId(index.index(jobs as usize) as i64 + 1))
    }

    /// Asks `why` of every waiting job and each replica's claim, and compares.
    async fn compare(&self) -> Result<(), TestCaseError> {
        // It asks more than once, so nothing may come due or open by itself in between.
        eventually("a moment in which time changes nothing", async || {
            (!self.client.query_one(SOON, &[]).await.unwrap().get::<_, bool>(0)).then_some(())
        })
        .await;
        let waiting = self.waiting().await;
        let differs = "select w.job_id from (select j.id as job_id, y.reason from orch.jobs j, orch.why(j.id) y
                                              where j.status in ('queued', 'held')) w
                         full join orch.waiting v on v.job_id = w.job_id
                        where w.reason is distinct from v.reason";
        let differs: Vec<i64> = self.client.query(differs, &[]).await.unwrap().iter().map(|row| row.get(0)).collect();
        prop_assert!(differs.is_empty(), "why and orch.waiting differ about {differs:?}");
        let mut counts = BTreeMap::new();
        for job in &waiting {
            *counts.entry(job.reason.clone()).or_insert(0) += 1;
        }
        let counted = self.db.count_waiting(true).await.unwrap();
        let counted: BTreeMap<_, _> = counted.iter().map(|(reason, jobs)| (reason.to_string(), *jobs)).collect();
        prop_assert_eq!(&counts, &counted);

        let contended: bool = self.client.query_one(CONTENDED, &[]).await.unwrap().get(0);
        for (claimant, agents, slots) in &self.replicas {
            let look = Look::default();
            let taken = async |slots: usize| -> BTreeSet<i64> {
                let ids = self.db.list_claimable(claimant, agents, &run_ids(slots), &look).await.unwrap();
                ids.into_iter().map(|id| id.0).collect()
            };
            let id = claimant.replica_id.0;
            let free_to_run: BTreeSet<i64> = waiting
                .iter()
                .filter(|job| matches!(job.reason.as_str(), "next" | "fair_share" | "no_free_slot"))
                .filter(|job| job.served_by.contains(&id))
                .map(|job| job.id)
                .collect();
            let all = taken(ENOUGH).await;
            if self.alike {
                prop_assert_eq!(&all, &free_to_run, "slots without end");
            } else {
                prop_assert!(all.is_subset(&free_to_run), "slots without end: {all:?} of {free_to_run:?}");
            }
            let used = self.running.iter().filter(|run| run.owned.replica_id() == claimant.replica_id).count();
            let free = slots.saturating_sub(used);
            let next: BTreeSet<i64> =
                waiting.iter().filter(|job| job.taken_by.contains(&id)).map(|job| job.id).collect();
            if free == 0 {
                prop_assert!(next.is_empty(), "next without a slot: {next:?}");
                continue;
            }
            let some = taken(free).await;
            if contended {
                let open: BTreeSet<i64> = waiting.iter().filter(|job| job.is_open).map(|job| job.id).collect();
                prop_assert!(some.is_subset(&open), "{free} slots: {some:?} of {open:?}");
                prop_assert_eq!(some.is_empty(), next.is_empty(), "{} slots: {:?}, next {:?}", free, some, next);
            } else {
                prop_assert_eq!(&some, &next, "{} slots", free);
            }
        }
        Ok(())
    }

    async fn waiting(&self) -> Vec<Waiting> {
        let sql = "select j.id, y.reason,
                          array(select jsonb_array_elements_text(y.detail -> 'taken_by'))::uuid[] as taken_by,
                          array(select p.replica_id from orch.replicas p where orch.serves(p, j.agent, j.require)) as served_by,
                          j.claimable and j.run_at <= now() and exists (
                              select from orch.waiting_lanes l
                               where l.project = j.project and l.lane = j.lane and l.reason is null) as is_open
                     from orch.jobs j, orch.why(j.id) y
                    where j.status in ('queued', 'held')
                    order by j.id";
        let rows = self.client.query(sql, &[]).await.unwrap();
        let waiting = rows.iter().map(|row| Waiting {
            id: row.get(0),
            reason: row.get(1),
            taken_by: row.get(2),
            served_by: row.get(3),
            is_open: row.get(4),
        });
        waiting.collect()
    }
}

/// What `why` says of a job.
#[derive(Debug)]
struct Waiting {
    id: i64,
    reason: String,
    taken_by: Vec<uuid::Uuid>,
    served_by: Vec<uuid::Uuid>,
    /// Neither its gate nor a limit, nor anything else, keeps its lane.
    is_open: bool,
}

/// Whether a job comes due soon, or a limit opens.
const SOON: &str = "select exists (select from orch.limits l
                                    where l.closed_until between clock_timestamp() and clock_timestamp() + interval '2 s')
                        or exists (select from orch.jobs j
                                    where j.run_at between clock_timestamp() and clock_timestamp() + interval '2 s')";

/// Whether a job that may run needs a gate, or a limit that has a bound.
const CONTENDED: &str = "select exists (select from orch.waiting_lanes l
                                         where l.run_at <= now() and l.reason is null
                                           and (l.gate is not null
                                                or exists (select from orch.limit_use u
                                                            where u.name = any (l.needs) and u.room is not null)))";

fn run_ids(count: usize) -> Vec<RunId> {
    (0..count).map(|_| RunId::new()).collect()
}

#[test]
fn a_job_is_claimed_exactly_when_nothing_but_a_slot_keeps_it() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seed = number("ORCH_TEST_SEED").unwrap_or_else(|| rand::random::<u32>().into());
    let cases = number("ORCH_TEST_CASES").unwrap_or(8) as u32;
    say(&format!("why::property: seed {seed}"));
    let mut bytes = [0; 32];
    StdRng::seed_from_u64(seed).fill_bytes(&mut bytes);
    let config = Config { cases, failure_persistence: None, max_shrink_iters: 300, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let outcome = runner.run(&(places(), acts()), |(places, acts)| {
        runtime.block_on(async {
            let test = TestDb::new().await;
            let mut world = World::new(&test, &places).await;
            for (step, act) in acts.iter().enumerate() {
                world.act(act).await;
                if step % PACE == PACE - 1 || step + 1 == acts.len() {
                    // One that took long may have seen a job come due.
                    let began = Instant::now();
                    if let Err(error) = world.compare().await {
                        if began.elapsed() < QUICK {
                            return Err(error);
                        }
                        world.compare().await?;
                    }
                }
            }
            Ok(())
        })
    });
    outcome.unwrap_or_else(|failure| panic!("seed {seed}: {failure}"));
}
