//! Row 47: injection by names, payloads and output: arguments stay literal, output escaped, paths beneath.

use std::{collections::BTreeSet, path::Path};

use serde_json::json;

use crate::{
    case::{BOUND, Case},
    support::http_request,
};

/// What must come through as it is.
const EVIL: [&str; 14] = [
    "; touch pwned",
    "$(touch pwned)",
    "`touch pwned`",
    "| touch pwned",
    "&& touch pwned #",
    "--help",
    "-e",
    "../../../../etc/passwd",
    "@/etc/passwd",
    "{{ job.id }}",
    "%s%n",
    "' or 1=1; drop table orch.jobs; --",
    "\u{1b}]0;owned\u{7}\u{1b}[2J\u{202e}",
    "<script>alert(1)</script>",
];

fn entries(dir: &Path) -> BTreeSet<String> {
    std::fs::read_dir(dir).unwrap().flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

pub(crate) async fn arguments_are_literal(case: &mut Case) {
    // Each argument with its length in bytes, so that nothing can be split, joined or eaten unseen.
    let script = r#"for word; do printf '%s:%s\n' "$(printf %s "$word" | wc -c)" "$word"; done"#;
    let command = ["sh", "-c", script, "name", "{{ payload.one }}", "x{{ payload.one }}y", "{{ payload.args }}", "end"];
    case.plain_agent("words", &command, "");
    case.plain_agent("environment", &["sh", "-c", r#"printf '%s' "$EVIL""#], "env = { EVIL = \"{{ payload.one }}\" }");
    case.plain_agent("stdin", &["cat"], "");
    case.up().await;
    let before = entries(&case.orch.path(""));
    for evil in EVIL {
        let payload = json!({"one": evil, "args": [evil, "", evil]});
        let words = case.enqueue_with("words", &payload).await;
        let stdin = case.enqueue_with("stdin", &payload).await;
        case.until(words, "succeeded", BOUND).await;
        case.until(stdin, "succeeded", BOUND).await;
        let inside = format!("x{evil}y");
        let expected: String =
            [evil, &inside, evil, "", evil, "end"].map(|word| format!("{}:{word}\n", word.len())).concat();
        assert_eq!(case.orch.run(["logs", &words.to_string()]).await.ok().stdout, expected, "{evil:?}");
        let stdin = case.orch.run(["logs", &stdin.to_string()]).await.ok();
        assert_eq!(stdin.json(), payload, "{evil:?}");
    }
    assert_eq!(entries(&case.orch.path("")), before, "nothing was made");
    nothing_was_touched(case);
}

fn nothing_was_touched(case: &Case) {
    let mut dirs = vec![case.orch.path("")];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
            assert_ne!(entry.file_name(), "pwned", "made in {}", dir.display());
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                dirs.push(entry.path());
            }
        }
    }
}

pub(crate) async fn what_is_printed_is_escaped(case: &mut Case) {
    let evil = EVIL.concat();
    case.agent("fails", "cat; cat \"$ORCH_PAYLOAD_FILE\" >&2; exit 1", "max_attempts = 1");
    case.plain_agent("no_cwd", &["true"], "cwd = \"/no/such/{{ payload.one }}\"");
    case.up().await;
    let payload = json!({ "one": evil, "\u{1b}[31mkey": "<b>" });
    let mut jobs = Vec::new();
    for agent in ["fails", "no_cwd"] {
        let job = case.enqueue_with(agent, &payload).await;
        case.until(job, "failed", BOUND).await;
        jobs.push(job.to_string());
    }
    // What a stranger's row says, whoever wrote it.
    let error = "update orch.jobs set error = $1, labels = jsonb_build_object($1::text, $1::text)";
    case.sql.execute(error, &[&evil]).await.unwrap();
    for job in &jobs {
        for words in
            [&["job", job][..], &["jobs"], &["jobs", "--status", "failed"], &["queue"], &["retry", "--dry-run", job]]
        {
            let output = case.orch.run(words).await;
            for text in [&output.stdout, &output.stderr] {
                let bad = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
                assert!(!text.contains(bad), "{words:?}: a terminal would obey: {text:?}");
            }
        }
    }
    let queue = case.replica().get("/queue").await;
    assert!(queue.head.to_ascii_lowercase().contains("content-type: application/json"), "{}", queue.head);
    assert!(queue.json().is_object());
    // What is asked for never comes back as a page.
    for target in ["/<script>alert(1)</script>", "/queue?x=<script>", "/%1b%5b2J", "/queue/../../etc/passwd"] {
        let host = case.orch.listen().to_string();
        let answer = http_request(case.orch.listen(), "GET", target, &[("Host", &host)], "").await.unwrap();
        let html = answer.head.to_ascii_lowercase().contains("text/html");
        assert!(!html && !answer.body.contains("<script>") && !answer.body.contains('\u{1b}'), "{target}: {answer:?}");
        assert!(!answer.body.contains("root:"), "{target}: {answer:?}");
    }
}

pub(crate) async fn names_cannot_lead_elsewhere(case: &mut Case) {
    case.plain_agent("where", &["sh", "-c", r#"printf '%s\n' "$PWD" "$ORCH_PAYLOAD_FILE" "$ORCH_RESULT_FILE""#], "");
    case.up().await;
    for name in EVIL.into_iter().chain(["..", ".", "a/b", "a\\b", "/etc", "~root", "con\u{0}", "\u{feff}x"]) {
        for statement in ["select orch.enqueue($1)", "select orch.enqueue('where', project => $1)"] {
            let refused = case.sql.query(statement, &[&name]).await;
            assert!(refused.is_err(), "{statement} took {name:?}");
        }
    }
    for key in EVIL {
        // A key is short text and nothing more: it may be anything, and leads nowhere.
        let keyed =
            "select orch.enqueue('where', jsonb_build_object($1::text, $1::text), gate => $1, dedupe_key => $1)";
        let job: i64 = case.sql.query_one(keyed, &[&key]).await.unwrap().get(0);
        case.until(job, "succeeded", BOUND).await;
        let run: String = case.runs(job).await[0].get("run");
        let own = case.orch.state_dir().join("runs").join(run);
        let said = case.orch.run(["logs", &job.to_string()]).await.ok().stdout;
        for path in said.lines() {
            assert!(Path::new(path).starts_with(&own), "job {job} works at {path}, not beneath {}", own.display());
        }
        assert_eq!(said.lines().count(), 3);
    }
    nothing_was_touched(case);
}
