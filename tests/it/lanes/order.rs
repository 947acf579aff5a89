//! The order inside a project, and which replica takes what.

use super::{Claimer, ids, one, stage};

#[tokio::test]
async fn inside_a_project_priority_comes_first_then_run_at_then_the_number() {
    let (_test, client, mut claimer) = stage().await;
    client
        .batch_execute(
            "select orch.enqueue('a', run_at => now() - interval '1 min');
             select orch.enqueue('a', run_at => now() - interval '2 min');
             select orch.enqueue('a', priority => 1, run_at => now() - interval '1 s');
             select orch.enqueue('a', priority => -1, run_at => now() - interval '3 min');
             insert into orch.jobs (agent, run_at) select 'a', min(run_at) from orch.jobs where priority = 0;
             select orch.enqueue('a', priority => 1, gate => 'g', run_at => now() - interval '2 s')",
        )
        .await
        .unwrap();
    for expected in [6, 3, 2, 5, 1, 4] {
        assert_eq!(ids(&claimer.claim(1).await), [expected], "across lanes as within one");
    }
}

#[tokio::test]
async fn a_step_of_priority_is_worth_an_hour_so_that_nothing_waits_for_ever() {
    let (_test, client, mut claimer) = stage().await;
    client
        .batch_execute(
            "select orch.enqueue('a', run_at => now() - interval '61 min');
             select orch.enqueue('a', priority => 1, run_at => now());
             select orch.enqueue('a', priority => 1, run_at => now() - interval '2 min')",
        )
        .await
        .unwrap();
    for expected in [3, 1, 2] {
        assert_eq!(ids(&claimer.claim(1).await), [expected]);
    }
}

#[tokio::test]
async fn the_most_urgent_of_many_lanes_is_found_first_and_all_the_others_are_found() {
    let (_test, client, mut claimer) = stage().await;
    client
        .batch_execute(
            "insert into orch.jobs (agent, gate) select 'a', 'g' || n from generate_series(1, 1500) n;
             insert into orch.jobs (agent, gate, priority) select 'a', 'urgent' || n, 7 from generate_series(1, 50) n",
        )
        .await
        .unwrap();
    let first = claimer.fill(50).await;
    assert!(ids(&first).iter().all(|id| *id > 1500), "the urgent ones: {:?}", ids(&first));
    let rest = claimer.fill(2000).await;
    assert_eq!((rest.len(), claimer.claim(5).await.len()), (1500, 0));
}

#[tokio::test]
async fn a_job_goes_to_a_replica_that_serves_its_agent_and_has_its_labels() {
    let (test, client, mut plain) = stage().await;
    let db = test.db();
    let mut other = Claimer::new(&db, &["b"], &[("gpu", "a100")]).await;
    let mut gpu = Claimer::new(&db, &["a", "b"], &[("gpu", "a100"), ("zone", "1")]).await;
    client
        .batch_execute(
            r#"select orch.enqueue('a', require => '{"gpu": "a100"}');
               select orch.enqueue('a', require => '{"gpu": "h100"}');
               select orch.enqueue('nobody')"#,
        )
        .await
        .unwrap();
    assert_eq!((plain.claim(5).await.len(), other.claim(5).await.len()), (0, 0));
    assert_eq!(ids(&gpu.claim(5).await), [1]);
    let serves = "select string_agg((orch.serves(p, 'a', '{\"zone\": \"1\"}'))::text, ' ' order by p.started_at) from orch.replicas p";
    assert_eq!(one(&client, serves).await, "false false true", "as the view says");
}

#[tokio::test]
async fn a_plain_insert_shares_the_lane_of_an_enqueue_and_is_claimed_with_it() {
    let (_test, client, mut claimer) = stage().await;
    client
        .batch_execute(
            "select orch.set_limit('y'), orch.set_limit('x');
             select orch.enqueue('a', limits => '{y,x,y}', gate => null);
             insert into orch.jobs (agent, limits) values ('a', '{x,y}')",
        )
        .await
        .unwrap();
    assert_eq!(one(&client, "select count(distinct lane) from orch.jobs").await, "1");
    assert_eq!(ids(&claimer.claim(5).await), [1, 2]);
}

#[tokio::test]
async fn jobs_whose_lanes_collide_are_told_apart() {
    let (_test, client, mut claimer) = stage().await;
    client
        .batch_execute(
            "alter table orch.jobs disable trigger jobs_zz0_guard_format;
             insert into orch.jobs (agent, lane) values ('a', 1), ('nobody', 1), ('a', 1);
             insert into orch.jobs (agent, lane, gate) values ('a', 1, 'g')",
        )
        .await
        .unwrap();
    assert_eq!(ids(&claimer.claim(9).await), [1, 3], "as the first of the lane");
    client.batch_execute("update orch.jobs set status = 'cancelled' where id = 2").await.unwrap();
    assert_eq!(ids(&claimer.claim(9).await), [4], "a collision costs a wait");
}
