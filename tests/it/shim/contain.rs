//! The tree ends whole: in each containment, for each way to hide from it and each way to end.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use orch::{
    model::Containment,
    shim::{
        client::{Ended, attach, sweep},
        protocol::{Cause, Exit, Reason, Spec},
    },
};

use super::stand::{
    LONG, Launched, Stand, contained, containments, is_alive, kill, lock_is_free, processes_of, sh, spec, stop, text_of,
};
use crate::support::eventually;

/// From TERM to KILL in these tests.
const GRACE: Duration = Duration::from_millis(300);
/// A tree is empty within its grace and what a loaded machine needs for a few signals.
const ALLOWED: Duration = Duration::from_secs(5);

/// Four that hide: a session of its own, a double fork, one without a terminal, and one that ignores TERM.
pub(super) const HIDERS: &str = r#"
    setsid -f sh -c 'echo > 1; exec sleep 1001'
    (sh -c 'sh -c "echo > 2; exec sleep 1002" &' &)
    nohup sh -c 'echo > 3; exec sleep 1003' >/dev/null 2>&1 &
    setsid -f sh -c 'trap "" TERM HUP; echo > 4; while :; do sleep 1004; done'
    while ! [ -e 1 -a -e 2 -a -e 3 -a -e 4 ]; do sleep 0.01; done
    echo > ready
"#;

fn script(last: &str) -> String {
    format!("{HIDERS}{last}")
}

async fn launch_hiders(stand: &Stand, spec: &Spec) -> Launched {
    let launched = stand.launch(spec).await;
    text_of(&launched.dir.job_path().join("ready")).await;
    launched
}

fn assert_all_gone(exit: &Exit, spec: &Spec, what: &str) {
    assert_eq!(processes_of(spec.run_id), [0; 0], "{what}");
    assert_eq!(exit.processes_left, 0, "{what}");
    assert_eq!(exit.started.as_ref().unwrap().containment, spec.containment.unwrap(), "{what}");
}

#[tokio::test]
async fn what_a_program_leaves_behind_is_ended_with_it_and_counted() {
    let stand = Stand::new().await;
    for containment in containments() {
        let spec = Spec { kill_grace_ms: 300, ..contained(*containment, &script("exit 3")) };
        let launched = launch_hiders(&stand, &spec).await;
        let began = Instant::now();
        let exit = launched.end().await;
        assert!(began.elapsed() < ALLOWED, "{containment}: {:?}", began.elapsed());
        assert_eq!((exit.exit_code, exit.cause), (Some(3), Cause::Exited), "{containment}");
        // The four, and what the last of them waits for.
        assert!(exit.processes_killed >= 4, "{containment}: {}", exit.processes_killed);
        assert_all_gone(&exit, &spec, containment.as_str());
    }
}

#[tokio::test]
async fn terminate_ends_all_of_it_within_the_grace() {
    let stand = Stand::new().await;
    for containment in containments() {
        let spec = contained(*containment, &script("trap '' TERM; sleep 1000 & while :; do wait; done"));
        let launched = launch_hiders(&stand, &spec).await;
        let began = Instant::now();
        launched.terminate(GRACE, Reason::Cancel).await;
        // The first reason stays.
        launched.terminate(GRACE, Reason::Stop).await;
        let exit = launched.end().await;
        let took = began.elapsed();
        assert!(took >= GRACE && took < GRACE + ALLOWED, "{containment}: {took:?}");
        assert_eq!((exit.signal, exit.cause), (Some(9), Cause::Terminated(Reason::Cancel)), "{containment}");
        assert_all_gone(&exit, &spec, containment.as_str());
    }
}

#[tokio::test]
async fn a_program_that_heeds_term_may_end_as_it_likes() {
    let stand = Stand::new().await;
    for containment in containments() {
        let spec = contained(*containment, "sleep 1000 & trap 'echo bye; exit 7' TERM; echo > ready; wait");
        let launched = stand.launch(&spec).await;
        text_of(&launched.dir.job_path().join("ready")).await;
        launched.terminate(LONG, Reason::Stop).await;
        let exit = launched.end().await;
        assert_eq!((exit.exit_code, exit.cause), (Some(7), Cause::Terminated(Reason::Stop)), "{containment}");
        assert_eq!(stand.text(&spec), "bye\n", "{containment}");
    }
}

#[tokio::test]
async fn a_timeout_ends_all_of_it() {
    let stand = Stand::new().await;
    for containment in containments() {
        let spec = Spec {
            timeout_ms: Some(400),
            kill_grace_ms: 300,
            ..contained(*containment, "setsid -f sh -c 'trap \"\" TERM; while :; do sleep 1000; done'; sleep 1000")
        };
        let began = Instant::now();
        let exit = stand.run(&spec).await;
        let took = began.elapsed();
        assert!(took >= Duration::from_millis(400) && took < ALLOWED, "{containment}: {took:?}");
        assert_eq!((exit.signal, exit.cause), (Some(15), Cause::TimedOut), "{containment}");
        assert_all_gone(&exit, &spec, containment.as_str());
    }
}

