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

/// The versions of the migrations, in order.
fn versions() -> Vec<i32> {
    let version = |name: &str| name.strip_prefix('V')?.split_once("__")?.0.parse().ok();
    schema::MIGRATIONS.iter().map(|(name, _)| version(name).expect("a migration is called Vn__…")).collect()
}

/// Compares a text with a committed file; `ORCH_UPDATE_COMMITTED=1` writes it instead, for a person to review.
pub(crate) fn same_as_committed(path: &str, text: &str) {
    let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    if std::env::var_os("ORCH_UPDATE_COMMITTED").is_some() {
        std::fs::write(file, text).unwrap();
        return;
    }
    let committed = std::fs::read_to_string(&file).unwrap_or_default();
    let differs = committed.lines().zip(text.lines()).position(|(old, new)| old != new);
    assert!(
        committed == text,
        "{path} is not what the code says (first difference at line {:?}): run this test with ORCH_UPDATE_COMMITTED=1 and \
         review the difference",
        differs.map_or(committed.lines().count().min(text.lines().count()), |line| line) + 1
    );
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

#[tokio::test]
async fn the_script_of_migrate_makes_the_same_schema_as_migrate() {
    let (by_binary, by_script) = (TestDb::new().await, TestDb::empty().await);
    by_script.client().await.batch_execute(&schema::migrate_sql()).await.unwrap();
    assert_eq!(catalog(&by_script).await, catalog(&by_binary).await);
    assert_eq!(schema::check(&by_script.db()).await.unwrap(), SchemaState::Current);
    let after = schema::migrate(&by_script.config()).await.unwrap();
    assert_eq!((after.applied.len(), after.definitions_changed), (0, false));
    let again = by_script.client().await.batch_execute(&schema::migrate_sql()).await;
    assert_eq!(again.unwrap_err().code().unwrap().code(), "42P06", "the script is for a database without the schema");
}

#[tokio::test]
async fn psql_applies_the_script() {
    let psql = std::process::Command::new("psql").arg("--version").output();
    if psql.is_err() {
        crate::support::say("no psql on this machine: the script is proved by the test before");
        return;
    }
    let db = TestDb::empty().await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("schema.sql");
    std::fs::write(&file, schema::migrate_sql()).unwrap();
    let output = std::process::Command::new("psql")
        .args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-f"])
        .arg(&file)
        .arg(db.url())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "", "psql had nothing to remark");
    assert_eq!(schema::check(&db.db()).await.unwrap(), SchemaState::Current);
}

#[tokio::test]
async fn the_final_schema_is_the_committed_one() {
    let db = TestDb::new().await;
    let client = db.client().await;
    client.batch_execute("set timezone = 'UTC'; set search_path = pg_catalog").await.unwrap();
    let text: String = client.query_one(include_str!("schema/render.sql"), &[]).await.unwrap().get("text");
    assert!(!text.contains("NOT ALWAYS"), "a guard that replication skips");
    same_as_committed("docs/schema.sql", &text);
}

#[tokio::test]
async fn every_table_column_constraint_index_trigger_view_and_function_has_a_comment() {
    let db = TestDb::new().await;
    let silent: Vec<_> = catalog(&db)
        .await
        .lines()
        .filter(|line| line.ends_with("-- ") || line.ends_with("--"))
        .map(str::to_owned)
        .collect();
    assert_eq!(silent, Vec::<String>::new());
    let described = catalog(&db).await.lines().filter(|line| line.contains(" -- ")).count();
    assert!(described > 150, "{described} things were looked at");
}

#[tokio::test]
async fn no_index_of_jobs_names_a_column_that_the_end_of_a_run_changes() {
    let db = TestDb::new().await;
    let client = db.client().await;
    let rows = client
        .query("select pg_get_indexdef(indexrelid) from pg_index where indrelid = 'orch.jobs'::regclass", &[])
        .await
        .unwrap();
    assert!(rows.len() > 5);
    for row in rows {
        let definition: String = row.get(0);
        let words: Vec<_> = definition.split(|c: char| !(c.is_alphanumeric() || c == '_')).collect();
        for forbidden in ["status", "run_id", "replica_id", "finished_at"] {
            assert!(!words.contains(&forbidden), "{definition}");
        }
    }
}

