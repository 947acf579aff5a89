//! The smaller statement of a claim, for a queue that is one lane without gate and limit: it takes what the other would have
//! taken, and leaves to that one what is not so simple.

use orch::{
    db::runs::{Claim, Look},
    model::{Head, RunId},
};

use super::{Claimer, ids, stage};
use crate::support::TestDb;

const AGENTS: [&str; 2] = ["a", "b"];

fn agents() -> Vec<String> {
    AGENTS.map(str::to_owned).to_vec()
}

fn run_ids(slots: usize) -> Vec<RunId> {
    (0..slots).map(|_| RunId::new()).collect()
}

async fn claim(claimer: &Claimer, slots: usize) -> Claim {
    claim_from(claimer, slots, None).await
}

async fn claim_from(claimer: &Claimer, slots: usize, marks: Option<Vec<Head>>) -> Claim {
    let look = Look { lone: true, marks, ..Look::default() };
    claimer.db.claim_jobs(&claimer.claimant, &agents(), &run_ids(slots), &look).await.unwrap()
}

/// What waits, and whether the smaller statement has the say.
const QUEUES: &[(&str, &str, bool)] = &[
    ("nothing", "", true),
    ("one job", "select orch.enqueue('a')", true),
    ("more jobs than slots", "select orch.enqueue('a') from generate_series(1, 9)", true),
    ("a job with a timeout of its own", "select orch.enqueue('a', timeout => '1 minute', max_attempts => 2)", true),
    ("one that is not due", "select orch.enqueue('a', run_at => now() + interval '1 hour')", true),
    (
        "one that is due and one that is not",
        "select orch.enqueue('a', run_at => now() + n * interval '1 hour') from generate_series(0, 1) n",
        true,
    ),
    ("an agent that nobody serves", "select orch.enqueue('z')", true),
    ("a label that the replica has", "select orch.enqueue('a', require => '{\"gpu\": \"1\"}')", true),
    ("a label that it has not", "select orch.enqueue('a', require => '{\"gpu\": \"2\"}')", true),
    ("a limit that nothing here needs", "select orch.set_limit('x', 1); select orch.enqueue('a')", true),
    ("a limit without a bound", "select orch.set_limit('x'); select orch.enqueue('a')", true),
    ("two agents", "select orch.enqueue('a'); select orch.enqueue('b')", false),
    ("two priorities", "select orch.enqueue('a', priority => n) from generate_series(1, 2) n", false),
    ("two projects", "select orch.enqueue('a', project => 'p' || n) from generate_series(1, 2) n", false),
    ("a gate", "select orch.enqueue('a', gate => 'g') from generate_series(1, 3)", false),
    (
        "a serial project",
        "select orch.set_project('default', serial => true); select orch.enqueue('a') from generate_series(1, 3)",
        false,
    ),
    (
        "jobs with a limit",
        "select orch.set_limit('x', 2); select orch.enqueue('a', limits => '{x}') from generate_series(1, 3)",
        false,
    ),
    (
        "an agent with a limit",
        "select orch.set_limit('x', 2); update orch.agents set limits = '{x}' where name = 'a';
         select orch.enqueue('a') from generate_series(1, 3)",
        false,
    ),
    (
        "a cap on the agent",
        "select orch.set_limit('agent:a', 2); select orch.enqueue('a') from generate_series(1, 3)",
        false,
    ),
    ("a paused queue", "select orch.pause('all'); select orch.enqueue('a')", false),
    ("a paused project", "select orch.pause('project:default'); select orch.enqueue('a')", false),
];

#[tokio::test]
async fn it_takes_what_the_other_would_take_and_leaves_the_rest_to_it() {
    for (what, sql, simple) in QUEUES {
        let db = TestDb::new().await;
        let client = db.client().await;
        client.batch_execute("insert into orch.agents (name) values ('a'), ('b')").await.unwrap();
        let claimer = Claimer::new(&db.db(), &AGENTS, &[("gpu", "1")]).await;
        client.batch_execute(sql).await.unwrap();
        let look = Look::default();
        let due = claimer.db.list_claimable(&claimer.claimant, &agents(), &run_ids(4), &look).await.unwrap();
        let due: Vec<i64> = due.into_iter().map(|job| job.0).collect();

        let claim = claim(&claimer, 4).await;
        assert_eq!(ids(&claim.jobs), due, "{what}");
        assert_eq!(claim.lone, *simple, "{what}: who had the say");
        let rules = "select count(*) from orch.agent_runs r join orch.jobs j on j.run_id = r.run_id and j.id = r.job_id
                      where r.ended_at is null and r.replica_id = j.replica_id and r.project = j.project
                        and (r.rules ->> 'max_attempts')::integer = coalesce(j.max_attempts, 3)
                        and (r.rules ->> 'timeout')::double precision is not distinct from extract(epoch from j.timeout)
                        and r.rules ? 'backoff' and r.rules ? 'lease'";
        let opened: i64 = client.query_one(rules, &[]).await.unwrap().get(0);
        assert_eq!(opened, due.len() as i64, "{what}: runs were opened, each with its rules");
    }
}

