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
    for check in ["database", "schema", "triggers", "checks", "unique_indexes", "invariants", "containment"] {
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
