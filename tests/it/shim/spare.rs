//! Shims that are forked ahead: they hold nothing, start nothing before the word, and are like any other after it.

use std::{fs, io, path::PathBuf};

use nix::sys::signal::Signal;
use orch::{
    model::{Containment, RunId},
    shim::{
        client::{NotStarted, RunHandle, WaitingShim, best_containment},
        protocol::{Cause, Reason, RunDir, RunLock, SpareDir, Spec},
    },
};

use super::stand::{self, LONG, Launched, Stand, is_alive, kill, lock_is_free, processes_of, sh, stop};
use crate::support::eventually;

/// A spare directory and the shim in it.
struct Spare {
    dir: SpareDir,
    shim: WaitingShim,
}

impl Spare {
    /// What is to run in it.
    fn spec(&self, argv: Vec<String>) -> Spec {
        Spec { run_id: self.dir.run_id(), ..stand::spec(argv) }
    }
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

    /// Whether a run's process can be forked ahead here: it is born in its cgroup.
    fn forks_ahead(&self) -> bool {
        best_containment(&stand::exe(), self.path()).is_ok_and(|survey| survey.best == Containment::Cgroup)
    }

    /// None where the shim is gone.
    fn tell(&self, spare: Spare, spec: &Spec) -> Option<RunHandle> {
        let dir = self.dir(spec);
        let word = spare.dir.become_run(&dir, spec, b"{}").unwrap();
        spare.shim.begin(&dir, &word).unwrap().map(|begun| begun.handle().unwrap())
    }

    fn begin(&self, spare: Spare, spec: &Spec) -> RunHandle {
        self.tell(spare, spec).expect("a shim that is there")
    }
}

#[tokio::test]
async fn a_run_in_a_spare_shim_is_like_any_other_however_ready_that_was() {
    let stand = Stand::new().await;
    for round in 0..30 {
        // At once its directory is often gone before it has looked; later it has it open.
        let spare = if round % 2 == 0 { stand.spare().await } else { stand.ready().await.0 };
        let mut spec = spare.spec(sh("echo $ORCH_RUN_ID; pwd; echo '{}' > result.json; exit 3"));
        spec.containment = match round % 5 {
            0 | 1 => None,
            other => Some(Containment::ALL[other - 2]),
        };
        let handle = stand.begin(spare, &spec);
        let dir = stand.dir(&spec);
        let exit = Launched { dir: dir.clone(), handle }.end().await;
        assert_eq!((exit.run_id, exit.exit_code, exit.cause), (spec.run_id, Some(3), Cause::Exited), "{exit:?}");
        assert!(exit.result.is_some());
        let job = fs::canonicalize(dir.job_path()).unwrap();
        assert_eq!(stand.text(&spec), format!("{}\n{}\n", spec.run_id, job.display()));
        let names: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert!(!names.iter().any(|name| name == "spec.json" || name == "exit.json.new"), "{names:?}");
        assert!(stand.spares().is_empty() && cgroup_of(&spec).is_none());
    }
}

#[tokio::test]
async fn a_spare_shim_starts_nothing_and_goes_with_its_replica() {
    let stand = Stand::new().await;
    let (spare, pid) = stand.ready().await;
    // Everything stands that a run needs, and only the word is missing.
    let spec = spare.spec(sh("sleep 1000"));
    let Spare { dir, shim } = spare;
    assert!(shim.is_there() && is_alive(pid));
    let run = stand.dir(&spec);
    drop(dir.become_run(&run, &spec, b"{}").unwrap());
    drop(shim);
    eventually("the spare shim to go", async || (!is_alive(pid)).then_some(())).await;
    let lock = run.try_lock().unwrap().expect("nobody holds it");
    assert!(!lock.has_begun().unwrap() && processes_of(spec.run_id).is_empty() && cgroup_of(&spec).is_none());
}

#[tokio::test]
async fn a_run_that_was_given_up_before_takes_no_spare_directory() {
    let stand = Stand::new().await;
    let (spare, pid) = stand.ready().await;
    let spec = spare.spec(sh("sleep 1000"));
    let Spare { dir, shim } = spare;
    let run = stand.dir(&spec);
    run.write_void(&run.try_lock_or_make().unwrap().unwrap()).unwrap();
    let error = dir.become_run(&run, &spec, b"{}").unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
    assert!(run.is_void().unwrap() && !run.spec_path().exists());
    assert!(stand.spares().is_empty(), "what stood there is gone with the attempt");
    drop(shim);
    eventually("the spare shim to go", async || (!is_alive(pid)).then_some(())).await;
}

/// A run that is given up like this, before its shim hears the word, does not start.
async fn does_not_start_once(give_up: impl FnOnce(&RunDir, &RunLock)) {
    let stand = Stand::new().await;
    let (spare, pid) = stand.ready().await;
    let spec = spare.spec(sh("sleep 1000"));
    let run = stand.dir(&spec);
    stop(pid).await;
    let mut handle = stand.begin(spare, &spec);
    give_up(&run, &run.try_lock().unwrap().expect("the shim has not taken it"));
    kill(pid, Signal::SIGCONT);
    assert_eq!(tokio::time::timeout(LONG, handle.started()).await.unwrap(), Err(NotStarted::Voided));
    assert!(processes_of(spec.run_id).is_empty());
}

#[tokio::test]
async fn a_run_that_is_given_up_before_the_word_is_heard_does_not_start() {
    does_not_start_once(|run, lock| run.write_void(lock).unwrap()).await;
}

