//! `orch doctor`: says nothing is wrong where nothing is, and says what is wrong where something is.

use orch::db::doctor::GuardKind;

use crate::support::{Orch, Output, TestDb};

/// What the doctor says of a healthy database after `damage` was done to it.
async fn after(damage: &str) -> Output {
    let db = TestDb::new().await;
    db.client().await.batch_execute(damage).await.unwrap();
    Orch::on(&db).run(["doctor"]).await
}

/// Asserts that it found something wrong, in a line with all these words.
#[track_caller]
fn wrong(output: &Output, words: &[&str]) {
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let found = output.stdout.lines().filter(|line| line.starts_with("WRONG"));
    let mut found = found.filter(|line| words.iter().all(|word| line.contains(word)));
    assert!(found.next().is_some(), "no line has {words:?}: {output:?}");
}

#[tokio::test]
async fn a_healthy_database_is_healthy() {
    let db = TestDb::empty().await;
    let orch = Orch::on(&db);
    orch.run(["migrate"]).await.ok();
    let output = orch.run(["doctor"]).await.ok();
    for check in [
        "database",
        "schema",
        "triggers",
        "checks",
        "columns",
        "indexes",
        "functions",
        "invariants",
        "snapshots",
        "containment",
    ] {
        assert!(output.stdout.lines().any(|line| line.split_whitespace().nth(1) == Some(check)), "{check}: {output:?}");
    }
    let findings = orch.run(["--json", "doctor"]).await.ok().json();
    let findings = findings.as_array().unwrap();
    assert!(findings.iter().all(|finding| finding["verdict"] != "wrong"), "{findings:?}");
    assert!(findings.iter().all(|finding| finding["check"].is_string() && finding["what"].is_string()));
}

#[tokio::test]
async fn every_guard_of_the_schema_is_known_to_the_doctor() {
    let db = TestDb::new().await;
    for kind in GuardKind::ALL {
        let found: Vec<(String, String)> =
            db.db().guards(kind).await.unwrap().into_iter().map(|guard| (guard.table, guard.name)).collect();
        let mut expected: Vec<(String, String)> =
            kind.expected().iter().map(|(table, name)| ((*table).to_owned(), (*name).to_owned())).collect();
        expected.sort();
        let mut found = found;
        found.sort();
        assert_eq!(found, expected, "{kind}");
    }
}

#[tokio::test]
async fn a_disabled_trigger_is_found() {
    let db = TestDb::new().await;
    let client = db.client().await;
    for (table, trigger) in GuardKind::Trigger.expected() {
        for state in ["disable", "enable", "enable replica"] {
            client.batch_execute(&format!("alter table orch.{table} {state} trigger {trigger}")).await.unwrap();
            wrong(&Orch::on(&db).run(["doctor"]).await, &["triggers", trigger, "orch migrate"]);
        }
        client.batch_execute(&format!("alter table orch.{table} enable always trigger {trigger}")).await.unwrap();
    }
}

#[tokio::test]
async fn a_missing_guard_is_found() {
    for (damage, words) in [
        ("drop trigger jobs_zz1_guard_job on orch.jobs", ["triggers", "is missing"]),
        (
            "alter table orch.jobs drop constraint has_an_owner_exactly_while_running",
            ["checks", "has_an_owner_exactly_while_running"],
        ),
        ("alter table orch.jobs alter column impossible drop expression", ["columns", "impossible"]),
        ("drop index orch.jobs_claim", ["indexes", "jobs_claim"]),
        ("drop index orch.jobs_running_gate", ["indexes", "jobs_running_gate"]),
        ("alter table orch.agent_runs drop constraint agent_runs_pkey", ["indexes", "agent_runs_pkey"]),
    ] {
        wrong(&after(damage).await, &words);
    }
}

#[tokio::test]
async fn a_guard_that_does_not_hold_for_every_row_is_found() {
    let not_valid = "alter table orch.jobs drop constraint has_an_owner_exactly_while_running; \
                     alter table orch.jobs add constraint has_an_owner_exactly_while_running check (id > 0) not valid";
    wrong(&after(not_valid).await, &["checks", "has_an_owner_exactly_while_running", "validate constraint"]);
    let not_whole = "update pg_index set indisvalid = false where indexrelid = 'orch.jobs_running_gate'::regclass";
    wrong(&after(not_whole).await, &["indexes", "jobs_running_gate", "reindex"]);
}

