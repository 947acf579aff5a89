//! Row 46: bad inputs by every surface: a clear error, no panic, no stuck row.

use std::{ffi::OsString, os::unix::ffi::OsStringExt as _};

use crate::{
    case::{BOUND, Case},
    support::Output,
};

async fn jobs(case: &Case) -> i64 {
    case.sql.query_one("select count(*) from orch.jobs", &[]).await.unwrap().get(0)
}

pub(crate) async fn sql_refuses_in_one_sentence(case: &mut Case) {
    case.agent("quick", "exit 0", "");
    case.up().await;
    let waiting: i64 =
        case.sql.query_one("select orch.enqueue('quick', run_at => now() + interval '2 s')", &[]).await.unwrap().get(0);
    let before = jobs(case).await;
    for (statement, codes) in [
        ("select orch.enqueue(convert_from('\\x61ff62', 'UTF8'))", &["22"][..]),
        ("select orch.enqueue('quick', '\"\\u0000\"')", &["22"]),
        ("select orch.enqueue('quick', '\"\\ud800\"')", &["22"]),
        ("select orch.enqueue('quick', '1e400000')", &["22"]),
        ("select orch.enqueue('quick', (repeat('[', 100000) || repeat(']', 100000))::jsonb)", &["54"]),
        // Random, since what compresses well is small.
        (
            "select orch.enqueue('quick', (select jsonb_agg(md5(n::text)) from generate_series(1, 600000) n))",
            &["OR", "23", "54"],
        ),
        ("select orch.enqueue('quick', run_at => 'infinity')", &["OR", "23"]),
        ("select orch.enqueue('quick', run_at => '-infinity')", &["OR", "23"]),
        ("select orch.enqueue('quick', run_at => '294276-01-01')", &["OR", "23"]),
        ("select orch.enqueue('quick', priority => 40000)", &["OR", "22", "23"]),
        ("select orch.enqueue('quick', priority => 99999999999)", &["42", "22"]),
        ("select orch.enqueue('quick', timeout => '-1 s')", &["OR", "23"]),
        ("select orch.enqueue('quick', max_attempts => 0)", &["OR", "23"]),
        ("select orch.enqueue('quick', labels => '[1]')", &["OR", "23"]),
        ("select orch.enqueue('quick', limits => '{a}')", &["OR"]),
        ("select orch.enqueue('quick', require => '[1]')", &["OR", "23"]),
        ("select orch.enqueue('quick', after => '{999999999}')", &["OR"]),
        ("select orch.enqueue(null)", &["OR", "23"]),
        ("select orch.enqueue('')", &["OR", "23"]),
        ("select orch.enqueue('quick', dedupe_key => repeat('x', 100000))", &["OR", "23"]),
        ("select orch.enqueue_many('{}')", &["OR", "22"]),
        ("select orch.enqueue_many('[{\"agent\": \"quick\", \"priorty\": 1}]')", &["OR", "22"]),
        ("select orch.enqueue_many('[{\"agent\": \"quick\"}, {\"agent\": \"../x\"}]')", &["OR", "22", "23"]),
        ("update orch.jobs set status = 'done'", &["OR", "23"]),
        ("update orch.jobs set status = null", &["OR", "23"]),
        ("update orch.jobs set run_at = 'infinity'", &["OR", "23"]),
        ("update orch.jobs set priority = 40000", &["22"]),
        ("insert into orch.jobs (agent, status) values ('quick', 'running')", &["OR", "23"]),
        ("delete from orch.replicas", &["OR"]),
    ] {
        let refused = case.sql.batch_execute(statement).await.expect_err(statement);
        let refused = refused.as_db_error().unwrap_or_else(|| panic!("{statement}: {refused}"));
        let code = refused.code().code();
        assert!(codes.iter().any(|class| code.starts_with(class)), "{statement}: {code} {refused}");
        let message = refused.message();
        assert!(!message.contains('\n') && message.len() < 400, "{statement}: one sentence, not {message:?}");
    }
    let nul = case.sql.query("select orch.enqueue($1)", &[&"a\0b"]).await.unwrap_err();
    assert!(nul.as_db_error().is_some_and(|error| error.code().code().starts_with("22")), "{nul}");
    assert_eq!(jobs(case).await, before, "nothing was enqueued");
    case.until(waiting, "succeeded", BOUND).await;
}

/// A refusal: one line or two for a person, nothing for a pipe, and no panic.
#[track_caller]
fn refused(what: &str, output: &Output) {
    assert!(!output.status.success(), "{what}: {output:?}");
    assert!(output.status.code().is_some(), "{what}: ended by a signal: {output:?}");
    assert_eq!(output.stdout, "", "{what}");
    assert!(!output.stderr.contains("panicked") && output.stderr.len() < 2000, "{what}: {output:?}");
    let lines = output.stderr.lines().count();
    assert!((1..=3).contains(&lines), "{what}: a sentence: {output:?}");
    assert!(!output.stderr.chars().any(|c| c.is_control() && c != '\n'), "{what}: {output:?}");
}

