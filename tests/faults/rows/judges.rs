//! The judges judged: a suite whose judges see nothing would pass whatever happens.

use std::{
    process::{Child, Command},
    time::{Duration, Instant},
};

use tokio_postgres::{Client, NoTls};

use crate::{
    auditor::Auditor,
    case::Case,
    container,
    proxy::{Fate, Proxy},
    support::eventually,
    witness::{self, is_alive, overlaps},
};

pub(crate) async fn the_auditor_sees_each_kind_of_wrong_row(case: &mut Case) {
    let owner = "gen_random_uuid()";
    let job = case.enqueue("nobody").await;
    let runs = ["0190f3c0-0000-7000-8000-000000000001", "0190f3c0-0000-7000-8000-000000000002"];
    let [one, other] = runs.map(|run| {
        format!(
            "insert into orch.agent_runs (run_id, job_id, attempt, replica_id, host, boot_id, claimed_at, rules)
             values ('{run}', {job}, 1, gen_random_uuid(), 'h', 'b', now(), '{{}}');"
        )
    });
    // The case's own auditor is to find nothing: the wrong rows are seen by another alone, and undone.
    for what in [&job.to_string(), runs[0], runs[1]] {
        case.auditor.exempt_until_repaired(what);
    }
    let unguarded =
        "alter table orch.jobs disable trigger all; alter table orch.jobs drop constraint has_an_owner_exactly_while_running;
        alter table orch.jobs drop constraint claimable_is_queued_and_waits_for_nobody;
        drop index orch.agent_runs_one_open_a_job";
    case.sql.batch_execute(unguarded).await.unwrap();
    for (invariant, wrong) in [
        ("owner_without_running", format!("update orch.jobs set pid = 1 where id = {job}")),
        ("running_without_owner", format!("update orch.jobs set status = 'running' where id = {job}")),
        ("finished_at_mismatch", format!("update orch.jobs set finished_at = now() where id = {job}")),
        (
            "running_without_open_run",
            format!(
                "update orch.jobs set status = 'running', run_id = {owner}, replica_id = {owner}, started_at = now()
                  where id = {job}"
            ),
        ),
        ("open_run_of_idle_job", one.clone()),
        ("two_open_runs", format!("{one}{other}")),
        ("attempts_do_not_add_up", one.clone()),
    ] {
        let auditor = Auditor::start(case.db.config());
        case.sql.batch_execute(&wrong).await.unwrap();
        eventually(&format!("the auditor to see {invariant}"), async || {
            auditor.seen().iter().any(|line| line.contains(invariant)).then_some(())
        })
        .await;
        let undo = format!(
            "delete from orch.agent_runs;
             update orch.jobs set status = 'queued', run_id = null, pid = null, replica_id = null, started_at = null,
                    finished_at = null where id = {job}"
        );
        case.sql.batch_execute(&undo).await.unwrap();
    }
    case.sql.batch_execute("truncate orch.jobs cascade").await.unwrap();
}

fn start(case: &Case, run: &str, program: &[&str]) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.arg("witness").arg(case.orch.path("other-witness")).args(program);
    command.env("ORCH_JOB_ID", "7").env("ORCH_RUN_ID", run).spawn().unwrap()
}

pub(crate) async fn the_witness_sees_two_of_one_job(case: &mut Case) {
    let dir = case.orch.path("other-witness");
    std::fs::create_dir(&dir).unwrap();
    // One after the other is as it should be.
    for run in ["first", "second"] {
        assert!(start(case, run, &["sleep", "0.05"]).wait().unwrap().success());
    }
    assert!(!is_alive(&dir, 7) && overlaps(&dir).is_empty());
    assert_eq!(witness::intervals(&dir, 7).len(), 2);

    // A daemon that outlives its run holds the lock, though its parent has ended well.
    assert!(start(case, "third", &["sh", "-c", "sleep 1000 &"]).wait().unwrap().success());
    assert!(is_alive(&dir, 7));
    assert!(!start(case, "fourth", &[]).wait().unwrap().success());
    let seen = overlaps(&dir);
    assert!(seen.len() == 1 && seen[0].contains("fourth"), "{seen:?}");

    // And intervals that overlap show it, should a lock not have.
    std::fs::remove_file(dir.join("overlaps")).unwrap();
    std::fs::write(dir.join("8"), "start a 100\nstop a 300\nstart b 200\nstop b 400\n").unwrap();
    assert_eq!(overlaps(&dir).len(), 1);
}

const TELL: &str = "insert into told values ($1)";

