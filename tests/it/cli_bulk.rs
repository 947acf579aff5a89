//! `orch enqueue --from`: the jobs of a file, all or none, and the first bad line by its number.

use std::{fmt::Write as _, fs, process::Stdio};

use nix::{sys::signal, unistd::Pid};
use serde_json::json;
use tokio::io::AsyncWriteExt as _;

use crate::{
    guards::violations,
    played::Played,
    support::{Orch, Output, TestDb, eventually},
};

/// A place with a database where agents `a` and `lines` are served.
async fn place() -> (TestDb, Orch) {
    let db = TestDb::new().await;
    Played::on(&db, &["a", "lines"]).await;
    let orch = Orch::on(&db);
    (db, orch)
}

fn write(orch: &Orch, text: impl AsRef<[u8]>) {
    fs::write(orch.path("jobs.ndjson"), text).unwrap();
}

async fn one(db: &TestDb, sql: &str) -> String {
    let row = db.client().await.query_one(&format!("select ({sql})::text"), &[]).await.unwrap();
    row.get::<_, Option<String>>(0).unwrap_or_default()
}

/// That it was refused in one sentence with all of `words`, and left nothing behind.
#[track_caller]
fn refused(output: &Output, words: &[&str]) {
    assert_eq!((output.status.code(), output.stdout.as_str()), (Some(1), ""), "{output:?}");
    assert_eq!(output.stderr.lines().count(), 1, "{output:?}");
    for word in words.iter().chain(&["nothing was enqueued"]) {
        assert!(output.stderr.contains(word), "{word:?} is missing: {output:?}");
    }
}

#[tokio::test]
async fn the_lines_of_a_file_become_jobs_in_their_order() {
    let (db, orch) = place().await;
    let text = (1..=4500).fold(String::new(), |mut text, n| {
        writeln!(text, "{{\"agent\": \"a\", \"payload\": {n}}}").unwrap();
        text
    });
    write(&orch, &text);
    let answer = orch.run(["--json", "enqueue", "--from", "jobs.ndjson"]).await.ok();
    assert_eq!(answer.json(), json!({ "count": 4500, "ids": (1..=4500).collect::<Vec<i64>>() }));
    assert_eq!(answer.stderr, "", "no bar where nobody looks");
    assert_eq!(one(&db, "select count(*) from orch.jobs where payload = to_jsonb(id) and claimable").await, "4500");
    let said = orch.run_with_input(["enqueue", "--from", "-"], text.as_bytes()).await.ok();
    assert_eq!(said.stdout, "4500 jobs: 4501 to 9000\n");
    assert_eq!(violations(&db.client().await).await, []);
    write(&orch, "\n  \r\n");
    assert_eq!(orch.run(["enqueue", "--from", "jobs.ndjson"]).await.ok().stdout, "0 jobs\n");
}

#[tokio::test]
async fn agent_and_flags_are_for_lines_that_do_not_say_otherwise() {
    let (db, orch) = place().await;
    write(
        &orch,
        "{}\r\n\n{\"agent\": \"lines\", \"payload\": null, \"priority\": 1, \"labels\": {\"x\": 2}, \"timeout\": \"1h\"}",
    );
    let flags = [
        "enqueue",
        "a",
        "--from",
        "jobs.ndjson",
        "--project",
        "p",
        "--priority",
        "-7",
        "--run-at",
        "1h",
        "--gate",
        "g",
        "--label",
        "k=v",
        "--max-attempts",
        "2",
        "--timeout",
        "90s",
    ];
    assert_eq!(orch.run(flags).await.ok().stdout, "2 jobs: 1 to 2\n");
    let shown =
        "select string_agg(concat_ws(' ', agent, payload, project, priority, gate, labels, max_attempts, timeout,
                        run_at - created_at), '; ' order by id) from orch.jobs";
    assert_eq!(
        one(&db, shown).await,
        "a {} p -7 g {\"k\": \"v\"} 2 00:01:30 01:00:00; lines null p 1 g {\"x\": 2} 2 01:00:00 01:00:00"
    );
    for flag in [&["--dedupe-key", "k"][..], &["--wait"], &["--follow"], &["{}"]] {
        let arguments: Vec<&str> = ["enqueue", "a", "--from", "jobs.ndjson"].iter().chain(flag).copied().collect();
        assert_eq!(orch.run(arguments).await.status.code(), Some(2), "{flag:?}");
    }
}