#[tokio::test]
async fn a_shim_that_the_machine_tells_to_stop_takes_its_tree_along() {
    let stand = Stand::new().await;
    let spec = Spec { kill_grace_ms: 300, ..spec(sh("sleep 1000")) };
    let mut launched = stand.launch(&spec).await;
    launched.handle.started().await.unwrap();
    kill(launched.shim(), Signal::SIGTERM);
    assert_eq!(launched.end().await.cause, Cause::Terminated(Reason::Stop));
}

#[tokio::test]
async fn a_killed_shim_takes_its_program_along_and_the_sweep_finds_the_rest() {
    for containment in containments() {
        let stand = Stand::new().await;
        let spec = contained(*containment, &script("sleep 1000"));
        let mut launched = launch_hiders(&stand, &spec).await;
        let started = launched.handle.started().await.unwrap();
        // The second subreaper would end some of them too; the sweep alone must do.
        stop(stand.spawner.pid().unwrap()).await;
        kill(launched.shim(), Signal::SIGKILL);
        assert_eq!(tokio::time::timeout(LONG, launched.handle.ended()).await.unwrap(), Ended::ShimGone);
        assert!(attach(&launched.dir).await.unwrap().is_none());
        eventually("the program to follow its shim", async || (!is_alive(started.pid)).then_some(())).await;
        let lock = launched.dir.try_lock().unwrap().expect("the kernel let go of the lock");
        eventually("the tree to be swept", async || {
            (sweep(&launched.dir, &lock).unwrap().remaining == 0).then_some(())
        })
        .await;
        assert_eq!(processes_of(spec.run_id), [0; 0], "{containment}");
        assert!(launched.dir.read_exit().unwrap().is_none());
        drop(lock);
        kill(stand.spawner.pid().unwrap(), Signal::SIGCONT);
        launched.dir.retire().unwrap();
    }
}

#[tokio::test]
async fn the_spawner_ends_what_a_killed_shim_left_to_it() {
    let stand = Stand::new().await;
    // Nothing names the run in their environment, so no sweep could find them.
    let hiders = "setsid -f env -i sleep 1001; (env -i sh -c 'sleep 1002 &' &); echo > ready; sleep 1000";
    let spec = contained(Containment::Sweep, &format!("{hiders} # {}", stand.path().display()));
    let launched = stand.launch(&spec).await;
    text_of(&launched.dir.job_path().join("ready")).await;
    let left = eventually("both to have left", async || {
        let below = children_of_shim(launched.shim());
        (below.len() >= 3).then_some(below)
    })
    .await;
    kill(launched.shim(), Signal::SIGKILL);
    eventually("all of them to be gone", async || (!left.iter().any(|pid| is_alive(*pid))).then_some(())).await;
    lock_is_free(&launched.dir).await;
}

fn children_of_shim(shim: i32) -> Vec<i32> {
    let pids = std::fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter(|pid: &i32| {
        let line = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let parent = line.rsplit(')').next().unwrap_or_default().split_ascii_whitespace().nth(1).map(str::parse);
        parent == Some(Ok(shim))
    })
    .collect()
}

#[tokio::test]
async fn a_thousand_dead_children_leave_no_zombie() {
    let stand = Stand::new().await;
    for containment in containments() {
        // They end when the pipe is opened by what never waits for them; with its end they are the shim's (or the init's).
        let spec = contained(
            *containment,
            "mkfifo gate; i=0; while [ $i -lt 1000 ]; do (: < gate) & i=$((i+1)); done
            echo done; exec sleep 0.5 > gate",
        );
        let exit = stand.run(&spec).await;
        assert_eq!((exit.exit_code, exit.processes_left), (Some(0), 0), "{containment}");
        assert_eq!(stand.text(&spec), "done\n", "{containment}");
    }
    let spawner = stand.spawner.pid().unwrap();
    eventually("the spawner to have no child left", async || children_of_shim(spawner).is_empty().then_some(())).await;
}

#[tokio::test]
async fn a_containment_that_is_not_to_be_had_is_not_replaced_by_a_lesser_one() {
    use orch::shim::client::best_containment;
    let stand = Stand::new().await;
    let survey = best_containment(&super::stand::exe(), stand.path()).unwrap();
    assert_eq!(survey.available.first(), Some(&survey.best));
    assert_eq!(survey.available.len() + survey.refused.len(), Containment::ALL.len());
    for containment in Containment::ALL {
        let exit = stand.run(&contained(*containment, "exit 0")).await;
        if survey.available.contains(containment) {
            assert_eq!(exit.started.unwrap().containment, *containment);
        } else {
            assert!(!exit.never_started.unwrap().temporary);
        }
    }
    let best = stand.run(&Spec { containment: None, ..contained(survey.best, "exit 0") }).await;
    assert_eq!(best.started.unwrap().containment, survey.best);
}