#[tokio::test]
async fn a_guard_that_says_something_else_under_its_name_is_found() {
    for (damage, words) in [
        (
            "alter table orch.jobs drop constraint has_an_owner_exactly_while_running; \
             alter table orch.jobs add constraint has_an_owner_exactly_while_running check (id is not null)",
            ["checks", "has_an_owner_exactly_while_running", "id IS NOT NULL"],
        ),
        (
            "drop index orch.jobs_running_gate; \
             create unique index jobs_running_gate on orch.jobs (running_gate, id) where running_gate is not null",
            ["indexes", "jobs_running_gate", "not as it was made"],
        ),
        (
            "drop trigger jobs_zz1_guard_job on orch.jobs; \
             create trigger jobs_zz1_guard_job before insert or update on orch.jobs for each row when (false) \
             execute function orch.guard_job(); \
             alter table orch.jobs enable always trigger jobs_zz1_guard_job",
            ["triggers", "jobs_zz1_guard_job", "not as it was made"],
        ),
    ] {
        wrong(&after(damage).await, &words);
    }
}

#[tokio::test]
async fn guards_are_known_whatever_the_search_path_is() {
    let db = TestDb::new().await;
    let name = db.name();
    db.client().await.batch_execute(&format!("alter database {name} set search_path = orch, public")).await.unwrap();
    Orch::on(&db).run(["doctor"]).await.ok();
}

#[tokio::test]
async fn a_violation_is_found_in_a_line_of_its_own() {
    let damage = "alter table orch.jobs disable trigger all; \
                  alter table orch.jobs drop constraint has_an_owner_exactly_while_running; \
                  insert into orch.jobs (agent, lane, pid) values ('a', 0, 1), ('a', 0, 2)";
    let output = after(damage).await;
    wrong(&output, &["invariants", ": 1"]);
    wrong(&output, &["invariants", ": 2"]);
}

#[tokio::test]
async fn a_schema_of_another_build_is_found() {
    let missing = Orch::on(&TestDb::empty().await).run(["doctor"]).await;
    wrong(&missing, &["schema", "orch migrate"]);
    wrong(&after("update orch.meta set schema_hash = 'x'").await, &["schema", "orch migrate"]);
    wrong(
        &after("delete from orch.schema_history where version = (select max(version) from orch.schema_history)").await,
        &["schema", "orch migrate"],
    );
    wrong(
        &after("insert into orch.schema_history values (9999, 'later', now(), '1')").await,
        &["schema", "newer orch"],
    );
}

#[tokio::test]
async fn a_function_that_was_replaced_by_hand_is_found_and_put_back_by_migrate() {
    let db = TestDb::new().await;
    let orch = Orch::on(&db);
    let damage = "create or replace function orch.guard_job() returns trigger language plpgsql \
                  as $$ begin return new; end $$; \
                  drop function orch.hold(bigint)";
    db.client().await.batch_execute(damage).await.unwrap();
    let output = orch.run(["doctor"]).await;
    wrong(&output, &["functions", "orch.guard_job"]);
    wrong(&output, &["functions", "orch.hold"]);
    orch.run(["migrate"]).await.ok();
    orch.run(["doctor"]).await.ok();
}

#[tokio::test]
async fn migrating_again_puts_disabled_triggers_right() {
    let db = TestDb::new().await;
    let orch = Orch::on(&db);
    db.client().await.batch_execute("alter table orch.jobs disable trigger all").await.unwrap();
    wrong(&orch.run(["doctor"]).await, &["triggers"]);
    orch.run(["migrate"]).await.ok();
    orch.run(["doctor"]).await.ok();
}

#[tokio::test]
async fn a_database_that_is_away_is_a_finding() {
    let nobody = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap();
    let orch = Orch::without_database().with("DATABASE_URL", format!("postgres://postgres@{nobody}/x"));
    let output = orch.run(["doctor"]).await;
    wrong(&output, &["database", "refused"]);
    assert!(output.stdout.contains("containment"), "what can be looked at is looked at: {output:?}");
}
