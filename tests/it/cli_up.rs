//! `orch up`: what it says when it works, and each reason not to start in one sentence.

use std::{
    io::{Read as _, Write as _},
    net::TcpListener,
};

use nix::sys::signal::Signal;

use crate::support::{Orch, Output, TestDb, eventually};

/// Asserts that it ended in one sentence that contains all of `words`.
#[track_caller]
fn refused(output: &Output, words: &[&str]) {
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said: Vec<&str> = output.stderr.lines().filter(|line| line.starts_with("orch: ")).collect();
    assert_eq!(said.len(), 1, "one sentence: {output:?}");
    for word in words {
        assert!(said[0].contains(word), "{word:?} is missing: {output:?}");
    }
}

#[tokio::test]
async fn it_says_where_it_listens_and_what_it_serves_and_stops_when_told_to() {
    let db = TestDb::new().await;
    let orch = Orch::on(&db);
    orch.config("[agents.hello]\ncommand = [\"echo\", \"hello\"]\n");
    let mut replica = orch.up().await;
    eventually("the greeting", async || replica.log().contains("is ready").then_some(())).await;
    let log = replica.log();
    for word in ["is ready", &orch.listen().to_string(), db.name(), "hello", &orch.state_dir().to_string_lossy()] {
        assert!(log.contains(word), "{word} is missing in\n{log}");
    }
    let queue = replica.get("/queue").await.json();
    assert_eq!(queue["replicas"][0]["agents"], serde_json::json!(["hello"]));
    replica.signal(Signal::SIGTERM);
    assert!(replica.ended().await.success(), "{}", replica.log());
    let client = db.client().await;
    let state: String = client.query_one("select state from orch.replicas", &[]).await.unwrap().get(0);
    assert_eq!(state, "left");
}

#[tokio::test]
async fn the_agents_are_read_again_on_sighup_and_a_bad_file_changes_nothing() {
    let db = TestDb::new().await;
    let orch = Orch::on(&db);
    orch.config("[agents.one]\ncommand = [\"true\"]\n");
    let replica = orch.up().await;
    let served = async || replica.get("/queue").await.json()["replicas"][0]["agents"].clone();
    orch.config("[agents.two]\ncommand = [\"true\"]\n");
    replica.signal(Signal::SIGHUP);
    crate::support::eventually("the new agents", async || (served().await == serde_json::json!(["two"])).then_some(()))
        .await;
    orch.config("[agents.three]\ncommand = \"true\"\n");
    replica.signal(Signal::SIGHUP);
    crate::support::eventually("the complaint", async || replica.log().contains("stay as they were").then_some(()))
        .await;
    assert_eq!(served().await, serde_json::json!(["two"]));
}

#[tokio::test]
async fn a_schema_that_is_not_this_binarys_is_refused() {
    for (damage, words) in [
        ("drop schema orch cascade", ["no schema orch", "orch migrate"]),
        (
            "delete from orch.schema_history where version = (select max(version) from orch.schema_history)",
            ["is at version", "orch migrate"],
        ),
        ("insert into orch.schema_history values (9999, 'later', now(), '1')", ["is at version 9999", "newer orch"]),
        ("update orch.meta set schema_hash = 'x'", ["another build", "orch migrate"]),
    ] {
        let db = TestDb::new().await;
        db.client().await.batch_execute(damage).await.unwrap();
        let orch = Orch::on(&db);
        refused(&orch.run(["up"]).await, &words);
        refused(&orch.run(["jobs"]).await, &words);
    }
}

#[tokio::test]
async fn a_port_in_use_is_refused() {
    let db = TestDb::new().await;
    let mut orch = Orch::on(&db);
    let taken = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    orch.set("ORCH_LISTEN", taken.local_addr().unwrap().to_string());
    refused(&orch.run(["up"]).await, &["cannot listen on", "in use", "--listen"]);
}

#[tokio::test]
async fn a_state_directory_that_cannot_be_written_is_refused() {
    let db = TestDb::new().await;
    let mut orch = Orch::on(&db);
    std::fs::write(orch.path("file"), "").unwrap();
    for dir in [orch.path("file"), orch.path("file/below"), "/proc/orch".into()] {
        orch.set("ORCH_STATE_DIR", dir.to_string_lossy());
        refused(&orch.run(["up"]).await, &["state directory", "--state-dir"]);
    }
}

#[tokio::test]
async fn a_second_replica_is_refused_on_the_same_directory() {
    let db = TestDb::new().await;
    let orch = Orch::on(&db);
    let replica = orch.up().await;
    refused(&orch.run(["up"]).await, &["another orch process", &replica.pid().to_string(), "--state-dir"]);
    assert_eq!(replica.get("/readyz").await.status, 200, "the first does not notice");
}

#[tokio::test]
async fn no_database_and_a_wrong_password_are_refused() {
    let nobody = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap();
    let orch = Orch::without_database().with("DATABASE_URL", format!("postgres://x@{nobody}/x"));
    refused(&orch.run(["up"]).await, &["cannot reach the database", "DATABASE_URL"]);

    // A server that lets nobody in, as one with a password would say it.
    let server = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = server.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in server.incoming() {
            let mut stream = stream.unwrap();
            // The request for TLS is the one of eight bytes.
            if stream.read(&mut [0; 1024]).is_ok_and(|length| length == 8) {
                let _ = stream.write_all(b"N");
                let _ = stream.read(&mut [0; 1024]);
            }
            let fields = b"SFATAL\0VFATAL\0C28P01\0Mpassword authentication failed for user \"x\"\0\0";
            let length = u32::try_from(fields.len() + 4).unwrap();
            let _ = stream.write_all(&[b"E".as_slice(), &length.to_be_bytes(), fields].concat());
        }
    });
    let orch = Orch::without_database().with("DATABASE_URL", format!("postgres://x:secret@{address}/x"));
    for command in [&["up"][..], &["jobs"], &["migrate"]] {
        let output = orch.run(command).await;
        refused(&output, &["password authentication failed", "DATABASE_URL"]);
        assert!(!output.stderr.contains("secret"), "{output:?}");
    }
}

#[tokio::test]
async fn a_bad_file_is_refused_with_its_line() {
    let db = TestDb::new().await;
    let orch = Orch::on(&db);
    orch.config("leese = \"60s\"\n");
    for command in ["up", "jobs"] {
        let output = orch.run([command]).await;
        refused(&output, &["orch.toml:1", "lease"]);
    }
    let check = orch.run(["config", "check"]).await;
    assert_eq!(check.status.code(), Some(1));
    assert!(check.stderr.contains("orch.toml:1") && check.stderr.contains("lease"), "{check:?}");
    orch.config("[agents.hello]\ncommand = [\"echo\"]\n");
    let check = orch.run(["--json", "config", "check"]).await.ok().json();
    assert_eq!((&check["ok"], &check["errors"]), (&serde_json::json!(true), &serde_json::json!([])));
}
