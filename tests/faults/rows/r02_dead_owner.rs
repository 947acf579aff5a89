//! Row 2: running rows of a dead owner that carry pids of living processes: 1, the replica's own, a stranger's.

use crate::case::{BOUND_AFTER_OUTAGE, Case, Decoy};

/// A replica elsewhere whose lease ended an hour ago, and a job that it claimed before.
const DEAD_OWNER: &str = "
    insert into orch.replicas (replica_id, name, host, boot_id, state_dir_id, version, state, draining, agents, labels,
                               max_concurrency, started_at, lease_until)
    values ($1::text::uuid, 'gone', 'elsewhere', gen_random_uuid()::text, 'elsewhere', '0', 'live', false, '{}', '{}', 1,
            now() - interval '2 h', now() - interval '1 h')";
const CLAIM: &str = r#"
    with claimed as (
        update orch.jobs
           set status = 'running', claimable = false, run_id = gen_random_uuid(), replica_id = $2::text::uuid,
               started_at = now() - interval '90 min', attempt = attempt + 1
         where id = $1
        returning *)
    insert into orch.agent_runs (run_id, job_id, attempt, replica_id, host, boot_id, claimed_at, spawned_at, rules)
    select run_id, id, attempt, replica_id, 'elsewhere', 'elsewhere', started_at, started_at,
           '{"max_attempts": 3, "backoff": {"base": 0.1, "factor": 1, "max": 1}, "on_lost": "requeue", "max_lost": 3,
             "max_transient": 100, "max_interrupted": 100, "lease": 6, "timeout": null}'
      from claimed"#;
const STAMP: &str = "
    with stamped as (update orch.jobs set pid = $2 where id = $1 returning run_id)
    update orch.agent_runs r set pid = $2, pid_started = 1 from stamped where r.run_id = stamped.run_id";

/// Makes a replica elsewhere that is dead but for the saying so, and these jobs its own, with these pids. Returns its id.
pub(crate) async fn running_elsewhere(case: &mut Case, jobs: &[(i64, i32)]) -> String {
    let owner = uuid::Uuid::new_v4().to_string();
    let transaction = case.sql.transaction().await.unwrap();
    transaction.execute(DEAD_OWNER, &[&owner]).await.unwrap();
    for (job, pid) in jobs {
        assert_eq!(transaction.execute(CLAIM, &[job, &owner]).await.unwrap(), 1);
        assert_eq!(transaction.execute(STAMP, &[job, pid]).await.unwrap(), 1);
    }
    transaction.commit().await.unwrap();
    owner
}

pub(crate) async fn reaped_by_its_lease_and_nothing_is_signalled(case: &mut Case) {
    case.agent("quick", "exit 0", "");
    // Queued for tomorrow, so that the replica cannot take them before they are made its dead neighbour's.
    let mut jobs = Vec::new();
    for _ in 0..3 {
        let tomorrow = "select orch.enqueue('quick', run_at => now() + interval '1 day')";
        jobs.push(case.sql.query_one(tomorrow, &[]).await.unwrap().get::<_, i64>(0));
    }
    case.up().await;
    let mut decoy = Decoy::start();
    let own = case.replica().pid();
    let owner = running_elsewhere(case, &[(jobs[0], 1), (jobs[1], own), (jobs[2], decoy.pid())]).await;
    for job in jobs {
        case.until(job, "succeeded", BOUND_AFTER_OUTAGE).await;
        assert_eq!(case.outcomes(job).await, [Some("lost".to_owned()), Some("succeeded".to_owned())]);
        let first = &case.runs(job).await[0];
        assert_eq!(first.get::<_, Option<&str>>("closed_by"), Some("reap"));
    }
    decoy.assert_untouched();
    assert_eq!(case.replica().pid(), own, "the replica reaped a row with its own pid and lives");
    let state = "select state from orch.replicas where replica_id = $1::text::uuid";
    assert_eq!(case.sql.query_one(state, &[&owner]).await.unwrap().get::<_, &str>(0), "dead");
}
