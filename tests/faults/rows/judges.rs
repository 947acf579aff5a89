//! The judges judged: a suite whose judges see nothing would pass whatever happens.

use std::process::{Child, Command};

use crate::{
    auditor::Auditor,
    case::Case,
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
        "alter table orch.jobs disable trigger all; alter table orch.jobs drop constraint queued_has_no_owner;
        alter table orch.jobs drop constraint running_has_an_owner;
        alter table orch.jobs drop constraint finished_at_is_set_when_finished;
        alter table orch.jobs drop constraint claimable_is_queued_and_awaits_nobody;
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
    assert!(start(case, "third", &["sh", "-c", "sleep 3 &"]).wait().unwrap().success());
    assert!(is_alive(&dir, 7));
    assert!(!start(case, "fourth", &[]).wait().unwrap().success());
    let seen = overlaps(&dir);
    assert!(seen.len() == 1 && seen[0].contains("fourth"), "{seen:?}");

    // And intervals that overlap show it, should a lock not have.
    std::fs::remove_file(dir.join("overlaps")).unwrap();
    std::fs::write(dir.join("8"), "start a 100\nstop a 300\nstart b 200\nstop b 400\n").unwrap();
    assert_eq!(overlaps(&dir).len(), 1);
}
