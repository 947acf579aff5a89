//! Sixteen replicas at once, of which some die, on limits and gates: judged by an auditor that looks at the rows all the
//! while, and by what each claim that finds nothing must have seen.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use orch::{
    db::{Db, reaper::Timing, runs::Answer},
    model::Outcome,
    replica::Reaper,
};
use tokio_postgres::Client;

use super::{Claimer, closing, ended, one};
use crate::{runs::no_violation, support::TestDb};

const REPLICAS: usize = 16;
const SLOTS: usize = 8;
/// The first pause of a replica that found nothing.
const SOON: Duration = Duration::from_millis(10);

/// Limits of 1 to 5, gates, and jobs that need one or two and one of them.
async fn enqueue(client: &Client, jobs: usize) {
    client
        .batch_execute(&format!(
            "select orch.set_limit('l' || n, 1 + n % 5) from generate_series(0, 49) n;
             select setseed(0.5);
             insert into orch.jobs (agent, project, gate, limits, priority, run_at)
             select 'a', 'p' || n % 4, case when n % 3 > 0 then 'g' || n % 200 end,
                    orch.sorted_limits(array['l' || n % 50] || case when n % 7 = 0 then array['l' || (n + 13) % 50] end),
                    n % 2, now() - random() * interval '1 h'
               from generate_series(1, {jobs}) n;
             analyze orch.jobs"
        ))
        .await
        .unwrap();
}

/// More running than a limit lets, or two of one gate: by the jobs that run, not by what the claim counts.
const OVER: &str = "
    with running as (
        select j.* from orch.agent_runs r join orch.jobs j on j.id = r.job_id and j.status = 'running' where r.ended_at is null
    )
    select l.name || ': ' || count(*) from running j join orch.limits l on l.name = any (j.limits)
     group by l.name, l.max_running having count(*) > l.max_running
    union all
    select 'gate ' || gate || ': ' || count(*) from running where gate is not null group by gate having count(*) > 1";

/// Jobs that may run now, each with what would change if anything that it needs had been used in between.
const MAY_RUN: &str = "
    with full_ as materialized (select name from orch.limit_use where room <= 0)
    select j.id, j.attempt,
           coalesce((select max(r.claimed_at) from orch.agent_runs r join orch.jobs o on o.id = r.job_id
                      where r.limits && j.limits or o.gate = j.gate), '-infinity')::text as used
      from orch.jobs j
     where j.claimable and j.run_at <= now()
       and not exists (select from full_ f where f.name = any (j.limits))
       and (j.gate is null or not exists (select from orch.taken_gates t where t.gate = j.gate))
     limit 5";

async fn may_run(client: &Client) -> Vec<(i64, i32, String)> {
    let rows = client.query(MAY_RUN, &[]).await.unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect()
}

/// What all replicas did.
#[derive(Debug, Default)]
struct Tally {
    succeeded: AtomicUsize,
    claims: AtomicUsize,
    fruitless: AtomicUsize,
    /// Rounds that found nothing, and were asked whether there was something.
    judged: AtomicUsize,
}

