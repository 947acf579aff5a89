//! Who is in the way, by name: the job, its run, pid and host, since when, and what would make it let go. And what runs
//! but says nothing.

use orch::{db::logs::Chunk, model::Outcome};
use serde_json::json;

use super::{alike::agree, enqueue, says, why};
use crate::{
    played::Played,
    support::{Orch, TestDb},
};

#[tokio::test]
async fn where_no_slot_is_free_the_runs_that_keep_them_are_named() {
    let db = TestDb::new().await;
    let played = Played::on(&db, &["a"]).await;
    let (orch, client) = (Orch::on(&db), db.client().await);
    client.batch_execute("update orch.replicas set max_concurrency = 2").await.unwrap();
    let other = Played::on(&db, &["b"]).await;
    for agent in ["a", "a", "b", "a", "a"] {
        enqueue(&orch, &[agent]).await;
    }
    let (first, second) = (played.claim().await.unwrap(), played.claim().await.unwrap());
    other.claim().await.unwrap();
    played.stamp(&first, 4711).await;
    let told = why(&orch, 5).await;
    says(
        &told,
        "no_free_slot",
        &[
            "full: \"played\" 2/2; the slots are kept by job 1 (pid 4711 on \"stage\", replica \"played\", for ",
            ", job 2 (not started yet, on \"stage\", replica \"played\", for ",
            "; 1 job is ahead of it: job 4 (no_free_slot)",
        ],
        "the end of one of them, job 1 being the oldest; to end it now: orch cancel 1; more slots",
    );
    let kept: Vec<_> = told["detail"]["kept_by"].as_array().unwrap().iter().map(|run| run["run_id"].clone()).collect();
    assert_eq!(kept, [json!(first.owned.run_id()), json!(second.owned.run_id())], "none of the other replica");
    assert_eq!(told["detail"]["before_it"][0]["job_id"], 4);
    let text = orch.run(["why", "5"]).await.ok().stdout;
    assert!(text.lines().any(|line| line.starts_with("1  ") && line.contains("  4711  stage  played   20")), "{text}");
    assert!(text.lines().any(|line| line.starts_with("4  ") && line.contains("no_free_slot")), "{text}");

    // What was taken from it keeps its slot, and no cancel ends it.
    played.settle(second, Outcome::Succeeded).await;
    client
        .batch_execute(
            "update orch.jobs set status = 'held' where id = 1; update orch.replicas set max_concurrency = 1",
        )
        .await
        .unwrap();
    says(
        &why(&orch, 4).await,
        "no_free_slot",
        &["are kept by the old process of job 1 (pid 4711"],
        "the end of that process, which its replica sees to; more slots",
    );
    agree(&client).await;
}

#[tokio::test]
async fn a_replica_without_slots_has_nobody_in_the_way() {
    let db = TestDb::new().await;
    Played::on(&db, &["a"]).await;
    let orch = Orch::on(&db);
    db.client().await.batch_execute("update orch.replicas set max_concurrency = 0").await.unwrap();
    enqueue(&orch, &["a"]).await;
    let told = why(&orch, 1).await;
    says(&told, "no_free_slot", &["full: \"played\" 0/0"], "more slots");
    assert!(told["sentence"].as_str().unwrap().ends_with("0/0"), "{told}");
    assert_eq!(told["unblock"], "more slots (max_concurrency), or another replica");
}

