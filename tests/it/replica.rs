//! The whole replica, as the real binary on a real database: what it promises about one machine.

use nix::sys::signal::Signal;
use tokio_postgres::Client;

use crate::{
    runs::no_violation,
    support::{Orch, TestDb, eventually, processes_beneath},
};

/// Agents for these tests: nothing waits longer than it must.
pub(crate) const AGENTS: &str = r#"
[agents.true]
command = ["true"]

[agents.sh]
command = ["sh", "-c", "{{ payload.script }}"]
max_attempts = 1

[agents.argument]
command = ["printf", "[%s]", "{{ payload.text }}"]

[agents.missing]
command = ["/nowhere/to/be/found"]
"#;

/// A place whose waits are short.
pub(crate) fn place(test: &TestDb) -> Orch {
    let orch = Orch::on(test)
        .with("ORCH_POLL_INTERVAL", "100ms")
        .with("ORCH_HEARTBEAT", "500ms")
        .with("ORCH_KILL_GRACE", "1s")
        .with("ORCH_REAP_GRACE", "500ms")
        .with("ORCH_LEASE", "6s")
        .with("ORCH_REAP_INTERVAL", "500ms")
        .with("ORCH_DRAIN_GRACE", "200ms")
        .with("ORCH_MAX_CONCURRENCY", "4");
    orch.config(AGENTS);
    orch
}

/// Enqueues a shell script.
pub(crate) async fn script(client: &Client, text: &str) -> i64 {
    let payload = serde_json::json!({ "script": text });
    client.query_one("select orch.enqueue('sh', $1)", &[&payload]).await.unwrap().get(0)
}

/// The one value that a query returns.
pub(crate) async fn text(client: &Client, query: &str) -> Option<String> {
    client.query_one(query, &[]).await.unwrap().get(0)
}

/// Waits for a job's status.
pub(crate) async fn until(client: &Client, job_id: i64, status: &str) {
    eventually(&format!("job {job_id} to be {status}"), async || {
        let now: String =
            client.query_one("select status from orch.jobs where id = $1", &[&job_id]).await.unwrap().get(0);
        (now == status).then_some(())
    })
    .await;
}

pub(crate) async fn stamped(client: &Client) {
    eventually("the pid to be stamped", async || {
        client.query_opt("select 1 from orch.running where pid is not null", &[]).await.unwrap().map(drop)
    })
    .await;
}

/// The run directories that are still open.
pub(crate) fn open_runs(orch: &Orch) -> usize {
    std::fs::read_dir(orch.state_dir().join("runs")).map_or(0, Iterator::count)
}

#[tokio::test]
async fn a_job_runs_and_its_output_result_and_history_are_there() {
    let test = TestDb::new().await;
    let client = test.client().await;
    let orch = place(&test);
    let _replica = orch.up().await;
    let job =
        script(&client, r#"echo to stdout; echo to stderr >&2; echo '{"verdict": "fine"}' > "$ORCH_RESULT_FILE""#)
            .await;
    until(&client, job, "succeeded").await;
    assert_eq!(text(&client, "select result ->> 'verdict' from orch.jobs").await.as_deref(), Some("fine"));
    let row = client
        .query_one(
            "select exit_code, pid, log_bytes_kept, spawned_at >= claimed_at, peak_memory_bytes from orch.agent_runs",
            &[],
        )
        .await
        .unwrap();
    assert_eq!((row.get::<_, Option<i32>>(0), row.get::<_, Option<i64>>(2)), (Some(0), Some(20)));
    assert!(row.get::<_, Option<i32>>(1).is_some() && row.get::<_, bool>(3) && row.get::<_, i64>(4) > 0);
    let logs = orch.run(["logs", &job.to_string()]).await.ok();
    assert_eq!(logs.stdout, "to stdout\nto stderr\n");
    eventually("the run's directory to be retired", async || (open_runs(&orch) == 0).then_some(())).await;
    no_violation(&client).await;
}

#[tokio::test]
async fn a_running_job_shows_its_pid_and_a_cancel_ends_its_whole_tree() {
    let test = TestDb::new().await;
    let client = test.client().await;
    let orch = place(&test);
    let _replica = orch.up().await;
    let job = script(&client, "setsid -f sleep 1000; sleep 1000").await;
    stamped(&client).await;
    client.query_one("select orch.cancel($1)", &[&job]).await.unwrap();
    until(&client, job, "cancelled").await;
    assert_eq!(text(&client, "select outcome from orch.agent_runs").await.as_deref(), Some("cancelled"));
    let sleepers = processes_beneath(orch.state_dir()).into_iter().filter(|pid| is_sleep(*pid)).count();
    assert_eq!(sleepers, 0);
    no_violation(&client).await;
}

fn is_sleep(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "sleep")
}