#[tokio::test]
async fn the_first_bad_line_is_named_and_nothing_is_enqueued() {
    let (db, orch) = place().await;
    let good = "{\"agent\": \"a\"}\n";
    let deep = format!("{{\"agent\": \"a\", \"payload\": {}{}}}", "[".repeat(50_000), "]".repeat(50_000));
    let large = format!("{{\"agent\": \"a\", \"payload\": \"{}\"}}", "x".repeat(1024 * 1024));
    let cases: Vec<(&[u8], &[&str])> = vec![
        (b"{\"agent\": \"a\"", &["no wish of a job", "EOF"]),
        (b"[]", &["a JSON object is needed"]),
        (b"{\"agent\": \"\xff\"}", &["not UTF-8 at byte 12"]),
        (b"{\"agent\": \"a\", \"payload\": \"\\u0000\"}", &["\\u0000"]),
        (b"{\"agent\": \"lnies\"}", &["did you mean \"lines\"?", "--any-agent"]),
        (b"{}", &["agent is missing"]),
        (b"{\"agent\": null}", &["agent must be of type string, not null"]),
        (b"{\"agent\": \"a\", \"agnet\": 1}", &["unknown key \"agnet\": the keys are agent"]),
        (b"{\"agent\": \"a\", \"priority\": 40000}", &["priority 40000 is not between"]),
        (b"{\"agent\": \"a\", \"priority\": \"1\"}", &["priority must be of type number"]),
        (b"{\"agent\": \"a\", \"run_at\": \"soon\"}", &["invalid input syntax"]),
        (b"{\"agent\": \"a\", \"run_at\": \"infinity\"}", &["run_at must be finite"]),
        (b"{\"agent\": \"a\", \"gate\": \"\"}", &["gate must have 1 to 500 bytes"]),
        (b"{\"agent\": \"a\", \"dedupe_key\": \"k\", \"on_conflict\": \"ignore\"}", &["return, replace, refuse"]),
        (b"{\"agent\": \"a\", \"dedupe_key\": \"live\", \"on_conflict\": \"refuse\"}", &["already live as job 1"]),
        (b"{\"agent\": \"a\", \"payload\": \"\\ud800\"}", &["the database cannot hold it"]),
        (b"{\"agent\": \"a\", \"payload\": 1e400000}", &["the database cannot hold it", "overflow"]),
        (deep.as_bytes(), &["the database cannot hold it", "stack depth"]),
        (large.as_bytes(), &["more than 1048576 bytes", "payload_max"]),
    ];
    orch.run(["enqueue", "a", "--dedupe-key", "live"]).await.ok();
    for (bad, words) in cases {
        // In the first piece and far behind it; with a line behind it that is worse, and blank ones that count.
        for before in [1, 4320] {
            let mut text = good.repeat(before).into_bytes();
            text.extend(b"\n");
            text.extend(bad);
            text.extend(b"\n{\n");
            write(&orch, &text);
            let output = orch.run(["enqueue", "--from", "jobs.ndjson"]).await;
            refused(&output, words);
            refused(&output, &[&format!("jobs.ndjson: line {}: ", before + 2)]);
            assert!(!output.stderr.contains('\u{1b}'), "{output:?}");
        }
    }
    refused(&orch.run(["enqueue", "--from", "nowhere"]).await, &["nowhere", "No such file"]);
    // Of two that are refused the first is named, whatever their keys.
    orch.run(["enqueue", "a", "--dedupe-key", "also"]).await.ok();
    let refuse = |key: &str| format!("{{\"agent\": \"a\", \"dedupe_key\": \"{key}\", \"on_conflict\": \"refuse\"}}\n");
    std::fs::write(orch.path("jobs.ndjson"), ["free", "live", "also"].map(refuse).concat()).unwrap();
    refused(&orch.run(["enqueue", "--from", "jobs.ndjson"]).await, &["line 2: ", "already live as job 1"]);
    refused(&orch.run(["enqueue", "--from", "."]).await, &["directory"]);
    assert_eq!(one(&db, "select count(*) from orch.jobs").await, "2");
}

