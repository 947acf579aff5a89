//! Bad input on the command line: each gets one sentence that says what to do, a non-zero exit, and leaves no job behind.

use crate::{
    played::Played,
    support::{Orch, Output, TestDb},
};

/// Asserts that the command was refused in one sentence that contains all of `words`, and that stdout stayed empty.
#[track_caller]
fn refused(output: &Output, words: &[&str]) {
    assert!(!output.status.success(), "{output:?}");
    assert_eq!(output.stdout, "", "{output:?}");
    let lines: Vec<&str> = output.stderr.lines().collect();
    assert_eq!(lines.len(), 1, "one sentence: {output:?}");
    assert!(lines[0].starts_with("orch: "), "{output:?}");
    for word in words {
        assert!(lines[0].contains(word), "{word:?} is missing: {output:?}");
    }
}

async fn jobs(db: &TestDb) -> i64 {
    db.client().await.query_one("select count(*) from orch.jobs", &[]).await.unwrap().get(0)
}

#[tokio::test]
async fn a_payload_that_cannot_be_stored_is_refused() {
    let db = TestDb::new().await;
    Played::on(&db, &["a"]).await;
    let orch = Orch::on(&db);
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    for (payload, words) in [
        ("{", vec!["no JSON", "line 1 column 1"]),
        ("hello", vec!["no JSON", "@FILE"]),
        ("", vec!["no JSON"]),
        ("\"a\\u0000b\"", vec!["\\u0000", "remove it"]),
        ("\"\\ud800\"", vec!["payload"]),
        ("1e400000", vec!["payload"]),
        ("@no/such/file", vec!["no/such/file", "No such file"]),
        ("@.", vec!["directory"]),
    ] {
        refused(&orch.run(["enqueue", "a", payload]).await, &words);
    }
    for (input, words) in [
        (&b"\"\0\""[..], vec!["no JSON"]),
        (b"\"\xff\"", vec!["not UTF-8 at byte 1"]),
        (deep.as_bytes(), vec!["payload", "stack depth"]),
        (&vec![b' '; 2 * 1024 * 1024], vec!["more than 1048576 bytes", "payload_max"]),
    ] {
        refused(&orch.run_with_input(["enqueue", "a", "-"], input).await, &words);
    }
    assert_eq!(jobs(&db).await, 0);
}

