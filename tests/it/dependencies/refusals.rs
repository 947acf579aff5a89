//! `after` that cannot be: one clear sentence from SQL and CLI, and nothing enqueued.

use super::{Outcome, Stage, one, refused};
use crate::support::Orch;

#[tokio::test]
async fn what_cannot_be_waited_for_is_refused_in_words() {
    let stage = Stage::new().await;
    let good = stage.enqueue("").await;
    stage.run(Outcome::Succeeded).await;
    let failed = stage.enqueue("").await;
    stage.run(Outcome::Failed).await;
    let cancelled = stage.enqueue("").await;
    stage.sql(&format!("select orch.cancel({cancelled})")).await;
    let before = one(&stage.client, "select count(*) from orch.jobs").await;
    for (after, json, code, words) in [
        ("array[null::bigint]", "[null]", "OR004", "after must not contain null".to_owned()),
        ("'{{1},{2}}'", "[[1], [2]]", "OR004", "after".to_owned()),
        ("'{1,2,1}'", "[1, 2, 1]", "OR004", "after names job 1 twice".to_owned()),
        ("'{77}'", "[77]", "OR005", "after names job 77, and there is no such job".to_owned()),
        ("'{-1}'", "[-1]", "OR005", "after names job -1, and there is no such job".to_owned()),
        (
            "'{2}'",
            "[2]",
            "OR004",
            format!("after names job {failed}, which is failed: retry it first, or leave it out"),
        ),
        ("'{1,3}'", "[1, 3]", "OR004", format!("after names job {cancelled}, which is cancelled")),
        (
            "array(select n from generate_series(1, 1001) n)",
            &format!("{:?}", (1..=1001).collect::<Vec<i64>>()),
            "OR004",
            "after names 1001 jobs, and 1000 are the most".to_owned(),
        ),
    ] {
        let calls = [
            format!("select orch.enqueue('a', after => {after})"),
            format!(r#"select * from orch.enqueue_many('[{{"agent": "a"}}, {{"agent": "a", "after": {json}}}]')"#),
            format!(
                r#"select * from orch.enqueue_many('[{{"agent": "a"}}, {{"agent": "a", "dedupe_key": "k", "after": {json}}}]')"#
            ),
        ];
        for call in calls {
            let (found, message) = refused(&stage.client, &call).await;
            assert_eq!(found, code, "{call}: {message}");
            assert!(message.contains(&words), "{call}: {message}");
            assert!(!call.contains("many") || message.contains("element 2: "), "{call}: {message}");
        }
    }
    for json in ["5", "\"1\"", "[\"x\"]", "[1.5]", "{}"] {
        let call = format!(r#"select * from orch.enqueue_many('[{{"agent": "a", "after": {json}}}]')"#);
        let (code, message) = refused(&stage.client, &call).await;
        assert_eq!((code.as_str(), message.contains("element 1: ")), ("OR004", true), "{call}: {message}");
    }
    assert_eq!(one(&stage.client, "select count(*) from orch.jobs").await, before);
    let none = stage.after(&[]).await;
    assert_eq!(stage.stands(none).await, "queued t", "after nobody is no wait");
    assert_eq!(good, 1);
}

#[tokio::test]
async fn a_circle_is_refused_where_a_dedupe_key_would_close_it() {
    let stage = Stage::new().await;
    let a = stage.enqueue(", dedupe_key => 'k'").await;
    let b = stage.after(&[a]).await;
    let c = stage.after(&[b]).await;
    let other = stage.enqueue("").await;
    for (after, says) in [
        (vec![a], format!("job {a} is live with dedupe_key \"k\", and job {a} cannot wait for itself")),
        (vec![other, c], format!("job {a} is live with dedupe_key \"k\", and job {c} waits for job {a}")),
    ] {
        for on_conflict in ["return", "replace", "refuse"] {
            let wish =
                format!("'a', dedupe_key => 'k', on_conflict => '{on_conflict}', after => array{after:?}::bigint[]");
            let (code, message) = refused(&stage.client, &format!("select orch.enqueue({wish})")).await;
            assert_eq!((code.as_str(), message), ("OR004", format!("enqueue: after is circular: {says}")));
            let many = format!(r#"[{{"agent": "a"}}, {{"agent": "a", "dedupe_key": "k", "after": {after:?}}}]"#);
            let (code, message) = refused(&stage.client, &format!("select orch.enqueue_many('{many}')")).await;
            assert_eq!(
                (code.as_str(), message),
                ("OR004", format!("enqueue_many: element 2: after is circular: {says}"))
            );
        }
    }
    assert_eq!(stage.enqueue(&format!(", dedupe_key => 'k', after => array[{other}::bigint]")).await, a);
    assert_eq!(stage.stands(a).await, "queued t", "the live job stays as it is");
    assert_eq!(one(&stage.client, "select count(*) from orch.jobs").await, "4");
}

#[tokio::test]
async fn the_command_line_says_the_same() {
    let stage = Stage::new().await;
    let orch = Orch::on(&stage.test);
    let a = orch.run(["enqueue", "a", "--dedupe-key", "k"]).await.ok().stdout.trim().to_owned();
    for (after, words) in [
        ("77", "after names job 77, and there is no such job"),
        ("1,1", "after names job 1 twice"),
        ("x", "invalid value 'x' for '--after <ID>'"),
        ("", "--after"),
    ] {
        let output = orch.run(["enqueue", "a", "--after", after]).await;
        assert!(!output.status.success() && output.stderr.contains(words), "{output:?}");
    }
    let circle = orch.run(["enqueue", "a", "--dedupe-key", "k", "--after", &a]).await;
    assert!(circle.stderr.contains("after is circular: job 1 is live"), "{circle:?}");
    std::fs::write(
        orch.path("jobs.ndjson"),
        "{\"agent\": \"a\", \"after\": [1]}\n{\"agent\": \"a\", \"after\": [2]}\n",
    )
    .unwrap();
    let output = orch.run(["enqueue", "--from", "jobs.ndjson"]).await;
    assert!(output.stderr.contains("line 2: after names job 2, and there is no such job"), "{output:?}");
    assert_eq!(one(&stage.client, "select count(*) from orch.jobs").await, "1");
}
