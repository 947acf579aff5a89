//! Row 57: a settle is applied and its reply lost; the operator retries the job; then the old result is sent again. And a
//! result that comes for the first time, after its job was failed by a reap and retried by the operator.

use nix::sys::signal::Signal;

use crate::{
    case::{BOUND, BOUND_AFTER_OUTAGE, Case},
    proxy::{Fate, Proxy, SETTLE},
    support::{eventually, eventually_within},
    witness,
};

pub(crate) async fn the_retry_runs_whatever_the_old_result_says(case: &mut Case) {
    let proxy = Proxy::before(case.db.config()).await;
    case.orch.set("ORCH_RENEWAL_URL", case.db.url());
    case.orch.set("DATABASE_URL", proxy.url(&case.db.url()));
    let go = case.orch.path("go");
    let script =
        format!("[ \"$ORCH_ATTEMPT\" = 1 ] || exit 0; until [ -e {} ]; do sleep 0.05; done; exit 1", go.display());
    case.agent("fails_once", &script, "max_attempts = 1");
    let job = case.enqueue("fails_once").await;
    case.up().await;
    case.until_alive(job).await;

    // The connection ends instead of the reply, and nobody gets another one.
    proxy.refuse_new();
    let first = proxy.trap(SETTLE, Fate::CutReply);
    std::fs::write(&go, "").unwrap();
    first.answered().await;
    case.until(job, "failed", BOUND).await;

    // The operator's new wish waits until the old result has come again, so that it cannot have begun before.
    // At once, before anybody claims it.
    let both = format!("begin; select orch.retry({job}); select orch.hold({job}); commit");
    case.sql.batch_execute(&both).await.unwrap();
    let again = proxy.trap(SETTLE, Fate::HoldReply);
    proxy.heal();
    again.answered().await;
    let row = case.job(job).await;
    assert_eq!(row.get::<_, &str>("status"), "held", "the old result did not end the new wish: {row:?}");
    assert_eq!((row.get::<_, i32>("failures"), row.get::<_, Option<&str>>("error")), (0, None));
    again.let_go();

    case.sql.execute("select orch.release($1)", &[&job]).await.unwrap();
    case.until(job, "succeeded", BOUND).await;
    assert_eq!(case.outcomes(job).await, [Some("failed".to_owned()), Some("succeeded".to_owned())]);
    assert_eq!(witness::intervals(&case.witness(), job).len(), 2);
}

pub(crate) async fn the_retry_runs_whatever_a_late_result_says(case: &mut Case) {
    let frozen_now = case.orch.path("frozen now");
    let once =
        format!("[ \"$ORCH_ATTEMPT\" = 1 ] || exit 0; until [ -e '{}' ]; do sleep 0.05; done", frozen_now.display());
    case.agent("once", &once, "on_lost = \"fail\"");
    case.add_node("frozen").up().await;
    let job = case.enqueue("once").await;
    case.until_alive(job).await;
    let run: String = case.runs(job).await[0].get("run");
    let dir = case.node("frozen").state_dir().join("runs").join(&run);
    case.node("frozen").replica().signal(Signal::SIGSTOP);
    std::fs::write(&frozen_now, "").unwrap();
    eventually("the run to end well", async || dir.join("exit.json").exists().then_some(())).await;
    assert_eq!(case.job(job).await.get::<_, &str>("status"), "running", "nobody has heard of it yet");

    case.add_node("other").up().await;
    case.until(job, "failed", BOUND_AFTER_OUTAGE).await;
    assert_eq!(case.outcomes(job).await, [Some("lost".to_owned())]);
    // Held, so that a newer run is not what refuses the result.
    // At once, before anybody claims it.
    let both = format!("begin; select orch.retry({job}); select orch.hold({job}); commit");
    case.sql.batch_execute(&both).await.unwrap();
    let wish = case.sql.query_one("select to_jsonb(j)::text from orch.jobs j where id = $1", &[&job]).await.unwrap();
    case.node("frozen").replica().signal(Signal::SIGCONT);
    eventually_within(BOUND, "the late result to be answered", async || {
        (!dir.join("exit.json").exists()).then_some(())
    })
    .await;
    let now = case.sql.query_one("select to_jsonb(j)::text from orch.jobs j where id = $1", &[&job]).await.unwrap();
    assert_eq!(now.get::<_, &str>(0), wish.get::<_, &str>(0), "the late result did not touch the new wish");

    case.sql.execute("select orch.release($1)", &[&job]).await.unwrap();
    case.until(job, "succeeded", BOUND).await;
    assert_eq!(case.runs(job).await.len(), 2, "the retry ran");
}
