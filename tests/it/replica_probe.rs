//! A limit that runs close by their results, on two real replicas: one job probes at a time, and then the rest goes.

use std::fs;

use tokio_postgres::Client;

use crate::{
    replica::{place, text},
    runs::no_violation,
    support::{TestDb, eventually},
};

const JOBS: i64 = 6;

/// Runs that began between the first closing and the opening, and overlap another such run.
const PROBES_AT_ONCE: &str = "
    with probes as (
        select r.run_id, r.claimed_at, coalesce(r.ended_at, clock_timestamp()) as ended_at
          from orch.agent_runs r
         where r.claimed_at > (select max(f.ended_at) from orch.agent_runs f where f.attempt = 1)
           and r.claimed_at < coalesce((select min(e.at) from orch.events e where e.kind = 'limit_opened'), 'infinity')
    )
    select count(*) from probes a join probes b on a.run_id < b.run_id
       and a.claimed_at < b.ended_at and b.claimed_at < a.ended_at";

async fn count(client: &Client, sql: &str) -> i64 {
    client.query_one(sql, &[]).await.unwrap().get(0)
}

#[tokio::test]
async fn a_limit_that_runs_close_reopens_with_one_probe_at_a_time_and_loses_nothing() {
    let test = TestDb::new().await;
    let client = test.client().await;
    let places = [place(&test), place(&test)];
    let flag = places[0].path("works-again");
    // One failure is all that this agent's jobs have.
    let script = format!(
        r#"[ -e {} ] && exit 0
           echo '{{"close_limit": {{"name": "api", "until": "200ms", "reason": "429"}}}}' > "$ORCH_RESULT_FILE"
           exit 1"#,
        flag.display()
    );
    client.batch_execute("select orch.set_limit('api')").await.unwrap();
    let sql = "select orch.enqueue('sh', $1, limits => '{api}') from generate_series(1, $2::bigint)";
    client.query(sql, &[&serde_json::json!({ "script": script }), &JOBS]).await.unwrap();
    let _replicas = (places[0].up().await, places[1].up().await);

    eventually("a few probes to close it again", async || {
        (count(&client, "select count(*) from orch.agent_runs where ended_at is not null").await > JOBS + 5)
            .then_some(())
    })
    .await;
    let before = "select sum(failures) || ' ' || sum(transient_count) || ' ' || count(*) from orch.jobs";
    assert_eq!(text(&client, before).await.as_deref(), Some("0 0 6"), "whatever was tried");
    assert_eq!(count(&client, "select count(*) from orch.events where kind = 'limit_opened'").await, 0);
    fs::write(&flag, "").unwrap();
    eventually("every job to succeed", async || {
        (count(&client, "select count(*) from orch.jobs where status = 'succeeded'").await == JOBS).then_some(())
    })
    .await;

    assert_eq!(count(&client, PROBES_AT_ONCE).await, 0, "one at a time");
    let opened = "select count(*) from orch.events where kind = 'limit_opened' and run_id is not null";
    assert_eq!(count(&client, opened).await, 1, "by the probe that did not close it");
    let sums = "select sum(failures) || ' ' || sum(lost_count) || ' ' || (sum(attempt) = (select count(*) from orch.agent_runs))
                  from orch.jobs";
    assert_eq!(text(&client, sums).await.as_deref(), Some("0 0 true"));
    no_violation(&client).await;
}