async fn replica(db: Db, judge: Client, jobs: usize, tally: Arc<Tally>) {
    let mut claimer = Claimer::new(&db, &["a"], &[]).await;
    let (mut running, mut outdone) = (Vec::new(), 0);
    while tally.succeeded.load(Ordering::Relaxed) < jobs {
        // As the product's loop waits, where the others were first, or all that there is runs.
        if outdone > 0 {
            tokio::time::sleep(SOON.mul_f64(rand::random::<f64>() + 0.5) * (1 << outdone.min(4))).await;
        }
        // One in a few rounds that finds nothing is asked whether there was something all the while.
        let judged = rand::random::<f64>() < 0.05;
        let before = if judged { may_run(&judge).await } else { Vec::new() };
        let (mut contended, mut found) = (false, false);
        while running.len() < SLOTS {
            let (jobs, more, busy) = claimer.once(SLOTS - running.len()).await;
            tally.claims.fetch_add(1, Ordering::Relaxed);
            tally.fruitless.fetch_add(usize::from(jobs.is_empty()), Ordering::Relaxed);
            contended |= busy;
            found |= !jobs.is_empty();
            running.extend(jobs);
            if !more {
                break;
            }
        }
        outdone = if found { 0 } else { outdone + 1 };
        if judged && !found && !contended && running.len() < SLOTS {
            tally.judged.fetch_add(1, Ordering::Relaxed);
            let passed_over: Vec<_> = may_run(&judge).await.into_iter().filter(|job| before.contains(job)).collect();
            assert!(passed_over.is_empty(), "a claim found nothing, and these might have run: {passed_over:?}");
        }
        if rand::random::<f64>() < 5.0 / jobs as f64 * SLOTS as f64 {
            // It dies, with all that it runs.
            let dead = claimer.claimant.replica_id;
            judge.execute("update orch.replicas set state = 'dead' where replica_id = $1", &[&dead.0]).await.unwrap();
            claimer = Claimer::new(&db, &["a"], &[]).await;
            running.clear();
        }
        let ends = running.split_off(running.len() / 3);
        let batch: Vec<_> = ends
            .into_iter()
            .map(|job| {
                let ending = match rand::random::<f64>() {
                    chance if chance < 0.01 => ended(Outcome::Interrupted),
                    chance if chance < 0.012 => closing(&format!("l{}", job.owned.job_id().0 % 50), 0),
                    _ => ended(Outcome::Succeeded),
                };
                job.owned.ended(ending)
            })
            .collect();
        let mut rest = batch;
        while !rest.is_empty() {
            let answers = db.settle_runs(rest).await.map_err(|(error, _)| error).unwrap();
            rest = Vec::new();
            for answer in answers {
                match answer {
                    Answer::Settled(_, orch::model::JobStatus::Succeeded) => {
                        tally.succeeded.fetch_add(1, Ordering::Relaxed);
                    }
                    Answer::Settled(..) => {}
                    Answer::Busy(again) => rest.push(again),
                    other => panic!("{other:?}"),
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_load_no_limit_is_overshot_none_is_left_unused_and_every_job_ends() {
    // ORCH_LOAD_JOBS=20000 takes minutes on a machine of two cores; with so few the tests beside it get their turn.
    let jobs = std::env::var("ORCH_LOAD_JOBS").map_or(2_000, |text| text.parse().unwrap());
    let test = TestDb::new().await;
    let client = test.client().await;
    enqueue(&client, jobs).await;
    let db = Db::new(test.config(), REPLICAS + 2, true).unwrap().answering_within(Duration::from_mins(2));
    let (tally, over) = (Arc::<Tally>::default(), Arc::<AtomicBool>::default());
    let began = Instant::now();
    let mut replicas = tokio::task::JoinSet::new();
    for _ in 0..REPLICAS {
        replicas.spawn(replica(db.clone(), test.client().await, jobs, tally.clone()));
    }
    let auditor = tokio::spawn({
        let (client, over) = (test.client().await, over.clone());
        async move {
            let mut looked = 0_usize;
            while !over.load(Ordering::Relaxed) {
                let found = client.query(OVER, &[]).await.unwrap();
                let found: Vec<String> = found.iter().map(|row| row.get(0)).collect();
                assert!(found.is_empty(), "over a limit: {found:?}");
                looked += 1;
                // The server has other work than to be audited.
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            looked
        }
    });
    let reaper = tokio::spawn({
        let (db, over) = (db.clone(), over.clone());
        async move {
            let mut reaper = Reaper::new(Timing { lease: 60.0, heartbeat: 5.0, reap_grace: 5.0 }, true);
            let mut lost = 0;
            while !over.load(Ordering::Relaxed) {
                lost += reaper.tick(&db, false).await.map_or(0, |done| done.reaped);
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            lost
        }
    });
    while let Some(ended) = replicas.join_next().await {
        ended.unwrap();
    }
    over.store(true, Ordering::Relaxed);
    let (looks_at_rows, lost) = (auditor.await.unwrap(), reaper.await.unwrap());
    let succeeded = one(&client, "select count(*) from orch.jobs where status = 'succeeded'").await;
    assert_eq!(succeeded, jobs.to_string());
    assert!(looks_at_rows > 20, "the auditor looked {looks_at_rows} times");
    crate::support::say(&format!(
        "{jobs} jobs in {:.0?}, {lost} runs reaped, {looks_at_rows} looks of the auditor, {:?}",
        began.elapsed(),
        tally
    ));
    no_violation(&client).await;
}
