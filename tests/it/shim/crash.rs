//! Spawner, shim or replica die or stall, and the run's lock decides.

use std::{
    collections::HashSet,
    fs::{self, File},
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use orch::shim::{
    client::{Ended, NotStarted, Spawner, Swept, attach, sweep},
    protocol::{Cause, Reason, RunDir},
};

use super::stand::{
    LONG, Launched, Stand, contained, containments, exe, far_lease, holder_of_lock, is_alive, kill, lock_is_free,
    processes_of, reached, sh, spec, stop, text_of,
};
use crate::support::eventually;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_spawner_is_replaced_at_once_and_no_run_notices() {
    let stand = Stand::new().await;
    let gate = stand.path().join("gate");
    let script = format!("while ! [ -e {} ]; do sleep 0.1; done; exit 9", gate.display());
    let mut runs = Vec::new();
    for _ in 0..100 {
        runs.push(stand.launch(&spec(sh(&script))).await);
    }
    let mut pids = Vec::new();
    for run in &mut runs {
        pids.push(run.handle.started().await.unwrap().pid);
    }
    let spawner = stand.spawner.pid().unwrap();
    kill(spawner, Signal::SIGKILL);
    let began = Instant::now();
    // A request may still reach the dead one's socket; then the handle says that nobody knows.
    let launched = loop {
        let mut launched = stand.launch(&spec(sh("exit 8"))).await;
        match launched.handle.started().await {
            Ok(_) => break launched,
            Err(error) => assert_eq!(error, NotStarted::Unknown),
        }
    };
    println!("replaced within {:?}", began.elapsed());
    assert_eq!(launched.end().await.exit_code, Some(8));
    assert_ne!(stand.spawner.pid(), Some(spawner));
    assert!(pids.iter().all(|pid| is_alive(*pid)));
    File::create(gate).unwrap();
    for run in runs {
        let exit = run.end().await;
        assert_eq!((exit.exit_code, exit.cause, exit.processes_killed), (Some(9), Cause::Exited, 0));
    }
}

#[tokio::test]
async fn spawner_and_shim_have_one_thread_and_no_inherited_environment() {
    let stand = Stand::new().await;
    let mut launched = stand.launch(&spec(sh("sleep 1000"))).await;
    launched.handle.started().await.unwrap();
    for pid in [stand.spawner.pid().unwrap(), launched.shim()] {
        assert_eq!(fs::read_dir(format!("/proc/{pid}/task")).unwrap().count(), 1);
        assert_eq!(fs::read(format!("/proc/{pid}/environ")).unwrap(), b"");
    }
    launched.terminate(Duration::ZERO, Reason::Stop).await;
    launched.end().await;
}

#[tokio::test]
async fn nobody_but_the_shim_holds_the_runs_lock() {
    let stand = Stand::new().await;
    for containment in containments() {
        let spec = contained(*containment, "sleep 1000 & sleep 1000");
        let mut launched = stand.launch(&spec).await;
        launched.handle.started().await.unwrap();
        let shim = launched.shim();
        assert!(launched.dir.try_lock().unwrap().is_none());
        let opened_by = |pid: &i32| {
            let mut fds = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
            fds.any(|fd| fs::read_link(fd.path()).is_ok_and(|target| target == launched.dir.lock_path()))
        };
        let pids = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        let holders: HashSet<i32> = pids.filter(opened_by).collect();
        assert_eq!(holders, HashSet::from([shim]), "{containment}");
        kill(shim, Signal::SIGKILL);
        lock_is_free(&launched.dir).await;
    }
}

#[tokio::test]
async fn nothing_starts_where_void_stands() {
    let stand = Stand::new().await;
    let spec = spec(sh("exit 0"));
    let dir = stand.dir(&spec);
    dir.create(&spec, b"").unwrap();
    let lock = dir.try_lock().unwrap().unwrap();
    // The shim is on its way while the run is given up.
    let mut handle = stand.spawner.launch(&dir).await.unwrap();
    eventually("a shim to be there", async || (!stand.shims().is_empty()).then_some(())).await;
    dir.write_void(&lock).unwrap();
    drop(lock);
    assert_eq!(handle.started().await, Err(NotStarted::Voided));
    let Ended::Exit(exit) = handle.ended().await else { panic!("the shim says so") };
    assert!(exit.voided && exit.started.is_none());
    lock_is_free(&dir).await;
    assert!(dir.is_void().unwrap() && dir.spec_path().exists() && dir.read_exit().unwrap().is_none());
}

#[tokio::test]
async fn nothing_starts_where_there_is_no_directory_or_where_it_went_away() {
    let stand = Stand::new().await;
    let missing = stand.dir(&spec(sh("exit 0")));
    let mut handle = stand.spawner.launch(&missing).await.unwrap();
    assert_eq!(handle.started().await, Err(NotStarted::Voided));
    assert!(!missing.path().exists());

    // Given up by a replica that never saw the directory: it makes it, forbids the start, and takes all of it away while
    // the shim waits for the lock.
    let spec = spec(sh("exit 0"));
    let dir = stand.dir(&spec);
    dir.create(&spec, b"").unwrap();
    let lock = dir.try_lock_or_make().unwrap().unwrap();
    let mut handle = stand.spawner.launch(&dir).await.unwrap();
    eventually("a shim to be there", async || (!stand.shims().is_empty()).then_some(())).await;
    dir.clone().retire().unwrap();
    drop(lock);
    assert_eq!(handle.started().await, Err(NotStarted::Voided));
    assert!(!dir.path().exists());
}

#[tokio::test]
async fn a_run_starts_once_however_often_it_is_asked_for() {
    let stand = Stand::new().await;
    let spec = spec(sh("echo once >> ../../../count; exit 5"));
    let launched = stand.launch(&spec).await;
    let dir = launched.dir.clone();
    assert_eq!(launched.end().await.exit_code, Some(5));
    // Even with the spec still there: the note in the lock says that a shim has been here.
    fs::write(dir.spec_path(), serde_json::to_vec(&spec).unwrap()).unwrap();
    let mut again = stand.spawner.launch(&dir).await.unwrap();
    assert_eq!(again.started().await, Err(NotStarted::Voided));
    assert_eq!(fs::read_to_string(stand.path().join("count")).unwrap(), "once\n");
    assert_eq!(dir.read_exit().unwrap().unwrap().exit_code, Some(5));
}

#[tokio::test]
async fn a_request_left_in_a_stopped_spawner_starts_nothing_once_its_replica_is_gone() {
    let stand = Stand::new().await;
    let marker = stand.path().join("started");
    let spec = spec(sh(&format!("echo > {}", marker.display())));
    let dir = stand.dir(&spec);
    dir.create(&spec, b"").unwrap();
    let spawner = Spawner::start(exe(), stand.path().to_owned(), Duration::from_millis(100)).await.unwrap();
    let pid = spawner.pid().unwrap();
    stop(pid).await;
    let mut handle = spawner.launch(&dir).await.unwrap();
    // The replica is gone: its end of the socket is closed, and its spawner sleeps on the request. The run's own socket is
    // kept, on which a shim would say who it is before anything else.
    let watcher = spawner.clone();
    let shutdown = tokio::spawn(spawner.shutdown());
    eventually("the socket to be closed", async || watcher.pid().is_none().then_some(())).await;
    kill(pid, Signal::SIGCONT);
    eventually("the old spawner to end", async || (!is_alive(pid)).then_some(())).await;
    shutdown.await.unwrap();
    assert_eq!(handle.started().await, Err(NotStarted::Unknown), "no shim was forked");
    assert!(dir.try_lock().unwrap().is_some(), "nobody has ever held its lock");
    assert!(!marker.exists() && dir.spec_path().exists());
}

#[tokio::test]
async fn a_successor_does_not_wait_for_ever_for_a_stopped_spawner() {
    let stand = Stand::new().await;
    let old = stand.spawner.pid().unwrap();
    assert_eq!(holder_of_lock(&stand.path().join("spawner.lock")), Some(old));
    stop(old).await;
    let began = Instant::now();
    let next = Spawner::start(exe(), stand.path().to_owned(), Duration::from_millis(200)).await.unwrap();
    assert!(began.elapsed() >= Duration::from_millis(200));
    let spec = spec(sh("exit 0"));
    let dir = stand.dir(&spec);
    dir.create(&spec, b"").unwrap();
    let mut handle = next.launch(&dir).await.unwrap();
    assert!(matches!(handle.ended().await, Ended::Exit(exit) if exit.exit_code == Some(0)));
    kill(old, Signal::SIGCONT);
    next.shutdown().await;
}

#[tokio::test]
async fn a_successor_reaches_a_live_shim_and_hears_all_of_it() {
    // Longer than a socket's address may be.
    let stand = Stand::new().await;
    let deep = stand.path().join("d".repeat(120));
    fs::create_dir(&deep).unwrap();
    far_lease(&deep);
    let first = Spawner::start(exe(), deep.clone(), Duration::from_secs(1)).await.unwrap();
    let spec = spec(sh("sleep 1000"));
    let dir = RunDir::new(&deep, spec.run_id);
    dir.create(&spec, b"").unwrap();
    let mut handle = first.launch(&dir).await.unwrap();
    let started = handle.started().await.unwrap();
    // The replica is gone, and its spawner with it.
    drop(handle);
    first.shutdown().await;

    let mut successor = reached(&dir).await;
    let mut another = attach(&dir).await.unwrap().expect("it answers more than one");
    assert_eq!(successor.started().await.unwrap(), started);
    assert!(is_alive(started.pid));
    successor.terminate(LONG, Reason::GivenUp).await;
    let Ended::Exit(exit) = successor.ended().await else { panic!("it ends with an exit") };
    assert_eq!((exit.signal, exit.cause), (Some(15), Cause::Terminated(Reason::GivenUp)));
    assert_eq!(another.ended().await, Ended::Exit(exit.clone()));
    successor.stored().await;
    lock_is_free(&dir).await;
    assert_eq!(dir.read_exit().unwrap(), Some(*exit));
    assert!(attach(&dir).await.unwrap().is_none());
}

#[tokio::test]
async fn a_run_can_be_reached_soon_or_when_its_replica_goes_and_one_that_is_over_by_then_never_was() {
    let stand = Stand::new().await;
    // A busy machine may take longer over one.
    eventually("a run to be over before it has a socket", async || {
        let short = stand.launch(&spec(sh("exit 0"))).await;
        let dir = short.dir.clone();
        short.end().await;
        (!dir.socket_path().exists()).then_some(())
    })
    .await;
    // While its replica lives, as one that hands over does.
    let mut held = stand.launch(&spec(sh("sleep 1000"))).await;
    let started = held.handle.started().await.unwrap();
    assert_eq!(reached(&held.dir).await.started().await.unwrap(), started);
    // And when it goes, however soon, also before the program runs.
    let Launched { dir, handle } = stand.launch(&spec(sh("sleep 1000"))).await;
    drop(handle);
    reached(&dir).await.started().await.unwrap();
}

#[tokio::test]
async fn a_run_whose_replica_is_gone_ends_by_itself_and_leaves_its_exit() {
    let stand = Stand::new().await;
    let spec = spec(sh("while ! [ -e go ]; do sleep 0.01; done; echo out; echo result > result.json; exit 4"));
    let mut launched = stand.launch(&spec).await;
    launched.handle.started().await.unwrap();
    let dir = launched.dir.clone();
    drop(launched);
    File::create(dir.job_path().join("go")).unwrap();
    lock_is_free(&dir).await;
    let exit = dir.read_exit().unwrap().unwrap();
    assert_eq!((exit.exit_code, exit.log_bytes_kept), (Some(4), 4));
    assert_eq!(stand.text(&spec), "out\n");
    dir.clone().retire().unwrap();
    assert!(!dir.path().exists());
    assert_eq!(stand.text(&spec), "", "its output went along: it is for the replica to ship it first");
    assert_eq!(RunDir::list(stand.path()).unwrap(), []);
}

#[tokio::test]
async fn a_replica_that_does_not_answer_holds_the_shim_up_for_a_second_only() {
    let stand = Stand::new().await;
    let began = Instant::now();
    let mut launched = stand.launch(&spec(sh("exit 0"))).await;
    assert!(matches!(launched.handle.ended().await, Ended::Exit(_)));
    // Neither `stored` nor the end of the connection.
    lock_is_free(&launched.dir).await;
    assert!(began.elapsed() >= Duration::from_millis(900) && began.elapsed() < Duration::from_secs(25));
}

#[tokio::test]
async fn a_retired_run_leaves_nothing_behind() {
    let stand = Stand::new().await;
    let spec = spec(sh("mkdir -m 0 locked; ln -s / root; echo out; exit 0"));
    let launched = stand.launch(&spec).await;
    let dir = launched.dir.clone();
    launched.end().await;
    dir.retire().unwrap();
    assert_eq!(fs::read_dir(stand.path().join("runs")).unwrap().count(), 0);
    assert!(std::path::Path::new("/bin").exists());
}

#[tokio::test]
async fn a_job_that_kills_its_own_shim_takes_only_its_own_run_along() {
    let stand = Stand::new().await;
    let mut bystander = stand.launch(&spec(sh("sleep 1000"))).await;
    bystander.handle.started().await.unwrap();
    let mut poison = stand.launch(&spec(sh("kill -KILL $PPID; sleep 1000"))).await;
    assert_eq!(poison.handle.ended().await, Ended::ShimGone);
    lock_is_free(&poison.dir).await;
    let mut hung = stand.launch(&spec(sh("trap '' TERM; echo > ready; while :; do sleep 1000; done"))).await;
    text_of(&hung.dir.job_path().join("ready")).await;
    hung.terminate(Duration::from_millis(100), Reason::Cancel).await;
    assert!(matches!(hung.handle.ended().await, Ended::Exit(exit) if exit.signal == Some(9)));
    bystander.terminate(LONG, Reason::Stop).await;
    assert_eq!(bystander.end().await.signal, Some(15));
}

#[tokio::test]
async fn a_note_that_cannot_be_read_hides_no_process() {
    for containment in containments() {
        let stand = Stand::new().await;
        let spec = contained(*containment, "setsid -f sleep 1000; echo > ready; sleep 1000");
        let launched = stand.launch(&spec).await;
        text_of(&launched.dir.job_path().join("ready")).await;
        stop(stand.spawner.pid().unwrap()).await;
        kill(launched.shim(), Signal::SIGKILL);
        lock_is_free(&launched.dir).await;
        // What a crash of the machine may leave of a file.
        fs::write(launched.dir.lock_path(), [0; 174]).unwrap();
        let lock = launched.dir.try_lock().unwrap().unwrap();
        eventually("the tree to be swept", async || {
            (sweep(&launched.dir, &lock).unwrap().remaining == 0).then_some(())
        })
        .await;
        assert_eq!(processes_of(spec.run_id), [0; 0], "{containment}");
        kill(stand.spawner.pid().unwrap(), Signal::SIGCONT);
    }
}

#[tokio::test]
async fn a_run_that_never_began_needs_no_sweep_and_an_exit_that_is_cut_off_says_nothing() {
    let stand = Stand::new().await;
    let spec = spec(sh("exit 0"));
    let dir = stand.dir(&spec);
    dir.create(&spec, b"").unwrap();
    let lock = dir.try_lock().unwrap().unwrap();
    assert_eq!(sweep(&dir, &lock).unwrap(), Swept::default());
    assert_eq!(dir.read_exit().unwrap(), None);
    for cut in ["", "{\"run_id\"", "\0\0\0"] {
        fs::write(dir.exit_path(), cut).unwrap();
        assert_eq!(dir.read_exit().unwrap(), None);
    }
    assert_eq!(RunDir::list(stand.path()).unwrap(), [dir]);
}
