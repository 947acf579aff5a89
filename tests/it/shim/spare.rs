//! Shims that are forked ahead: they hold nothing, start nothing before the word, and are like any other after it.

use std::{fs, io, path::PathBuf};

use nix::sys::signal::Signal;
use orch::shim::{
    client::{NotStarted, RunHandle, WaitingShim},
    protocol::{Cause, Reason, SpareDir, Spec},
};

use super::stand::{LONG, Launched, Stand, is_alive, kill, lock_is_free, processes_of, sh, spec, stop};
use crate::support::eventually;

/// A spare directory and the shim in it.
struct Spare {
    dir: SpareDir,
    shim: WaitingShim,
}

impl Stand {
    async fn spare(&self) -> Spare {
        let dir = SpareDir::make(self.path()).unwrap();
        let shim = self.spawner.fork_ahead(&dir).await.unwrap();
        Spare { dir, shim }
    }

    /// One that has done all that can be done ahead, and its pid.
    async fn ready(&self) -> (Spare, i32) {
        let before = self.shims();
        let spare = self.spare().await;
        let pid = eventually("a shim to get ready", async || {
            let pid = self.shims().into_iter().find(|pid| !before.contains(pid))?;
            self.spares().iter().all(|dir| dir.join("exit.json.new").exists()).then_some(pid)
        })
        .await;
        (spare, pid)
    }

    fn spares(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.path().join("spares")).into_iter().flatten();
        entries.map(|entry| entry.unwrap().path()).collect()
    }

    fn begin(&self, spare: Spare, spec: &Spec) -> io::Result<RunHandle> {
        let dir = self.dir(spec);
        spare.dir.become_run(&dir, spec, b"{}")?;
        spare.shim.begin(spec.run_id)?.handle()
    }
}

#[tokio::test]
async fn a_run_in_a_spare_shim_is_like_any_other_however_ready_that_was() {
    let stand = Stand::new().await;
    for round in 0..30 {
        let spec = spec(sh("echo $ORCH_RUN_ID; pwd; echo '{}' > result.json; exit 3"));
        // At once its directory is often gone before it has looked; later it has it open.
        let spare = if round % 2 == 0 { stand.spare().await } else { stand.ready().await.0 };
        let handle = stand.begin(spare, &spec).unwrap();
        let dir = stand.dir(&spec);
        let exit = Launched { dir: dir.clone(), handle }.end().await;
        assert_eq!((exit.run_id, exit.exit_code, exit.cause), (spec.run_id, Some(3), Cause::Exited), "{exit:?}");
        assert!(exit.result.is_some());
        let job = fs::canonicalize(dir.job_path()).unwrap();
        assert_eq!(stand.text(&spec), format!("{}\n{}\n", spec.run_id, job.display()));
        let names: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert!(!names.iter().any(|name| name == "spec.json" || name == "exit.json.new"), "{names:?}");
        assert!(stand.spares().is_empty());
    }
}

#[tokio::test]
async fn a_spare_shim_starts_nothing_and_goes_with_its_replica() {
    let stand = Stand::new().await;
    let (spare, pid) = stand.ready().await;
    let Spare { dir, shim } = spare;
    assert!(shim.is_there() && is_alive(pid));
    // Everything stands that a run needs, and only the word is missing.
    let spec = spec(sh("sleep 1000"));
    let run = stand.dir(&spec);
    dir.become_run(&run, &spec, b"{}").unwrap();
    drop(shim);
    eventually("the spare shim to go", async || (!is_alive(pid)).then_some(())).await;
    let lock = run.try_lock().unwrap().expect("nobody holds it");
    assert!(!lock.has_begun().unwrap() && processes_of(spec.run_id).is_empty());
}

#[tokio::test]
async fn a_run_that_was_given_up_before_takes_no_spare_directory() {
    let stand = Stand::new().await;
    let spec = spec(sh("sleep 1000"));
    let run = stand.dir(&spec);
    run.write_void(&run.try_lock_or_make().unwrap().unwrap()).unwrap();
    let (Spare { dir, shim }, pid) = stand.ready().await;
    let error = dir.become_run(&run, &spec, b"{}").unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
    assert!(run.is_void().unwrap() && !run.spec_path().exists());
    assert!(stand.spares().is_empty(), "what stood there is gone with the attempt");
    drop(shim);
    eventually("the spare shim to go", async || (!is_alive(pid)).then_some(())).await;
}

#[tokio::test]
async fn a_run_that_is_given_up_before_the_word_is_heard_does_not_start() {
    let stand = Stand::new().await;
    let (spare, pid) = stand.ready().await;
    let spec = spec(sh("sleep 1000"));
    let run = stand.dir(&spec);
    stop(pid).await;
    let mut handle = stand.begin(spare, &spec).unwrap();
    {
        let lock = run.try_lock().unwrap().expect("the shim has not taken it");
        run.write_void(&lock).unwrap();
    }
    kill(pid, Signal::SIGCONT);
    assert_eq!(tokio::time::timeout(LONG, handle.started()).await.unwrap(), Err(NotStarted::Voided));
    assert!(processes_of(spec.run_id).is_empty());
}

#[tokio::test]
async fn an_order_that_comes_with_the_word_is_not_lost() {
    let stand = Stand::new().await;
    let (spare, pid) = stand.ready().await;
    let spec = spec(sh("sleep 1000"));
    stop(pid).await;
    let handle = stand.begin(spare, &spec).unwrap();
    handle.terminate(LONG, Reason::Cancel).await;
    kill(pid, Signal::SIGCONT);
    let exit = Launched { dir: stand.dir(&spec), handle }.end().await;
    assert!(matches!(exit.cause, Cause::Terminated(Reason::Cancel)), "{exit:?}");
}

#[tokio::test]
async fn a_spare_shim_that_was_ended_has_begun_nothing() {
    let stand = Stand::new().await;
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        let (spare, pid) = stand.ready().await;
        kill(pid, signal);
        eventually("the spare shim to go", async || (!is_alive(pid)).then_some(())).await;
        assert!(!spare.shim.is_there());
        let spec = spec(sh("exit 5"));
        stand.begin(spare, &spec).map(drop).unwrap_err();
        // Its directory is as good as any, for a shim of its own.
        let dir = stand.dir(&spec);
        let handle = stand.spawner.launch(&dir).await.unwrap();
        assert_eq!(Launched { dir, handle }.end().await.exit_code, Some(5));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_spare_shim_outlives_its_spawner() {
    let stand = Stand::new().await;
    let (spare, pid) = stand.ready().await;
    kill(stand.spawner.pid().unwrap(), Signal::SIGKILL);
    let spec = spec(sh("exit 6"));
    let handle = stand.begin(spare, &spec).unwrap();
    let dir = stand.dir(&spec);
    assert_eq!(Launched { dir: dir.clone(), handle }.end().await.exit_code, Some(6));
    lock_is_free(&dir).await;
    eventually("the shim to go", async || (!is_alive(pid)).then_some(())).await;
}
