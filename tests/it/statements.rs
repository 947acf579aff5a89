//! Every statement below `sql/`: that the server takes it with the types that the code says, and that its shape is the one
//! that was reviewed.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    path::Path,
};

use orch::db::{Statement, all_statements, schema};

use crate::support::TestDb;

mod plans;

fn statements() -> BTreeMap<&'static str, &'static Statement> {
    all_statements().chain(schema::STATEMENTS.iter().copied()).map(|statement| (statement.name, statement)).collect()
}

/// `<noun>/<verb>` of every file below `sql/`, but for the definitions.
fn files() -> BTreeSet<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("sql");
    let mut found = BTreeSet::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(&root).unwrap().with_extension("").to_str().unwrap().to_owned();
            let definition = ["schema/functions", "schema/views", "schema/triggers"].contains(&name.as_str());
            if path.is_dir() && !definition {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "sql") {
                found.insert(name);
            }
        }
    }
    found
}

#[test]
fn every_file_is_a_statement_and_every_statement_a_file_once() {
    let count = all_statements().count() + schema::STATEMENTS.len();
    let named: BTreeSet<_> = statements().keys().map(|name| (*name).to_owned()).collect();
    assert_eq!(named.len(), count, "a name is used twice");
    assert_eq!(named, files());
}

#[test]
fn every_file_says_its_rows_its_guard_and_its_index() {
    for (name, statement) in statements() {
        for part in ["-- rows: ", "-- guard: ", "-- index: "] {
            assert!(statement.sql.contains(part), "sql/{name}.sql has no line {part:?}");
        }
        for n in 1..=statement.params.len() {
            assert!(
                statement.sql.lines().any(|line| line.starts_with(&format!("-- ${n} "))),
                "sql/{name}.sql does not explain ${n}"
            );
        }
    }
}

#[tokio::test]
async fn every_statement_is_taken_by_the_server_in_the_shape_that_was_reviewed() {
    let db = TestDb::new().await;
    let client = db.client().await;
    let mut shapes = String::new();
    for (name, statement) in statements() {
        let prepared = client
            .prepare_typed(statement.sql, statement.params)
            .await
            .unwrap_or_else(|error| panic!("sql/{name}.sql: {error:?}"));
        assert_eq!(prepared.params(), statement.params, "sql/{name}.sql");
        let params: Vec<_> = prepared.params().iter().map(tokio_postgres::types::Type::name).collect();
        let columns: Vec<_> =
            prepared.columns().iter().map(|column| format!("{} {}", column.name(), column.type_().name())).collect();
        writeln!(shapes, "{name} ({}) -> {}", params.join(", "), columns.join(", ")).unwrap();
    }
    super::schema::same_as_committed("tests/it/statements/shapes.txt", &shapes);
}