pub(crate) async fn the_command_line_refuses_in_one_sentence(case: &mut Case) {
    case.agent("quick", "exit 0", "");
    case.up().await;
    let before = jobs(case).await;
    let os = |words: &[&[u8]]| words.iter().map(|word| OsString::from_vec(word.to_vec())).collect::<Vec<_>>();
    let deep = format!("{}{}", "[".repeat(60_000), "]".repeat(60_000));
    for words in [
        &[&b"enqueue"[..], b"quikc"][..],
        &[b"enqueue", b"qui\xffck"],
        &[b"enqueue", b"quick", b"{\"a\": \"\xff\"}"],
        &[b"enqueue", b"quick", b"{"],
        &[b"enqueue", b"quick", b"\"\\u0000\""],
        &[b"enqueue", b"quick", b"\"\\ud800\""],
        &[b"enqueue", b"quick", b"1e400000"],
        &[b"enqueue", b"quick", deep.as_bytes()],
        &[b"enqueue", b"quick", b"@/no/such/file"],
        &[b"enqueue", b"quick", b"--priority", b"99999999999999999999"],
        &[b"enqueue", b"quick", b"--run-at", b"infinity"],
        &[b"enqueue", b"quick", b"--project", b"\x1b[31mred"],
        &[b"enqueue", b"quick", b"--timeout", b"1e400s"],
        &[b"jobs", b"--status", b"done"],
        &[b"jobs", b"--status", b"\x1b[2J"],
        &[b"job", b"99999999999999999999"],
        &[b"job", b"123456"],
        &[b"job", b"-1"],
        &[b"logs", b"123456"],
        &[b"cancel", b"123456"],
        &[b"nonsense"],
    ] {
        refused(&String::from_utf8_lossy(&words.join(&b' ')), &case.orch.run(os(words)).await);
    }
    for (what, input) in [
        ("invalid UTF-8", b"\"\xff\"".to_vec()),
        ("NUL", b"\"\0\"".to_vec()),
        ("2 MiB", vec![b'1'; 2 << 20]),
        ("nothing", Vec::new()),
    ] {
        refused(what, &case.orch.run_with_input(["enqueue", "quick", "-"], &input).await);
    }
    assert_eq!(jobs(case).await, before, "nothing was enqueued");
    let fine = case.enqueue("quick").await;
    case.until(fine, "succeeded", BOUND).await;
}

pub(crate) async fn the_config_refuses_in_one_sentence(case: &mut Case) {
    // The suite's own timings stand above the file.
    for setting in ["ORCH_LEASE", "ORCH_HEARTBEAT", "ORCH_KILL_GRACE", "ORCH_POLL_INTERVAL", "ORCH_MAX_CONCURRENCY"] {
        case.orch.unset(setting);
    }
    let deep = format!("a = {}{}", "[".repeat(100_000), "]".repeat(100_000));
    let agent = "[agents.a]\ncommand = [\"true\"]\n";
    for (what, text) in [
        ("unknown key", b"max_concurency = 3".to_vec()),
        ("no TOML", b"= = =".to_vec()),
        ("NUL", b"name = \"a\0b\"".to_vec()),
        ("escaped NUL", b"[agents.a]\ncommand = [\"a\\u0000b\"]".to_vec()),
        ("invalid UTF-8", b"name = \"\xff\"".to_vec()),
        ("UTF-16", b"\xff\xfen\0a\0m\0e\0".to_vec()),
        ("deep", deep.into_bytes()),
        ("a number for a duration", b"lease = 60".to_vec()),
        ("a word for a duration", b"lease = \"soon\"".to_vec()),
        ("too long a duration", b"lease = \"99999999999999999999y\"".to_vec()),
        ("no duration", b"poll_interval = \"0s\"".to_vec()),
        ("a lease too short", b"lease = \"7s\"\nheartbeat = \"5s\"".to_vec()),
        ("too many", b"max_concurrency = 99999999999999999999".to_vec()),
        ("fewer than none", b"max_concurrency = -1".to_vec()),
        ("twice", b"name = \"a\"\nname = \"b\"".to_vec()),
        ("a bad address", b"listen = \"localhost:http\"".to_vec()),
        ("no command", b"[agents.a]\n".to_vec()),
        ("an empty command", b"[agents.a]\ncommand = []".to_vec()),
        ("a command in one string", b"[agents.a]\ncommand = \"rm -rf /\"".to_vec()),
        ("an agent's name", b"[agents.\"../a\"]\ncommand = [\"true\"]".to_vec()),
        ("an unknown hole", b"[agents.a]\ncommand = [\"echo\", \"{{ env.HOME }}\"]".to_vec()),
        ("an open hole", b"[agents.a]\ncommand = [\"echo\", \"{{ payload.x\"]".to_vec()),
        ("an unknown containment", format!("{agent}containment = \"jail\"").into_bytes()),
        ("attempts", format!("{agent}max_attempts = 0").into_bytes()),
        (
            "a factor of infinity",
            format!("{agent}backoff = {{ base = \"1s\", factor = inf, max = \"1h\" }}").into_bytes(),
        ),
        (
            "a factor that is no number",
            format!("{agent}backoff = {{ base = \"1s\", factor = nan, max = \"1h\" }}").into_bytes(),
        ),
    ] {
        std::fs::write(case.orch.path("orch.toml"), text).unwrap();
        refused(what, &case.orch.run(["config", "check"]).await);
        refused(what, &case.orch.run(["up"]).await);
    }
    // Above the file, like the suite's own address.
    std::fs::write(case.orch.path("orch.toml"), agent).unwrap();
    let own = case.orch.listen().to_string();
    case.orch.set("ORCH_LISTEN", "0.0.0.0:8080");
    refused("an open address without tokens", &case.orch.run(["config", "check"]).await);
    refused("an open address without tokens", &case.orch.run(["up"]).await);
    case.orch.set("ORCH_LISTEN", own);
    std::fs::remove_file(case.orch.path("orch.toml")).unwrap();
    refused("no such file", &case.orch.run(["config", "check"]).await);
    std::fs::create_dir(case.orch.path("orch.toml")).unwrap();
    refused("a directory", &case.orch.run(["config", "check"]).await);
    std::fs::remove_dir(case.orch.path("orch.toml")).unwrap();

    // And a file that is repaired is all that it takes.
    case.agent("quick", "exit 0", "");
    case.orch.run(["config", "check"]).await.ok();
    case.up().await;
    let fine = case.enqueue("quick").await;
    case.until(fine, "succeeded", BOUND).await;
}

