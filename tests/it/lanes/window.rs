//! More lanes than a claim looks at: the window of `sql/runs/claim.sql` and the round of `model::Round`, held together by what
//! comes of them.

use std::collections::BTreeSet;

use tokio_postgres::Client;

use super::{Claimer, ids, one, stage, succeed};
use crate::support::TestDb;

/// Lanes by project, in the order of their names: around every edge of the windows of 32 to 128 lanes and 24 to 96 of one project.
const PROJECTS: [usize; 20] = [1, 700, 2, 95, 96, 97, 23, 24, 25, 1, 1, 400, 31, 32, 33, 127, 128, 129, 3, 1_700];

/// A job for each lane of these projects, with what else they need.
async fn fill(client: &Client, projects: &[usize], columns: &str, values: &str) {
    let sizes = projects.iter().map(usize::to_string).collect::<Vec<_>>().join(",");
    client
        .batch_execute(&format!(
            "insert into orch.jobs (agent, project, gate, run_at{columns})
             select 'a', 'p' || lpad(p::text, 3, '0'), 'g' || p || '/' || n, now() - interval '1 h'{values}
               from unnest(array[{sizes}]) with ordinality s (size, p), generate_series(1, size) n;
             analyze orch.jobs"
        ))
        .await
        .unwrap();
}

/// A job that may run, of those that may not.
async fn let_one_go(client: &Client) -> i64 {
    let sql = "update orch.jobs set limits = null
                where id = (select id from orch.jobs where limits is not null order by random() limit 1) returning id";
    client.query_one(sql, &[]).await.unwrap().get(0)
}

#[tokio::test]
async fn whichever_of_thousands_of_lanes_may_run_one_round_finds_it_from_wherever_it_stands() {
    let (test, client, mut claimer) = stage().await;
    client.batch_execute("select orch.set_limit('shut'), orch.close_limit('shut')").await.unwrap();
    fill(&client, &PROJECTS, ", limits", ", '{shut}'::text[]").await;
    // One window of 32 lanes, then a walk in windows of 2048.
    let most = 2 + PROJECTS.iter().sum::<usize>() / 2000;
    for time in 0..12 {
        // Somewhere in the middle of a round, which then finds it, or the one after it does.
        for _ in 0..rand::random::<u8>() % 5 {
            assert!(claimer.once(3).await.0.is_empty());
        }
        let id = let_one_go(&client).await;
        let mut claims = 0;
        let (mut found, mut rounds) = (Vec::new(), 0);
        while found.is_empty() && rounds < 2 {
            let (jobs, more, _) = claimer.once(3).await;
            found = jobs;
            claims += 1;
            rounds += i32::from(!more);
        }
        assert_eq!(ids(&found), [id], "time {time}");
        assert!(claims <= 2 * most, "time {time}: {claims} claims");
        succeed(&test.db(), found).await;
    }
    // And where none may, a round ends.
    let (mut claims, mut more) = (0, true);
    while more {
        more = claimer.once(3).await.1;
        claims += 1;
        assert!(claims <= most, "{claims} claims");
    }
}

#[tokio::test]
async fn no_round_ends_while_a_job_may_run() {
    let (_test, client, mut claimer) = stage().await;
    fill(&client, &PROJECTS, "", "").await;
    let all: usize = PROJECTS.iter().sum();
    // Fewer slots than a window has lanes, so that windows are left half-way, again and again.
    let mut left: BTreeSet<i64> = (1..=all as i64).collect();
    while !left.is_empty() {
        let jobs = claimer.claim(25).await;
        assert!(!jobs.is_empty(), "a round ended, and {} jobs may run", left.len());
        for id in ids(&jobs) {
            assert!(left.remove(&id));
        }
    }
}

/// Claims and settles once. Each job that ran is enqueued again, so that every lane has a job at any time.
async fn turn(test: &TestDb, client: &Client, claimer: &mut Claimer) -> Vec<i64> {
    let jobs = claimer.claim(8).await;
    let ids = ids(&jobs);
    succeed(&test.db(), jobs).await;
    let again = "insert into orch.jobs (agent, project, gate, priority)
                 select agent, project, gate, priority from orch.jobs where id = any ($1)";
    client.execute(again, &[&ids]).await.unwrap();
    ids
}

#[tokio::test]
async fn where_every_window_brings_something_no_lane_is_passed_over_for_ever() {
    let (test, client, mut claimer) = stage().await;
    // Urgent jobs, without end, in one of the projects that have more lanes than a window.
    fill(&client, &[1, 120, 2, 110, 1], ", priority", ", case when p = 4 and n <= 10 then 1 else 0 end").await;
    let mut left: BTreeSet<i64> = (1..=234).collect();
    let mut claims = 0;
    while !left.is_empty() {
        for id in turn(&test, &client, &mut claimer).await {
            left.remove(&id);
        }
        claims += 1;
        assert!(claims <= 500, "after {claims} claims of 8, {} of 234 never ran: {left:?}", left.len());
    }
}

#[tokio::test]
async fn beside_projects_with_more_lanes_than_a_window_the_job_of_a_small_one_soon_has_its_turn() {
    let (test, client, mut claimer) = stage().await;
    fill(&client, &[300, 300, 0, 300], "", "").await;
    for time in 0..20 {
        let small: i64 = one(&client, "select orch.enqueue('a', project => 'p003')").await.parse().unwrap();
        let mut claims = 1;
        while !turn(&test, &client, &mut claimer).await.contains(&small) {
            claims += 1;
            // A pass over the projects is three windows, and every other claim begins with the urgent lanes.
            assert!(claims <= 8, "time {time}");
        }
        client.batch_execute("delete from orch.jobs where project = 'p003' and status = 'queued'").await.unwrap();
    }
}

#[tokio::test]
async fn shares_follow_the_weights_among_projects_with_more_lanes_than_a_window() {
    const TURNS: usize = 150;
    let (test, client, mut claimer) = stage().await;
    client.batch_execute("select orch.set_project('p002', weight => 3)").await.unwrap();
    fill(&client, &[300, 300, 300], "", "").await;
    let mut shares = [0_usize; 3];
    // The first turns fill what is remembered.
    for time in 0..TURNS + 10 {
        let ran = turn(&test, &client, &mut claimer).await;
        let of = "select right(project, 1)::integer - 1, count(*) from orch.jobs where id = any ($1) group by 1";
        for row in client.query(of, &[&ran]).await.unwrap() {
            if time >= 10 {
                shares[row.get::<_, i32>(0) as usize] += row.get::<_, i64>(1) as usize;
            }
        }
    }
    let all: usize = shares.iter().sum();
    for (share, weight) in shares.iter().zip([1, 3, 1]) {
        let due = all * weight / 5;
        assert!(share.abs_diff(due) * 10 <= due, "{shares:?} of {all}, where the weights are 1:3:1");
    }
}