#[tokio::test]
async fn where_a_limit_has_room_the_jobs_that_come_first_are_named_and_those_that_hold_it() {
    let db = TestDb::new().await;
    let played = Played::on(&db, &["a"]).await;
    let (orch, client) = (Orch::on(&db), db.client().await);
    orch.run(["limits", "set", "acct", "2"]).await.ok();
    orch.run(["limits", "set", "more", "9"]).await.ok();
    enqueue(&orch, &["a", "--limit", "acct"]).await;
    let holder = played.claim().await.unwrap();
    played.stamp(&holder, 4711).await;
    enqueue(&orch, &["a", "--priority", "3"]).await;
    let first = enqueue(&orch, &["a", "--limit", "acct", "--priority", "2"]).await;
    let last = enqueue(&orch, &["a", "--limit", "acct", "--limit", "more"]).await;
    let told = why(&orch, last).await;
    says(
        &told,
        "limit_full",
        &[&format!(
            "limit acct has room for 1 more, and others come first: job {first} (next); it is held by job 1 (pid 4711 on "
        )],
        &format!(
            "the end of those; why the first of them waits itself: orch why {first}; for more at the same time: orch limits set acct N"
        ),
    );
    let before = &told["detail"]["before_it"];
    assert_eq!((before.as_array().unwrap().len(), &before[0]["job_id"]), (1, &json!(first)), "{told}");
    agree(&client).await;

    orch.run(["limits", "set", "acct", "1"]).await.ok();
    says(
        &why(&orch, last).await,
        "limit_full",
        &["limit acct is full: 1 of 1 run, namely job 1 (pid 4711 on \"stage\", replica \"played\", for "],
        "the end of job 1; to end it now: orch cancel 1; for more at the same time: orch limits set acct N",
    );
    agree(&client).await;
}

#[tokio::test]
async fn of_a_limit_that_probes_the_probe_is_named() {
    let db = TestDb::new().await;
    let played = Played::on(&db, &["a"]).await;
    let (orch, client) = (Orch::on(&db), db.client().await);
    orch.run(["limits", "set", "acct", "none"]).await.ok();
    for _ in 0..3 {
        enqueue(&orch, &["a", "--limit", "acct"]).await;
    }
    played.claim().await.unwrap();
    client
        .batch_execute("select orch.close_limit('acct'); update orch.limits set closed_until = clock_timestamp()")
        .await
        .unwrap();
    says(
        &why(&orch, 3).await,
        "limit_full",
        &["limit acct has room for 1 more, and others come first: job 2 (next); it is held by job 1 ("],
        "orch why 2",
    );
    played.claim().await.unwrap();
    let told = why(&orch, 3).await;
    says(&told, "limit_full", &["lets one job probe whether it may open: job 2 ("], "orch limits open acct");
    assert!(!told["sentence"].as_str().unwrap().contains("job 1 ("), "{told}");
}

#[tokio::test]
async fn a_gate_that_an_old_process_keeps_is_not_freed_by_a_cancel() {
    let db = TestDb::new().await;
    let played = Played::on(&db, &["a"]).await;
    let (orch, client) = (Orch::on(&db), db.client().await);
    enqueue(&orch, &["a", "--gate", "g"]).await;
    let claimed = played.claim().await.unwrap();
    played.stamp(&claimed, 4711).await;
    client.batch_execute("update orch.jobs set status = 'queued'").await.unwrap();
    enqueue(&orch, &["a", "--gate", "g"]).await;
    says(
        &why(&orch, 2).await,
        "serial_gate",
        &["gate \"g\" is kept by the old process of job 1 (pid 4711"],
        "the end of that process",
    );
    agree(&client).await;
}

#[tokio::test]
async fn the_jobs_that_have_the_next_slots_are_named() {
    let db = TestDb::new().await;
    Played::on(&db, &["a"]).await;
    let orch = Orch::on(&db);
    for _ in 0..20 {
        enqueue(&orch, &["a"]).await;
    }
    let told = why(&orch, 20).await;
    says(
        &told,
        "fair_share",
        &[
            "19 jobs are ahead of it",
            "; first job 1 (next), job 2 (next), job 3 (next), job 4 (next), job 5 (fair_share), …",
        ],
        "",
    );
    assert_eq!(told["detail"]["before_it"].as_array().unwrap().len(), 10);
}

