//! `orch logs` and `--follow`: what a run wrote, wherever it stands in its life, and nothing that a terminal obeys.

use std::{fs, path::PathBuf};

use orch::{
    db::runs::Claimed,
    model::{Outcome, RunId},
};
use serde_json::json;

use crate::{
    played::Played,
    support::{Orch, TestDb, eventually},
};

/// A stage on this machine, and an orch that looks at it.
async fn stage(db: &TestDb) -> (Played, Orch) {
    let mut played = Played::on(db, &["a"]).await;
    played.host = nix::unistd::gethostname().unwrap().to_string_lossy().into_owned();
    (played, Orch::on(db))
}

fn log_of(orch: &Orch, run: RunId) -> PathBuf {
    orch.state_dir().join("runs").join(run.to_string()).join("log")
}

/// Writes output as a shim does: from this offset on.
fn write(orch: &Orch, run: RunId, offset: u64, bytes: &[u8]) {
    fs::create_dir_all(log_of(orch, run)).unwrap();
    fs::write(log_of(orch, run).join(format!("{offset:020}")), bytes).unwrap();
}

fn retire(orch: &Orch, run: RunId) {
    let done = orch.state_dir().join("done");
    fs::create_dir_all(&done).unwrap();
    fs::rename(log_of(orch, run), done.join(run.to_string())).unwrap();
    fs::remove_dir(orch.state_dir().join("runs").join(run.to_string())).unwrap();
}

async fn claimed(played: &Played) -> Claimed {
    eventually("the job to be claimed", async || played.claim().await).await
}

#[tokio::test]
async fn output_is_read_as_it_was_written_while_the_run_lives_and_after() {
    let db = TestDb::new().await;
    let (played, orch) = stage(&db).await;
    orch.run(["enqueue", "a"]).await.ok();
    let not_yet = orch.run(["logs", "1"]).await;
    assert!(!not_yet.status.success() && not_yet.stderr.contains("has not run yet"), "{not_yet:?}");
    let run = claimed(&played).await;
    let id = run.owned.run_id();
    write(&orch, id, 0, b"one\r\n\x1b[31mred\x00\xff\n");
    write(&orch, id, 100, b"tail\n");
    let output = orch.run(["logs", "1"]).await.ok();
    assert_eq!(output.stdout, "one\r\n\x1b[31mred\0\u{fffd}\ntail\n", "a pipe gets the bytes as they are");
    assert!(output.stderr.contains("84 bytes of the output were not kept"), "{output:?}");
    played.settle(run, Outcome::Succeeded).await;
    retire(&orch, id);
    assert_eq!(orch.run(["logs", "1"]).await.ok().stdout, output.stdout);
    let json = orch.run(["--json", "logs", "1"]).await.ok();
    let pieces: Vec<serde_json::Value> = json.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(pieces[1], json!({"run_id": id, "dropped": 84}));
    assert_eq!(pieces[2], json!({"run_id": id, "output": "tail\n"}));
}

#[tokio::test]
async fn each_attempt_has_its_own_output() {
    let db = TestDb::new().await;
    let (played, orch) = stage(&db).await;
    orch.run(["enqueue", "a", "--max-attempts", "3"]).await.ok();
    for text in ["first", "second"] {
        let run = claimed(&played).await;
        write(&orch, run.owned.run_id(), 0, text.as_bytes());
        played.settle(run, Outcome::Failed).await;
        orch.run(["set", "1", "--run-at", "0s"]).await.ok();
    }
    assert_eq!(orch.run(["logs", "1"]).await.ok().stdout, "second");
    assert_eq!(orch.run(["logs", "1", "--attempt", "1"]).await.ok().stdout, "first");
    let none = orch.run(["logs", "1", "--attempt", "7"]).await;
    assert!(!none.status.success() && none.stderr.contains("no attempt 7"), "{none:?}");
}

#[tokio::test]
async fn output_on_another_machine_is_said_to_be_there() {
    let db = TestDb::new().await;
    let (mut played, orch) = stage(&db).await;
    played.host = "elsewhere".to_owned();
    orch.run(["enqueue", "a"]).await.ok();
    let _run = claimed(&played).await;
    let output = orch.run(["logs", "1"]).await;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(output.stderr.contains("is on elsewhere"), "{output:?}");
}

#[tokio::test]
async fn following_prints_every_run_to_its_last_byte_and_exits_as_the_job_did() {
    let db = TestDb::new().await;
    let (played, orch) = stage(&db).await;
    let following = orch.run(["enqueue", "a", "--max-attempts", "2", "--follow"]);
    let (output, ()) = tokio::join!(following, async {
        let first = claimed(&played).await;
        let id = first.owned.run_id();
        write(&orch, id, 0, b"a");
        write(&orch, id, 0, b"ab");
        played.settle(first, Outcome::Failed).await;
        retire(&orch, id);
        orch.run(["set", "1", "--run-at", "0s"]).await.ok();
        let second = claimed(&played).await;
        let id = second.owned.run_id();
        write(&orch, id, 0, b"c\n");
        played.settle(second, Outcome::Failed).await;
        write(&orch, id, 2, b"d\n");
    });
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(output.stdout == "abc\nd\n" || output.stdout == "abc\n", "{output:?}");
    assert!(output.stderr.contains("job 1") && output.stderr.contains("attempt 2"), "{output:?}");
}

#[tokio::test]
async fn logs_follow_waits_for_a_job_that_has_not_run() {
    let db = TestDb::new().await;
    let (played, orch) = stage(&db).await;
    orch.run(["enqueue", "a"]).await.ok();
    let following = orch.run(["logs", "-f", "1"]);
    let (output, ()) = tokio::join!(following, async {
        let run = claimed(&played).await;
        write(&orch, run.owned.run_id(), 0, b"hello\n");
        played.settle(run, Outcome::Failed).await;
    });
    assert_eq!((output.status.code(), &*output.stdout), (Some(0), "hello\n"), "{output:?}");
}

#[tokio::test]
async fn a_terminal_obeys_nothing_that_a_run_wrote() {
    let db = TestDb::new().await;
    let (played, orch) = stage(&db).await;
    orch.run(["enqueue", "a"]).await.ok();
    let run = claimed(&played).await;
    write(&orch, run.owned.run_id(), 0, b"\x1b]0;owned\x07\x1b[2Jshown\n");
    let terminal = nix::pty::openpty(None, None).unwrap();
    let mut command = orch.command(["logs", "1"]);
    let mut child = command.stdout(std::process::Stdio::from(terminal.slave)).spawn().unwrap();
    drop(command);
    let mut master = fs::File::from(terminal.master);
    let reading = tokio::task::spawn_blocking(move || {
        let mut bytes = Vec::new();
        // The other end is gone once the command has ended, which a terminal reports as an error.
        let _ = std::io::Read::read_to_end(&mut master, &mut bytes);
        bytes
    });
    assert!(child.wait().await.unwrap().success());
    let shown = String::from_utf8(reading.await.unwrap()).unwrap();
    assert!(shown.contains("shown") && !shown.contains('\x1b') && !shown.contains('\x07'), "{shown:?}");
}
