//! Row 14: the server executes a claim and a settlement, and its replies are swallowed, with the connection's end or without
//! a word. Of the claim nothing is spawned, and it is settled as interrupted; the settlement is applied once.

use std::time::Duration;

use crate::{
    case::{BOUND, Case},
    hand::{open_gate, shut_gate_for, until_stands_at_gate},
    proxy::{CLAIM, Fate, Proxy, SETTLE},
    support::eventually_within,
    witness,
};

/// How long a statement may take before its connection is taken for dead.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

pub(crate) async fn with_the_end_of_the_connection(case: &mut Case) {
    swallowed(case, Fate::CutReply, Duration::ZERO).await;
}

pub(crate) async fn without_a_word(case: &mut Case) {
    swallowed(case, Fate::LoseReply, ANSWER_WITHIN).await;
}

async fn swallowed(case: &mut Case, fate: Fate, unnoticed: Duration) {
    let proxy = Proxy::before(case.db.config()).await;
    case.orch.set("ORCH_RENEWAL_URL", case.db.url());
    case.orch.set("DATABASE_URL", proxy.url(&case.db.url()));
    let go = case.orch.path("go");
    // A first failure, so that a settlement that is applied twice counts two.
    let script =
        format!("[ \"$ORCH_ATTEMPT\" = 1 ] || exit 0; until [ -e {} ]; do sleep 0.05; done; exit 1", go.display());
    case.agent("fails_once", &script, "max_attempts = 5\nbackoff = { base = \"5s\", factor = 1.0 }");
    case.agent("quick", "exit 0", "");
    case.up().await;
    let settled = case.enqueue("fails_once").await;
    case.until_alive(settled).await;

    let claimed = claimed_by_next(case, &proxy, fate).await;
    let settle = proxy.trap(SETTLE, fate);
    std::fs::write(&go, "").unwrap();
    settle.answered().await;
    case.until(settled, "queued", BOUND).await;
    let row = case.job(settled).await;
    assert_eq!((row.get::<_, i32>("failures"), row.get::<_, i32>("attempt")), (1, 1));

    eventually_within(unnoticed + BOUND, "the claim to be given up", async || {
        (case.outcomes(claimed).await.first()?.as_deref() == Some("interrupted")).then_some(())
    })
    .await;
    let runs = case.runs(claimed).await;
    assert_eq!(runs[0].get::<_, Option<i32>>("pid"), None, "nothing was spawned");
    case.until(claimed, "succeeded", BOUND).await;
    assert_eq!(case.outcomes(claimed).await, [Some("interrupted".to_owned()), Some("succeeded".to_owned())]);
    let seen = witness::intervals(&case.witness(), claimed);
    let second: String = case.runs(claimed).await[1].get("run");
    assert!(seen.len() == 1 && seen[0].run_id == second, "only {second} began: {seen:?}");

    eventually_within(unnoticed + BOUND, "the settlement to be sent again, and answered", async || {
        case.replica().log().contains("run had been settled already").then_some(())
    })
    .await;
    case.until(settled, "succeeded", BOUND).await;
    let row = case.job(settled).await;
    assert_eq!((row.get::<_, i32>("failures"), row.get::<_, i32>("attempt")), (1, 2), "it was applied once");
    assert_eq!(case.outcomes(settled).await, [Some("failed".to_owned()), Some("succeeded".to_owned())]);
}

/// Has the next claim get a job, and its reply swallowed. Returns the job.
async fn claimed_by_next(case: &Case, proxy: &Proxy, fate: Fate) -> i64 {
    shut_gate_for(&case.sql, "orch").await;
    let job = case.enqueue("quick").await;
    // This claim was sent before; the next is the trapped one, and waits likewise.
    let under_way = until_stands_at_gate(&case.sql, "-- Claim").await;
    let claim = proxy.trap(CLAIM, fate);
    case.sql.execute("select pg_cancel_backend($1)", &[&under_way]).await.unwrap();
    claim.sprung().await;
    open_gate(&case.sql).await;
    claim.answered().await;
    assert_eq!(case.job(job).await.get::<_, &str>("status"), "running", "claimed, and nobody has been told");
    job
}
