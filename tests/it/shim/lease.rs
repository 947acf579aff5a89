//! The lease: what may start under it, what its end does to a tree, and how a run changes to another.

use std::{
    fs,
    os::unix::fs::FileExt as _,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use nix::sys::signal::Signal;
use orch::{
    model::{Containment, ReplicaId},
    shim::{
        client::{Ended, LeaseFile, NotStarted, attach, boottime, lease_path, remove_lease},
        protocol::{Cause, Exit, Reason, RunDir, Spec},
    },
};

use super::{
    contain::HIDERS,
    stand::{
        LONG, Launched, Stand, contained, containments, is_alive, kill, processes_of, reached, sh, spec, stop, text_of,
    },
};
use crate::support::eventually;

/// K: half of it is what a loaded machine has between the KILL and the lease's end.
const GRACE: Duration = Duration::from_secs(2);
/// Enough to start with, and for the hiders to hide.
const LEASE: Duration = Duration::from_secs(6);
/// Main process and descendants stay as long as they can; the main process says when it felt TERM.
const STUBBORN: &str = "trap 'cat /proc/uptime > term' TERM; echo > stubborn; while :; do sleep 1000 & wait; done";

/// A lease of a replica that nobody else knows, from now on.
fn lease(stand: &Stand, left: Duration) -> (ReplicaId, LeaseFile) {
    let replica_id = ReplicaId::new();
    (replica_id, LeaseFile::create(stand.path(), replica_id, boottime() + left).unwrap())
}

fn under(replica_id: ReplicaId, spec: Spec) -> Spec {
    Spec { replica_id, kill_grace_ms: GRACE.as_millis() as u64, ..spec }
}

async fn passed(moment: Duration) {
    eventually("a moment to pass", async || (boottime() > moment).then_some(())).await;
}

/// When the main process of a stubborn run felt TERM, to the hundredth of a second below.
async fn term_at(dir: &RunDir) -> Duration {
    let text = text_of(&dir.job_path().join("term")).await;
    Duration::from_secs_f64(text.split_ascii_whitespace().next().unwrap().parse().unwrap())
}

async fn ended(launched: &mut Launched) -> Exit {
    match tokio::time::timeout(LONG, launched.handle.ended()).await.expect("the run ends") {
        Ended::Exit(exit) => *exit,
        Ended::ShimGone => panic!("the shim went away"),
    }
}

#[tokio::test]
async fn nothing_starts_without_a_lease_that_is_long_enough_and_of_this_boot() {
    let stand = Stand::new().await;
    let (void, _lease) = lease(&stand, LEASE);
    let file = fs::OpenOptions::new().write(true).open(lease_path(stand.path(), void)).unwrap();
    file.write_all_at(b"another", 0).unwrap();
    let (cut, _lease) = lease(&stand, LEASE);
    fs::OpenOptions::new().write(true).open(lease_path(stand.path(), cut)).unwrap().set_len(10).unwrap();
    // It only gets shorter from here.
    let (short, _lease) = lease(&stand, GRACE * 2);
    let (ended, _lease) = lease(&stand, Duration::ZERO);
    for (replica_id, sentence) in [
        (ReplicaId::new(), "its replica has no lease here"),
        (void, "the lease of its replica is of another boot of the machine"),
        (cut, "read the lease of its replica: "),
        (short, "less than twice kill_grace of its replica's lease is left"),
        (ended, "less than twice kill_grace of its replica's lease is left"),
    ] {
        let spec = under(replica_id, spec(sh("echo > ../../../started")));
        let mut launched = stand.launch(&spec).await;
        let Err(NotStarted::Failed(error)) = launched.handle.started().await else { panic!("it started") };
        assert!(error.temporary && error.message.starts_with(sentence), "{error}");
        let dir = launched.dir.clone();
        assert_eq!(launched.end().await.never_started.as_ref(), Some(&error));
        assert_eq!(dir.read_exit().unwrap().unwrap().never_started, Some(error));
        assert!(!stand.path().join("started").exists());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_that_is_not_renewed_ends_all_of_a_tree_before_it_ends() {
    let stand = Stand::new().await;
    join_all(containments().iter().map(async |containment| {
        let (replica_id, lease) = lease(&stand, LEASE);
        let spec = under(replica_id, contained(*containment, &format!("{HIDERS}{STUBBORN}")));
        let mut launched = stand.launch(&spec).await;
        text_of(&launched.dir.job_path().join("ready")).await;
        let exit = ended(&mut launched).await;
        let gone_at = boottime();
        assert_eq!(processes_of(spec.run_id), [0; 0], "{containment}");
        let (deadline, term_at) = (lease.deadline(), term_at(&launched.dir).await + Duration::from_millis(10));
        assert!(
            term_at + GRACE >= deadline && term_at + GRACE / 2 < deadline,
            "{containment}: {term_at:?} {deadline:?}"
        );
        assert!(gone_at + GRACE / 2 >= deadline && gone_at < deadline, "{containment}: {gone_at:?} {deadline:?}");
        assert_eq!((exit.cause, exit.signal, exit.processes_left), (Cause::Fenced, Some(9), 0), "{containment}");
        // The hider that ignores TERM, and what it waits for.
        assert!(exit.processes_killed >= 2, "{containment}: {}", exit.processes_killed);
    }))
    .await;
}

#[tokio::test]
async fn what_heeds_term_ends_as_it_likes_and_a_renewal_that_comes_too_late_revives_nothing() {
    let stand = Stand::new().await;
    let (heeding, _lease) = lease(&stand, LEASE);
    let heeds = under(heeding, spec(sh("trap 'exit 7' TERM; sleep 1000 & wait")));
    let (late, mut renewed) = lease(&stand, LEASE);
    let mut stubborn = stand.launch(&under(late, spec(sh(STUBBORN)))).await;
    let exit = stand.run(&heeds).await;
    assert_eq!((exit.cause, exit.exit_code), (Cause::Fenced, Some(7)));
    term_at(&stubborn.dir).await;
    let deadline = renewed.deadline();
    renewed.extend(deadline + LONG).unwrap();
    let exit = ended(&mut stubborn).await;
    assert_eq!((exit.cause, exit.signal), (Cause::Fenced, Some(9)));
    assert!(boottime() < deadline);
}

#[tokio::test]
async fn no_other_grace_outlives_the_lease_and_who_asked_first_is_named() {
    let stand = Stand::new().await;
    let (replica_id, lease) = lease(&stand, LEASE);
    let mut launched = stand.launch(&under(replica_id, spec(sh(STUBBORN)))).await;
    text_of(&launched.dir.job_path().join("stubborn")).await;
    launched.terminate(LONG, Reason::Cancel).await;
    let exit = ended(&mut launched).await;
    let gone_at = boottime();
    assert_eq!((exit.cause, exit.signal), (Cause::Terminated(Reason::Cancel), Some(9)));
    assert!(gone_at + GRACE / 2 >= lease.deadline() && gone_at < lease.deadline());
}

#[tokio::test]
async fn a_lease_that_is_renewed_keeps_its_runs_alive() {
    let stand = Stand::new().await;
    let (replica_id, mut lease) = lease(&stand, LEASE);
    let mut launched = stand.launch(&under(replica_id, spec(sh("exec sleep 1000")))).await;
    let pid = launched.handle.started().await.unwrap().pid;
    let first = lease.deadline();
    eventually("the first deadline to pass", async || {
        lease.extend(boottime() + LEASE).unwrap();
        (boottime() > first).then_some(())
    })
    .await;
    assert!(is_alive(pid));
    let last = lease.deadline();
    // The replica is gone, and its lease with it: the last deadline stands.
    remove_lease(stand.path(), replica_id).unwrap();
    drop((launched.handle, lease));
    let exit = eventually("its end to be written", async || launched.dir.read_exit().unwrap()).await;
    let now = boottime();
    assert!(now + GRACE >= last && now < last && !is_alive(pid));
    assert_eq!((exit.cause, exit.signal), (Cause::Fenced, Some(15)));
}

#[tokio::test]
async fn a_run_follows_its_new_owners_lease_and_the_former_one_may_go() {
    let stand = Stand::new().await;
    let (former, lease_of_former) = lease(&stand, LEASE);
    let (next, _lease) = lease(&stand, LONG);
    let mut launched = stand.launch(&under(former, spec(sh("exec sleep 1000")))).await;
    let pid = launched.handle.started().await.unwrap().pid;
    let dir = launched.dir.clone();
    drop(launched);
    let mut adopted = reached(&dir).await;
    assert!(adopted.follow(next).await && adopted.follow(next).await);
    let mut listener = attach(&dir).await.unwrap().expect("a shim answers");
    assert!(listener.follow(next).await);
    remove_lease(stand.path(), former).unwrap();
    passed(lease_of_former.deadline()).await;
    assert!(is_alive(pid));
    adopted.terminate(Duration::ZERO, Reason::Stop).await;
    assert!(matches!(adopted.ended().await, Ended::Exit(exit) if exit.cause == Cause::Terminated(Reason::Stop)));
    // The shim still waits to hear that the end is stored: whoever comes now hears that there is nothing to adopt.
    let mut late = attach(&dir).await.unwrap().expect("the shim is there for a second");
    assert!(!late.follow(ReplicaId::new()).await);
    assert!(matches!(late.ended().await, Ended::Exit(_)));
    adopted.stored().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_that_grants_nothing_is_not_followed() {
    let stand = Stand::new().await;
    let (void, _lease) = lease(&stand, LONG);
    let file = fs::OpenOptions::new().write(true).open(lease_path(stand.path(), void)).unwrap();
    file.write_all_at(b"another", 0).unwrap();
    let (over, _lease) = lease(&stand, GRACE);
    join_all([ReplicaId::new(), void, over].map(async |no_owner| {
        let (owner, lease) = lease(&stand, LEASE);
        let mut launched = stand.launch(&under(owner, spec(sh("exec sleep 1000")))).await;
        launched.handle.started().await.unwrap();
        // It is told nothing until the old lease has ended the run.
        assert!(!launched.handle.follow(no_owner).await);
        let gone_at = boottime();
        assert!(gone_at + GRACE >= lease.deadline() && gone_at < lease.deadline());
        assert_eq!(ended(&mut launched).await.cause, Cause::Fenced);
    }))
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shim_that_was_frozen_beyond_its_lease_ends_its_tree_right_after_the_thaw() {
    let stand = Stand::new().await;
    join_all(containments().iter().map(async |containment: &Containment| {
        let (replica_id, lease) = lease(&stand, LEASE);
        let spec = under(replica_id, contained(*containment, &format!("{HIDERS}{STUBBORN}")));
        let mut launched = stand.launch(&spec).await;
        text_of(&launched.dir.job_path().join("ready")).await;
        let shim = launched.shim();
        stop(shim).await;
        passed(lease.deadline()).await;
        assert!(processes_of(spec.run_id).len() > 4, "{containment}: nobody but the shim ends them");
        let began = Instant::now();
        kill(shim, Signal::SIGCONT);
        let exit = ended(&mut launched).await;
        assert!(began.elapsed() < GRACE, "{containment}: {:?}", began.elapsed());
        assert_eq!((exit.cause, exit.processes_left), (Cause::Fenced, 0), "{containment}");
        assert_eq!(processes_of(spec.run_id), [0; 0], "{containment}");
    }))
    .await;
}

#[tokio::test]
async fn a_shim_that_was_frozen_while_its_lease_was_renewed_goes_on() {
    let stand = Stand::new().await;
    let (replica_id, mut lease) = lease(&stand, LEASE);
    let mut launched = stand.launch(&under(replica_id, spec(sh(STUBBORN)))).await;
    let pid = launched.handle.started().await.unwrap().pid;
    let shim = launched.shim();
    stop(shim).await;
    passed(lease.deadline()).await;
    lease.extend(boottime() + LONG).unwrap();
    kill(shim, Signal::SIGCONT);
    // Answered by a shim that has looked at its lease.
    assert!(launched.handle.follow(replica_id).await);
    assert!(is_alive(pid) && !launched.dir.job_path().join("term").exists());
    launched.terminate(Duration::ZERO, Reason::Stop).await;
    assert_eq!(ended(&mut launched).await.cause, Cause::Terminated(Reason::Stop));
}

#[tokio::test]
async fn an_idle_shim_wakes_once_a_second() {
    let stand = Stand::new().await;
    let spec = Spec { kill_grace_ms: 10_000, ..spec(sh("exec sleep 1000")) };
    let mut launched = stand.launch(&spec).await;
    launched.handle.started().await.unwrap();
    let status = format!("/proc/{}/status", launched.shim());
    let wakes = || {
        let text = fs::read_to_string(&status).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:")).unwrap();
        line.trim().parse::<u64>().unwrap()
    };
    let (began, before) = (Instant::now(), wakes());
    passed(boottime() + Duration::from_secs(4)).await;
    let (took, woken) = (began.elapsed(), wakes() - before);
    assert!(woken >= 2 && woken <= took.as_secs() + 2, "{woken} times within {took:?}");
}
