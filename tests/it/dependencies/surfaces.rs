//! How dependencies are said and shown: `enqueue_many`, the command line, lists, counts.

use serde_json::json;

use super::{Outcome, Stage, one};
use crate::support::Orch;

#[tokio::test]
async fn many_jobs_may_run_after_others_with_and_without_a_key() {
    let stage = Stage::new().await;
    let (a, b) = (stage.enqueue("").await, stage.enqueue(", dedupe_key => 'b'").await);
    stage.run(Outcome::Succeeded).await;
    let call = format!(
        r#"select json_agg(id) from orch.enqueue_many('[
            {{"agent": "a", "after": [{a}, {b}]}}, {{"agent": "a", "dedupe_key": "k", "after": [{b}]}}, {{"agent": "a"}},
            {{"agent": "a", "after": []}}, {{"agent": "a", "after": null}}, {{"agent": "a", "dedupe_key": "b", "after": [{a}]}},
            {{"agent": "a", "after": [{a}]}}]') id"#
    );
    let ids: Vec<i64> = serde_json::from_str(&one(&stage.client, &call).await).unwrap();
    let mut stand = Vec::new();
    for id in &ids {
        stand.push(stage.stands(*id).await);
    }
    let waits = format!("queued f {{{b}}}");
    assert_eq!(stand, [&*waits, &*waits, "queued t", "queued t", "queued t", "queued t", "queued t"]);
    assert_eq!(ids[5], b);
    let edges = "select json_object_agg(job_id, before) from (
                     select job_id, array_agg(after_id order by after_id) as before from orch.job_dependencies group by job_id) d";
    let edges: serde_json::Value = serde_json::from_str(&one(&stage.client, edges).await).unwrap();
    assert_eq!(edges, json!({ ids[0].to_string(): [a, b], ids[1].to_string(): [b], ids[6].to_string(): [a] }));
    stage.healthy().await;
}

#[tokio::test]
async fn a_job_shows_what_it_runs_after_and_what_runs_after_it() {
    let stage = Stage::new().await;
    let orch = Orch::on(&stage.test);
    let (a, b) = (stage.enqueue("").await, stage.enqueue("").await);
    stage.run(Outcome::Succeeded).await;
    let c: i64 = orch.run(["enqueue", "a", "--after", "1,2"]).await.ok().stdout.trim().parse().unwrap();
    stage.sql(&format!("select orch.enqueue('a', after => array[{c}::bigint]) from generate_series(1, 12)")).await;
    let text = orch.run(["job", &c.to_string()]).await.ok().stdout;
    assert!(text.contains(&format!("runs after    {b} (queued), {a} (succeeded)\n")), "{text}");
    assert!(text.contains("awaited by    4 (queued), 5 (queued), 6"), "{text}");
    assert!(text.contains("13 (queued) and 2 more\n"), "{text}");
    assert!(text.contains(&format!("note          waits for job {b}\n")), "{text}");
    let whole = orch.run(["--json", "job", &c.to_string()]).await.ok().json();
    assert_eq!(whole["waits_for"], json!([b]));
    assert_eq!(whole["after"]["jobs"][0], json!({ "id": b, "status": "queued", "agent": "a", "pending": true }));
    assert_eq!((&whole["after"]["total"], &whole["awaited_by"]["total"]), (&json!(2), &json!(12)));
    let list = orch.run(["jobs"]).await.ok().stdout;
    assert!(list.contains(&format!("waits for job {c}")), "{list}");
    // What waits is queued, and counted; what nobody can run yet is not the oldest of what is due.
    let queue = orch.run(["--json", "queue"]).await.ok().json();
    assert_eq!(queue["counts"]["queued"], json!(14), "{queue}");
    stage.sql(&format!("select orch.hold({c})")).await;
    let due = "select sum(due) from orch.queue";
    assert_eq!(one(&stage.client, due).await, "1");
}

#[tokio::test]
async fn a_file_of_jobs_may_run_after_others() {
    let stage = Stage::new().await;
    let orch = Orch::on(&stage.test);
    let a = stage.enqueue("").await;
    let text = format!("{{\"agent\": \"a\", \"after\": [{a}]}}\n{{\"agent\": \"a\"}}\n").repeat(1500);
    std::fs::write(orch.path("jobs.ndjson"), text).unwrap();
    orch.run(["enqueue", "--from", "jobs.ndjson"]).await.ok();
    assert_eq!(
        one(&stage.client, "select count(*) from orch.jobs where waits_for is not null and id % 2 = 0").await,
        "1500"
    );
    orch.run(["enqueue", "--from", "jobs.ndjson", "--after", "1"]).await.ok();
    assert_eq!(one(&stage.client, "select count(*) from orch.jobs where waits_for is not null").await, "4500");
    let cancelled = orch.run(["cancel", &a.to_string()]).await.ok();
    assert_eq!(cancelled.stderr, "");
    assert_eq!(one(&stage.client, "select count(*) from orch.jobs where status = 'queued'").await, "1500");
    stage.healthy().await;
}

#[tokio::test]
async fn why_names_only_those_that_have_not_succeeded_however_many_have() {
    let stage = Stage::new().await;
    let mut before = Vec::new();
    for _ in 0..23 {
        before.push(stage.enqueue("").await);
    }
    let waits = stage.after(&before).await;
    for _ in 0..22 {
        stage.run(Outcome::Succeeded).await;
    }
    // None of those was the last that it waits for: nobody has looked at the row since.
    assert!(stage.stands(waits).await.contains("{1,2,3"));
    let told = stage.test.db().why(orch::model::JobId(waits), true).await.unwrap();
    assert_eq!(told.sentence, format!("job {waits} waits: jobs must have succeeded before it: job 23 (queued)"));
    assert_eq!(told.unblock.as_deref(), Some("why those wait: orch why 23"));
    stage.run(Outcome::Succeeded).await;
    let told = stage.test.db().why(orch::model::JobId(waits), true).await.unwrap();
    assert!(told.sentence.contains("they have ended, and the next tick lets it go"), "{}", told.sentence);
}