#[tokio::test]
async fn a_payload_comes_from_a_file_or_from_stdin_and_keeps_its_digits() {
    let db = TestDb::new().await;
    Played::on(&db, &["a"]).await;
    let orch = Orch::on(&db);
    std::fs::write(orch.path("payload.json"), r#"{"n": 12345678901234567890123.4567}"#).unwrap();
    orch.run(["enqueue", "a", "@payload.json"]).await.ok();
    orch.run_with_input(["enqueue", "a", "-"], b"[1, 2]").await.ok();
    orch.run(["enqueue", "a", "-5"]).await.ok();
    let client = db.client().await;
    let rows = client.query("select payload::text from orch.jobs order by id", &[]).await.unwrap();
    let payloads: Vec<&str> = rows.iter().map(|row| row.get(0)).collect();
    assert_eq!(payloads, [r#"{"n": 12345678901234567890123.4567}"#, "[1, 2]", "-5"]);
}

#[tokio::test]
async fn a_word_or_number_that_means_nothing_is_refused() {
    let db = TestDb::new().await;
    Played::on(&db, &["a"]).await;
    let orch = Orch::on(&db);
    for (arguments, words) in [
        (&["enqueue", "a", "--priority", "32768"][..], vec!["priority", "32768"]),
        (&["enqueue", "a", "--priority=-32769"], vec!["priority"]),
        (&["enqueue", "a", "--run-at", "infinity"], vec!["--run-at", "RFC 3339", "10m"]),
        (&["enqueue", "a", "--run-at", "yesterday"], vec!["--run-at"]),
        (&["enqueue", "a", "--timeout", "0s"], vec!["--timeout", "longer than zero"]),
        (&["enqueue", "a", "--max-attempts", "0"], vec!["--max-attempts"]),
        (&["enqueue", "a", "--label", "novalue"], vec!["KEY=VALUE"]),
        (&["jobs", "--status", "done"], vec!["\"done\"", "queued, held, running"]),
        (&["jobs", "--created-within", "soon"], vec!["--created-within", "30s"]),
        (&["jobs", "--limit", "0"], vec!["--limit"]),
        (&["job", "seven"], vec!["seven"]),
        (&["jbos"], vec!["jbos", "jobs"]),
        (&["enqueue", "a", "--wiat"], vec!["--wiat", "--wait"]),
        (&["set", "1"], vec!["--priority"]),
    ] {
        let output = orch.run(arguments).await;
        refused(&output, &words);
        assert_eq!(output.status.code(), Some(2), "{output:?}");
    }
    assert_eq!(jobs(&db).await, 0);
}

#[tokio::test]
async fn an_unknown_agent_is_refused_with_the_nearest_unless_told_otherwise() {
    let db = TestDb::new().await;
    let orch = Orch::on(&db);
    refused(&orch.run(["enqueue", "lines"]).await, &["no replica has registered agent \"lines\"", "orch up"]);
    Played::on(&db, &["lines", "deploy"]).await;
    refused(&orch.run(["enqueue", "lnies"]).await, &["did you mean \"lines\"?", "--any-agent"]);
    refused(&orch.run(["enqueue", "x\u{1b}[31m"]).await, &["there are deploy, lines"]);
    assert_eq!(jobs(&db).await, 0);
    orch.run(["enqueue", "lnies", "--any-agent"]).await.ok();
    orch.run(["enqueue", "lines"]).await.ok();
    assert_eq!(jobs(&db).await, 2);
}

#[tokio::test]
async fn names_that_are_no_names_are_refused_by_the_database_in_one_sentence() {
    let db = TestDb::new().await;
    let orch = Orch::on(&db);
    for name in ["", "../etc", "a b", "a;rm -rf", "$(id)", "a\nb", "\u{1b}[31m", &"x".repeat(10_000)] {
        refused(&orch.run(["enqueue", name, "--any-agent"]).await, &[]);
    }
    assert_eq!(jobs(&db).await, 0);
}

#[tokio::test]
async fn what_is_injected_stays_text() {
    let db = TestDb::new().await;
    Played::on(&db, &["a"]).await;
    let orch = Orch::on(&db);
    let evil = "'; drop table orch.jobs; --\u{1b}]0;owned\u{7}\u{202e}<script>";
    let payload = serde_json::json!({ "x": evil, "y": "$(id)", "z": "--flag" }).to_string();
    let id = orch.run(["enqueue", "a", &payload, "--dedupe-key", evil, "--label", "k=$(id)"]).await.ok();
    let id = id.stdout.trim().to_owned();
    let shown = orch.run(["job", &id]).await.ok();
    assert!(!shown.stdout.chars().any(|c| c.is_control() && c != '\n'), "{shown:?}");
    assert!(!shown.stdout.contains('\u{202e}'), "{shown:?}");
    let json = orch.run(["--json", "job", &id]).await.ok().json();
    assert_eq!(json["payload"]["x"], evil);
    assert_eq!(json["dedupe_key"], evil);
    let again = orch.run(["enqueue", "a", "--dedupe-key", evil]).await.ok();
    assert_eq!(again.stdout.trim(), id, "the live job's number");
    let again = orch.run(["enqueue", "a", "--dedupe-key", evil, "--on-conflict", "refuse"]).await;
    refused(&again, &[&format!("job {id}")]);
}

#[tokio::test]
async fn a_database_that_cannot_be_used_is_named_with_what_to_do() {
    let db = TestDb::empty().await;
    let orch = Orch::on(&db);
    refused(&orch.run(["jobs"]).await, &["orch migrate"]);
    let nobody = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap();
    let away = Orch::without_database().with("DATABASE_URL", format!("postgres://postgres@{nobody}/x"));
    for command in [&["jobs"][..], &["enqueue", "a"], &["cancel", "1"], &["queue"], &["migrate"]] {
        refused(&away.run(command).await, &["database", "refused"]);
    }
    let mut url = db.url();
    url.truncate(url.rfind('/').unwrap());
    let unknown = Orch::without_database().with("DATABASE_URL", format!("{url}/there_is_no_such_database"));
    refused(&unknown.run(["jobs"]).await, &["there_is_no_such_database"]);
    let nonsense = Orch::without_database().with("DATABASE_URL", "postgres://[");
    refused(&nonsense.run(["jobs"]).await, &["DATABASE_URL"]);
    refused(&Orch::without_database().run(["jobs"]).await, &["DATABASE_URL", "orch up"]);
}

#[tokio::test]
async fn jobs_that_are_not_there_are_said_so() {
    let db = TestDb::new().await;
    let orch = Orch::on(&db);
    refused(&orch.run(["job", "42"]).await, &["there is no job 42"]);
    refused(&orch.run(["set", "42", "--priority", "1"]).await, &["there is no job 42"]);
    refused(&orch.run(["cancel", "42"]).await, &["42"]);
}

#[tokio::test]
async fn a_word_that_has_no_place_is_refused_with_the_usage() {
    let orch = Orch::without_database();
    for (args, words) in [
        (&["pause", "all"][..], ["unexpected argument 'all'", "usage: orch pause", "--all"]),
        (&["limits", "set", "acct"], ["<MAX_RUNNING>", "usage: orch limits set", "--help"]),
        (&["enqeue"], ["unrecognized subcommand 'enqeue'", "'enqueue'", ""]),
    ] {
        refused(&orch.run(args.iter().copied()).await, &words);
    }
}