#[tokio::test]
async fn the_first_bad_line_is_the_first_of_all_kinds() {
    let (_db, orch) = place().await;
    // What the database finds comes before what reading would have found behind it.
    write(&orch, "{\"agent\": \"a\"}\n{\"agent\": \"a\", \"gate\": \"\"}\nno json\n");
    refused(&orch.run(["enqueue", "--from", "jobs.ndjson"]).await, &["line 2: gate"]);
    write(&orch, "{\"agent\": \"a\"}\nno json\n{\"agent\": \"a\", \"gate\": \"\"}\n");
    refused(&orch.run(["enqueue", "--from", "jobs.ndjson"]).await, &["line 2: a JSON object is needed"]);
    // Of what only the database knows as well: a key, a text, a number.
    let [key, text, number] =
        ["{\"x\": 1}", "{\"agent\": \"a\", \"run_at\": \"soon\"}", "{\"agent\": \"a\", \"priority\": 99999}"];
    for (lines, words) in [
        ([number, text, key], "line 1: priority 99999"),
        ([text, number, key], "line 1: invalid input syntax"),
        ([key, number, text], "line 1: unknown key \"x\""),
    ] {
        write(&orch, lines.join("\n"));
        refused(&orch.run(["enqueue", "--from", "jobs.ndjson"]).await, &[words]);
    }
}

#[tokio::test]
async fn a_refused_key_above_a_bad_line_is_named_and_one_below_is_not() {
    let (db, orch) = place().await;
    orch.run(["enqueue", "a", "--dedupe-key", "live"]).await.ok();
    let refused_key = "{\"agent\": \"a\", \"dedupe_key\": \"live\", \"on_conflict\": \"refuse\"}";
    for (bad, words) in [
        ("{\"agent\": \"a\", \"gate\": \"\"}", "gate must have"),
        ("{\"agent\": \"a\", \"priority\": \"1\"}", "priority must be of type number"),
        ("{\"agent\": \"a\", \"run_at\": \"soon\"}", "invalid input syntax"),
        ("{\"agent\": \"a\", \"limits\": [\"nowhere\"]}", "is unknown"),
        ("{\"agent\": \"a\", \"after\": [99]}", "there is no such job"),
        ("{\"agent\": \"a\", \"payload\": \"\\ud800\"}", "the database cannot hold it"),
        ("no json", "a JSON object is needed"),
        ("{\"agent\": \"nobody\"}", "no replica has registered"),
    ] {
        write(&orch, ["{\"agent\": \"a\"}", refused_key, "{\"agent\": \"a\"}", bad].join("\n"));
        refused(&orch.run(["enqueue", "--from", "jobs.ndjson"]).await, &["line 2: ", "already live as job 1"]);
        write(&orch, ["{\"agent\": \"a\"}", bad, "{\"agent\": \"a\"}", refused_key].join("\n"));
        refused(&orch.run(["enqueue", "--from", "jobs.ndjson"]).await, &["line 2: ", words]);
    }
    // Of two faults that only the server's JSON or only its columns know, the upper one as well.
    let (unreadable, bad) = ("{\"agent\": \"a\", \"payload\": \"\\ud800\"}", "{\"agent\": \"a\", \"gate\": \"\"}");
    write(&orch, [bad, unreadable].join("\n"));
    refused(&orch.run(["enqueue", "--from", "jobs.ndjson"]).await, &["line 1: gate must have"]);
    write(&orch, [unreadable, bad].join("\n"));
    refused(&orch.run(["enqueue", "--from", "jobs.ndjson"]).await, &["line 1: the database cannot hold it"]);
    assert_eq!(one(&db, "select count(*) from orch.jobs").await, "1");
}

#[tokio::test]
async fn a_key_that_an_earlier_line_has_is_told_by_that_line_and_not_by_a_job_that_never_was() {
    let (db, orch) = place().await;
    let twin = "{\"agent\": \"a\", \"dedupe_key\": \"k\", \"on_conflict\": \"refuse\"}\n";
    // In the same piece, and far behind it; blank lines count.
    for between in [1, 4500] {
        let mut text = format!("\n{{\"agent\": \"a\"}}\n\n{twin}");
        text += &"{\"agent\": \"a\"}\n".repeat(between);
        text += twin;
        write(&orch, text);
        let output = orch.run(["enqueue", "--from", "jobs.ndjson"]).await;
        refused(&output, &[&format!("line {}: dedupe_key \"k\" is taken: line 4 has it already", between + 5)]);
        assert!(!output.stderr.contains("job "), "{output:?}");
    }
    // The job that was there before is told by its number, also where an earlier line got it.
    orch.run(["enqueue", "a", "--dedupe-key", "k"]).await.ok();
    let live = one(&db, "select id from orch.jobs").await;
    write(&orch, format!("{{\"agent\": \"a\", \"dedupe_key\": \"k\"}}\n{}{twin}", "{\"agent\": \"a\"}\n".repeat(4500)));
    let output = orch.run(["enqueue", "--from", "jobs.ndjson"]).await;
    refused(&output, &[&format!("line 4502: dedupe_key \"k\" is taken: already live as job {live}, which is queued")]);
}

