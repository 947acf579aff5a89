//! Logs off the machine, as the real binary: what a run writes is in the database while it lives and after, whatever
//! happens to its replica or to the database meanwhile.

use std::time::{Duration, Instant};

use tokio_postgres::Client;

use crate::{
    replica::{open_runs, place, script, text, until},
    support::{Orch, TestDb, eventually},
};

/// Everything that the database has of the only run's output, without regard for gaps.
async fn shipped(client: &Client) -> Vec<u8> {
    let sql = "select coalesce(string_agg(bytes, '' order by position), '') from orch.run_logs";
    client.query_one(sql, &[]).await.unwrap().get(0)
}

/// Everything that the database has of a job's output, without regard for gaps.
async fn shipped_of(client: &Client, job: i64) -> Vec<u8> {
    let sql = "select coalesce(string_agg(l.bytes, '' order by l.position), '')
                 from orch.run_logs l join orch.agent_runs r using (run_id) where r.job_id = $1";
    client.query_one(sql, &[&job]).await.unwrap().get(0)
}

async fn number(client: &Client, query: &str) -> i64 {
    client.query_one(query, &[]).await.unwrap().get(0)
}

/// Waits until the directory of every run is gone, and so its log is stored.
async fn retired(orch: &Orch) {
    eventually("the directories of the runs to be removed", async || (open_runs(orch) == 0).then_some(())).await;
}

#[tokio::test]
async fn the_output_of_a_live_run_is_in_the_database_within_a_second_and_seen_from_elsewhere() {
    let test = TestDb::new().await;
    let client = test.client().await;
    let orch = place(&test);
    let _replica = orch.up().await;
    let elsewhere = orch.beside();
    let gate = orch.path("gate");
    let job = script(
        &client,
        &format!(
            "echo early; while ! [ -e {0} ]; do sleep 0.01; done; date +%s%N; printf '\\000\\377'; rm {0};
             while ! [ -e {0} ]; do sleep 0.01; done",
            gate.display()
        ),
    )
    .await;
    eventually("the first line to arrive", async || (shipped(&client).await == b"early\n").then_some(())).await;
    let seen = elsewhere.run(["logs", &job.to_string()]).await.ok();
    assert_eq!(seen.stdout, "early\n", "from a state directory that has never heard of the run");

    let began = Instant::now();
    std::fs::write(&gate, "").unwrap();
    eventually("the second line to arrive", async || (shipped(&client).await.ends_with(b"\0\xff")).then_some(())).await;
    // The promise is a second; on a loaded machine the script and this test also take their time.
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    let row = client
        .query_one(
            "select extract(epoch from output_age)::float8, pid, lease_left > interval '0' from orch.running",
            &[],
        )
        .await
        .unwrap();
    assert!(row.get::<_, f64>(0) < 5.0 && row.get::<_, Option<i32>>(1).is_some() && row.get::<_, bool>(2));
    let queue = orch.run(["--json", "queue"]).await.ok().json();
    assert!(queue["running"][0]["output_age_seconds"].as_f64().unwrap() < 5.0, "{queue}");
    let whole = elsewhere.run(["--json", "job", &job.to_string()]).await.ok().json();
    assert!(
        whole["output_age_seconds"].as_f64().is_some() && whole["lease_left_seconds"].as_f64().is_some(),
        "{whole}"
    );
    let told = elsewhere.run(["job", &job.to_string()]).await.ok().stdout;
    assert!(told.contains("output age") && told.contains("lease left") && told.contains("pid"), "{told}");

    std::fs::write(&gate, "").unwrap();
    until(&client, job, "succeeded").await;
    retired(&orch).await;
    assert!(elsewhere.run(["logs", &job.to_string()]).await.ok().stdout.starts_with("early\n"));
}