#[tokio::test]
async fn doctors_list_of_guards_is_what_the_schema_has() {
    let db = TestDb::new().await;
    let client = db.client().await;
    for (kind, sql) in [
        (
            orch::db::doctor::GuardKind::Trigger,
            "select c.relname::text, t.tgname::text from pg_trigger t join pg_class c on c.oid = t.tgrelid
              where c.relnamespace = 'orch'::regnamespace and not t.tgisinternal",
        ),
        (
            orch::db::doctor::GuardKind::Check,
            "select c.relname::text, k.conname::text from pg_constraint k join pg_class c on c.oid = k.conrelid
              where c.relnamespace = 'orch'::regnamespace and k.contype = 'c'",
        ),
        (
            orch::db::doctor::GuardKind::Column,
            "select c.relname::text, a.attname::text from pg_attribute a join pg_class c on c.oid = a.attrelid
              where c.relnamespace = 'orch'::regnamespace and a.attgenerated <> ''",
        ),
        (
            orch::db::doctor::GuardKind::Index,
            "select c.relname::text, i.relname::text from pg_index x join pg_class c on c.oid = x.indrelid
               join pg_class i on i.oid = x.indexrelid
              where c.relnamespace = 'orch'::regnamespace",
        ),
    ] {
        let rows = client.query(sql, &[]).await.unwrap();
        let mut found: Vec<(String, String)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
        found.sort();
        let expected: Vec<_> = kind.expected().iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
        assert_eq!(found, expected, "{kind}");
    }
}

#[tokio::test]
async fn each_state_of_a_schema_is_known_and_says_what_to_do() {
    let db = TestDb::new().await;
    let client = db.client().await;
    let known = *versions().last().unwrap();
    let pool = db.db();

    client.batch_execute("update orch.meta set schema_hash = 'another'").await.unwrap();
    let state = schema::check(&pool).await.unwrap();
    assert_eq!(state, SchemaState::Drifted);
    assert!(state.to_string().contains("run `orch migrate`"), "{state}");
    assert!(schema::migrate(&db.config()).await.unwrap().definitions_changed);
    assert_eq!(schema::check(&pool).await.unwrap(), SchemaState::Current);

    client.batch_execute("update orch.schema_history set checksum = '1' where version = 2").await.unwrap();
    assert_eq!(schema::check(&pool).await.unwrap(), SchemaState::Foreign { version: 2 });
    let refusal = schema::migrate(&db.config()).await.unwrap_err().to_string();
    assert!(refusal.contains("migration 2 of the database is not this binary's"), "{refusal}");

    client
        .batch_execute("insert into orch.schema_history values (99, 'from_the_future', '2030-01-01T00:00:00Z', '1')")
        .await
        .unwrap();
    let newer = SchemaState::Newer { found: 99, known };
    assert_eq!(schema::check(&pool).await.unwrap(), newer);
    assert!(newer.to_string().contains("run the newer orch"), "{newer}");
    assert_eq!(schema::migrate(&db.config()).await.unwrap_err().to_string(), newer.to_string());
}

#[tokio::test]
async fn a_migration_that_stopped_half_way_is_older_and_is_finished() {
    let db = TestDb::empty().await;
    let client = db.client().await;
    let [.., found, last] = versions()[..] else { panic!("there are migrations") };
    // Everything before the last migration, and a queue in it.
    let script = schema::migrate_sql();
    let (before, _) = script.split_once(&format!("\n-- migrations/V{last}__")).unwrap();
    client
        .batch_execute(&format!(
            "{before}; commit;
             insert into orch.jobs (agent, payload) select 'a', '{{\"n\": 1}}' from generate_series(1, 100)"
        ))
        .await
        .unwrap();
    let state = schema::check(&db.db()).await.unwrap();
    assert_eq!(state, SchemaState::Older { found, known: last });
    let report = schema::migrate(&db.config()).await.unwrap();
    assert_eq!(report.applied.len(), 1);
    assert_eq!(schema::check(&db.db()).await.unwrap(), SchemaState::Current);
    let kept = client.query_one("select count(*) from orch.jobs where payload = '{\"n\": 1}'", &[]).await.unwrap();
    assert_eq!(kept.get::<_, i64>(0), 100);
}

#[tokio::test]
async fn migrating_with_data_in_the_tables_changes_none_of_it_and_restores_disabled_guards() {
    let db = TestDb::new().await;
    let client = db.client().await;
    let played = crate::played::Played::on(&db, &["a"]).await;
    client
        .batch_execute("select orch.enqueue('a', jsonb_build_object('n', n)) from generate_series(1, 20) n")
        .await
        .unwrap();
    let claimed = played.claim().await.unwrap();
    played.settle(claimed, orch::model::Outcome::Failed).await;
    let _running = played.claim().await.unwrap();
    let content = async || {
        let mut all = String::new();
        for table in ["jobs", "agent_runs", "replicas", "agents", "events", "counters"] {
            let sql = format!("select coalesce(string_agg(t::text, chr(10) order by t::text), '') from orch.{table} t");
            all += &client.query_one(&sql, &[]).await.unwrap().get::<_, String>(0);
        }
        all
    };
    let (before, shape) = (content().await, catalog(&db).await);
    client
        .batch_execute(
            "alter table orch.jobs disable trigger user;
             create or replace function orch.guard_job() returns trigger language plpgsql as 'begin return new; end'",
        )
        .await
        .unwrap();
    schema::migrate(&db.config()).await.unwrap();
    assert_eq!(content().await, before);
    assert_eq!(catalog(&db).await, shape);
}

