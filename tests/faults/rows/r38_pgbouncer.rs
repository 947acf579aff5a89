//! Row 38: PgBouncer in transaction mode. Every feature works through it by polling, without prepared statements, with
//! renewals on a direct connection.

use crate::{
    bouncer::Bouncer,
    case::{BOUND, BOUND_AFTER_OUTAGE, Case},
    support::{Orch, eventually_within},
    witness,
};

pub(crate) async fn everything_works_by_polling(case: &mut Case) {
    let bouncer = Bouncer::before(case.db.config()).await;
    case.orch.set("DATABASE_URL", bouncer.url());
    case.orch.set("ORCH_RENEWAL_URL", case.db.url());
    case.orch.set("ORCH_PREPARED_STATEMENTS", "false");
    let go = case.orch.path("go");
    case.agent("quick", "echo said; echo '{\"data\": 7}' > \"$ORCH_RESULT_FILE\"", "");
    case.agent("long", &format!("until [ -e {} ]; do sleep 0.2; done", go.display()), "");
    case.agent("lost", "[ \"$ORCH_ATTEMPT\" = 1 ] && sleep 100000; exit 0", "");
    case.add_node("a").up().await;

    // Enqueue, claim, stamp, settle, logs.
    let place = case.orch.beside();
    let answer = place.run(["enqueue", "quick", "--json"]).await.ok().json();
    let quick = answer["id"].as_i64().or_else(|| answer["job_id"].as_i64()).expect("the id of the new job");
    case.until(quick, "succeeded", BOUND).await;
    assert_eq!(case.job(quick).await.get::<_, Option<serde_json::Value>>("result").unwrap()["data"], 7);
    eventually_within(BOUND, "the output to be there", async || {
        place.run(["logs", &quick.to_string()]).await.stdout.contains("said").then_some(())
    })
    .await;
    let many: Vec<i64> = enqueue_many(case, 40).await;
    for job in &many {
        case.until(*job, "succeeded", BOUND_AFTER_OUTAGE).await;
        assert_eq!(case.outcomes(*job).await, [Some("succeeded".to_owned())], "job {job} ran once");
    }

    // Cancel.
    let unwanted = case.enqueue("long").await;
    case.until_alive(unwanted).await;
    place.run(["cancel", &unwanted.to_string()]).await.ok();
    case.until(unwanted, "cancelled", BOUND).await;

    // Adoption: the replica dies, its run does not, and its next boot takes it over.
    let adopted = case.enqueue("long").await;
    case.until_alive(adopted).await;
    let former = case.replica_id("a").await;
    case.node("a").kill().await;
    case.node("a").up().await;
    eventually_within(BOUND, "the run to be adopted", async || {
        let owner: Option<uuid::Uuid> = case.job(adopted).await.get("replica_id");
        owner.is_some_and(|owner| owner.to_string() != former).then_some(())
    })
    .await;
    std::fs::write(&go, "").unwrap();
    case.until(adopted, "succeeded", BOUND).await;
    assert_eq!(witness::intervals(&case.witness(), adopted).len(), 1, "the adopted run was started once");

    // Drain, and the reaper: what the drained node loses, another finishes.
    let lost = case.enqueue("lost").await;
    case.until_alive(lost).await;
    drain(&place).await;
    let waiting = case.enqueue("quick").await;
    case.add_node("b").up().await;
    case.until(waiting, "succeeded", BOUND).await;
    assert_eq!(case.runs(waiting).await[0].get::<_, uuid::Uuid>("replica_id").to_string(), case.replica_id("b").await);
    case.node("a").kill_everything().await;
    case.until(lost, "succeeded", BOUND_AFTER_OUTAGE).await;
    assert_eq!(case.outcomes(lost).await, [Some("lost".to_owned()), Some("succeeded".to_owned())]);

    // A replica without a way past the pooler finds out that nothing is heard there, leaves no lock behind, and polls.
    case.orch.unset("ORCH_RENEWAL_URL");
    case.node("b").stop().await;
    case.add_node("c").up().await;
    let polled = case.enqueue("quick").await;
    case.until(polled, "succeeded", BOUND).await;
    eventually_within(BOUND, "the replica to say that it hears nothing", async || {
        case.node("c").log().contains("nothing is heard").then_some(())
    })
    .await;
    let locks = "select from pg_locks where locktype = 'advisory' and classid = 1869767528 and database = (select oid from pg_database where datname = current_database())";
    assert!(case.sql.query(locks, &[]).await.unwrap().is_empty(), "a lock in a session that is shared");

    for command in [&["doctor"][..], &["queue"], &["replicas"], &["jobs"], &["job", &lost.to_string()]] {
        place.run(command).await.ok();
    }
    // Through the pooler to the end.
    case.down().await;
    drop(bouncer);
}

async fn enqueue_many(case: &Case, count: i64) -> Vec<i64> {
    let many = "select orch.enqueue('quick') from generate_series(1, $1::bigint)";
    case.sql.query(many, &[&count]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

async fn drain(place: &Orch) {
    place.run(["drain", "a"]).await.ok();
}
