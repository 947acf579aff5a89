//! What the tests of spawner and shim stand on: the real binary as spawner, and a state directory of their own.

use std::{
    fs,
    ops::Deref,
    path::{Path, PathBuf},
    sync::LazyLock,
    time::Duration,
};

use orch::{
    model::{Containment, JobId, ReplicaId, RunId},
    shim::{
        client::{Ended, LeaseFile, RunHandle, Spawner, attach, best_containment, boottime, lease_path},
        log::{LogReader, Piece},
        protocol::{Exit, RunDir, Spec},
    },
};
use tempfile::TempDir;

use crate::support::{self, eventually};

/// Longer than anything that is waited for here, on a loaded machine.
pub(crate) const LONG: Duration = Duration::from_mins(1);

/// Whose runs all of them are, where a test does not say otherwise.
static REPLICA: LazyLock<ReplicaId> = LazyLock::new(ReplicaId::new);

/// One spawner and the runs that it started; all of it is gone with this.
pub(crate) struct Stand {
    pub(crate) state: TempDir,
    pub(crate) spawner: Spawner,
}

/// One run that was launched.
pub(crate) struct Launched {
    pub(crate) dir: RunDir,
    pub(crate) handle: RunHandle,
}

impl Deref for Launched {
    type Target = RunHandle;

    fn deref(&self) -> &RunHandle {
        &self.handle
    }
}

pub(crate) fn exe() -> PathBuf {
    std::env::var_os("ORCH_TEST_PROGRAM").unwrap_or_else(|| env!("CARGO_BIN_EXE_orch").into()).into()
}

/// A state directory through which other users may pass.
pub(crate) fn state_dir() -> TempDir {
    let passable = std::os::unix::fs::PermissionsExt::from_mode(0o711);
    tempfile::Builder::new().prefix("orch-shim-").permissions(passable).tempdir().unwrap()
}

/// The containments that this machine offers; of the others it is said that they were not tested.
pub(crate) fn containments() -> &'static [Containment] {
    static AVAILABLE: LazyLock<Vec<Containment>> = LazyLock::new(|| {
        let survey = best_containment(&exe(), state_dir().path()).unwrap();
        for (containment, why) in survey.refused {
            support::not_run(&format!("containment {containment}"), &why).unwrap();
        }
        survey.available
    });
    &AVAILABLE
}

/// A shell command as argv.
pub(crate) fn sh(script: &str) -> Vec<String> {
    ["/bin/sh", "-c", script].map(str::to_owned).to_vec()
}

/// Asks for nothing but this command.
pub(crate) fn spec(argv: Vec<String>) -> Spec {
    Spec {
        env: vec![("PATH".to_owned(), "/usr/local/bin:/usr/bin:/bin".to_owned())],
        kill_grace_ms: 10_000,
        log_cap: 1024 * 1024,
        ..Spec::bare(RunId::new(), JobId(1), *REPLICA, argv)
    }
}

/// As [`spec`], for a shell command in one containment.
pub(crate) fn contained(containment: Containment, script: &str) -> Spec {
    Spec { containment: Some(containment), ..spec(sh(script)) }
}

/// Gives the replica of [`spec`] a lease there that outlives every test; who starts the shims may read it.
pub(crate) fn far_lease(state_dir: &Path) {
    use std::os::unix::fs::{MetadataExt, chown};
    let lease = LeaseFile::create(state_dir, *REPLICA, boottime() + Duration::from_hours(1));
    drop(lease.unwrap());
    let owner = fs::metadata(state_dir).unwrap();
    let path = lease_path(state_dir, *REPLICA);
    for path in [path.parent().unwrap(), &path] {
        chown(path, Some(owner.uid()), Some(owner.gid())).unwrap();
    }
}

impl Stand {
    pub(crate) async fn new() -> Self {
        Self::with(exe(), state_dir()).await
    }

    pub(crate) async fn with(exe: PathBuf, state: TempDir) -> Self {
        far_lease(state.path());
        let spawner = Spawner::start(exe, state.path().to_owned(), Duration::from_secs(1)).await.unwrap();
        Self { state, spawner }
    }

    pub(crate) fn path(&self) -> &Path {
        self.state.path()
    }

    pub(crate) fn dir(&self, spec: &Spec) -> RunDir {
        RunDir::new(self.path(), spec.run_id)
    }

    pub(crate) async fn launch(&self, spec: &Spec) -> Launched {
        self.launch_with(spec, b"{}").await
    }