#[tokio::test]
async fn jobs_that_only_other_replicas_take_are_not_in_the_way() {
    let db = TestDb::new().await;
    Played::on(&db, &["a"]).await;
    Played::on(&db, &["b"]).await;
    Played::on(&db, &["a", "b"]).await;
    let (orch, client) = (Orch::on(&db), db.client().await);
    client
        .batch_execute("update orch.replicas set max_concurrency = case when agents = '{a,b}' then 0 else 1 end")
        .await
        .unwrap();
    let named = async |job: i64| -> Vec<i64> {
        let told = why(&orch, job).await;
        let before = told["detail"]["before_it"].as_array().cloned().unwrap_or_default();
        before.iter().map(|job| job["job_id"].as_i64().unwrap()).collect()
    };
    for agent in ["b", "b", "a", "b", "a", "a"] {
        enqueue(&orch, &[agent]).await;
    }
    assert_eq!((named(6).await, named(4).await), (vec![3, 5], vec![1, 2]));
    orch.run(["limits", "set", "one", "1"]).await.ok();
    for agent in ["b", "a", "a"] {
        enqueue(&orch, &[agent, "--limit", "one"]).await;
    }
    // The same of a limit.
    let told = why(&orch, 9).await;
    says(&told, "limit_full", &["has room for 1 more, and others come first: job "], "");
    assert_eq!(named(9).await, [8]);
    agree(&client).await;
}

#[tokio::test]
async fn where_a_slot_is_free_and_a_limit_goes_to_another_job_there_not_every_replica_is_said_to_be_full() {
    let db = TestDb::new().await;
    Played::on(&db, &["a"]).await;
    let (orch, client) = (Orch::on(&db), db.client().await);
    client.batch_execute(r#"update orch.replicas set labels = '{"zone": "eu"}', name = 'near'"#).await.unwrap();
    let far = Played::on(&db, &["a"]).await;
    client.batch_execute("update orch.replicas set max_concurrency = 1 where name = 'played'").await.unwrap();
    enqueue(&orch, &["a"]).await;
    far.claim().await.unwrap();
    orch.run(["limits", "set", "acct", "1"]).await.ok();
    enqueue(&orch, &["a", "--limit", "acct"]).await;
    enqueue(&orch, &["a", "--limit", "acct", "--priority", "1", "--require", "zone=eu"]).await;
    let told = why(&orch, 2).await;
    says(
        &told,
        "no_free_slot",
        &[
            "where a slot is free, a limit or the gate that it needs goes to others first: job 3 (next); where it would have that, every \
           replica is full: ",
            "\"near\" 0/4, \"played\" 1/1; the slots are kept by job 1 (",
        ],
        "the end of job 1; to end it now: orch cancel 1; the end of job 3; more slots",
    );
    enqueue(&orch, &["a", "--gate", "g", "--require", "zone=eu"]).await;
    enqueue(&orch, &["a", "--gate", "g"]).await;
    says(&why(&orch, 5).await, "no_free_slot", &["needs goes to others first: job 4 (next); "], "the end of job 4; ");
    agree(&client).await;
}

#[tokio::test]
async fn a_silent_run_says_when_it_was_last_heard_or_that_it_never_was() {
    let db = TestDb::new().await;
    let played = Played::on(&db, &["a"]).await;
    let (orch, client) = (Orch::on(&db), db.client().await);
    enqueue(&orch, &["a"]).await;
    let claimed = played.claim().await.unwrap();
    says(
        &why(&orch, 1).await,
        "running",
        &["not started yet, on \"stage\"", "attempt 1, not heard yet, "],
        "orch cancel 1",
    );
    let text = orch.run(["why", "1"]).await.ok().stdout;
    assert!(text.contains("\nheard     never\n"), "{text}");

    played.stamp(&claimed, 4711).await;
    client.batch_execute("update orch.agent_runs set spawned_at = '2026-01-02 03:04:05Z'").await.unwrap();
    let told = why(&orch, 1).await;
    says(&told, "running", &[", never heard since its start ", " ago, at 2026-01-02 03:04:05Z, "], "");
    assert_eq!(told["detail"]["last_output_at"], json!(null));

    let run = claimed.owned.run_id();
    db.db().ship_logs(&[(run, Chunk { position: 0, bytes: b"one".to_vec() })]).await.unwrap();
    client.batch_execute("update orch.run_logs set at = '2026-01-03 04:05:06Z'").await.unwrap();
    let told = why(&orch, 1).await;
    says(&told, "running", &[", last heard ", " ago, at 2026-01-03 04:05:06Z, "], "");
    let text = orch.run(["why", "1"]).await.ok().stdout;
    assert!(text.contains("\nheard     2026-01-03T04:05:06Z\n"), "{text}");
}
