//! Row 52: what was given up must not start when it comes at last: a claim that reaches the database after its claimant has
//! forgotten it, and a request that lies in a dead replica's spawner.

use std::{process::Command, time::Duration};

use nix::sys::signal::Signal;

use crate::{
    bound::BOUND_AFTER_OUTAGE,
    case::{BOUND, Case},
    processes::{signal, stat},
    proxy::{CLAIM, Fate, Proxy},
    spares,
    support::{eventually, eventually_within},
    witness,
};

/// How long a claimant waits for an answer before it takes the connection for dead.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// The job's first run never began; the second alone was seen.
async fn ran_once(case: &Case, job: i64, first: &str) {
    assert_eq!(case.outcomes(job).await, [Some(first.to_owned()), Some("succeeded".to_owned())]);
    let second: String = case.runs(job).await[1].get("run");
    let seen = witness::intervals(&case.witness(), job);
    assert!(seen.len() == 1 && seen[0].run_id == second, "only {second} may have begun: {seen:?}");
}

pub(crate) async fn a_claim_that_comes_after_it_was_given_up(case: &mut Case) {
    let proxy = Proxy::before(case.db.config()).await;
    case.orch.set("ORCH_RENEWAL_URL", case.db.url());
    case.orch.set("DATABASE_URL", proxy.url(&case.db.url()));
    case.agent("quick", "exit 0", "");
    case.up().await;

    // Every claim from now on is cut off on its way: the claimant hears so at once, and forgets it.
    let claims = proxy.trap_each(CLAIM, Fate::StrayRequest);
    claims.sprung().await;
    let job = case.enqueue("quick").await;
    // They arrive, and the first of them gets the job, of which nobody at the replica knows: a claim that is made only now
    // does not overtake them.
    let later = proxy.trap_each(CLAIM, Fate::HoldRequest);
    claims.let_go();
    claims.answered().await;
    later.let_go();
    case.until(job, "succeeded", BOUND).await;
    ran_once(case, job, "interrupted").await;
}

pub(crate) async fn a_claim_whose_reply_comes_after_it_was_given_up(case: &mut Case) {
    let proxy = Proxy::before(case.db.config()).await;
    case.orch.set("ORCH_RENEWAL_URL", case.db.url());
    case.orch.set("DATABASE_URL", proxy.url(&case.db.url()));
    case.agent("quick", "exit 0", "");
    let job = case.enqueue("quick").await;
    let claim = proxy.trap(CLAIM, Fate::HoldReply);
    case.up().await;
    claim.answered().await;
    assert_eq!(case.job(job).await.get::<_, &str>("status"), "running", "claimed, and nobody has been told");
    // It waits for as long as an answer may take, then it is given up, and another claim gets the job.
    eventually_within(ANSWER_WITHIN + BOUND, "the claim to be given up", async || {
        (case.outcomes(job).await.first() == Some(&Some("interrupted".to_owned()))).then_some(())
    })
    .await;
    claim.let_go();
    case.until(job, "succeeded", BOUND).await;
    ran_once(case, job, "interrupted").await;
}

pub(crate) async fn a_request_in_a_stopped_spawner_with_a_successor(case: &mut Case) {
    case.agent("quick", "exit 0", "");
    case.add_node("a").up().await;
    let (job, spawner) = left_in_the_spawner(case).await;
    // The successor on the state directory does not wait for it, nor believes that nothing will come of it.
    case.node("a").up().await;
    case.until(job, "succeeded", BOUND).await;
    wake(spawner).await;
    ran_once(case, job, "interrupted").await;
}

pub(crate) async fn a_request_in_a_stopped_spawner_with_nobody_there(case: &mut Case) {
    case.agent("quick", "exit 0", "");
    case.add_node("a").up().await;
    let (job, spawner) = left_in_the_spawner(case).await;
    case.add_node("b").up().await;
    case.until(job, "succeeded", BOUND_AFTER_OUTAGE).await;
    wake(spawner).await;
    ran_once(case, job, "lost").await;
}

/// Stops node a's spawner, has it asked for a run, and kills the replica. Returns the job and the spawner.
async fn left_in_the_spawner(case: &mut Case) -> (i64, i32) {
    let spawner = case.node("a").spawner().expect("a spawner");
    spares::ready(case.node("a").state_dir()).await;
    signal(spawner, Signal::SIGSTOP);
    spares::use_up(case, "quick").await;
    let job = case.enqueue("quick").await;
    let runs = case.node("a").state_dir().join("runs");
    eventually("the run's directory to stand with its spec", async || {
        let run = case.runs(job).await.first()?.get::<_, String>("run");
        runs.join(run).join("spec.json").exists().then_some(())
    })
    .await;
    eventually("the request to lie in the spawner's socket", async || waits_to_be_read(spawner).then_some(())).await;
    case.node("a").kill().await;
    assert_eq!(stat(spawner).map(|stat| stat.state), Some('T'), "the spawner is stopped and there");
    (job, spawner)
}

/// Whether the process has a socket for messages in which one lies.
fn waits_to_be_read(pid: i32) -> bool {
    let output =
        Command::new("ss").args(["--unix", "--all", "--processes", "--no-header"]).output().expect("ss, of iproute2");
    let text = String::from_utf8_lossy(&output.stdout);
    // u_seq  ESTAB  36  0  * 4711  * 4712  users:(("orch-spawner",pid=123,fd=3))
    text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>()).any(|words| {
        words.first() == Some(&"u_seq")
            && words.last().is_some_and(|users| users.contains(&format!("pid={pid},")))
            && words.get(2).and_then(|queued| queued.parse::<u64>().ok()) > Some(0)
    })
}

/// Lets the spawner go on: it finds that its replica is gone, and goes without serving what waits.
async fn wake(spawner: i32) {
    signal(spawner, Signal::SIGCONT);
    eventually("the old spawner to end", async || stat(spawner).is_none_or(|stat| stat.state == 'Z').then_some(()))
        .await;
}
