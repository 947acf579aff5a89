//! Row 43: cancel, timeout and finish race. A state machine over three jobs: in each step two connections do, at the same
//! time, one of all that owners, reapers and operators do. After it no invariant is broken; in all, only legal
//! transitions were made, every error was a refusal in words, and every run was heard at the most once.

use orch::{
    db::{
        Db,
        runs::{Answer, Claimant, Process},
    },
    model::{Containment, JobId, Outcome, RunId},
};
use proptest::{
    prelude::*,
    strategy::ValueTree as _,
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};

use crate::{
    auditor,
    case::Case,
    hand::{claim, expire, register, say, tick, token},
};

const JOBS: i64 = 3;
const WALKS: usize = 12;
const STEPS: usize = 40;

/// What one connection does. Runs are named by how many were begun after them.
#[derive(Debug, Clone)]
enum Act {
    Claim,
    Stamp(usize),
    /// In time, late, or far too late.
    Say(usize, Outcome),
    /// The lease of whoever claims now runs out, and a tick finds it.
    Reap,
    Tick,
    /// `orch.cancel` and the like.
    Operate(&'static str, i64),
    /// A plain UPDATE to this status.
    Set(&'static str, i64),
    /// The owner of a taken job has ended its process.
    Acknowledge,
}

fn act() -> impl Strategy<Value = Act> {
    let job = 1..=JOBS;
    prop_oneof![
        6 => Just(Act::Claim),
        1 => (0..4_usize).prop_map(Act::Stamp),
        8 => (0..4_usize, prop::sample::select(Outcome::ALL)).prop_map(|(run, outcome)| Act::Say(run, outcome)),
        2 => Just(Act::Reap),
        1 => Just(Act::Tick),
        4 => (prop::sample::select(&["cancel", "retry", "hold", "release"][..]), job.clone())
            .prop_map(|(verb, job)| Act::Operate(verb, job)),
        2 => (prop::sample::select(&["queued", "held", "succeeded", "failed", "cancelled"][..]), job)
            .prop_map(|(status, job)| Act::Set(status, job)),
        1 => Just(Act::Acknowledge),
    ]
}

/// Every transition that is made, as the database saw it, told by a trigger of the row's own.
const LEDGER: &str = "
    create table public.ledger (n bigint generated always as identity, job_id bigint, was text, now text,
        was_run uuid, now_run uuid, was_attempt integer, now_attempt integer, last_run uuid, awaited boolean);
    create function public.enter() returns trigger language plpgsql as
    $$ begin
        insert into public.ledger (job_id, was, now, was_run, now_run, was_attempt, now_attempt, last_run, awaited)
        values (new.id, old.status, new.status, old.run_id, new.run_id, old.attempt, new.attempt, new.last_run_id,
                old.awaits_replica is not null);
        return null;
    end $$;
    create trigger ledger after update on orch.jobs for each row execute function public.enter();";

/// The rows of the ledger that are no legal transition. A late result is one of a run that a reap had closed as lost, and
/// says so in the run's own words.
const ILLEGAL: &str = "
    select l::text from public.ledger l
     where l.now_attempt <> l.was_attempt + (l.was <> 'running' and l.now = 'running')::integer
        or (l.was = 'running' and l.now = 'running' and l.was_run <> l.now_run)
        or (l.was = 'running' and l.now <> 'running' and l.last_run is distinct from l.was_run)
        or not case
            when l.was = l.now then true
            when l.now = 'running' then l.was = 'queued' and not l.awaited
            when l.was = 'running' then true
            when l.was in ('queued', 'held') and l.now in ('queued', 'held', 'cancelled') then true
            when l.was in ('succeeded', 'failed', 'cancelled') and l.now = 'queued' and l.last_run is null then true
            when l.was in ('succeeded', 'failed', 'cancelled') and l.now = 'queued' and l.awaited then true
            when l.was in ('queued', 'held', 'failed') then exists (
                select from orch.agent_runs r where r.run_id = l.last_run and r.error like '%told late: it was lost%')
            else false end";

struct Walk {
    db: [Db; 2],
    claimants: [Claimant; 2],
    runs: Vec<RunId>,
}

impl Walk {
    fn run(&self, back: usize) -> Option<RunId> {
        self.runs.iter().rev().nth(back).copied()
    }
}

/// What an act has to tell the walk.
#[derive(Default)]
struct Did {
    begun: Vec<RunId>,
    expired: bool,
}

async fn act_on(case: &Case, walk: &Walk, side: usize, act: &Act) -> Did {
    let (db, me) = (&walk.db[side], &walk.claimants[side]);
    let mut did = Did::default();
    match act {
        Act::Claim => {
            did.begun = claim(db, me, 2, None).await.iter().map(|claimed| claimed.owned.run_id()).collect();
        }
        Act::Stamp(back) => {
            if let Some(run) = walk.run(*back) {
                let process = Process { pid: 1, pid_started: 1, containment: Containment::Sweep };
                for job in 1..=JOBS {
                    db.stamp_runs(me.replica_id, &[(JobId(job), run, process)]).await.unwrap();
                }
            }
        }
        Act::Say(back, outcome) => {
            if let Some(run) = walk.run(*back)
                && let Some(owned) = token(db, run).await
            {
                let answer = say(db, owned, *outcome).await;
                assert!(!matches!(answer, Answer::Refused(..)), "{answer:?}");
            }
        }
        Act::Reap => {
            expire(&case.sql, me.replica_id).await;
            tick(db).await;
            did.expired = true;
        }
        Act::Tick => drop(tick(db).await),
        Act::Operate(verb, job) => refused_at_the_most(case, &format!("select orch.{verb}({job})")).await,
        Act::Set(status, job) => {
            refused_at_the_most(case, &format!("update orch.jobs set status = '{status}' where id = {job}")).await;
        }
        Act::Acknowledge => {
            for job in 1..=JOBS {
                for run in &walk.runs {
                    db.acknowledge_ended(me.replica_id, JobId(job), Some(*run)).await.unwrap();
                }
            }
        }
    }
    did
}

/// An operator hears of nothing but refusals.
async fn refused_at_the_most(case: &Case, sql: &str) {
    if let Err(error) = case.sql.batch_execute(sql).await {
        let code = error.code().map(|code| code.code().to_owned()).unwrap_or_default();
        assert!(code.starts_with("OR"), "{sql}: {error:?}");
    }
}

async fn step(case: &Case, walk: &mut Walk, acts: &(Act, Act)) {
    let (one, other) = tokio::join!(act_on(case, walk, 0, &acts.0), act_on(case, walk, 1, &acts.1));
    for (side, did) in [one, other].into_iter().enumerate() {
        walk.runs.extend(did.begun);
        if did.expired {
            walk.claimants[side] = register(&walk.db[side]).await;
        }
    }
    // What waits for a backoff is due.
    case.sql.batch_execute("update orch.jobs set run_at = now() where claimable and run_at > now()").await.unwrap();
    let audit = auditor::violations(&case.sql).await.unwrap();
    assert!(audit.is_empty(), "{audit:?}");
}

pub(crate) async fn only_legal_transitions(case: &mut Case) {
    case.sql.batch_execute(LEDGER).await.unwrap();
    for _ in 0..JOBS {
        case.enqueue("a").await;
    }
    let mut seed = [0; 32];
    case.random.fill_bytes(&mut seed);
    let mut runner = TestRunner::new_with_rng(Config::default(), TestRng::from_seed(RngAlgorithm::ChaCha, &seed));
    let db = [case.db.db(), case.db.db()];
    let claimants = [register(&db[0]).await, register(&db[1]).await];
    let mut walk = Walk { db, claimants, runs: Vec::new() };
    let script = prop::collection::vec((act(), act()), STEPS);
    for _ in 0..WALKS {
        for acts in script.new_tree(&mut runner).unwrap().current() {
            step(case, &mut walk, &acts).await;
            let illegal = case.sql.query(ILLEGAL, &[]).await.unwrap();
            let illegal: Vec<String> = illegal.iter().map(|row| row.get(0)).collect();
            assert!(illegal.is_empty(), "after {acts:?}:\n{}", illegal.join("\n"));
        }
    }
    let kinds = "select count(distinct (was, now)) from public.ledger where was <> now";
    let row = case.sql.query_one(kinds, &[]).await.unwrap();
    assert!(row.get::<_, i64>(0) >= 12, "the walks went over {} kinds of transitions only", row.get::<_, i64>(0));
    let late = "select count(*) from orch.agent_runs where error like '%told late%'";
    let late: i64 = case.sql.query_one(late, &[]).await.unwrap().get(0);
    assert!(late > 0, "no result came late");
    let repairs = "select value from orch.counters where name = 'guard_repairs_total'";
    assert_eq!(case.sql.query_one(repairs, &[]).await.unwrap().get::<_, i64>(0), 0, "no statement needed a repair");
    finish(case, &walk).await;
}

/// Brings every job to its end.
async fn finish(case: &Case, walk: &Walk) {
    for run in &walk.runs {
        if let Some(owned) = token(&walk.db[0], *run).await {
            say(&walk.db[0], owned, Outcome::Cancelled).await;
        }
    }
    case.sql.batch_execute("select orch.cancel(id) from orch.jobs where status in ('queued', 'held')").await.unwrap();
}
