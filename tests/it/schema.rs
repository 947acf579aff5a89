//! The schema: how it is made, what it says of itself, and that it is what the committed file says.

use orch::db::schema::{self, SchemaState};

use crate::support::TestDb;

/// The tables, in the order in which psql lists them.
const CATALOG: &str = include_str!("schema/catalog.sql");

/// Everything that a client can see of schema `orch`, as lines.
async fn catalog(db: &TestDb) -> String {
    let client = db.client().await;
    client.batch_execute("set timezone = 'UTC'; set search_path = pg_catalog").await.unwrap();
    let rows = client.query(CATALOG, &[]).await.unwrap();
    rows.iter().map(|row| row.get::<_, String>(0) + "\n").collect()
}

#[tokio::test]
async fn migrating_twice_and_at_once_makes_the_schema_once() {
    let db = TestDb::empty().await;
    assert_eq!(schema::check(&db.db()).await.unwrap(), SchemaState::Missing);
    let (one, other) = (db.config(), db.config());
    let (one, other) = tokio::join!(schema::migrate(&one), schema::migrate(&other));
    let (one, other) = (one.unwrap(), other.unwrap());
    assert_eq!(one.applied.len() + other.applied.len(), schema::MIGRATIONS.len());
    assert!(one.applied.is_empty() || other.applied.is_empty());
    assert!(one.definitions_changed != other.definitions_changed);
    assert_eq!(schema::check(&db.db()).await.unwrap(), SchemaState::Current);

    let before = catalog(&db).await;
    let again = schema::migrate(&db.config()).await.unwrap();
    assert_eq!((again.applied.len(), again.definitions_changed), (0, false));
    assert_eq!(catalog(&db).await, before);
}
