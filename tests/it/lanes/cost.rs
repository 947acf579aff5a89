//! What a claim costs, in pages read, never in time: whatever waits, it reads what it takes and a head a lane.

use orch::model::Head;
use tokio_postgres::Client;

use super::{Claimer, stage};
use crate::support::TestDb;

/// The pages that a claim for so many slots touches. It is rolled back.
async fn pages(client: &Client, claimer: &Claimer, slots: usize) -> i64 {
    pages_from(client, claimer, slots, None).await
}

/// Likewise, of one that goes on from the head of a lane.
pub(super) async fn pages_from(client: &Client, claimer: &Claimer, slots: usize, mark: Option<&Head>) -> i64 {
    let marks = mark.map_or("null, null, null, null".to_owned(), |Head { project, lane, run_at, id }| {
        format!("array['{project}'], array[{lane}], array['{run_at}'::timestamptz], array[{id}]")
    });
    let sql = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/sql/runs/claim.sql"));
    let _ = client.batch_execute("deallocate claim").await;
    let types = "uuid, uuid[], text[], bool, text, text, jsonb, bigint[], text, jsonb, int, int, jsonb, bool, text[], bigint[], timestamptz[],
         bigint[]";
    client.batch_execute(&format!("prepare claim ({types}) as {sql}")).await.unwrap();
    client.batch_execute("set plan_cache_mode = force_generic_plan").await.unwrap();
    let window = orch::model::Window::default();
    let mut last = 0;
    // The first plans the functions that it calls, and fills the caches with the catalog.
    for _ in 0..2 {
        let runs: Vec<_> = (0..slots).map(|_| orch::model::RunId::new().to_string()).collect();
        let explain = format!(
            "explain (analyze, buffers, format json) execute claim('{}', '{{{}}}', '{{a}}', true, 'h', 'b', '{{}}', null, '',
             '{{}}', {}, {}, '{{}}', false, {marks})",
            claimer.claimant.replica_id,
            runs.join(","),
            window.lanes,
            window.of_one_project
        );
        client.batch_execute("begin").await.unwrap();
        let plan: serde_json::Value = client.query_one(&explain, &[]).await.unwrap().get(0);
        client.batch_execute("rollback").await.unwrap();
        let top = &plan[0]["Plan"];
        last = top["Shared Hit Blocks"].as_i64().unwrap() + top["Shared Read Blocks"].as_i64().unwrap();
    }
    last
}

async fn with(setup: &str) -> (TestDb, Client, Claimer) {
    let (test, client, claimer) = stage().await;
    client.batch_execute(setup).await.unwrap();
    client.batch_execute("vacuum analyze orch.jobs").await.unwrap();
    (test, client, claimer)
}

#[tokio::test]
async fn ten_thousand_jobs_that_may_not_run_cost_a_claim_next_to_nothing() {
    let few = "insert into orch.jobs (agent, run_at) select 'a', now() - interval '1 s' from generate_series(1, 20);";
    let many = |what: &str, n: i64| {
        format!("insert into orch.jobs (agent, run_at, priority, {what} from generate_series(1, {n}) n; {few}")
    };
    for (name, prelude, what) in [
        (
            "a closed limit",
            "select orch.set_limit('api'); select orch.close_limit('api');",
            "limits) select 'a', now() - interval '1 h', 5, '{api}'::text[]",
        ),
        (
            "a full limit",
            "select orch.set_limit('api', 1); select orch.enqueue('a', limits => '{api}', priority => 9);",
            "limits) select 'a', now() - interval '1 h', 5, '{api}'::text[]",
        ),
        (
            "a taken gate",
            "select orch.enqueue('a', gate => 'g', priority => 9);",
            "gate) select 'a', now() - interval '1 h', 5, 'g'",
        ),
        ("an agent that nobody serves", "", "gate) select 'nobody', now() - interval '1 h', 5, null::text"),
        ("labels that nobody has", "", r#"require) select 'a', now() - interval '1 h', 5, '{"x": "y"}'::jsonb"#),
        ("a time that has not come", "", "gate) select 'a', now() + interval '1 h', 5, null::text"),
    ] {
        let mut costs = Vec::new();
        for n in [10, 10_000] {
            let (_test, client, mut claimer) = with(prelude).await;
            if prelude.contains("enqueue") {
                assert_eq!(claimer.once(1).await.0.len(), 1);
            }
            client.batch_execute(&many(what, n)).await.unwrap();
            client.batch_execute("vacuum analyze orch.jobs").await.unwrap();
            costs.push(pages(&client, &claimer, 10).await);
        }
        assert!(costs[1] <= costs[0] + 60, "{name}: {costs:?}");
    }
}

#[tokio::test]
async fn a_claim_of_a_thousand_projects_costs_at_most_twice_that_of_one() {
    let jobs = |project: &str| {
        format!(
            "insert into orch.jobs (agent, project, run_at)
             select 'a', {project}, now() - interval '1 h' from generate_series(1, 20000) n"
        )
    };
    let mut costs = Vec::new();
    for project in ["'p'", "'p' || n % 1000"] {
        let (_test, client, claimer) = with(&jobs(project)).await;
        costs.push(pages(&client, &claimer, 100).await);
    }
    assert!(costs[1] <= 2 * costs[0], "{costs:?}");
}

#[tokio::test]
async fn depth_costs_nothing_not_even_on_a_server_that_knows_nothing_of_the_queue() {
    let mut costs = Vec::new();
    for depth in [1_000, 100_000] {
        let (_test, client, claimer) = stage().await;
        // What a burst looks like to a server that analyzed an empty table.
        client.batch_execute("analyze orch.jobs; alter table orch.jobs set (autovacuum_enabled = off)").await.unwrap();
        let sql = format!(
            "insert into orch.jobs (agent, project, run_at)
             select 'a', 'p' || n % 3, now() - interval '1 h' from generate_series(1, {depth}) n"
        );
        client.batch_execute(&sql).await.unwrap();
        costs.push(pages(&client, &claimer, 20).await);
    }
    assert!(costs[1] <= costs[0] * 13 / 10 + 10, "{costs:?}");
}
