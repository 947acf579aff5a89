//! Limits and gates: exact, counted from open runs alone.

use orch::{db::runs::Claimed, model::Outcome};

use super::{Claimer, ended, ids, one, settle, stage, succeed};
use crate::runs::no_violation;

#[tokio::test]
async fn no_more_run_than_a_limit_lets_and_an_end_lets_the_next_one_go() {
    let (test, client, mut claimer) = stage().await;
    client
        .batch_execute(
            "select orch.set_limit('api', 2);
             select orch.enqueue('a', limits => '{api}') from generate_series(1, 5);
             select orch.enqueue('a')",
        )
        .await
        .unwrap();
    let mut running = claimer.fill(9).await;
    assert_eq!(ids(&running), [1, 2, 6]);
    assert_eq!(one(&client, "select running || ' ' || room from orch.limit_use where name = 'api'").await, "2 0");
    succeed(&test.db(), vec![running.remove(0)]).await;
    assert_eq!(ids(&claimer.fill(9).await), [3]);
    client.batch_execute("select orch.set_limit('api', null)").await.unwrap();
    assert_eq!(ids(&claimer.fill(9).await), [4, 5], "without a bound");
    no_violation(&client).await;
}

#[tokio::test]
async fn a_job_that_needs_several_limits_waits_for_all_of_them() {
    let (test, client, mut claimer) = stage().await;
    client
        .batch_execute(
            "select orch.set_limit('x', 1), orch.set_limit('y', 1);
             select orch.enqueue('a', limits => '{y}');
             select orch.enqueue('a', limits => '{x,y}');
             select orch.enqueue('a', limits => '{x}')",
        )
        .await
        .unwrap();
    let running = claimer.fill(9).await;
    assert_eq!(ids(&running), [1, 3], "the one that waits for y keeps nobody from x");
    succeed(&test.db(), running).await;
    assert_eq!(ids(&claimer.fill(9).await), [2]);
}

#[tokio::test]
async fn a_limit_of_the_agent_and_those_that_every_job_needs_unsaid_count_too() {
    let (test, client, mut claimer) = stage().await;
    let mut agent = crate::played::agent("a");
    agent.limits = vec!["quota".into()];
    test.db().register_agents(&[&agent]).await.unwrap();
    assert_eq!(
        one(&client, "select max_running from orch.limits where name = 'quota'").await,
        "null",
        "made unbounded"
    );
    client
        .batch_execute(
            "insert into orch.jobs (agent, project) select 'a', 'p' || (n % 2) from generate_series(1, 20) n;
             select orch.set_limit('quota', 6), orch.set_limit('project:p0', 2)",
        )
        .await
        .unwrap();
    let mut running = claimer.fill(20).await;
    assert_eq!(running.len(), 6);
    assert_eq!(running.iter().filter(|job| job.project == "p0").count(), 2);
    client.batch_execute("select orch.set_limit('agent:a', 7), orch.set_limit('quota', 50)").await.unwrap();
    running.extend(claimer.fill(20).await);
    assert_eq!(running.len(), 7, "what ran before the limit was set counts");
    client.batch_execute("select orch.set_limit('agent:a', null), orch.set_limit('all', 9)").await.unwrap();
    running.extend(claimer.fill(20).await);
    assert_eq!(running.len(), 9);
}

