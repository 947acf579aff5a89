//! How the server goes about the hot statements: by the index that their headers name, whatever it knows of the tables, and
//! planned a few times a session.

use tokio_postgres::Client;

use super::statements;
use crate::support::TestDb;

/// The plan of a statement as the server makes it for any parameters (generic) and for these.
async fn plans(client: &Client, name: &str, args: &str) -> String {
    let statement = statements()[name];
    let types: Vec<_> = statement.params.iter().map(tokio_postgres::types::Type::name).collect();
    let types = if types.is_empty() { String::new() } else { format!("({})", types.join(", ")) };
    let mut plans = String::new();
    client.batch_execute(&format!("prepare explained {types} as {}", statement.sql)).await.unwrap();
    for mode in ["force_generic_plan", "force_custom_plan"] {
        client.batch_execute(&format!("set plan_cache_mode = {mode}")).await.unwrap();
        for row in client.query(&format!("explain execute explained {args}"), &[]).await.unwrap() {
            plans += row.get(0);
            plans.push('\n');
        }
    }
    client.batch_execute("deallocate explained; reset plan_cache_mode").await.unwrap();
    plans
}

/// The last parameters of a claim that looks at the first lanes and remembers nothing.
const EVERYWHERE: &str = "null, '', '{}', 256, 128, '{}', false, null, null, null, null";

/// 100,000 finished jobs and their runs, 5,000 queued, 20 running.
async fn much(client: &Client) {
    client
        .batch_execute(
            "insert into orch.replicas (replica_id, name, host, lease_until)
             values ('00000000-0000-7000-8000-0000000000aa', 'r', 'h', now() + interval '1 hour');
             insert into orch.jobs (agent, status, claimable, finished_at, attempt, last_run_id)
             select 'a', 'succeeded', false, now() - n * interval '1 s', 1, ('00000000-0000-7000-8000-' || lpad(n::text, 12, '0'))::uuid
               from generate_series(1, 100000) n;
             insert into orch.jobs (agent) select 'a' from generate_series(1, 5000);
             insert into orch.jobs (agent, status, claimable, attempt, run_id, replica_id, started_at)
             select 'a', 'running', false, 1, ('00000000-0000-7000-8000-' || lpad(n::text, 12, '0'))::uuid,
                    '00000000-0000-7000-8000-0000000000aa', now()
               from generate_series(200001, 200020) n;
             insert into orch.agent_runs (run_id, job_id, attempt, replica_id, ended_at, outcome, closed_by)
             select last_run_id, id, 1, '00000000-0000-7000-8000-0000000000aa', finished_at, 'succeeded', 'owner'
               from orch.jobs where status = 'succeeded';
             insert into orch.agent_runs (run_id, job_id, attempt, replica_id)
             select run_id, id, 1, replica_id from orch.jobs where status = 'running';
             insert into orch.run_logs (run_id, position, bytes)
             select run_id, n * 10, '0123456789' from orch.agent_runs, generate_series(0, 1) n;
             insert into orch.jobs (agent, claimable, waits_for) select 'a', false, array[n] from generate_series(1, 5000) n;
             insert into orch.job_dependencies (job_id, after_id) select id, waits_for[1] from orch.jobs where waits_for is not null;
             analyze orch.job_dependencies; analyze orch.run_logs; analyze orch.jobs; analyze orch.agent_runs; analyze orch.replicas",
        )
        .await
        .unwrap();
}

