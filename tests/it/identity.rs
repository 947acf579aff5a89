//! Which database a replica works for: a restored dump, or a state directory beside another database, starts paused, says
//! why, and touches nothing until somebody has accepted it.

use nix::sys::signal::Signal;

use crate::{
    replica::{place, script, text, until},
    support::{Orch, Replica, TestDb, eventually},
};

const DUE: &str = "select count(*)::text from orch.jobs where status = 'queued'";

/// Starts `orch up` and waits until it says that it is paused, and why.
async fn paused(orch: &Orch, words: &[&str]) -> Replica {
    let mut replica = orch.start();
    let why = eventually("the replica to say that it is paused", async || {
        assert!(!replica.is_ready().await, "it is ready:\n{}", replica.log());
        let answer = crate::support::http_get(orch.listen(), "/readyz").await.ok()?;
        (answer.status == 503 && answer.body.contains("paused")).then_some(answer.body)
    })
    .await;
    for word in words.iter().chain(&["orch doctor --accept-identity"]) {
        assert!(why.contains(word), "{word:?} is missing in {why}");
    }
    replica
}

/// Asserts that a replica that was there has left no trace in the database.
async fn untouched(test: &TestDb) {
    let client = test.client().await;
    for (what, query) in [
        ("registered", "select count(*)::text from orch.replicas where name <> 'other'"),
        ("ticked", "select count(*)::text from orch.meta where last_tick_at > now() - interval '1 h'"),
        ("settled or claimed", "select count(*)::text from orch.agent_runs where ended_at is not null"),
        ("told", "select count(*)::text from orch.events where kind <> 'identity_accepted'"),
    ] {
        assert_eq!(text(&client, query).await.as_deref(), Some("0"), "{what}");
    }
}

/// Two looks of a paused replica later it would have begun.
async fn time_to_begin_passes(replica: &Replica) {
    let began = std::time::Instant::now();
    eventually("some time to pass", async || {
        let answer = replica.get("/readyz").await;
        assert_eq!(answer.status, 503, "{}", answer.body);
        (began.elapsed().as_secs() >= 5).then_some(())
    })
    .await;
    assert_eq!(replica.log().matches("paused").count(), 1, "said once:\n{}", replica.log());
}

#[tokio::test]
async fn the_first_start_notes_which_database_it_is_and_a_restart_goes_on() {
    let test = TestDb::new().await;
    let orch = place(&test);
    for _ in 0..2 {
        let mut replica = orch.up().await;
        replica.signal(Signal::SIGTERM);
        assert!(replica.ended().await.success(), "{}", replica.log());
        assert!(!replica.log().contains("paused"), "{}", replica.log());
    }
    let noted = "select count(*)::text from orch.meta m, pg_control_system() c, pg_database d
                 where m.system_identifier = c.system_identifier and m.database_oid = d.oid
                   and d.datname = current_database()";
    assert_eq!(text(&test.client().await, noted).await.as_deref(), Some("1"));
    let nothing = orch.run(["doctor", "--accept-identity"]).await.ok();
    assert!(nothing.stdout.contains("nothing to accept"), "{nothing:?}");
}

#[tokio::test]
async fn a_restored_dump_is_left_alone_until_somebody_accepts_it() {
    let test = TestDb::new().await;
    let client = test.client().await;
    let orch = place(&test);
    // As a dump has it: the original's identity, a running job whose owner's lease ended long ago, a job that is due.
    let dumped = "update orch.meta set system_identifier = 1, database_oid = 1;
        insert into orch.replicas (replica_id, name, host, lease_until)
        values ('00000000-0000-0000-0000-000000000001', 'other', 'elsewhere', now() - interval '1 h');";
    client.batch_execute(dumped).await.unwrap();
    let running = script(&client, "exit 0").await;
    let claim = "with claimed as (
            update orch.jobs set status = 'running', claimable = false, run_id = gen_random_uuid(),
                   replica_id = '00000000-0000-0000-0000-000000000001', started_at = now(), attempt = attempt + 1
             returning *)
        insert into orch.agent_runs (run_id, job_id, attempt, replica_id, host, boot_id, claimed_at, rules)
        select run_id, id, attempt, replica_id, 'elsewhere', 'elsewhere', started_at,
               '{\"max_attempts\": 3, \"backoff\": {\"base\": 0.1, \"factor\": 1, \"max\": 1}, \"on_lost\": \"requeue\",
                 \"max_lost\": 3, \"max_transient\": 100, \"max_interrupted\": 100, \"lease\": 6, \"timeout\": null}'
          from claimed";
    client.batch_execute(claim).await.unwrap();
    let due = script(&client, "exit 0").await;

    let mut replica = paused(&orch, &["restored dump", "system 1, oid 1", test.name(), "DATABASE_URL"]).await;
    time_to_begin_passes(&replica).await;
    untouched(&test).await;
    assert_eq!(text(&client, DUE).await.as_deref(), Some("1"));
    assert_eq!(replica.get("/queue").await.status, 200, "whoever asks may look");
    let doctor = orch.run(["doctor"]).await;
    assert_eq!(doctor.status.code(), Some(1));
    assert!(
        doctor.stdout.lines().any(|line| line.starts_with("WRONG") && line.contains("restored dump")),
        "{doctor:?}"
    );

    let accepted = orch.run(["--json", "doctor", "--accept-identity"]).await.ok().json();
    assert_eq!(accepted["accepted"], true, "{accepted}");
    assert!(accepted["disagreement"].as_str().unwrap().contains("restored dump"), "{accepted}");
    eventually("the replica to go on", async || replica.is_ready().await.then_some(())).await;
    until(&client, due, "succeeded").await;
    until(&client, running, "succeeded").await;
    let event = "select detail ->> 'because' from orch.events where kind = 'identity_accepted'";
    assert!(text(&client, event).await.unwrap().contains("restored dump"));
    assert_eq!(orch.run(["--json", "doctor", "--accept-identity"]).await.ok().json()["accepted"], false);
}