#[tokio::test]
async fn lanes_and_helpers_that_were_generated_are_kept_and_are_set_until_the_definitions_come() {
    let db = TestDb::empty().await;
    let client = db.client().await;
    let script = schema::migrate_sql();
    let (name, sql) = schema::MIGRATIONS.iter().find(|(name, _)| name.ends_with("__make_checks_few")).unwrap();
    let (before, _) = script.split_once(&format!("\n-- migrations/{name}.sql")).unwrap();
    let jobs = "insert into orch.jobs (agent, project, priority, gate, limits, require, status, claimable)
                values ('a', 'p', 0, null, null, null, 'queued', true), ('b', 'p', -3, 'g', '{x,y}', '{\"k\": 1}', 'queued', true),
                       ('b', 'p', 32767, 'g', null, null, 'held', false);";
    client.batch_execute(&format!("{before}; commit; {jobs}")).await.unwrap();
    client.batch_execute(&format!("begin; {sql} commit; {jobs}")).await.unwrap();
    let twice = "select string_agg(concat_ws(' ', agent, priority, gate, set_aside, n), ', ' order by priority) from (
                     select agent, priority, gate, set_aside, lane, count(*) as n from orch.jobs group by 1, 2, 3, 4, 5) j";
    let kept: String = client.query_one(twice, &[]).await.unwrap().get(0);
    assert_eq!(kept, "b -3 g f 2, a 0 f 2, b 32767 g t 2");

    let (_, definitions) = script.split_once("\nset local check_function_bodies").unwrap();
    let (definitions, _) = definitions.split_once("comment on schema").unwrap();
    client.batch_execute(&format!("begin; set local check_function_bodies{definitions} commit; {jobs}")).await.unwrap();
    let kept: String = client.query_one(twice, &[]).await.unwrap().get(0);
    assert_eq!(kept, "b -3 g f 3, a 0 f 3, b 32767 g t 3");
    let wrong: i64 = client.query_one("select count(*) from orch.violations", &[]).await.unwrap().get(0);
    assert_eq!(wrong, 0);
}

/// As versions up to 12 had them: functions of three triggers, each with a condition.
const GUARDS_BEFORE: &str = "
    create function orch.guard_transition() returns trigger language plpgsql as 'begin return new; end';
    create function orch.guard_owner() returns trigger language plpgsql as 'begin return new; end';
    create function orch.derive_helpers() returns trigger language plpgsql as 'begin return new; end';
    create trigger jobs_zz0_guard_transition before update on orch.jobs
        for each row when (new.attempt < old.attempt) execute function orch.guard_transition();
    create trigger jobs_zz1_guard_owner before insert or update on orch.jobs
        for each row when (new.status <> 'running') execute function orch.guard_owner();
    create trigger jobs_zz2_derive_helpers before insert or update on orch.jobs
        for each row when (new.status = 'held') execute function orch.derive_helpers();";

#[tokio::test]
async fn the_guards_of_a_schema_of_version_12_give_way_to_those_of_now() {
    let db = TestDb::new().await;
    let shape = catalog(&db).await;
    db.client().await.batch_execute(GUARDS_BEFORE).await.unwrap();
    assert_ne!(catalog(&db).await, shape);
    schema::migrate(&db.config()).await.unwrap();
    assert_eq!(catalog(&db).await, shape);
}

#[tokio::test]
async fn a_table_in_use_makes_a_migration_give_up_in_time_and_leave_no_half_step() {
    let db = TestDb::new().await;
    let client = db.client().await;
    let before = catalog(&db).await;
    client.batch_execute("begin; lock table orch.replicas in exclusive mode").await.unwrap();
    let refusal = schema::migrate(&db.config()).await.unwrap_err();
    assert!(matches!(refusal, schema::MigrateError::Db(orch::db::Error::Locked(_))), "{refusal}");
    client.batch_execute("rollback").await.unwrap();
    assert_eq!(catalog(&db).await, before);
    schema::migrate(&db.config()).await.unwrap();
}