#[tokio::test]
async fn on_a_hundred_thousand_rows_claim_reap_and_tick_name_their_indexes_and_walk_no_table() {
    let db = TestDb::new().await;
    let client = db.client().await;
    much(&client).await;
    let me = "'00000000-0000-7000-8000-0000000000aa'";
    let settled = statements()["runs/settle"].params.len();
    let fewer = statements()["runs/settle_plain"].params.len();
    let cases: &[(&str, String, &[&str])] = &[
        (
            "runs/claim",
            format!("({me}, array[gen_random_uuid()], '{{a}}', true, 'h', 'b', '{{}}', {EVERYWHERE})"),
            &["jobs_claim", "jobs_running_gate", "agent_runs_open_project"],
        ),
        (
            "runs/claim_lone",
            format!("({me}, array[gen_random_uuid()], '{{a}}', true, 'h', 'b', '{{}}', null, null, null, null)"),
            &["jobs_claim", "jobs_pkey"],
        ),
        ("runs/inherited", format!("(array[{me}::uuid], '{{}}')"), &["agent_runs_o", "jobs_pkey"]),
        ("reaper/orphans", "(0, 100)".to_owned(), &["agent_runs_o", "jobs_pkey"]),
        (
            "reaper/tick",
            "(60, 5, 5, true, 0, 2000)".to_owned(),
            &["jobs_impossible", "jobs_awaits_replica", "jobs_waits_for"],
        ),
        ("dependencies/walk", "(0, 2000, 20000)".to_owned(), &["jobs_waits_for", "jobs_pkey"]),
        ("dependencies/of_job", "(5, 10)".to_owned(), &["job_dependencies_pkey", "job_dependencies_after"]),
        (
            "runs/settle",
            format!("('{{1,2}}'{})", ", null".repeat(settled - 1)),
            &["job_dependencies_after", "jobs_pkey"],
        ),
        (
            "runs/settle_plain",
            format!("('{{1,2}}'{})", ", null".repeat(fewer - 1)),
            &["job_dependencies_after", "jobs_pkey", "agent_runs_pkey"],
        ),
        ("runs/stamp", format!("({me}, '{{1,2}}', null, null, null, null)"), &["jobs_pkey", "agent_runs_pkey"]),
        ("reaper/sanitize_impossible", "(100)".to_owned(), &["jobs_impossible"]),
        ("reaper/release_unanswered", "(100)".to_owned(), &["jobs_awaits_replica"]),
        ("logs/ship", "(array[gen_random_uuid()], array[0], array[''::bytea])".to_owned(), &["agent_runs_pkey"]),
        ("logs/read", format!("({me}, 0, 16)"), &["run_logs_pkey"]),
        ("logs/trim", format!("({me}, 10, 20)"), &["run_logs_pkey"]),
        ("logs/stand", format!("({me}, 1024)"), &["run_logs_pkey"]),
        ("queue/live", String::new(), &["agent_runs_o", "jobs_pkey", "run_logs_pkey"]),
        ("prune/find", "(0, 200, 1209600)".to_owned(), &["jobs_pkey"]),
        ("prune/logs", "(array[1, 2], 1209600, 64)".to_owned(), &["jobs_pkey", "agent_runs_job", "run_logs_pkey"]),
        ("prune/jobs", "(array[1, 2], 1209600)".to_owned(), &["jobs_pkey", "agent_runs_job", "run_logs_pkey"]),
        ("prune/replicas", "(1209600, 500)".to_owned(), &["agent_runs_o", "jobs_awaits_replica"]),
        ("replicas/renew", format!("({me}, 60)"), &["agent_runs_o", "jobs_awaits_replica"]),
    ];
    for (name, args, indexes) in cases {
        let plans = plans(&client, name, args).await;
        for index in *indexes {
            assert!(plans.matches(index).count() >= 2, "sql/{name}.sql does not use {index}:\n{plans}");
        }
        for table in ["jobs", "agent_runs", "run_logs"] {
            assert!(!plans.contains(&format!("Seq Scan on {table}")), "sql/{name}.sql walks {table}:\n{plans}");
        }
    }
}