#[tokio::test]
async fn a_directory_beside_another_database_runs_nothing_there() {
    let (one, other) = (TestDb::new().await, TestDb::new().await);
    let mut orch = place(&one);
    let mut first = orch.up().await;
    first.signal(Signal::SIGTERM);
    assert!(first.ended().await.success());

    orch.set("DATABASE_URL", other.url());
    let job = script(&other.client().await, "exit 0").await;
    let replica = paused(&orch, &["new and empty", other.name()]).await;
    time_to_begin_passes(&replica).await;
    untouched(&other).await;
    replica.kill().await;

    // One that has had replicas of its own is another database, not a new one.
    let neighbour = place(&other);
    let mut own = neighbour.up().await;
    until(&other.client().await, job, "succeeded").await;
    own.signal(Signal::SIGTERM);
    assert!(own.ended().await.success());
    let mut replica = paused(&orch, &["served another database", "--state-dir", other.name()]).await;
    orch.run(["doctor", "--accept-identity"]).await.ok();
    eventually("the replica to go on", async || replica.is_ready().await.then_some(())).await;
    let job = script(&other.client().await, "exit 0").await;
    until(&other.client().await, job, "succeeded").await;
    replica.kill().await;

    // Back at the first one it is the stranger.
    orch.set("DATABASE_URL", one.url());
    drop(paused(&orch, &["served another database", one.name()]).await);
}

#[tokio::test]
async fn runs_that_the_database_does_not_know_are_not_touched() {
    let (one, other) = (TestDb::new().await, TestDb::new().await);
    // The run is to outlive what follows, and nobody renews its lease.
    let mut orch = place(&one).with("ORCH_LEASE", "5m");
    let client = one.client().await;
    let replica = orch.up().await;
    let job = script(&client, "sleep 1000").await;
    until(&client, job, "running").await;
    let pid: i32 = eventually("the pid", async || {
        client.query_one("select pid from orch.jobs where id = $1", &[&job]).await.unwrap().get(0)
    })
    .await;
    replica.kill().await;
    // As if a directory without a memory were put beside another database while a run of it lives.
    std::fs::remove_file(orch.state_dir().join("database")).unwrap();
    orch.set("DATABASE_URL", other.url());
    let mut replica = paused(&orch, &["1 runs of which", other.name()]).await;
    time_to_begin_passes(&replica).await;
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), None).expect("the run lives");
    // A paused replica is stopped like any other.
    replica.signal(Signal::SIGTERM);
    assert!(replica.ended().await.success(), "{}", replica.log());
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), None).expect("the run lives");
}

#[tokio::test]
async fn a_memory_that_nobody_can_read_pauses_as_well() {
    let test = TestDb::new().await;
    let orch = place(&test);
    std::fs::create_dir_all(orch.state_dir()).unwrap();
    std::fs::write(orch.state_dir().join("database"), "?").unwrap();
    let mut replica = paused(&orch, &["cannot be understood", "/database"]).await;
    orch.run(["doctor", "--accept-identity"]).await.ok();
    eventually("the replica to go on", async || replica.is_ready().await.then_some(())).await;
}

#[tokio::test]
async fn a_server_that_hides_its_identity_goes_by_what_can_be_had() {
    let test = TestDb::new().await;
    let client = test.client().await;
    let role = format!("{}_plain", test.name());
    let grants = format!(
        "create role {role} login password 'plain'; grant all on schema orch to {role}; grant all on all tables in schema orch to {role};
         grant all on all functions in schema orch to {role}; grant all on all sequences in schema orch to {role};
         revoke execute on function pg_catalog.pg_control_system() from public"
    );
    client.batch_execute(&grants).await.unwrap();
    let mut orch = place(&test);
    let url = test.url();
    let at = url.find('@').map_or("://".len() + url.find("://").unwrap(), |at| at + 1);
    orch.set("DATABASE_URL", format!("postgres://{role}:plain@{}", &url[at..]));
    let mut replica = orch.up().await;
    let said = "does not tell its system identifier";
    assert_eq!(replica.log().matches(said).count(), 1, "{}", replica.log());
    replica.signal(Signal::SIGTERM);
    assert!(replica.ended().await.success(), "{}", replica.log());
    // The oid alone tells another database.
    client.batch_execute("update orch.meta set database_oid = 1").await.unwrap();
    drop(paused(&orch, &["restored dump", "system unknown, oid 1"]).await);
    client.batch_execute(&format!("drop owned by {role}; drop role {role}")).await.unwrap();
}