#[tokio::test]
async fn whatever_ends_a_run_gives_back_what_it_held() {
    let (test, client, mut claimer) = stage().await;
    let db = test.db();
    client
        .batch_execute(
            "select orch.set_limit('api', 1);
             select orch.enqueue('a', limits => '{api}', gate => 'g') from generate_series(1, 4)",
        )
        .await
        .unwrap();
    // The replica dies: its run is reaped, and its job waits again, behind the others.
    let mut dying = Claimer::new(&db, &["a"], &[]).await;
    let lost: Vec<Claimed> = dying.fill(9).await;
    assert_eq!((ids(&lost), claimer.fill(9).await.len()), (vec![1], 0));
    let dead = dying.claimant.replica_id;
    client.execute("update orch.replicas set state = 'dead' where replica_id = $1", &[&dead.0]).await.unwrap();
    let timing = orch::db::reaper::Timing { lease: 60.0, heartbeat: 5.0, reap_grace: 5.0 };
    orch::replica::Reaper::new(timing, true).tick(&db, false).await.unwrap();
    let running = claimer.fill(9).await;
    assert_eq!(ids(&running), [2]);
    // An operator takes a job from its replica: it holds limit and gate until the old process is gone.
    let mut other = Claimer::new(&db, &["a"], &[]).await;
    client.batch_execute("update orch.jobs set status = 'held' where id = 2").await.unwrap();
    assert_eq!(one(&client, "select running from orch.limit_use where name = 'api'").await, "1");
    assert_eq!(other.fill(9).await.len(), 0, "the old process may still live");
    client.batch_execute("select orch.set_limit('api', null)").await.unwrap();
    assert_eq!(other.fill(9).await.len(), 0, "nor does its gate let anybody through");
    client.batch_execute("select orch.set_limit('api', 1)").await.unwrap();
    let run_id = running[0].owned.run_id();
    assert!(db.acknowledge_ended(claimer.claimant.replica_id, running[0].owned.job_id(), Some(run_id)).await.unwrap());
    let mut running = other.fill(9).await;
    assert_eq!(ids(&running), [3]);
    // However it ends, the next one goes.
    for (outcome, expected) in [(Outcome::Cancelled, 4), (Outcome::Interrupted, 1), (Outcome::Failed, 4)] {
        settle(&db, running.into_iter().map(|job| (job.owned, ended(outcome)))).await;
        running = other.fill(9).await;
        assert_eq!(ids(&running), [expected], "after {outcome}");
    }
    no_violation(&client).await;
}

#[tokio::test]
async fn sixteen_claims_at_once_do_not_overshoot_and_do_not_wait_for_each_other() {
    let (test, client, _) = stage().await;
    client
        .batch_execute(
            "select orch.set_limit('api', 3);
             select orch.enqueue('a', limits => '{api}') from generate_series(1, 200);
             select orch.enqueue('a', gate => 'g' || n % 5) from generate_series(1, 200) n",
        )
        .await
        .unwrap();
    let db = orch::db::Db::new(test.config(), 16, true).unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..16 {
        let mut claimer = Claimer::new(&db, &["a"], &[]).await;
        tasks.spawn(async move {
            let mut all = Vec::new();
            for _ in 0..10 {
                all.extend(claimer.once(10).await.0);
            }
            all.len()
        });
    }
    let claimed: usize = tasks.join_all().await.into_iter().sum();
    assert_eq!(claimed, 3 + 5);
    no_violation(&client).await;
}

#[tokio::test]
async fn a_limit_that_somebody_keeps_locked_stops_those_who_need_it_and_nobody_else() {
    let (test, client, mut claimer) = stage().await;
    client
        .batch_execute(
            "select orch.set_limit('api', 1);
             select orch.enqueue('a', limits => '{api}'); select orch.enqueue('a')",
        )
        .await
        .unwrap();
    let operator = test.client().await;
    operator.batch_execute("begin; select orch.set_limit('api', 2)").await.unwrap();
    let (jobs, _, contended) = claimer.once(5).await;
    assert_eq!((ids(&jobs), contended), (vec![2], true));
    assert!(claimer.once(5).await.2, "worth another look soon");
    operator.batch_execute("commit").await.unwrap();
    assert_eq!(ids(&claimer.fill(5).await), [1]);
}

#[tokio::test]
async fn without_serial_gates_gates_are_not_asked_and_limits_are() {
    let (_test, client, mut claimer) = stage().await;
    client
        .batch_execute(
            "select orch.set_limit('api', 2); select orch.set_project('p', serial => true);
             select orch.enqueue('a', project => 'p', limits => '{api}') from generate_series(1, 4);
             select orch.enqueue('a', gate => 'g') from generate_series(1, 2)",
        )
        .await
        .unwrap();
    assert_eq!(ids(&claimer.fill(9).await), [1, 5], "one of each gate");
    claimer.claimant.serial_gate = false;
    assert_eq!(ids(&claimer.fill(9).await), [2, 6]);
    assert_eq!(one(&client, "select count(running_gate) from orch.jobs").await, "2");
    no_violation(&client).await;
}

#[tokio::test]
async fn a_claim_in_another_isolation_level_is_refused_where_it_would_have_to_count() {
    let (test, client, claimer) = stage().await;
    client
        .batch_execute(&format!(
            "select orch.set_limit('api', 1); select orch.enqueue('a', limits => '{{api}}');
             alter database {} set default_transaction_isolation = 'repeatable read'",
            test.name()
        ))
        .await
        .unwrap();
    let look = orch::db::runs::Look::default();
    let refused = test.db().claim_jobs(&claimer.claimant, &["a".into()], &[orch::model::RunId::new()], &look).await;
    assert!(refused.unwrap_err().to_string().contains("READ COMMITTED"));
}