#[tokio::test]
async fn a_line_with_a_dedupe_key_gets_the_live_jobs_number() {
    let (db, orch) = place().await;
    orch.run(["enqueue", "a", "1", "--dedupe-key", "old"]).await.ok();
    write(
        &orch,
        "{\"agent\": \"a\", \"dedupe_key\": \"new\", \"payload\": 2}
         {\"agent\": \"a\", \"dedupe_key\": \"old\", \"payload\": 3}
         {\"agent\": \"a\", \"payload\": 4}
         {\"agent\": \"a\", \"dedupe_key\": \"new\", \"payload\": 5}
         {\"agent\": \"a\", \"dedupe_key\": \"old\", \"payload\": 6, \"on_conflict\": \"replace\"}",
    );
    let answer = orch.run(["--json", "enqueue", "--from", "jobs.ndjson"]).await.ok().json();
    let ids: Vec<i64> = serde_json::from_value(answer["ids"].clone()).unwrap();
    assert_eq!((ids[1], ids[4], ids[0]), (1, 1, ids[3]), "{ids:?}");
    assert!(ids[0] != ids[2] && ids[0] > 1 && ids[2] > 1, "{ids:?}");
    assert_eq!(one(&db, "select string_agg(payload::text, ' ' order by payload) from orch.jobs").await, "2 4 6");
    let again = orch.run(["--json", "enqueue", "--from", "jobs.ndjson"]).await.ok().json();
    assert_eq!((&again["ids"][0], &again["ids"][1]), (&json!(ids[0]), &json!(1)));
    assert_eq!(one(&db, "select count(*) from orch.jobs").await, "4");
}

#[tokio::test]
async fn two_files_with_the_same_keys_in_opposite_order_both_get_through() {
    let (db, orch) = place().await;
    let line = |n: i32| format!("{{\"agent\": \"a\", \"dedupe_key\": \"k{n}\"}}\n");
    // Several pieces each, so that the one holds what the other wants, and the other way round.
    fs::write(orch.path("up"), (0..8000).map(line).collect::<String>()).unwrap();
    fs::write(orch.path("down"), (0..8000).rev().map(line).collect::<String>()).unwrap();
    let (up, down) = tokio::join!(
        orch.run(["--json", "enqueue", "--from", "up"]),
        orch.run(["--json", "enqueue", "--from", "down"])
    );
    let (up, mut down) = (up.ok().json(), down.ok().json());
    down["ids"].as_array_mut().unwrap().reverse();
    assert_eq!(up["ids"], down["ids"]);
    assert_eq!(one(&db, "select count(*) from orch.jobs").await, "8000");
}

#[tokio::test]
async fn ctrl_c_in_the_middle_enqueues_nothing() {
    let (db, orch) = place().await;
    let mut command = orch.command(["enqueue", "--from", "-"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all("{\"agent\": \"a\"}\n".repeat(5000).as_bytes()).await.unwrap();
    // A number that was drawn is not given back: pieces have been inserted, and nobody sees them.
    eventually("the first pieces to be inserted", async || {
        let drawn = one(&db, "select coalesce(pg_sequence_last_value('orch.jobs_id_seq'), 0)").await;
        (drawn.parse::<i64>().unwrap() >= 4000).then_some(())
    })
    .await;
    signal::kill(Pid::from_raw(child.id().unwrap() as i32), signal::SIGINT).unwrap();
    let output = child.wait_with_output().await.unwrap();
    assert!(!output.status.success() && output.stdout.is_empty(), "{output:?}");
    eventually("its transaction to be gone", async || {
        let open =
            "select count(*) from pg_stat_activity where datname = current_database() and backend_xid is not null";
        (one(&db, open).await == "0").then_some(())
    })
    .await;
    assert_eq!(one(&db, "select count(*) from orch.jobs").await, "0");
}