/// What a job may leave as its result, and must not.
const RESULTS: [(&str, &str); 14] = [
    ("nul", r#"printf '{"data": "\\u0000"}' >"$ORCH_RESULT_FILE""#),
    ("raw_nul", r#"printf '{"data": "\0"}' >"$ORCH_RESULT_FILE""#),
    ("surrogate", r#"printf '{"data": "\\ud800"}' >"$ORCH_RESULT_FILE""#),
    ("huge_number", r#"printf '{"data": 1e400000}' >"$ORCH_RESULT_FILE""#),
    (
        "deep",
        r#"{ printf '{"data": '; head -c 100000 /dev/zero | tr '\0' '['; head -c 100000 /dev/zero | tr '\0' ']'; printf '}'; } >"$ORCH_RESULT_FILE""#,
    ),
    ("utf8", r#"printf '{"data": "\377"}' >"$ORCH_RESULT_FILE""#),
    ("cut_off", r#"printf '{"data": ' >"$ORCH_RESULT_FILE""#),
    ("a_list", r#"printf '[1]' >"$ORCH_RESULT_FILE""#),
    ("a_word_for_a_time", r#"printf '{"retry_after": "soon"}' >"$ORCH_RESULT_FILE""#),
    ("too_late", r#"printf '{"retry_after": "99999999999999999y"}' >"$ORCH_RESULT_FILE""#),
    ("too_big", r#"{ printf '{"data": "'; head -c 2000000 /dev/zero | tr '\0' x; printf '"}'; } >"$ORCH_RESULT_FILE""#),
    ("a_directory", r#"rm -f "$ORCH_RESULT_FILE"; mkdir "$ORCH_RESULT_FILE""#),
    ("a_pipe", r#"rm -f "$ORCH_RESULT_FILE"; mkfifo "$ORCH_RESULT_FILE""#),
    ("a_device", r#"rm -f "$ORCH_RESULT_FILE"; ln -s /dev/zero "$ORCH_RESULT_FILE""#),
];

pub(crate) async fn results_that_jsonb_refuses_stick_nowhere(case: &mut Case) {
    for (name, script) in RESULTS {
        case.agent(name, script, "max_attempts = 2\nbackoff = { base = \"100ms\", factor = 1.0, max = \"100ms\" }");
    }
    case.agent("good", r#"printf '{"data": {"n": 7}}' >"$ORCH_RESULT_FILE""#, "");
    case.up().await;
    let mut refused = Vec::new();
    let mut good = Vec::new();
    for (name, _) in RESULTS {
        refused.push((name, case.enqueue(name).await));
        good.push(case.enqueue("good").await);
    }
    for (name, job) in refused {
        case.until(job, "failed", BOUND * 2).await;
        let row = case.job(job).await;
        let error: Option<&str> = row.get("error");
        assert!(error.is_some_and(|error| error.len() > 10), "{name}: a reason: {error:?}");
        // What is JSON and says nothing useful is kept for its reader; all else could not be.
        assert!(name == "a_word_for_a_time" || name == "too_late" || no_result(&row), "{name}");
        let outcomes = case.outcomes(job).await;
        assert!(outcomes.iter().all(|outcome| outcome.as_deref() == Some("failed")), "{name}: {outcomes:?}");
    }
    for job in good {
        case.until(job, "succeeded", BOUND).await;
        assert!(case.job(job).await.get::<_, Option<serde_json::Value>>("result").is_some());
    }
}

fn no_result(row: &tokio_postgres::Row) -> bool {
    row.get::<_, Option<serde_json::Value>>("result").is_none()
}
