//! Row 23: jobs that daemonise and ignore TERM. When a run has ended, by itself, by its timeout, by a cancel or by the
//! fence, which ends trees without their replica, its tree is empty.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::{
    bound::{BUSY, LEASE},
    case::{BOUND, Case, KILL_GRACE},
    processes::with_environment,
    support::{eventually, eventually_within},
    witness,
};

const WAYS: [(&str, &str); 4] = [
    ("setsid", "setsid -f sleep 100000"),
    ("double_fork", "( ( sleep 100000 & ) & )"),
    ("nohup", "nohup sleep 100000 >/dev/null 2>&1 &"),
    ("deaf", "setsid -f sh -c 'trap \"\" TERM HUP INT; while :; do sleep 1000; done'; trap '' TERM"),
];

pub(crate) async fn in_a_cgroup(case: &mut Case) {
    every_way_and_end(case, "cgroup").await;
}

pub(crate) async fn in_a_pid_namespace(case: &mut Case) {
    every_way_and_end(case, "pidns").await;
}

pub(crate) async fn with_a_sweep(case: &mut Case) {
    every_way_and_end(case, "sweep").await;
}

pub(crate) async fn fenced_in_a_cgroup(case: &mut Case) {
    fenced(case, "cgroup").await;
}

pub(crate) async fn fenced_in_a_pid_namespace(case: &mut Case) {
    fenced(case, "pidns").await;
}

pub(crate) async fn fenced_with_a_sweep(case: &mut Case) {
    fenced(case, "sweep").await;
}

/// The replica does not move any more: by the end of its lease nothing of its runs lives.
async fn fenced(case: &mut Case, containment: &str) {
    for (way, script) in WAYS {
        let first = format!("test \"$ORCH_ATTEMPT\" -gt 1 && exit 0\n{script}\nwhile :; do sleep 1000; done");
        case.agent(&format!("stays_{way}"), &first, &format!("containment = \"{containment}\"\nmax_attempts = 1"));
    }
    case.up().await;
    let mut jobs = Vec::new();
    for (way, _) in WAYS {
        jobs.push(case.enqueue(&format!("stays_{way}")).await);
    }
    for job in &jobs {
        case.until_alive(*job).await;
    }
    case.replica().signal(Signal::SIGSTOP);
    for job in &jobs {
        let word = format!("ORCH_RUN_ID={}", case.runs(*job).await[0].get::<_, &str>("run"));
        eventually_within(LEASE + BUSY, &format!("the tree of job {job} to be fenced"), async || {
            (!witness::is_alive(&case.witness(), *job) && with_environment(&word).is_empty()).then_some(())
        })
        .await;
    }
    case.replica().signal(Signal::SIGCONT);
    for job in jobs {
        case.until(job, "succeeded", BOUND).await;
        let first = case.outcomes(job).await.swap_remove(0);
        assert!(matches!(first.as_deref(), Some("interrupted" | "lost")), "job {job}: {first:?}");
    }
}

async fn every_way_and_end(case: &mut Case, containment: &str) {
    case.orch.set("ORCH_MAX_CONCURRENCY", "16");
    let common = format!("containment = \"{containment}\"\nmax_attempts = 1");
    for (way, script) in WAYS {
        case.agent(&format!("ends_{way}"), script, &common);
        case.agent(&format!("stays_{way}"), &format!("{script}\nwhile :; do sleep 1000; done"), &common);
        let timeout = format!("{common}\ntimeout = \"1s\"");
        case.agent(&format!("late_{way}"), &format!("{script}\nwhile :; do sleep 1000; done"), &timeout);
    }
    case.up().await;
    for (way, _) in WAYS {
        let ends = case.enqueue(&format!("ends_{way}")).await;
        case.until(ends, "succeeded", BOUND).await;
        ended(case, ends, "succeeded", containment).await;
        let killed: Option<i32> = case.runs(ends).await[0].get("processes_killed");
        assert!(killed >= Some(1), "{way}: the run says how many it left behind: {killed:?}");

        let late = case.enqueue(&format!("late_{way}")).await;
        let stays = case.enqueue(&format!("stays_{way}")).await;
        case.until_alive(stays).await;
        let asked = Instant::now();
        case.sql.execute("select orch.cancel($1)", &[&stays]).await.unwrap();
        case.until(stays, "cancelled", BOUND).await;
        // A poll until the replica hears of it, K until the KILL, and what settling takes on a busy machine.
        let bound = KILL_GRACE + Duration::from_secs(4);
        assert!(asked.elapsed() < bound, "{way}: cancelled only after {:?}", asked.elapsed());
        ended(case, stays, "cancelled", containment).await;

        case.until(late, "failed", BOUND).await;
        ended(case, late, "timed_out", containment).await;
    }
}

/// The run ended so, and nothing of its tree is left: neither by the witness's lock nor by the environment.
async fn ended(case: &Case, job: i64, outcome: &str, containment: &str) {
    let run = &case.runs(job).await[0];
    assert_eq!(run.get::<_, Option<&str>>("outcome"), Some(outcome), "job {job}: {run:?}");
    assert_eq!(run.get::<_, Option<&str>>("containment"), Some(containment));
    assert!(!witness::is_alive(&case.witness(), job), "job {job}: its tree outlived its run, which ended as {outcome}");
    let word = format!("ORCH_RUN_ID={}", run.get::<_, &str>("run"));
    // The shim itself may take a moment to leave, and has the variable in no environment of its own.
    eventually("the run's processes to be gone", async || with_environment(&word).is_empty().then_some(())).await;
}