#[tokio::test]
async fn a_flood_keeps_cap_and_counts_and_its_tail_is_seen_from_elsewhere() {
    const CAP: i64 = 1024 * 1024;
    let test = TestDb::new().await;
    let client = test.client().await;
    let orch = place(&test).with("ORCH_LOG_CAP", "1MiB");
    let _replica = orch.up().await;
    // Numbered lines, as fast as they come, until somebody has seen enough.
    let gate = orch.path("gate");
    let job = script(
        &client,
        &format!(
            "seq 1000000000 & while ! [ -e {} ]; do sleep 0.05; done; kill $!; wait; echo the end",
            gate.display()
        ),
    )
    .await;
    let kept = "select coalesce(sum(octet_length(bytes)), 0)::bigint from orch.run_logs";
    let reach = "select coalesce(max(position), 0) from orch.run_logs";
    let mut most = 0;
    eventually("the shipped tail to be far behind the head", async || {
        most = most.max(number(&client, kept).await);
        (number(&client, reach).await > 20 * CAP).then_some(())
    })
    .await;
    assert!(most <= CAP, "{most} bytes were kept in the database at one time");
    let elsewhere = orch.beside();
    let id = job.to_string();
    let (followed, ()) = tokio::join!(elsewhere.run(["logs", "-f", &id]), async {
        let from = number(&client, reach).await;
        eventually("more of the tail", async || (number(&client, reach).await > from + CAP).then_some(())).await;
        std::fs::write(&gate, "").unwrap();
    });
    let followed = followed.ok();
    assert!(followed.stdout.starts_with("1\n2\n3\n") && followed.stdout.ends_with("the end\n"), "head and end");
    assert!(followed.stderr.contains("bytes of the output were not kept"), "{}", followed.stderr);
    retired(&orch).await;
    let row = client.query_one("select log_bytes_kept, log_bytes_dropped from orch.agent_runs", &[]).await.unwrap();
    let (spooled, dropped): (i64, i64) = (row.get(0), row.get(1));
    let stored = number(&client, kept).await;
    assert!(stored <= CAP && stored >= spooled, "{stored} bytes stored, {spooled} spooled");
    let end = number(&client, "select max(position + octet_length(bytes)) from orch.run_logs").await;
    assert_eq!(end, spooled + dropped, "the log ends where the output did");
    let head = number(&client, "select min(position) from (select position, position + octet_length(bytes) as last,
                                 lead(position) over (order by position) as next from orch.run_logs) c where next > last").await;
    assert!(head < CAP / 2, "the head is whole");
    let whole = elsewhere.run(["logs", &id]).await.ok();
    assert_eq!(whole.stdout.len() as i64, stored);
}

#[tokio::test]
async fn shipping_goes_on_after_a_restart_where_the_database_stands() {
    let test = TestDb::new().await;
    let client = test.client().await;
    // The lease of the first boot must outlast the start of the second, however busy the machine.
    let orch = place(&test).with("ORCH_LEASE", "60s");
    let replica = orch.up().await;
    let (one, two) = (orch.path("one"), orch.path("two"));
    let wait = |gate: &std::path::Path| format!("while ! [ -e {} ]; do sleep 0.01; done", gate.display());
    let job = script(
        &client,
        &format!("echo before; {}; echo while nobody looked; echo > ready; {}; echo after", wait(&one), wait(&two)),
    )
    .await;
    eventually("the first line to arrive", async || (shipped_of(&client, job).await == b"before\n").then_some(()))
        .await;
    let run_id = text(&client, "select run_id::text from orch.jobs").await.unwrap();
    let ended = script(&client, &format!("{}; echo ended alone", wait(&one))).await;
    eventually("both to have a process", async || {
        (number(&client, "select count(pid) from orch.jobs").await == 2).then_some(())
    })
    .await;
    replica.kill().await;
    std::fs::write(&one, "").unwrap();
    let ready = orch.state_dir().join("runs").join(run_id).join("job/ready");
    eventually("the run to go on by itself", async || ready.exists().then_some(())).await;
    let _second = orch.up().await;
    eventually("what was written meanwhile to arrive, although nothing more is", async || {
        (shipped_of(&client, job).await == b"before\nwhile nobody looked\n").then_some(())
    })
    .await;
    std::fs::write(&two, "").unwrap();
    until(&client, job, "succeeded").await;
    until(&client, ended, "succeeded").await;
    retired(&orch).await;
    assert_eq!(orch.run(["logs", &job.to_string()]).await.ok().stdout, "before\nwhile nobody looked\nafter\n");
    assert_eq!(orch.run(["logs", &ended.to_string()]).await.ok().stdout, "ended alone\n");
    assert_eq!(number(&client, "select count(*) from orch.agent_runs").await, 2, "nothing ran twice");
}

