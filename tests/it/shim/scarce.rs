//! Users, limits and want: other users, an ordinary user's spawner, no descriptors, no processes, no space.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use orch::{
    model::Containment,
    shim::{
        client::{NotStarted, Spawner, best_containment},
        protocol::{ResultFile, RunDir, SpawnError, Spec, Stdin},
    },
};
use tempfile::TempDir;

use super::stand::{Launched, Stand, contained, containments, exe, far_lease, sh, spec, state_dir};
use crate::support::{Capability, requires};

const NOBODY: u32 = 65534;
/// A user without a name, whose processes nobody else's test counts among.
const ALONE: u32 = 61_234;

async fn error_of(mut launched: Launched) -> SpawnError {
    match launched.handle.started().await {
        Err(NotStarted::Failed(error)) => error,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_user_of_its_own_reads_the_payload_writes_the_result_and_nothing_else() {
    if !requires(&[Capability::Root]) {
        return;
    }
    let stand = Stand::new().await;
    for containment in containments() {
        let script = "cat; cat ../payload.json; id -u; id -g; id -G; umask
            for name in exit.json void socket lock; do echo forged > ../$name; done 2>/dev/null
            ls .. 2>/dev/null; cat ../lock 2>/dev/null
            echo '{}' > result.json";
        let user = Some("nobody".to_owned());
        let spec = Spec { user, stdin: Stdin::Payload, ..contained(*containment, script) };
        let exit = stand.launch_with(&spec, b"payload\n").await.end().await;
        assert_eq!(exit.exit_code, Some(0), "{containment}: {}", stand.text(&spec));
        assert_eq!(stand.text(&spec), "payload\npayload\n65534\n65534\n65534\n0022\n", "{containment}");
        assert_eq!(exit.result, Some(ResultFile::Text("{}\n".into())));
        assert!(!stand.dir(&spec).void_path().exists());
        stand.dir(&spec).retire().unwrap();
    }
}

#[tokio::test]
async fn a_user_who_cannot_reach_the_run_is_told_which_directories_to_open() {
    if !requires(&[Capability::Root]) {
        return;
    }
    let stand = Stand::new().await;
    fs::set_permissions(stand.path(), PermissionsExt::from_mode(0o700)).unwrap();
    let spec = Spec { user: Some("nobody".into()), cwd: Some("/".into()), ..spec(sh("exit 0")) };
    let error = error_of(stand.launch(&spec).await).await;
    assert!(!error.temporary && error.message.contains("mode o+x"), "{error}");
}

#[tokio::test]
async fn limits_are_had_or_it_is_said_how_not() {
    let stand = Stand::new().await;
    for containment in containments() {
        let spec = Spec {
            memory_max: Some(256 << 20),
            pids_max: Some(50),
            user: nix::unistd::geteuid().is_root().then(|| "nobody".to_owned()),
            ..contained(*containment, "cat /proc/self/limits")
        };
        let exit = stand.run(&spec).await;
        let started = exit.started.unwrap();
        let text = stand.text(&spec);
        let soft = |name| text.lines().find_map(|line: &str| line.strip_prefix(name)?.split_ascii_whitespace().next());
        let says = |word: &str| started.remarks.iter().any(|remark| remark.starts_with(word));
        assert_eq!(
            says("memory_max"),
            soft("Max data size") == Some("268435456"),
            "{containment}: {:?}",
            started.remarks
        );
        if nix::unistd::geteuid().is_root() {
            assert_eq!(says("pids_max"), soft("Max processes") == Some("50"), "{containment}: {:?}", started.remarks);
        }
        // Whatever holds a process alone is said, and nothing else is.
        let alone = [says("memory_max"), says("pids_max")];
        assert_eq!(started.remarks.len(), alone.iter().filter(|said| **said).count(), "{:?}", started.remarks);
    }
}

/// A spawner that is not root, as an ordinary user's is, in a state directory of its own.
struct Ordinary {
    _home: TempDir,
    exe: PathBuf,
    state: TempDir,
    uid: u32,
}

impl Ordinary {
    fn new(uid: u32, before: &str) -> Self {
        let home = state_dir();
        // The build directory need not let others pass.
        let binary = home.path().join("orch");
        fs::hard_link(exe(), &binary).or_else(|_| fs::copy(exe(), &binary).map(drop)).unwrap();
        let wrapper = home.path().join("orch-as-nobody");
        let script = format!(
            "#!/bin/sh\nPATH=/usr/bin:/bin exec {before} setpriv --reuid={uid} --regid={uid} --clear-groups {} \"$@\"\n",
            binary.display()
        );
        fs::write(&wrapper, script).unwrap();
        fs::set_permissions(&wrapper, PermissionsExt::from_mode(0o755)).unwrap();
        let state = state_dir();
        chown(state.path(), Some(uid), Some(uid)).unwrap();
        Self { _home: home, exe: wrapper, state, uid }
    }
}

/// Gives a run that root made to the user whose spawner starts it.
fn give(path: &Path, uid: u32) {
    assert!(Command::new("chown").arg("-R").arg(uid.to_string()).arg(path).status().unwrap().success());
}

async fn launch_given(stand: &Stand, spec: &Spec, uid: u32) -> Launched {
    let dir = stand.dir(spec);
    dir.create(spec, b"").unwrap();
    give(dir.path(), uid);
    let handle = stand.spawner.launch(&dir).await.unwrap();
    Launched { dir, handle }
}

#[tokio::test]
async fn an_ordinary_user_has_what_the_survey_says() {
    if !requires(&[Capability::Root, Capability::PidNamespace]) {
        return;
    }
    let ordinary = Ordinary::new(NOBODY, "");
    let survey = best_containment(&ordinary.exe, ordinary.state.path()).unwrap();
    let stand = Stand::with(ordinary.exe.clone(), ordinary.state).await;
    for containment in Containment::ALL {
        let hide = "setsid -f sleep 1000; id -u; exit 3";
        let spec = Spec { kill_grace_ms: 200, ..contained(*containment, hide) };
        let exit = launch_given(&stand, &spec, NOBODY).await.end().await;
        if survey.available.contains(containment) {
            assert_eq!((exit.exit_code, exit.processes_left), (Some(3), 0), "{containment}: {exit:?}");
            assert_eq!(exit.started.unwrap().containment, *containment);
            assert_eq!(stand.text(&spec), "65534\n", "{containment}");
            assert_eq!(super::stand::processes_of(spec.run_id), [0; 0], "{containment}");
        } else {
            assert!(!exit.never_started.unwrap().temporary);
        }
    }
    assert!(survey.refused.iter().any(|(containment, why)| *containment == Containment::Cgroup && !why.is_empty()));
    let other = Spec { user: Some("root".into()), ..spec(sh("exit 0")) };
    let error = error_of(launch_given(&stand, &other, NOBODY).await).await;
    assert!(!error.temporary && error.message.contains("only root"), "{error}");
    let itself = Spec { user: Some("nobody".into()), ..spec(sh("exit 0")) };
    assert_eq!(launch_given(&stand, &itself, NOBODY).await.end().await.exit_code, Some(0));
}

#[tokio::test]
async fn want_of_processes_is_temporary() {
    if !requires(&[Capability::Root]) {
        return;
    }
    // Root is exempt from this limit. The spawner itself is the one process that it may have.
    let ordinary = Ordinary::new(ALONE, "prlimit --nproc=1");
    let uid = ordinary.uid;
    let stand = Stand::with(ordinary.exe.clone(), ordinary.state).await;
    let error = error_of(launch_given(&stand, &spec(sh("exit 0")), uid).await).await;
    assert!(error.temporary && error.message.starts_with("fork a shim"), "{error}");
}

#[tokio::test]
async fn want_of_descriptors_is_temporary_and_passes() {
    let stand = Stand::new().await;
    let limit = |count: u32| {
        let spawner = stand.spawner.pid().unwrap().to_string();
        // The soft limit alone, so that it can be raised again.
        let status = Command::new("prlimit").args(["--pid", &spawner]).arg(format!("--nofile={count}:")).status();
        assert!(status.unwrap().success());
    };
    // The shim closes what is not its own, so it fails at one step or another, by how many are left to it.
    let mut refusals = 0;
    for count in 7..24 {
        limit(count);
        let mut launched = stand.launch(&spec(sh("exit 0"))).await;
        match launched.handle.started().await {
            Err(NotStarted::Failed(error)) => {
                assert!(error.temporary && error.message.contains("Too many open files"), "{count}: {error}");
                refusals += 1;
                launched.end().await;
            }
            Ok(_) => assert_eq!(launched.end().await.exit_code, Some(0), "{count}"),
            // The spawner itself could not take the channel; the lock says that nothing began.
            Err(NotStarted::Unknown) => assert!(launched.dir.try_lock().unwrap().is_some(), "{count}"),
            Err(NotStarted::Voided) => panic!("{count}: nobody gave it up"),
        }
    }
    assert!(refusals > 0, "a shim was out of descriptors at least once");
    limit(1024);
    assert_eq!(stand.run(&spec(sh("exit 0"))).await.exit_code, Some(0));
}

/// A state directory of 8 MB.
struct SmallDisk(TempDir);

impl SmallDisk {
    fn new() -> Self {
        let state = state_dir();
        mount(Some("tmpfs"), state.path(), Some("tmpfs"), MsFlags::empty(), Some("size=8m,mode=711")).unwrap();
        Self(state)
    }

    fn fill(&self) -> PathBuf {
        let filler = self.0.path().join("filler");
        let status = Command::new("dd")
            .args(["if=/dev/zero", "bs=4k", "status=none"])
            .arg(format!("of={}", filler.display()))
            .output();
        assert!(!status.unwrap().status.success(), "the disk is full");
        filler
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = umount2(self.0.path(), MntFlags::MNT_DETACH);
    }
}

#[tokio::test]
async fn a_full_disk_starts_nothing_loses_no_end_and_passes() {
    if !requires(&[Capability::Root, Capability::Mount]) {
        return;
    }
    let disk = SmallDisk::new();
    far_lease(disk.0.path());
    let spawner = Spawner::start(exe(), disk.0.path().to_owned(), Duration::from_secs(1)).await.unwrap();
    let dir_of = |spec: &Spec| RunDir::new(disk.0.path(), spec.run_id);

    // Filled while the job runs: the end stands, the output that was not kept is counted.
    let full = spec(sh(
        "echo before; head -c 20M /dev/zero > filler 2>/dev/null; for i in 1 2 3; do yes | head -c 300000; done; exit 3",
    ));
    let dir = dir_of(&full);
    dir.create(&full, b"").unwrap();
    let launched = Launched { handle: spawner.launch(&dir).await.unwrap(), dir };
    let dir = launched.dir.clone();
    let exit = launched.end().await;
    assert_eq!((exit.exit_code, exit.log_bytes_kept + exit.log_bytes_dropped), (Some(3), 900_007));
    assert!(exit.log_bytes_dropped > 0, "{exit:?}");
    assert_eq!(dir.read_exit().unwrap(), Some(exit));
    dir.retire().unwrap();

    // Made before the disk was full: refused for now, with the reason, and nothing ran.
    let late = spec(sh("echo > /proc/self/fd/1"));
    let dir = dir_of(&late);
    dir.create(&late, b"").unwrap();
    let filler = disk.fill();
    let error = error_of(Launched { handle: spawner.launch(&dir).await.unwrap(), dir: dir.clone() }).await;
    assert!(error.temporary && error.message.contains("No space left on device"), "{error}");

    // Full before: not even the directory is left.
    let refused = spec(sh("exit 0"));
    let error = dir_of(&refused).create(&refused, &[b'x'; 10_000]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
    assert!(!dir_of(&refused).path().exists());

    fs::remove_file(filler).unwrap();
    let after = spec(sh("exit 0"));
    let dir = dir_of(&after);
    dir.create(&after, b"").unwrap();
    assert_eq!(Launched { handle: spawner.launch(&dir).await.unwrap(), dir }.end().await.exit_code, Some(0));
    spawner.shutdown().await;
}