#[tokio::test]
async fn ends_are_told_apart() {
    let test = TestDb::new().await;
    let client = test.client().await;
    let orch = place(&test);
    let _replica = orch.up().await;
    client.batch_execute("select orch.enqueue('missing')").await.unwrap();
    for (job, what) in [
        script(&client, "exit 3").await,
        script(&client, "kill -SEGV $$").await,
        script(&client, "exit 75").await,
        script(&client, r#"echo '{"retry_after": "1h"}' > "$ORCH_RESULT_FILE""#).await,
        script(&client, "echo no json > \"$ORCH_RESULT_FILE\"").await,
    ]
    .into_iter()
    .zip(["failed", "failed", "transient", "transient", "failed"])
    {
        eventually("the run to end", async || {
            let query = "select outcome from orch.agent_runs where job_id = $1 and ended_at is not null";
            let row = client.query_opt(query, &[&job]).await.unwrap()?;
            assert_eq!(row.get::<_, &str>(0), what, "job {job}");
            Some(())
        })
        .await;
    }
    until(&client, 1, "failed").await;
    assert_eq!(
        text(&client, "select outcome from orch.agent_runs where job_id = 1").await.as_deref(),
        Some("spawn_failed")
    );
    let transient: i64 = client
        .query_one(
            "select count(*) from orch.jobs where status = 'queued' and transient_count >= 1 and failures = 0",
            &[],
        )
        .await
        .unwrap()
        .get(0);
    assert_eq!(transient, 2);
    no_violation(&client).await;
}

#[tokio::test]
async fn a_timeout_ends_the_run_and_counts() {
    let test = TestDb::new().await;
    let client = test.client().await;
    let orch = place(&test);
    let _replica = orch.up().await;
    client
        .batch_execute(r#"select orch.enqueue('sh', '{"script": "sleep 1000"}', timeout => interval '200 ms')"#)
        .await
        .unwrap();
    until(&client, 1, "failed").await;
    assert_eq!(text(&client, "select outcome from orch.agent_runs").await.as_deref(), Some("timed_out"));
}

#[tokio::test]
async fn a_payload_stays_one_argument_whatever_it_holds() {
    let test = TestDb::new().await;
    let client = test.client().await;
    let orch = place(&test);
    let _replica = orch.up().await;
    let nasty = "a b; rm -rf / $(id) `id` --flag '\" \n";
    let payload = serde_json::json!({ "text": nasty });
    let job: i64 = client.query_one("select orch.enqueue('argument', $1)", &[&payload]).await.unwrap().get(0);
    until(&client, job, "succeeded").await;
    assert_eq!(orch.run(["logs", &job.to_string()]).await.ok().stdout, format!("[{nasty}]"));
}

#[tokio::test]
async fn a_graceful_stop_interrupts_what_does_not_finish_in_time_and_leaves() {
    let test = TestDb::new().await;
    let client = test.client().await;
    let orch = place(&test);
    let mut replica = orch.up().await;
    let job = script(&client, "sleep 1000").await;
    until(&client, job, "running").await;
    replica.signal(Signal::SIGTERM);
    assert!(replica.ended().await.success(), "{}", replica.log());
    let row = client
        .query_one(
            "select j.status, j.failures, r.outcome, p.state from orch.jobs j, orch.agent_runs r, orch.replicas p",
            &[],
        )
        .await
        .unwrap();
    let found: (&str, i32, &str, &str) = (row.get(0), row.get(1), row.get(2), row.get(3));
    assert_eq!(found, ("queued", 0, "interrupted", "left"));
    assert_eq!(open_runs(&orch), 0);
    no_violation(&client).await;
}

#[tokio::test]
async fn an_operators_plain_update_ends_the_old_process_before_the_next_one_starts() {
    let test = TestDb::new().await;
    let client = test.client().await;
    let orch = place(&test);
    let _replica = orch.up().await;
    let lock = orch.path("lock");
    let job =
        script(&client, &format!("exec flock -n {0} sh -c 'test $ORCH_ATTEMPT = 2 || sleep 1000'", lock.display()))
            .await;
    stamped(&client).await;
    client.execute("update orch.jobs set status = 'queued' where id = $1", &[&job]).await.unwrap();
    // The second run fails at once if the first still holds the lock.
    until(&client, job, "succeeded").await;
    no_violation(&client).await;
}

#[tokio::test]
async fn agents_are_read_again_on_hangup_and_a_bad_file_keeps_the_old_ones() {
    let test = TestDb::new().await;
    let client = test.client().await;
    let orch = place(&test);
    let replica = orch.up().await;
    orch.config(&format!("{AGENTS}\n[agents.late]\ncommand = [\"true\"]\n"));
    let job: i64 = client.query_one("select orch.enqueue('late')", &[]).await.unwrap().get(0);
    replica.signal(Signal::SIGHUP);
    until(&client, job, "succeeded").await;
    orch.config("[agents.late]\ncomand = [\"true\"]\n");
    replica.signal(Signal::SIGHUP);
    eventually("the bad file to be refused", async || replica.log().contains("command").then_some(())).await;
    let job: i64 = client.query_one("select orch.enqueue('late')", &[]).await.unwrap().get(0);
    until(&client, job, "succeeded").await;
}

#[tokio::test]
async fn one_bad_row_among_the_claimable_is_held_and_the_rest_flows() {
    let test = TestDb::new().await;
    let client = test.client().await;
    let orch = place(&test);
    client
        .batch_execute(
            "select orch.enqueue('true') from generate_series(1, 5);
             alter table orch.jobs add constraint bad_luck check (id <> 3 or status <> 'running');",
        )
        .await
        .unwrap();
    let _replica = orch.up().await;
    for job in [1, 2, 4, 5] {
        until(&client, job, "succeeded").await;
    }
    until(&client, 3, "held").await;
    assert!(text(&client, "select error from orch.jobs where id = 3").await.unwrap().contains("bad_luck"));
}

#[tokio::test]
async fn a_serial_projects_jobs_run_one_at_a_time() {
    let test = TestDb::new().await;
    let client = test.client().await;
    let orch = place(&test);
    let lock = orch.path("serial");
    let payload = serde_json::json!({ "script": format!("exec flock -n {} sleep 0.05", lock.display()) });
    client.batch_execute("insert into orch.projects (name, serial) values ('p', true)").await.unwrap();
    for _ in 0..8 {
        client.query_one("select orch.enqueue('sh', $1, project => 'p')", &[&payload]).await.unwrap();
    }
    let _replica = orch.up().await;
    for job in 1..=8 {
        until(&client, job, "succeeded").await;
    }
    no_violation(&client).await;
}