/// A connection through the proxy; its driver ends with it.
async fn through(proxy: &Proxy, case: &Case) -> Client {
    let (client, connection) = tokio_postgres::connect(&proxy.url(&case.db.url()), NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

pub(crate) async fn the_proxy_does_what_it_is_told(case: &mut Case) {
    let proxy = Proxy::before(case.db.config()).await;
    case.sql.batch_execute("create table told (word text)").await.unwrap();
    let told = async || -> Vec<String> {
        let rows = case.sql.query("select word from told order by word", &[]).await.unwrap();
        rows.iter().map(|row| row.get(0)).collect()
    };
    // What is chosen by its text meets its fate, and what comes before and after does not.
    let client = through(&proxy, case).await;
    let trap = proxy.trap("into told", Fate::CutReply);
    client.query_one("select 1", &[]).await.unwrap();
    assert!(client.execute(TELL, &[&"cut"]).await.is_err());
    trap.answered().await;
    assert_eq!(told().await, ["cut"], "the server did it, and the client was not told");

    let client = through(&proxy, case).await;
    let trap = proxy.trap("into told", Fate::LoseReply);
    let lost = tokio::time::timeout(Duration::from_millis(500), client.execute(TELL, &[&"lost"])).await;
    assert!(lost.is_err(), "no reply, and no end of the connection: {lost:?}");
    trap.answered().await;
    assert_eq!(told().await, ["cut", "lost"]);

    let client = through(&proxy, case).await;
    let trap = proxy.trap("into told", Fate::StrayRequest);
    assert!(client.execute(TELL, &[&"stray"]).await.is_err(), "the client hears at once that it is cut off");
    trap.sprung().await;
    drop(client);
    assert_eq!(told().await, ["cut", "lost"]);
    trap.let_go();
    trap.answered().await;
    assert_eq!(told().await, ["cut", "lost", "stray"], "what was sent arrives, though nobody waits for it");

    let client = through(&proxy, case).await;
    let trap = proxy.trap("into told", Fate::HoldRequest);
    let kept = tokio::spawn(async move { client.execute(TELL, &[&"kept"]).await });
    trap.sprung().await;
    assert_eq!(told().await, ["cut", "lost", "stray"], "what is held does not arrive");
    assert!(!kept.is_finished(), "and its client waits");
    trap.let_go();
    assert_eq!(kept.await.unwrap().unwrap(), 1);
    case.sql.batch_execute("delete from told where word = 'kept'").await.unwrap();

    let client = through(&proxy, case).await;
    let trap = proxy.trap("into told", Fate::HoldReply);
    let late = tokio::spawn(async move { client.execute(TELL, &[&"held"]).await.map(|_| client) });
    trap.answered().await;
    assert!(!late.is_finished());
    trap.let_go();
    let client = late.await.unwrap().unwrap();

    // And so does everything.
    let start = Instant::now();
    proxy.delay_requests(Duration::from_millis(200));
    proxy.delay_replies(Duration::from_millis(200));
    client.simple_query("select 1").await.unwrap();
    assert!(start.elapsed() >= Duration::from_millis(400));
    proxy.heal();
    proxy.hold_replies();
    let half =
        tokio::spawn(async move { client.batch_execute("insert into told values ('half')").await.map(|()| client) });
    eventually("the request to arrive", async || (told().await.len() == 5).then_some(())).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!half.is_finished(), "its reply does not");
    proxy.heal();
    let client = half.await.unwrap().unwrap();
    proxy.black_hole();
    let held = tokio::spawn(async move { client.execute(TELL, &[&"through"]).await.map(|_| client) });
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!held.is_finished() && told().await.len() == 5);
    proxy.heal();
    let client = held.await.unwrap().unwrap();
    proxy.refuse();
    eventually("the connection to be cut", async || client.is_closed().then_some(())).await;
    assert!(tokio_postgres::connect(&proxy.url(&case.db.url()), NoTls).await.is_err());
    proxy.heal();
    through(&proxy, case).await.simple_query("select 1").await.unwrap();
    case.sql.batch_execute("drop table told").await.unwrap();
}

pub(crate) async fn a_container_ends_whole(case: &mut Case) {
    case.agent("patient", "setsid -f sleep 100000; sleep 100000", "");
    case.agent("quick", "exit 0", "");
    let node = case.add_node("contained");
    container::start(node, Some(3000));
    node.until_ready().await;
    assert_eq!(container::pid_inside(node.process()), Some(1), "the replica is the first process in there");
    let job = case.enqueue("patient").await;
    let pid = case.until_alive(job).await;
    assert!(pid > 3000, "{pid}: pids are counted inside, from where they were told to");
    let decoy = container::ContainedDecoy::start(container::first_process(case.node("contained")).await, 4711).await;
    decoy.assert_untouched();
    container::kill(case.node("contained")).await;
    assert!(!is_alive(&case.witness(), job));
    case.sql.execute("select orch.cancel($1)", &[&job]).await.unwrap();
    case.node("contained").up().await;
}
