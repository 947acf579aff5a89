//! Fair share between projects.

use std::collections::BTreeMap;

use orch::db::runs::Claimed;

use super::{Claimer, one, stage, succeed};

#[tokio::test]
async fn ten_thousand_jobs_of_one_project_do_not_keep_the_first_of_another_from_the_next_free_slot() {
    for slots in [1, 4] {
        let (test, client, mut claimer) = stage().await;
        client
            .batch_execute(
                "insert into orch.jobs (agent, project, run_at)
                 select 'a', 'big', now() - interval '1 h' from generate_series(1, 10000)",
            )
            .await
            .unwrap();
        let mut running = claimer.fill(slots).await;
        for _ in 0..3 {
            succeed(&test.db(), vec![running.remove(0)]).await;
            running.extend(claimer.claim(1).await);
        }
        client.batch_execute("select orch.enqueue('a', project => 'small')").await.unwrap();
        succeed(&test.db(), vec![running.remove(0)]).await;
        assert_eq!(claimer.claim(1).await[0].project, "small", "with {slots} slots");
        let mut fresh = Claimer::new(&test.db(), &["a"], &[]).await;
        client.batch_execute("select orch.enqueue('a', project => 'other')").await.unwrap();
        let next = fresh.claim(1).await;
        assert!(slots == 1 || next[0].project == "other", "also of a replica that remembers nothing");
    }
}

/// Claims and settles, of `slots` runs a random one at a time, until so many were started; how many of each project.
async fn shares(claimers: &mut [Claimer], slots: usize, runs: usize) -> BTreeMap<String, usize> {
    let mut running: Vec<Vec<Claimed>> = claimers.iter().map(|_| Vec::new()).collect();
    let mut started: BTreeMap<String, usize> = BTreeMap::new();
    let mut total = 0;
    while total < runs {
        for (claimer, running) in claimers.iter_mut().zip(&mut running) {
            for job in claimer.fill(slots - running.len()).await {
                *started.entry(job.project.clone()).or_default() += 1;
                total += 1;
                running.push(job);
            }
        }
        for (claimer, running) in claimers.iter().zip(&mut running) {
            let ends: Vec<_> = (0..running.len().div_ceil(2))
                .map(|_| running.swap_remove((rand::random::<f64>() * running.len() as f64) as usize))
                .collect();
            succeed(&claimer.db, ends).await;
        }
    }
    started
}

#[tokio::test]
async fn weights_of_one_to_three_are_shares_within_a_tenth() {
    for (claimers, slots) in [(1, 4), (1, 10), (2, 3)] {
        let (test, client, first) = stage().await;
        client
            .batch_execute(
                "select orch.set_project('three', 3);
                 insert into orch.jobs (agent, project, run_at)
                 select 'a', p, now() - interval '1 h' from unnest('{one,three}'::text[]) p, generate_series(1, 2500)",
            )
            .await
            .unwrap();
        let mut all = vec![first];
        for _ in 1..claimers {
            all.push(Claimer::new(&test.db(), &["a"], &[]).await);
        }
        let started = shares(&mut all, slots, 2000).await;
        let of_one = started["one"] as f64 / (started["one"] + started["three"]) as f64;
        assert!((of_one - 0.25).abs() < 0.025, "{claimers} replicas of {slots} slots: {started:?}");
    }
}

#[tokio::test]
async fn of_a_thousand_projects_each_has_its_turn() {
    let (_test, client, mut claimer) = stage().await;
    client
        .batch_execute(
            "insert into orch.jobs (agent, project, run_at)
             select 'a', 'p' || p, now() - p * interval '1 s' from generate_series(1, 1000) p, generate_series(1, 3)",
        )
        .await
        .unwrap();
    let mut jobs = Vec::new();
    while jobs.len() < 1300 {
        jobs.extend(claimer.claim(50).await);
    }
    assert_eq!(one(&client, "select count(distinct project) from orch.agent_runs").await, "1000");
    let most = "select max(n) from (select count(*) as n from orch.agent_runs group by project) p";
    assert_eq!(one(&client, most).await, "2");
}