#[tokio::test]
async fn a_run_that_is_given_up_on_a_full_disk_does_not_start_though_its_shim_knows_what_it_is() {
    // In place of `void`, for which there is no room.
    does_not_start_once(|run, _lock| fs::remove_file(run.spec_path()).unwrap()).await;
}

#[tokio::test]
async fn an_order_that_comes_with_the_word_is_not_lost() {
    let stand = Stand::new().await;
    let (spare, pid) = stand.ready().await;
    let spec = spare.spec(sh("sleep 1000"));
    stop(pid).await;
    let handle = stand.begin(spare, &spec);
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
        let spec = spare.spec(sh("exit 5"));
        assert!(stand.tell(spare, &spec).is_none());
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
    let spec = spare.spec(sh("exit 6"));
    let handle = stand.begin(spare, &spec);
    let dir = stand.dir(&spec);
    assert_eq!(Launched { dir: dir.clone(), handle }.end().await.exit_code, Some(6));
    lock_is_free(&dir).await;
    eventually("the shim to go", async || (!is_alive(pid)).then_some(())).await;
}

#[tokio::test]
async fn the_program_is_the_process_that_waited_for_it() {
    let stand = Stand::new().await;
    if !stand.forks_ahead() {
        return;
    }
    let (spare, pid) = stand.ready().await;
    let unborn = child_of(pid).expect("a process that waits");
    let group = cgroup_of_run(spare.dir.run_id()).expect("the run's cgroup");
    assert_eq!(fs::read_to_string(group.join("cgroup.procs")).unwrap(), format!("{unborn}\n"));
    // What it may hold open says who could hear of a shim's end too late.
    let open = fs::read_dir(format!("/proc/{unborn}/fd")).unwrap().count();
    assert!(open <= 5, "{open} descriptors");
    let spec = spare.spec(sh("echo $$ $(cat /proc/$$/cgroup)"));
    let handle = stand.begin(spare, &spec);
    let exit = Launched { dir: stand.dir(&spec), handle }.end().await;
    assert_eq!(exit.started.unwrap().pid, unborn);
    let text = stand.text(&spec);
    assert!(text.starts_with(&format!("{unborn} ")) && text.contains(&spec.run_id.to_string()), "{text}");
    assert!(!group.exists());
}

#[tokio::test]
async fn a_run_starts_also_where_the_process_that_waited_cannot_become_its_program() {
    let stand = Stand::new().await;
    let script = "test ${#LONG} = $0 && exit 8";
    for length in [10, 60_000, 70_000, 100_000] {
        let (spare, _) = stand.ready().await;
        let mut spec = spare.spec([sh(script), vec![length.to_string()]].concat());
        spec.env.push(("LONG".to_owned(), "x".repeat(length)));
        let handle = stand.begin(spare, &spec);
        assert_eq!(Launched { dir: stand.dir(&spec), handle }.end().await.exit_code, Some(8), "{length}");
    }
    if !stand.forks_ahead() {
        return;
    }
    // It dies when the word is on its way: another is forked.
    let (spare, pid) = stand.ready().await;
    stop(pid).await;
    kill(child_of(pid).unwrap(), Signal::SIGKILL);
    let spec = spare.spec(sh("exit 9"));
    let handle = stand.begin(spare, &spec);
    kill(pid, Signal::SIGCONT);
    assert_eq!(Launched { dir: stand.dir(&spec), handle }.end().await.exit_code, Some(9));
    // It dies before: so does the shim.
    let (spare, pid) = stand.ready().await;
    kill(child_of(pid).unwrap(), Signal::SIGTERM);
    eventually("the spare shim to go", async || (!is_alive(pid)).then_some(())).await;
    assert!(!spare.shim.is_there() && cgroup_of_run(spare.dir.run_id()).is_none());
}

#[tokio::test]
async fn what_a_program_cannot_be_is_said_as_ever() {
    let stand = Stand::new().await;
    for argv in [vec!["/no/such/program".to_owned()], vec![String::new()]] {
        let ordinary = stand.run(&stand::spec(argv.clone())).await.never_started.unwrap();
        let (spare, _) = stand.ready().await;
        let spec = spare.spec(argv);
        let handle = stand.begin(spare, &spec);
        let exit = Launched { dir: stand.dir(&spec), handle }.end().await;
        assert_eq!(exit.never_started, Some(ordinary));
        assert!(cgroup_of(&spec).is_none());
    }
}

#[tokio::test]
async fn a_process_that_waits_goes_with_a_killed_shim_and_its_cgroup_with_the_next_spawner() {
    let stand = Stand::new().await;
    if !stand.forks_ahead() {
        return;
    }
    let (spare, pid) = stand.ready().await;
    let unborn = child_of(pid).unwrap();
    let group = cgroup_of_run(spare.dir.run_id()).unwrap();
    kill(pid, Signal::SIGKILL);
    eventually("the process that waits to go", async || (!is_alive(unborn)).then_some(())).await;
    kill(stand.spawner.pid().unwrap(), Signal::SIGKILL);
    eventually("its cgroup to go", async || (!group.exists()).then_some(())).await;
}

/// The one child of this process.
fn child_of(pid: i32) -> Option<i32> {
    fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?.trim().parse().ok()
}

fn cgroup_of(spec: &Spec) -> Option<PathBuf> {
    cgroup_of_run(spec.run_id)
}

/// The cgroup with the run's name, wherever it is.
fn cgroup_of_run(run_id: RunId) -> Option<PathBuf> {
    let output = std::process::Command::new("find")
        .args(["/sys/fs/cgroup", "-type", "d", "-name", &run_id.to_string()])
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap().lines().next().map(PathBuf::from)
}
