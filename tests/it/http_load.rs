//! `GET /queue` on a long history: a million finished jobs with their runs, a hundred thousand queued.

use std::time::{Duration, Instant};

use orch::{
    db::queue::Switches,
    http::{Info, serve},
};
use serde_json::json;
use tokio::{net::TcpListener, sync::watch};
use tokio_util::sync::CancellationToken;

use crate::support::{TestDb, eventually_within, http_get};

const FINISHED: i64 = 1_000_000;
const QUEUED: i64 = 100_000;

/// What an answer may take.
const BOUND: Duration = Duration::from_millis(50);

/// Half of the finished jobs end within the day, spread over it; of twenty projects, with payloads of a usual size.
async fn fill(db: &TestDb) {
    let client = db.client().await;
    let statements = [
        format!(
            "insert into orch.jobs (status, project, agent, attempt, last_run_id, claimable, finished_at, failed_at, \
             created_at, payload) \
             select status, 'p' || n % 20, 'a' || n % 5, 1, md5('run' || n)::uuid, false, ended, \
                    case when status = 'failed' then ended end, ended - interval '1 minute', \
                    jsonb_build_object('n', n, 'path', repeat('x', 100)) \
               from (select n, now() - make_interval(secs => 172800.0 * ({FINISHED} - n) / {FINISHED}) as ended, \
                            case when n % 20 = 0 then 'failed' when n % 33 = 0 then 'cancelled' else 'succeeded' end as status \
                       from generate_series(1, {FINISHED}) n) f"
        ),
        "insert into orch.agent_runs (run_id, job_id, attempt, replica_id, host, boot_id, claimed_at, spawned_at, ended_at, \
         rules, outcome, closed_by) \
         select last_run_id, id, 1, gen_random_uuid(), 'h', 'b', finished_at - interval '5 seconds', \
                finished_at - interval '4 seconds', finished_at, '{}', status, 'owner' from orch.jobs"
            .to_owned(),
        format!(
            "insert into orch.jobs (project, agent, payload) \
             select 'p' || n % 20, 'a' || n % 5, jsonb_build_object('n', n, 'path', repeat('x', 100)) \
               from generate_series(1, {QUEUED}) n"
        ),
        "vacuum analyze orch.jobs".to_owned(),
        "vacuum analyze orch.agent_runs".to_owned(),
        // Of five agents one is paused, and one nobody serves; of the others two jobs are next.
        "insert into orch.replicas (replica_id, name, host, state, lease_until, max_concurrency, agents) \
         values (gen_random_uuid(), 'r', 'h', 'live', now() + interval '1 hour', 2, '{a0,a1,a2,a3}')"
            .to_owned(),
        "select orch.pause('agent:a3')".to_owned(),
    ];
    for statement in statements {
        client.batch_execute(&statement).await.unwrap();
    }
}

#[tokio::test]
#[ignore = "fills a million rows, and measures: run it alone"]
async fn a_long_history_is_summed_up_within_50_ms() {
    let db = TestDb::new().await;
    fill(&db).await;
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let info = Info {
        switches: Switches { reaper_enabled: true, sanitize_enabled: true, serial_gate_enabled: true },
        lease: Duration::from_mins(1),
        replica: watch::channel(None).1,
        paused: watch::channel(None).1,
        unending: watch::channel(std::collections::BTreeSet::new()).1,
        stopping: CancellationToken::new(),
        payload_max: 1 << 20,
        tokens: None,
    };
    tokio::spawn(serve(listener, db.db(), info, CancellationToken::new()));
    // The first count of the day's finished jobs is made when the server starts; nobody has to ask for it.
    let first = Instant::now();
    let mut queue = http_get(address, "/queue").await.unwrap().json();
    println!("the first answer after the start took {:?}", first.elapsed());
    assert_eq!(queue["counts"]["queued"], QUEUED);
    let ended: i64 =
        ["succeeded", "failed", "cancelled"].iter().map(|status| queue["counts"][status].as_i64().unwrap()).sum();
    assert!((FINISHED / 2 - 5000..=FINISHED / 2 + 5000).contains(&ended), "{ended}");

    let share = QUEUED / 5;
    let reasons = json!({ "paused": share, "no_replica_serves_agent": share, "fair_share": 3 * share - 2, "next": 2 });
    assert_eq!(queue["waiting"], reasons);

    // Of all answers from one count to the next, cached or not, the slowest.
    let mut took = Vec::new();
    for _ in 0..9 {
        let before = queue["counted_at"].clone();
        let mut slowest = Duration::ZERO;
        queue = eventually_within(Duration::from_secs(10), "a fresh count", async || {
            let asked = Instant::now();
            let answer = http_get(address, "/queue").await.unwrap();
            slowest = slowest.max(asked.elapsed());
            Some(answer.json()).filter(|queue| queue["counted_at"] != before)
        })
        .await;
        took.push(slowest);
    }
    took.sort();
    println!("the slowest answers between two counts took {took:?}");
    assert!(took[took.len() / 2] < BOUND, "{took:?}");
}
