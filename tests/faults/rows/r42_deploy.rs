//! Row 42: deploys in mid-job. A planned stop hands the live runs over, a crash leaves them; the next boot of the state
//! directory adopts them, and no job is started twice, nor ended.

use std::{
    fs::OpenOptions,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use nix::{
    sys::{signal::Signal, stat::Mode},
    unistd::mkfifo,
};
use rand::RngExt as _;

use crate::{
    case::{BOUND, BOUND_AFTER_OUTAGE, Case},
    container::{self, Container},
    processes,
    support::{eventually_within, say},
    witness,
};

const DEPLOYS: usize = 10;
const MANY: usize = 200;

/// What a boot leaves its successor here: a busy machine takes its time to start one.
const GRANTED: Duration = Duration::from_secs(30);

/// Jobs that wait until the row lets them go, without a process that turns meanwhile.
pub(super) struct Gate(PathBuf);

impl Gate {
    pub(super) fn new(case: &Case) -> Self {
        let path = case.orch.path("gate");
        mkfifo(&path, Mode::S_IRWXU).unwrap();
        Self(path)
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// Lets go whoever waits, until nobody does.
    pub(super) async fn open(&self, case: &Case, jobs: &[i64]) {
        eventually_within(BOUND_AFTER_OUTAGE, "the waiting jobs to end", async || {
            // Opened without a reader it is an error, which means that nobody waits at the moment.
            let _ = OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK).open(&self.0);
            jobs.iter().all(|job| !witness::is_alive(&case.witness(), *job)).then_some(())
        })
        .await;
    }
}

/// Each job has exactly one interval, from its start to its end.
pub(super) fn each_ran_once(case: &Case, jobs: &[i64]) {
    for job in jobs {
        let seen = witness::intervals(&case.witness(), *job);
        assert!(seen.len() == 1 && seen[0].stop.is_some(), "job {job} must have run once and to its end: {seen:?}");
    }
}

pub(crate) async fn ten_in_a_row_under_load(case: &mut Case) {
    case.orch.set("ORCH_DRAIN", "handover");
    case.orch.set("ORCH_HANDOVER_LEASE", format!("{}s", GRANTED.as_secs()));
    case.orch.set("ORCH_MAX_CONCURRENCY", "12");
    let gate = Gate::new(case);
    case.agent("long", &format!(": < {}", gate.path().display()), "");
    case.agent("short", "sleep \"$(cat)\"", "");
    case.add_node("a").up().await;
    let mut jobs = Vec::new();
    for _ in 0..4 {
        jobs.push(case.enqueue("long").await);
    }
    let long = jobs.clone();
    for job in &long {
        case.until_alive(*job).await;
    }
    for deploy in 0..DEPLOYS {
        for _ in 0..case.random.random_range(4..12) {
            let seconds = serde_json::json!(case.random.random_range(0.0..1.5));
            jobs.push(case.enqueue_with("short", &seconds).await);
        }
        tokio::time::sleep(Duration::from_millis(case.random.random_range(0..800))).await;
        case.node("a").stop().await;
        for job in &long {
            assert!(witness::is_alive(&case.witness(), *job), "job {job} did not survive the stop of deploy {deploy}");
        }
        case.node("a").up().await;
    }
    // Longer than any lease but that of the last boot.
    tokio::time::sleep(GRANTED).await;
    gate.open(case, &long).await;
    for job in &jobs {
        case.until(*job, "succeeded", BOUND_AFTER_OUTAGE).await;
    }
    each_ran_once(case, &jobs);
    for job in long {
        assert_eq!(case.runs(job).await.len(), 1, "job {job}: adopted ten times, and never anything else");
    }
}

/// Ends node a at once, and its spawner with it.
async fn crash(case: &mut Case) {
    processes::signal(case.node("a").process(), Signal::SIGKILL);
    case.node("a").ended().await;
    eventually_within(BOUND, "the old spawner to go", async || case.node("a").spawner().is_none().then_some(())).await;
}

/// Every boot's spawner has the pid of the one before, as in a container that counts from the start.
pub(crate) async fn with_the_pids_of_the_boot_before(case: &mut Case) {
    const LAST_PID: i32 = 500;
    const ATTEMPTS: usize = 10;
    case.orch.set("ORCH_DRAIN", "handover");
    case.orch.set("ORCH_HANDOVER_LEASE", format!("{}s", GRANTED.as_secs()));
    // Of a boot that is killed no more than its lease is left.
    case.orch.set("ORCH_LEASE", format!("{}s", GRANTED.as_secs()));
    let gate = Gate::new(case);
    case.agent("long", &format!(": < {}", gate.path().display()), "");
    let container = Container::start().await;
    container.start_in(case.add_node("a"), LAST_PID);
    case.node("a").until_ready().await;
    let jobs = [case.enqueue("long").await, case.enqueue("long").await, case.enqueue("long").await];
    for job in jobs {
        case.until_alive(job).await;
    }
    let spawner = |case: &mut Case| container::pid_inside(case.node("a").spawner().expect("a spawner"));
    let first = spawner(case);
    for deploy in 0..4 {
        // A crash and a planned stop in turn.
        if deploy % 2 == 0 {
            case.node("a").stop().await;
        } else {
            crash(case).await;
        }
        container.start_in(case.node("a"), LAST_PID);
        case.node("a").until_ready().await;
        // A thread of the boot may have taken the pid: that boot is nothing to go by.
        for _ in 0..ATTEMPTS {
            if spawner(case) == first {
                break;
            }
            crash(case).await;
            container.start_in(case.node("a"), LAST_PID);
            case.node("a").until_ready().await;
        }
        assert_eq!(spawner(case), first, "the spawner has the pid of the one before");
    }
    tokio::time::sleep(GRANTED).await;
    gate.open(case, &jobs).await;
    for job in jobs {
        case.until(job, "succeeded", BOUND).await;
        assert_eq!(case.runs(job).await.len(), 1);
    }
    each_ran_once(case, &jobs);
    case.node("a").stop().await;
}

pub(crate) async fn two_hundred_live_runs(case: &mut Case) {
    case.orch.set("ORCH_DRAIN", "handover");
    case.orch.set("ORCH_HANDOVER_LEASE", format!("{}s", GRANTED.as_secs()));
    // Of the boot that is killed no more than its lease is left.
    case.orch.set("ORCH_LEASE", format!("{}s", GRANTED.as_secs()));
    case.orch.set("ORCH_MAX_CONCURRENCY", MANY.to_string());
    let gate = Gate::new(case);
    case.agent("long", &format!("exec < {}", gate.path().display()), "");
    case.add_node("a").up().await;
    let mut jobs = Vec::new();
    for _ in 0..MANY {
        jobs.push(case.enqueue("long").await);
    }
    let witness = case.witness();
    eventually_within(Duration::from_mins(1), "all to be alive", async || {
        jobs.iter().all(|job| witness::is_alive(&witness, *job)).then_some(())
    })
    .await;
    let stamped = "select count(*) from orch.jobs where pid is not null";
    eventually_within(BOUND, "all to be stamped", async || {
        (case.sql.query_one(stamped, &[]).await.unwrap().get::<_, i64>(0) == MANY as i64).then_some(())
    })
    .await;

    case.node("a").kill().await;
    adopted(case).await;
    case.node("a").stop().await;
    adopted(case).await;
    for job in &jobs {
        assert!(witness::is_alive(&case.witness(), *job), "job {job} did not survive");
    }
    gate.open(case, &jobs).await;
    for job in &jobs {
        case.until(*job, "succeeded", BOUND).await;
        assert_eq!(case.runs(*job).await.len(), 1);
    }
    each_ran_once(case, &jobs);
}

/// Starts the replica, and waits until the last run is its own: before the lease of the boot before would end any, since
/// every one of them lives on. How long it took is a figure, and the machine's.
async fn adopted(case: &mut Case) {
    let former = case.replica_id("a").await;
    let spawned = Instant::now();
    case.node("a").start();
    let mine = "select count(*), coalesce(extract(epoch from clock_timestamp() - min(p.started_at))::float8, 0)
        from orch.jobs j join orch.replicas p using (replica_id)
        where j.status = 'running' and p.name = 'a' and p.replica_id <> $1::text::uuid";
    let took = eventually_within(GRANTED, "every run to be adopted", async || {
        let row = case.sql.query_one(mine, &[&former]).await.unwrap();
        (row.get::<_, i64>(0) == MANY as i64).then(|| Duration::from_secs_f64(row.get(1)))
    })
    .await;
    say(&format!(
        "row 42: {MANY} live runs adopted {:.2} s after the registration, {:.2} s after the start of the process",
        took.as_secs_f64(),
        spawned.elapsed().as_secs_f64()
    ));
    case.node("a").until_ready().await;
}
