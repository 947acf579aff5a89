//! `orch doctor` on a machine with a state directory: runs that the database and the directory do not agree about, and
//! processes that outlive their run.

use tokio_postgres::Client;

use crate::{
    replica::{place, script},
    support::{Orch, Output, TestDb, eventually, processes_beneath},
};

/// The line of a check, or nothing.
fn line<'a>(output: &'a Output, check: &str) -> &'a str {
    let found = output.stdout.lines().find(|line| line.split_whitespace().nth(1) == Some(check));
    found.unwrap_or_default()
}

#[track_caller]
fn says(output: &Output, check: &str, verdict: &str, words: &[&str]) {
    let line = line(output, check);
    assert!(line.starts_with(verdict), "{check} is not {verdict}: {output:?}");
    for word in words {
        assert!(line.contains(word), "{word:?} is missing: {line}");
    }
}

/// A replica that has a run alive, and is killed.
async fn left_behind(test: &TestDb, orch: &Orch) -> i64 {
    let client = test.client().await;
    let replica = orch.up().await;
    let job = script(&client, "sleep 1000").await;
    until_stamped(&client, job).await;
    replica.kill().await;
    job
}

/// Waits until the job's run has a process, and so a shim that holds it.
async fn until_stamped(client: &Client, job: i64) {
    eventually("the run's pid", async || {
        client.query_one("select pid from orch.jobs where id = $1", &[&job]).await.unwrap().get::<_, Option<i32>>(0)
    })
    .await;
}

#[tokio::test]
async fn a_machine_at_work_is_healthy() {
    let test = TestDb::new().await;
    let client = test.client().await;
    let orch = place(&test);
    let _replica = orch.up().await;
    let job = script(&client, "sleep 1000").await;
    // It runs from the claim on; what holds it is there later.
    until_stamped(&client, job).await;
    let output = orch.run(["doctor"]).await.ok();
    says(&output, "fingerprint", "ok", &[test.name()]);
    says(&output, "clock", "ok", &["give or take"]);
    says(&output, "runs", "ok", &["1 open here"]);
    says(&output, "disk", "", &["MiB"]);
    assert_eq!((line(&output, "leases"), line(&output, "processes")), ("", ""), "{output:?}");
}

#[tokio::test]
async fn a_run_that_nobody_here_holds_is_said_with_what_becomes_of_it() {
    let test = TestDb::new().await;
    let orch = place(&test);
    left_behind(&test, &orch).await;
    says(&orch.run(["doctor"]).await.ok(), "runs", "ok", &["1 open here, each held by its shim"]);
    for pid in processes_beneath(orch.state_dir()) {
        // Gone already is as good.
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
    }
    says(
        &orch.run(["doctor"]).await.ok(),
        "runs",
        "note",
        &["is open and no shim holds it here", "no replica runs here"],
    );
}

#[tokio::test]
async fn a_process_whose_run_is_over_is_wrong_unless_it_is_being_ended() {
    let test = TestDb::new().await;
    let client = test.client().await;
    let orch = place(&test).with("ORCH_LEASE", "2m").with("ORCH_REAP_INTERVAL", "1s");
    let job = left_behind(&test, &orch).await;
    client.execute("update orch.jobs set status = 'queued' where id = $1", &[&job]).await.unwrap();
    let number = format!("job {job}");
    says(&orch.run(["doctor"]).await.ok(), "processes", "note", &[&number, "an operator took the job"]);
    client.execute("update orch.jobs set awaits_replica = null where id = $1", &[&job]).await.unwrap();
    let output = orch.run(["doctor"]).await;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    says(&output, "processes", "WRONG", &[&number, "is over"]);
}

#[tokio::test]
async fn what_only_the_directory_knows_is_said() {
    let test = TestDb::new().await;
    let orch = place(&test);
    let mut replica = orch.up().await;
    replica.signal(nix::sys::signal::Signal::SIGTERM);
    assert!(replica.ended().await.success());
    let run = uuid::Uuid::now_v7().to_string();
    std::fs::create_dir_all(orch.state_dir().join("runs").join(&run)).unwrap();
    std::fs::create_dir_all(orch.state_dir().join("leases")).unwrap();
    let lease = uuid::Uuid::now_v7().to_string();
    std::fs::write(orch.state_dir().join("leases").join(&lease), "").unwrap();
    let output = orch.run(["doctor"]).await.ok();
    says(&output, "runs", "note", &[&run, "does not know"]);
    says(&output, "leases", "note", &[&lease]);
}