#[tokio::test]
async fn a_claim_that_is_planned_while_the_queue_is_empty_walks_no_index_once_it_is_full() {
    let db = TestDb::new().await;
    let client = db.client().await;
    much(&client).await;
    client
        .batch_execute(
            "update orch.jobs set status = 'cancelled' where claimable; analyze orch.jobs;
             insert into orch.jobs (agent) select 'a' from generate_series(1, 5000)",
        )
        .await
        .unwrap();
    let me = "'00000000-0000-7000-8000-0000000000aa'";
    let args = format!("({me}, array[gen_random_uuid()], '{{a}}', true, 'h', 'b', '{{}}', {EVERYWHERE})");
    let plans = plans(&client, "runs/claim", &args).await;
    let mut lines = plans.lines();
    while let Some(line) = lines.next() {
        if line.contains("using jobs_claim") {
            let condition = lines.next().unwrap_or_default();
            assert!(condition.contains("Index Cond: "), "all claimable jobs are read:\n{plans}");
        }
    }
}

/// What is executed for each job, with parameters as a busy replica's.
fn executed_for_a_job() -> [(&'static str, String); 6] {
    let me = "'00000000-0000-7000-8000-0000000000aa'";
    let settled = &statements()["runs/settle"].params[3..];
    let fewer = statements()["runs/settle_plain"].params.len() - 3;
    let nothing: Vec<_> = settled.iter().map(|ty| format!("array_fill(null::text, '{{3}}')::{}", ty.name())).collect();
    let (jobs, runs) =
        ("array_fill(1::bigint, '{3}')", "array_fill('00000000-0000-7000-8000-000000000001'::uuid, '{3}')");
    let claim = format!("{me}, array_fill(gen_random_uuid(), '{{8}}'), '{{a}}', true, 'h', 'b', '{{}}'");
    [
        ("runs/claim", format!("({claim}, {EVERYWHERE})")),
        ("runs/claim_lone", format!("({claim}, null, null, null, null)")),
        ("runs/claim_lone", format!("({claim}, 'default', 7, now(), 7)")),
        ("runs/settle", format!("({jobs}, {runs}, {runs}, {})", nothing.join(", "))),
        ("runs/settle_plain", format!("({jobs}, {runs}, {runs}, {})", nothing[..fewer].join(", "))),
        (
            "runs/stamp",
            format!("({me}, {jobs}, {runs}, array_fill(1, '{{3}}'), {jobs}, array_fill('sweep'::text, '{{3}}'))"),
        ),
    ]
}

/// Prepares each of them as `planned0` and so on, and has the server choose a plan until it plans no more.
async fn planned(client: &Client) {
    for (place, (name, args)) in executed_for_a_job().iter().enumerate() {
        let statement = statements()[name];
        let types: Vec<_> = statement.params.iter().map(tokio_postgres::types::Type::name).collect();
        let prepare = format!("prepare planned{place} ({}) as {}", types.join(", "), statement.sql);
        client.batch_execute(&prepare).await.unwrap();
        for _ in 0..8 {
            client.batch_execute(&format!("explain execute planned{place} {args}")).await.unwrap();
        }
    }
    planned_no_more(client).await;
}

async fn planned_no_more(client: &Client) {
    for (place, (name, _)) in executed_for_a_job().iter().enumerate() {
        let plans = "select custom_plans, generic_plans from pg_prepared_statements where name = $1";
        let row = client.query_one(plans, &[&format!("planned{place}")]).await.unwrap();
        let (custom, generic) = (row.get::<_, i64>(0), row.get::<_, i64>(1));
        assert!(custom <= 5 && generic >= 3, "{name} is planned anew for its parameters: {custom}, {generic}");
    }
}

/// A queue so deep that its tenth is much: what a plan for any parameters expects behind a limit that it does not know.
const DEEP: &str = "insert into orch.jobs (agent) select 'a' from generate_series(1, 200000); analyze orch.jobs";

#[tokio::test]
async fn a_session_plans_what_a_job_costs_a_few_times_and_then_never_again() {
    let db = TestDb::new().await;
    let client = db.client().await;
    much(&client).await;
    client.batch_execute(DEEP).await.unwrap();
    planned(&client).await;
    for (place, (name, args)) in executed_for_a_job().iter().enumerate() {
        // By which the server chooses. What it would expect of a tenth of the queue is more than ten times as much.
        let plan = client.query(&format!("explain execute planned{place} {args}"), &[]).await.unwrap();
        let plan: &str = plan[0].get(0);
        let cost =
            plan.split_once("..").and_then(|(_, rest)| rest.split(' ').next()).and_then(|cost| cost.parse().ok());
        let cost: f64 = cost.unwrap_or_else(|| panic!("{plan}"));
        assert!(cost < 1500.0, "{name} is taken for one that costs {cost}");
    }
}

#[tokio::test]
async fn a_session_that_planned_for_an_empty_queue_does_not_plan_for_each_job_of_a_deep_one() {
    let db = TestDb::new().await;
    let client = db.client().await;
    client.batch_execute("analyze orch.jobs").await.unwrap();
    planned(&client).await;
    // The server compares the plan for any parameters with the mean of what it expected of the first ones.
    much(&client).await;
    client.batch_execute(DEEP).await.unwrap();
    for (place, (_, args)) in executed_for_a_job().iter().enumerate() {
        client.batch_execute(&format!("explain execute planned{place} {args}")).await.unwrap();
    }
    planned_no_more(&client).await;
}

#[tokio::test]
async fn a_settle_is_planned_for_the_few_rows_that_it_decides() {
    let db = TestDb::new().await;
    let client = db.client().await;
    let settled = statements()["runs/settle"].params.len();
    let plans = plans(&client, "runs/settle", &format!("('{{1,2}}'{})", ", null".repeat(settled - 1))).await;
    // Called instead of inlined, it costs ten times as much, and is taken for a thousand rows each time.
    assert!(!plans.contains("settle_rule"), "an argument of orch.settle_rule is volatile:\n{plans}");
}

#[tokio::test]
async fn ending_an_ungated_run_is_a_hot_update_and_so_is_a_pid_stamp() {
    let db = TestDb::new().await;
    let client = db.client().await;
    // So few that all versions of their rows find room in one page: what is left is whether an index is touched.
    let played = crate::played::Played::on(&db, &["a"]).await;
    client
        .batch_execute("insert into orch.jobs (agent, payload) select 'a', '{\"n\": 1}' from generate_series(1, 5)")
        .await
        .unwrap();
    for noun in ["claim", "stamp", "settle"] {
        client.batch_execute("begin").await.unwrap();
        let before = written(&client).await;
        match noun {
            "claim" => {
                let runs: Vec<_> = (0..5).map(|_| orch::model::RunId::new().to_string()).collect();
                let args = format!(
                    "('{}', '{{{}}}', '{{a}}', true, 'h', 'b', '{{}}', {EVERYWHERE})",
                    played.replica_id,
                    runs.join(", ")
                );
                execute(&client, "runs/claim", &args).await;
            }
            "stamp" => {
                client.batch_execute("update orch.jobs set pid = 1 where status = 'running'").await.unwrap();
            }
            _ => {
                let facts = client
                    .query_one(
                        "select format('(%L::bigint[], %L::uuid[], %L::uuid[]', array_agg(id), array_agg(run_id), array_agg(replica_id))
                           from orch.jobs where status = 'running'",
                        &[],
                    )
                    .await
                    .unwrap();
                let nothing = "array_fill(null::text, '{5}')::";
                let rest: Vec<_> = statements()["runs/settle"].params[5..]
                    .iter()
                    .map(|ty| format!("{nothing}{}", ty.name()))
                    .collect();
                let args = format!(
                    "{}, array_fill('owner'::text, '{{5}}'), array_fill('succeeded'::text, '{{5}}'), {})",
                    facts.get::<_, String>(0),
                    rest.join(", ")
                );
                execute(&client, "runs/settle", &args).await;
            }
        }
        let after = written(&client).await;
        client.batch_execute("commit").await.unwrap();
        let (all, hot) = (after.0 - before.0, after.1 - before.1);
        assert_eq!(all, 5, "{noun}");
        match noun {
            "claim" => assert_eq!(hot, 0, "a claim leaves the index of claimable jobs"),
            _ => assert_eq!(hot, 5, "{noun} changes a column that an index names"),
        }
    }
    let done = client.query_one("select count(*) from orch.jobs where status = 'succeeded'", &[]).await.unwrap();
    assert_eq!(done.get::<_, i64>(0), 5);
}

/// The rows of jobs that this session has updated and not yet told the statistics, and how many of them HOT. Inside a
/// transaction it only grows.
async fn written(client: &Client) -> (i64, i64) {
    let sql = "select coalesce(sum(n_tup_upd), 0)::bigint, coalesce(sum(n_tup_hot_upd), 0)::bigint
                 from pg_stat_xact_user_tables where schemaname = 'orch' and relname = 'jobs'";
    let row = client.query_one(sql, &[]).await.unwrap();
    (row.get(0), row.get(1))
}

/// Executes a statement with its parameters as SQL.
async fn execute(client: &Client, name: &str, args: &str) {
    let statement = statements()[name];
    let types: Vec<_> = statement.params.iter().map(tokio_postgres::types::Type::name).collect();
    let text = format!("prepare executed ({}) as {}", types.join(", "), statement.sql);
    client.batch_execute(&text).await.unwrap();
    let run = format!("execute executed {args}");
    client.batch_execute(&run).await.unwrap_or_else(|error| panic!("{run}: {error:?}"));
    client.batch_execute("deallocate executed").await.unwrap();
}

#[tokio::test]
async fn on_a_database_without_statistics_no_loops_statement_is_worth_compiling() {
    let db = TestDb::new().await;
    let client = db.client().await;
    // What a database looks like in its first minutes, before anything was ever analyzed.
    client
        .batch_execute(
            "select orch.enqueue('a') from generate_series(1, 1000); set jit = on; set jit_above_cost = 100000",
        )
        .await
        .unwrap();
    let me = "'00000000-0000-7000-8000-0000000000aa'";
    for (name, args) in [
        ("schedules/due", "(50)".to_owned()),
        ("reaper/tick", "(60, 5, 5, true, 0, 5000)".to_owned()),
        ("replicas/renew", format!("({me}, 60)")),
        ("runs/cancelled", format!("({me})")),
        ("runs/claim", format!("({me}, array[gen_random_uuid()], '{{a}}', true, 'h', 'b', '{{}}', {EVERYWHERE})")),
    ] {
        let plans = plans(&client, name, &args).await;
        assert!(!plans.contains("JIT:"), "half a second of the server for each sql/{name}.sql:\n{plans}");
    }
}

#[tokio::test]
async fn without_statistics_the_walk_of_the_tick_looks_each_run_up_by_its_own_key() {
    let db = TestDb::new().await;
    let client = db.client().await;
    client
        .batch_execute(
            "insert into orch.replicas (replica_id, name, host, lease_until)
             values ('00000000-0000-7000-8000-0000000000aa', 'r', 'h', now() + interval '1 hour');
             insert into orch.jobs (agent, status, claimable, attempt, run_id, replica_id, started_at)
             select 'a', 'running', false, 1, gen_random_uuid(), '00000000-0000-7000-8000-0000000000aa', now()
               from generate_series(1, 5000);
             insert into orch.agent_runs (run_id, job_id, attempt, replica_id)
             select run_id, id, 1, replica_id from orch.jobs",
        )
        .await
        .unwrap();
    let plans = plans(&client, "reaper/tick", "(60, 5, 5, true, 0, 2000)").await;
    let own_key = plans.matches("(run_id = p.run_id)").count() + plans.matches("(job_id = p.id)").count();
    assert!(
        !plans.contains("Filter: ((run_id = p.run_id)") && own_key >= 2,
        "every open run of its replica is read for each row:\n{plans}"
    );
}