    pub(crate) async fn launch_with(&self, spec: &Spec, payload: &[u8]) -> Launched {
        let dir = self.dir(spec);
        dir.create(spec, payload).unwrap();
        let handle = self.spawner.launch(&dir).await.unwrap();
        Launched { dir, handle }
    }

    /// The living children of the spawner.
    pub(crate) fn shims(&self) -> Vec<i32> {
        let spawner = self.spawner.pid().unwrap();
        let text = fs::read_to_string(format!("/proc/{spawner}/task/{spawner}/children")).unwrap();
        text.split_ascii_whitespace().map(|pid| pid.parse().unwrap()).filter(|pid| is_alive(*pid)).collect()
    }

    /// Runs it to its end.
    pub(crate) async fn run(&self, spec: &Spec) -> Exit {
        self.launch(spec).await.end().await
    }

    /// The output that is kept, with what was dropped between its pieces.
    pub(crate) fn output(&self, spec: &Spec) -> (Vec<u8>, Vec<u64>) {
        let mut reader = LogReader::at(self.dir(spec), 0);
        let (mut kept, mut dropped) = (Vec::new(), Vec::new());
        while let Some(piece) = reader.next_piece(1 << 20).unwrap() {
            match piece {
                Piece::Bytes(bytes) => kept.extend(bytes),
                Piece::Dropped(count) => dropped.push(count),
            }
        }
        (kept, dropped)
    }

    pub(crate) fn text(&self, spec: &Spec) -> String {
        String::from_utf8(self.output(spec).0).unwrap()
    }
}

impl Drop for Stand {
    fn drop(&mut self) {
        // What a test left alive knows this place, and a spawner that was killed is being replaced here.
        for _ in 0..50 {
            support::kill_beneath(self.state.path());
            if fs::remove_dir_all(self.state.path()).is_ok() {
                return;
            }
        }
    }
}

impl Launched {
    /// The end, once the shim has let go of the run.
    pub(crate) async fn end(mut self) -> Exit {
        let exit = match tokio::time::timeout(LONG, self.handle.ended()).await.expect("the run ends") {
            Ended::Exit(exit) => *exit,
            Ended::ShimGone => panic!("the shim went away"),
        };
        self.handle.stored().await;
        lock_is_free(&self.dir).await;
        exit
    }

    /// Its shim, from the lock that it holds.
    pub(crate) fn shim(&self) -> i32 {
        holder_of_lock(&self.dir.lock_path()).expect("a shim holds the lock")
    }
}

/// Attaches to the run's shim, which makes its socket a moment after the start, or when its replica has gone.
pub(crate) async fn reached(dir: &RunDir) -> RunHandle {
    eventually("the shim to be reached", async || attach(dir).await.unwrap()).await
}

/// Waits until no shim holds the lock.
pub(crate) async fn lock_is_free(dir: &RunDir) {
    eventually("the shim to let go of the lock", async || match dir.try_lock() {
        Ok(lock) => lock.map(drop),
        // Retired.
        Err(_) => Some(()),
    })
    .await;
}

/// The process that holds a lock on a file, as `/proc/locks` names it.
pub(crate) fn holder_of_lock(path: &Path) -> Option<i32> {
    use std::os::unix::fs::MetadataExt;
    let inode = fs::metadata(path).ok()?.ino();
    let locks = fs::read_to_string("/proc/locks").unwrap();
    locks.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let holds = fields.get(1) == Some(&"FLOCK") && fields.get(5)?.rsplit(':').next()?.parse() == Ok(inode);
        holds.then(|| fields[4].parse().ok())?
    })
}

/// Whether a process with this pid lives; a zombie does not.
pub(crate) fn is_alive(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|line| !line.rsplit(')').next().unwrap_or_default().trim_start().starts_with(['Z', 'X']))
}

/// The living processes whose environment names the run.
pub(crate) fn processes_of(run_id: RunId) -> Vec<i32> {
    let entry = format!("ORCH_RUN_ID={run_id}");
    let pids = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|line| line == entry.as_bytes()) && is_alive(*pid)
    })
    .collect()
}

/// Waits until a file has a text, and gives it.
pub(crate) async fn text_of(path: &Path) -> String {
    eventually("a file to be written", async || fs::read_to_string(path).ok().filter(|text| text.ends_with('\n'))).await
}

pub(crate) fn kill(pid: i32, signal: nix::sys::signal::Signal) {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal).unwrap();
}

/// Stops a process, and waits until it stands.
pub(crate) async fn stop(pid: i32) {
    kill(pid, nix::sys::signal::Signal::SIGSTOP);
    eventually("a process to stand", async || {
        let line = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        line.rsplit(')').next()?.trim_start().starts_with('T').then_some(())
    })
    .await;
}
