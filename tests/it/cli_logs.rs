//! `orch logs` and `--follow`: what a run wrote, from any machine, and nothing that a terminal obeys.

use std::fs;

use orch::{
    db::{logs::Chunk, runs::Claimed},
    model::{Outcome, RunId},
};
use serde_json::json;

use crate::{
    played::Played,
    support::{Orch, TestDb, eventually},
};

/// A stage on another machine, and an orch that looks at it.
async fn stage(db: &TestDb) -> (Played, Orch) {
    (Played::on(db, &["a"]).await, Orch::on(db))
}

/// Stores output as a shipper does: from this position on.
async fn write(played: &Played, run: RunId, position: u64, bytes: &[u8]) {
    let chunk = Chunk { position, bytes: bytes.to_vec() };
    assert_eq!(played.db.ship_logs(&[(run, chunk)]).await.unwrap(), [run]);
}

/// Says how much the run wrote, as its shim does at the end.
async fn wrote(db: &TestDb, run: RunId, kept: i64, dropped: i64) {
    let sql = "update orch.agent_runs set spawned_at = claimed_at, log_bytes_kept = $2, log_bytes_dropped = $3 where run_id = $1";
    db.client().await.execute(sql, &[&run.0, &kept, &dropped]).await.unwrap();
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
    write(&played, id, 0, b"one\r\n\x1b[31mred\x00\xff\n").await;
    write(&played, id, 100, b"tail \xe2\x82").await;
    write(&played, id, 107, b"\xac\n").await;
    let output = orch.run(["logs", "1"]).await.ok();
    assert_eq!(output.stdout, "one\r\n\x1b[31mred\0\u{fffd}\ntail \u{20ac}\n", "a pipe gets the bytes as they are");
    assert!(output.stderr.contains("84 bytes of the output were not kept"), "{output:?}");
    played.settle(run, Outcome::Succeeded).await;
    assert_eq!(orch.run(["logs", "1"]).await.ok().stdout, output.stdout);
    let json = orch.run(["--json", "logs", "1"]).await.ok();
    let pieces: Vec<serde_json::Value> = json.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(pieces[1], json!({"run_id": id, "dropped": 84}));
    assert_eq!(pieces[2], json!({"run_id": id, "output": "tail "}), "the character that the chunk cuts comes whole");
    assert_eq!(pieces[3], json!({"run_id": id, "output": "\u{20ac}\n"}));
}

#[tokio::test]
async fn a_chunk_is_stored_once_and_made_whole_and_none_of_an_unknown_run() {
    let db = TestDb::new().await;
    let (played, orch) = stage(&db).await;
    orch.run(["enqueue", "a"]).await.ok();
    let id = claimed(&played).await.owned.run_id();
    write(&played, id, 0, b"abc").await;
    write(&played, id, 0, b"abc").await;
    write(&played, id, 0, b"abcdef").await;
    write(&played, id, 0, b"ab").await;
    let chunks = played.db.read_log(id, 0, 10).await.unwrap();
    assert_eq!(chunks, [Chunk { position: 0, bytes: b"abcdef".to_vec() }]);
    let (stranger, chunk) = (RunId::new(), Chunk { position: 0, bytes: b"x".to_vec() });
    let both = [(stranger, chunk.clone()), (id, Chunk { position: 6, ..chunk })];
    assert_eq!(played.db.ship_logs(&both).await.unwrap(), [id]);
    assert_eq!(played.db.read_log(stranger, 0, 10).await.unwrap(), []);
    assert_eq!(played.db.read_log(id, 1, 10).await.unwrap().len(), 1);
}

#[tokio::test]
async fn each_attempt_has_its_own_output() {
    let db = TestDb::new().await;
    let (played, orch) = stage(&db).await;
    orch.run(["enqueue", "a", "--max-attempts", "3"]).await.ok();
    for text in ["first", "second"] {
        let run = claimed(&played).await;
        write(&played, run.owned.run_id(), 0, text.as_bytes()).await;
        played.settle(run, Outcome::Failed).await;
        orch.run(["set", "1", "--run-at", "0s"]).await.ok();
    }
    assert_eq!(orch.run(["logs", "1"]).await.ok().stdout, "second");
    assert_eq!(orch.run(["logs", "1", "--attempt", "1"]).await.ok().stdout, "first");
    let none = orch.run(["logs", "1", "--attempt", "7"]).await;
    assert!(!none.status.success() && none.stderr.contains("no attempt 7"), "{none:?}");
}

#[tokio::test]
async fn output_that_has_not_arrived_is_waited_for_and_then_said_to_be_missing() {
    let db = TestDb::new().await;
    let (played, orch) = stage(&db).await;
    orch.run(["enqueue", "a"]).await.ok();
    let run = claimed(&played).await;
    let id = run.owned.run_id();
    write(&played, id, 0, b"some").await;
    played.settle(run, Outcome::Succeeded).await;
    wrote(&db, id, 10, 2).await;
    let missing = orch.run(["logs", "1"]).await;
    assert_eq!((missing.status.code(), &*missing.stdout), (Some(1), "some"), "{missing:?}");
    assert!(missing.stderr.contains("8 bytes of the output") && missing.stderr.contains("from stage"), "{missing:?}");
    // It arrives while somebody waits for it.
    let (whole, ()) = tokio::join!(orch.run(["logs", "1"]), write(&played, id, 6, b"thing\n"));
    assert_eq!(whole.ok().stdout, "something\n");
    // A run that wrote, and whose disk kept nothing.
    wrote(&db, id, 0, 40).await;
    let dropped = orch.run(["logs", "1"]).await.ok();
    assert!(dropped.stderr.contains("28 bytes of the output were not kept"), "{dropped:?}");
}

#[tokio::test]
async fn following_prints_every_run_to_its_last_byte_and_exits_as_the_job_did() {
    let db = TestDb::new().await;
    let (played, orch) = stage(&db).await;
    let following = orch.run(["enqueue", "a", "--max-attempts", "2", "--follow"]);
    let (output, ()) = tokio::join!(following, async {
        let first = claimed(&played).await;
        let id = first.owned.run_id();
        write(&played, id, 0, b"a").await;
        write(&played, id, 1, b"b").await;
        played.settle(first, Outcome::Failed).await;
        orch.run(["set", "1", "--run-at", "0s"]).await.ok();
        let second = claimed(&played).await;
        let id = second.owned.run_id();
        write(&played, id, 0, b"c\n").await;
        wrote(&db, id, 4, 0).await;
        played.settle(second, Outcome::Failed).await;
        wrote(&db, id, 4, 0).await;
        write(&played, id, 2, b"d\n").await;
    });
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert_eq!(output.stdout, "abc\nd\n", "{output:?}");
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
        write(&played, run.owned.run_id(), 0, b"hello\n").await;
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
    write(&played, run.owned.run_id(), 0, b"\x1b]0;owned\x07\x1b[2Jshown\n").await;
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
