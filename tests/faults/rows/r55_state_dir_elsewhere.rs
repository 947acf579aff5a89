//! Row 55: the state directory is copied to another place or container, restored from a snapshot, or put beside another
//! database. What lies in it is no evidence about any process then: the lease decides, and nobody's run is touched.

use std::{path::Path, process::Command, time::Instant};

use crate::{
    bound::{BOUND_AFTER_OUTAGE, RECOVERY},
    case::{BOUND, Case, LEASE},
    container, processes,
    support::{TestDb, eventually, eventually_within, http_get},
    witness,
};

/// `cp -a`, as an operator or a backup would.
fn copy(from: &Path, to: &Path) {
    let status = Command::new("cp").arg("-a").arg(from).arg(to).status().expect("cp");
    assert!(status.success(), "cp -a fails");
}

/// An agent whose first run never ends, and whose second does at once.
fn agent(case: &mut Case) {
    case.agent("once", "[ \"$ORCH_ATTEMPT\" = 1 ] && sleep 100000; exit 0", "");
}

/// Asserts that the run goes on for as long as a replica that believes the copy would need to end or settle it.
async fn goes_on(case: &Case, job: i64, pid: i32) {
    let begin = Instant::now();
    eventually_within(RECOVERY * 2, "the time of a recovery to pass", async || {
        assert!(processes::stat(pid).is_some() && witness::is_alive(&case.witness(), job), "somebody ended job {job}");
        assert_eq!(case.outcomes(job).await, [None], "somebody settled job {job}");
        (begin.elapsed() > RECOVERY).then_some(())
    })
    .await;
}

/// The original is gone with all its processes: its lease decides, whatever the copy holds.
async fn lease_decides(case: &mut Case, job: i64) {
    let renewed = "select lease_until > clock_timestamp() + interval '2 s' from orch.replicas where name = 'a'";
    assert!(case.sql.query_one(renewed, &[]).await.unwrap().get::<_, bool>(0), "the original was renewed until now");
    case.node("a").kill_everything().await;
    let begin = Instant::now();
    case.until(job, "succeeded", BOUND).await;
    assert!(
        begin.elapsed() > LEASE / 2,
        "settled {:?} after its owner died: before its lease was over",
        begin.elapsed()
    );
    assert_eq!(case.outcomes(job).await, [Some("lost".to_owned()), Some("succeeded".to_owned())]);
    assert_eq!(case.runs(job).await[0].get::<_, Option<&str>>("closed_by"), Some("reap"));
}

/// Starts `a` with a run that lives, and makes `b`, whose state directory is a copy of it.
async fn original_and_copy(case: &mut Case) -> (i64, i32) {
    agent(case);
    case.add_node("a").up().await;
    let job = case.enqueue("once").await;
    let pid = case.until_alive(job).await;
    let original = case.node("a").state_dir().to_owned();
    let node = case.add_node("b");
    let copied = node.orch.path("copied");
    copy(&original, &copied);
    node.orch.set("ORCH_STATE_DIR", copied.to_string_lossy());
    (job, pid)
}

pub(crate) async fn copied_beside_the_original(case: &mut Case) {
    let (job, pid) = original_and_copy(case).await;
    case.node("b").up().await;
    goes_on(case, job, pid).await;
    assert!(case.node("a").is_ready().await, "the original does not notice");
    lease_decides(case, job).await;
}

pub(crate) async fn copied_to_another_container(case: &mut Case) {
    let (job, pid) = original_and_copy(case).await;
    container::start(case.node("b"), None);
    case.node("b").until_ready().await;
    goes_on(case, job, pid).await;
    lease_decides(case, job).await;
    container::kill(case.node("b")).await;
}

pub(crate) async fn restored_from_a_snapshot(case: &mut Case) {
    let go = case.orch.path("go");
    agent(case);
    case.agent("ends", &format!("until [ -e {} ]; do sleep 0.05; done; exit 0", go.display()), "");
    case.add_node("a").up().await;
    let open = case.enqueue("once").await;
    case.until_alive(open).await;
    let ends = case.enqueue("ends").await;
    case.until_alive(ends).await;
    // In the snapshot both runs are alive. One of them ends well after it was taken.
    let state = case.node("a").state_dir().to_owned();
    let snapshot = case.node("a").orch.path("snapshot");
    copy(&state, &snapshot);
    std::fs::write(&go, "").unwrap();
    case.until(ends, "succeeded", BOUND).await;
    case.node("a").kill_everything().await;
    std::fs::remove_dir_all(&state).unwrap();
    std::fs::rename(&snapshot, &state).unwrap();

    case.node("a").up().await;
    case.until(open, "succeeded", BOUND_AFTER_OUTAGE).await;
    assert_eq!(case.outcomes(open).await, [Some("lost".to_owned()), Some("succeeded".to_owned())]);
    assert_eq!(case.runs(open).await[0].get::<_, Option<&str>>("closed_by"), Some("reap"), "by its lease alone");
    assert_eq!(case.outcomes(ends).await, [Some("succeeded".to_owned())], "what had ended stays as it ended");
}

pub(crate) async fn put_beside_another_database(case: &mut Case) {
    // Long enough for a mistake, and for its correction.
    case.orch.set("ORCH_LEASE", "1m");
    let go = case.orch.path("go");
    case.agent("waits", &format!("until [ -e {} ]; do sleep 0.05; done; exit 0", go.display()), "");
    case.add_node("a").up().await;
    let job = case.enqueue("waits").await;
    let pid = case.until_alive(job).await;
    case.node("a").kill().await;

    let other = TestDb::new().await;
    let (own, strange) = (case.db.url(), other.url());
    let node = case.node("a");
    node.orch.set("DATABASE_URL", strange);
    node.start();
    let listen = node.orch.listen();
    let why = eventually("the replica to be paused", async || {
        let answer = http_get(listen, "/readyz").await.ok()?;
        answer.body.contains("paused").then_some(answer.body)
    })
    .await;
    assert!(why.contains("served another one") && why.contains(other.name()), "{why}");
    let begin = Instant::now();
    eventually("some looks to pass", async || {
        assert!(processes::stat(pid).is_some() && witness::is_alive(&case.witness(), job), "somebody ended job {job}");
        (begin.elapsed() > LEASE).then_some(())
    })
    .await;
    let traces = "select (select count(*) from orch.replicas) + (select count(*) from orch.agents)
                         + (select count(*) from orch.events)";
    assert_eq!(other.client().await.query_one(traces, &[]).await.unwrap().get::<_, i64>(0), 0, "it left a trace");
    case.node("a").stop().await;
    assert!(processes::stat(pid).is_some(), "a paused replica that is stopped ends nothing");

    // Where it belongs the run is adopted as if nothing had been.
    case.node("a").orch.set("DATABASE_URL", own);
    case.node("a").up().await;
    std::fs::write(&go, "").unwrap();
    case.until(job, "succeeded", BOUND).await;
    assert_eq!(case.outcomes(job).await, [Some("succeeded".to_owned())]);
}