#[tokio::test]
async fn while_logs_cannot_be_stored_runs_go_on_and_end_and_their_output_arrives_later() {
    let test = TestDb::new().await;
    let client = test.client().await;
    let orch = place(&test).with("ORCH_MAX_CONCURRENCY", "1");
    let mut replica = orch.up().await;
    let mut other = test.client().await;
    let away = other.transaction().await.unwrap();
    away.batch_execute("lock table orch.run_logs in access exclusive mode").await.unwrap();
    let mut jobs = Vec::new();
    for n in 0..3 {
        jobs.push(script(&client, &format!("echo output {n}; yes | head -c 300000")).await);
    }
    for job in &jobs {
        // Its slot is free for the next one although its output is not stored.
        until(&client, *job, "succeeded").await;
    }
    assert_eq!(open_runs(&orch), 3, "nothing goes before it is stored");
    // The stop waits for it in vain, and the next start has it.
    replica.signal(nix::sys::signal::Signal::SIGTERM);
    assert!(replica.ended().await.success(), "{}", replica.log());
    assert_eq!(open_runs(&orch), 3);
    let _second = orch.up().await;
    away.rollback().await.unwrap();
    retired(&orch).await;
    for (n, job) in jobs.iter().enumerate() {
        let output = orch.run(["logs", &job.to_string()]).await.ok().stdout;
        assert!(output.starts_with(&format!("output {n}\ny\n")) && output.len() == 300_009, "{}", output.len());
    }
}

#[tokio::test]
async fn a_directory_of_a_run_that_the_database_does_not_know_is_removed_with_its_log() {
    let test = TestDb::new().await;
    let client = test.client().await;
    let orch = place(&test);
    let mut replica = orch.up().await;
    replica.signal(nix::sys::signal::Signal::SIGTERM);
    assert!(replica.ended().await.success(), "{}", replica.log());
    let stranger = orch.state_dir().join("runs").join(orch::model::RunId::new().to_string());
    std::fs::create_dir_all(stranger.join("log")).unwrap();
    std::fs::write(stranger.join("log").join(format!("{:020}", 0)), "whose?").unwrap();
    let _replica = orch.up().await;
    retired(&orch).await;
    assert_eq!(number(&client, "select count(*) from orch.run_logs").await, 0);
}

#[tokio::test]
async fn one_line_of_many_megabytes_arrives_as_it_was_within_its_bound() {
    let test = TestDb::new().await;
    let client = test.client().await;
    let orch = place(&test);
    let _replica = orch.up().await;
    let job = script(&client, "head -c 100000000 /dev/zero; printf '\\377end'").await;
    until(&client, job, "succeeded").await;
    retired(&orch).await;
    let bounds = "select count(*) from orch.run_logs where octet_length(bytes) > 262144";
    assert_eq!(number(&client, bounds).await, 0);
    let stored = number(&client, "select sum(octet_length(bytes))::bigint from orch.run_logs").await;
    assert!((8 << 20..=16 << 20).contains(&stored), "{stored}");
    assert!(shipped(&client).await.ends_with(b"\0\0\xffend"));
}

#[tokio::test]
async fn a_silent_run_is_ended_and_told_with_what_its_agent_allows() {
    let test = TestDb::new().await;
    let client = test.client().await;
    let orch = place(&test);
    orch.config(
        "[agents.silent]\ncommand = [\"sh\", \"-c\", \"echo hello; sleep 1000\"]\nsilence_timeout = \"1s\"\nmax_attempts = 1
         [agents.talks]\ncommand = [\"sh\", \"-c\", \"for i in 1 2 3 4 5 6 7; do echo $i; sleep 0.3; done\"]\nsilence_timeout = \"1s\"",
    );
    let _replica = orch.up().await;
    let registered = "select silence_timeout::text from orch.agents where name = 'silent'";
    assert_eq!(text(&client, registered).await.as_deref(), Some("00:00:01"));
    for (agent, status) in [("silent", "failed"), ("talks", "succeeded")] {
        let job: i64 = client.query_one("select orch.enqueue($1)", &[&agent]).await.unwrap().get(0);
        until(&client, job, status).await;
    }
    let told = text(&client, "select outcome || ', ' || error from orch.agent_runs where outcome <> 'succeeded'").await;
    assert_eq!(told.as_deref(), Some("timed_out, ended: it wrote nothing for 1s (silence_timeout)"));
    assert_eq!(orch.run(["logs", "1"]).await.ok().stdout, "hello\n");
}