#[tokio::test]
async fn a_job_in_another_claims_hands_is_passed_over_and_told() {
    let (test, client, claimer) = stage().await;
    client.batch_execute("select orch.enqueue('a')").await.unwrap();
    let other = test.client().await;
    other.batch_execute("begin; select from orch.jobs for update").await.unwrap();
    let outdone = claim(&claimer, 4).await;
    assert!(outdone.jobs.is_empty() && outdone.contended && outdone.lone, "{outdone:?}");
    client.batch_execute("select orch.enqueue('a')").await.unwrap();
    let second = claim(&claimer, 4).await;
    assert_eq!((ids(&second.jobs), second.contended), (vec![2], false));
    other.batch_execute("rollback").await.unwrap();
    assert_eq!(ids(&claim(&claimer, 4).await.jobs), [1]);
}

#[tokio::test]
async fn a_replica_that_drains_or_is_dead_takes_nothing() {
    let (_test, client, claimer) = stage().await;
    client.batch_execute("select orch.enqueue('a'); update orch.replicas set draining = true").await.unwrap();
    assert!(claim(&claimer, 4).await.jobs.is_empty());
    client.batch_execute("update orch.replicas set draining = false, state = 'dead'").await.unwrap();
    assert!(claim(&claimer, 4).await.jobs.is_empty());
}

#[tokio::test]
async fn it_goes_on_from_the_head_that_it_saw_and_looks_at_nothing_else_then() {
    let (_test, client, claimer) = stage().await;
    client.batch_execute("select orch.enqueue('a') from generate_series(1, 6)").await.unwrap();
    let first = claim(&claimer, 2).await;
    assert_eq!(first.heads.iter().map(|head| head.id).collect::<Vec<_>>(), [1]);
    client
        .batch_execute(
            "insert into orch.jobs (agent, run_at) values ('a', now() - interval '1 day');
             select orch.enqueue('a', priority => 9); select orch.enqueue('a', project => 'z')",
        )
        .await
        .unwrap();
    let second = claim_from(&claimer, 2, Some(first.heads)).await;
    assert_eq!((ids(&second.jobs), second.lone), (vec![3, 4], true), "neither what sorts before it nor another lane");
    assert_eq!(second.heads.iter().map(|head| head.id).collect::<Vec<_>>(), [3]);
    let third = claim_from(&claimer, 4, Some(second.heads)).await;
    assert_eq!(ids(&third.jobs), [5, 6], "fewer than were wanted: everything is looked at next");
    let none = claim_from(&claimer, 4, Some(third.heads)).await;
    assert!(none.jobs.is_empty() && none.heads.is_empty() && none.lone, "another lane is not taken for it: {none:?}");
    let all = claim(&claimer, 4).await;
    assert_eq!((all.jobs.len(), all.lone), (3, false), "that is for the larger statement");
}

/// A claimed job and its run, without what names them and when.
const CLAIMED: &str = "
    select (to_jsonb(j) - array['id', 'run_id', 'run_at', 'created_at', 'started_at'])::text
           || (to_jsonb(r) - array['run_id', 'job_id', 'claimed_at'])::text
      from orch.jobs j join orch.agent_runs r on r.run_id = j.run_id where j.id = $1";

#[tokio::test]
async fn both_make_the_same_of_a_job() {
    let (_test, client, claimer) = stage().await;
    for (what, rules, job) in [
        ("all by default", "", "orch.enqueue('a', '{\"x\": 1}')"),
        ("rules of its own", "", "orch.enqueue('a', timeout => '1 minute', max_attempts => 2)"),
        ("a failure before", "", "orch.enqueue('a'); update orch.jobs set error = 'so it was', failures = 1"),
        (
            "rules of its agent",
            "update orch.agents set max_attempts = 7, timeout = '1 hour', on_lost = 'hold', backoff_base = '2 seconds',
                    backoff_factor = 3, backoff_max = '2 hours' where name = 'a'",
            "orch.enqueue('a', max_attempts => 2)",
        ),
        ("an agent that nobody registered", "delete from orch.agents", "orch.enqueue('a')"),
    ] {
        client.batch_execute(rules).await.unwrap();
        let mut both = Vec::new();
        for lone in [true, false] {
            client.batch_execute(&format!("select {job}")).await.unwrap();
            let look = Look { lone, ..Look::default() };
            let mut claim = claimer.db.claim_jobs(&claimer.claimant, &agents(), &run_ids(1), &look).await.unwrap();
            let job = claim.jobs.remove(0);
            let row: String = client.query_one(CLAIMED, &[&job.owned.job_id().0]).await.unwrap().get(0);
            both.push((row, job.payload, job.previous_error, job.timeout));
        }
        assert_eq!(both[0], both[1], "{what}");
    }
}

/// What both make of the jobs that they took is the same, to the letter: the running row, the rules of its agent, its run.
#[test]
fn both_open_runs_in_the_same_words() {
    let (larger, smaller) =
        (include_str!("../../../sql/runs/claim.sql"), include_str!("../../../sql/runs/claim_lone.sql"));
    for (from, to) in [
        ("    update orch.jobs j\n", "attempt = j.attempt + 1\n"),
        ("           $7 || jsonb_build_object(", " as of_agent"),
        ("    insert into orch.agent_runs (", "rules, project, agent, limits)"),
        ("    select run_id, id, attempt, $1", "rules, project, agent, "),
    ] {
        let part = |sql: &'static str| {
            let sql = &sql[sql.find(from).unwrap()..];
            &sql[..sql.find(to).unwrap() + to.len()]
        };
        assert_eq!(part(larger), part(smaller), "{from}");
    }
}
