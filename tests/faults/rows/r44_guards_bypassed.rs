//! Row 44: the guards bypassed, by whoever has the rights: refused, or `orch doctor` says so and exits non-zero.

use bytes::Bytes;
use futures_util::{SinkExt as _, TryStreamExt as _};
use tokio_postgres::Client;

use super::r02_dead_owner::running_elsewhere;
use crate::{
    case::{BOUND, BOUND_AFTER_OUTAGE, Case},
    support::Output,
};

async fn copy_in(client: &Client, statement: &str, rows: Bytes) -> Result<u64, tokio_postgres::Error> {
    let sink = client.copy_in(statement).await?;
    let mut sink = std::pin::pin!(sink);
    sink.send(rows).await?;
    sink.as_mut().finish().await
}

async fn copy_out(client: &Client, statement: &str) -> Bytes {
    let pieces: Vec<Bytes> = client.copy_out(statement).await.unwrap().try_collect().await.unwrap();
    pieces.concat().into()
}

pub(crate) async fn replica_role_and_copy_are_still_guarded(case: &mut Case) {
    case.agent("quick", "exit 0", "");
    let updated = case.enqueue("quick").await;
    let own =
        "run_id = gen_random_uuid(), replica_id = gen_random_uuid(), pid = 1, started_at = now(), running_gate = 'g'";
    let update = format!("set session_replication_role = replica; update orch.jobs set {own} where id = {updated}");
    case.sql.batch_execute(&update).await.unwrap();
    let columns = "copy orch.jobs (agent, status, run_id, pid, started_at) from stdin";
    let row = "quick\tqueued\t0190f3c0-0000-7000-8000-000000000001\t1\t2024-01-01\n";
    assert_eq!(copy_in(&case.sql, columns, row.into()).await.unwrap(), 1, "as a replication worker");
    case.sql.batch_execute("reset session_replication_role").await.unwrap();
    assert_eq!(copy_in(&case.sql, columns, row.into()).await.unwrap(), 1, "as anybody");
    let owned =
        "select count(*) from orch.jobs where num_nonnulls(run_id, replica_id, pid, started_at, running_gate) > 0";
    assert_eq!(case.sql.query_one(owned, &[]).await.unwrap().get::<_, i64>(0), 0);
    let repairs = "select value from orch.counters where name = 'guard_repairs_total'";
    assert_eq!(case.sql.query_one(repairs, &[]).await.unwrap().get::<_, i64>(0), 3, "each repair is counted");
    // An illegal transition is refused to replication as well.
    case.sql.batch_execute("set session_replication_role = replica").await.unwrap();
    let jump = case.sql.batch_execute("update orch.jobs set status = 'succeeded'").await.unwrap_err();
    assert!(jump.as_db_error().unwrap().code().code().starts_with("OR"), "{jump}");
    case.sql.batch_execute("reset session_replication_role").await.unwrap();
    case.up().await;
    let jobs = case.sql.query("select id from orch.jobs", &[]).await.unwrap();
    assert_eq!(jobs.len(), 3);
    for job in jobs {
        case.until(job.get(0), "succeeded", BOUND).await;
    }
}

/// The doctor finds nothing wrong.
async fn healthy(case: &Case) {
    case.orch.run(["doctor"]).await.ok();
}

/// The doctor names this, and exits non-zero.
async fn wrong(case: &Case, what: &str, words: &[&str]) -> Output {
    let output = case.orch.run(["doctor"]).await;
    assert!(!output.status.success(), "{what}: the doctor sees nothing:\n{}", output.stdout);
    let all = format!("{}{}", output.stdout, output.stderr);
    for word in words {
        assert!(all.contains(word), "{what}: the doctor does not name {word}:\n{all}");
    }
    output
}

async fn definition(case: &Case, query: &str) -> String {
    case.sql.query_one(query, &[]).await.unwrap().get(0)
}

pub(crate) async fn the_doctor_names_what_was_switched_off(case: &mut Case) {
    healthy(case).await;
    let triggers = "select tgname::text, relname::text from pg_trigger t join pg_class c on c.oid = tgrelid
        where relnamespace = 'orch'::regnamespace and not tgisinternal order by 1";
    let triggers = case.sql.query(triggers, &[]).await.unwrap();
    assert!(triggers.len() >= 3, "{triggers:?}");
    for row in triggers {
        let (trigger, table): (String, String) = (row.get(0), row.get(1));
        for state in ["disable", "enable", "enable replica"] {
            case.sql.batch_execute(&format!("alter table orch.{table} {state} trigger {trigger}")).await.unwrap();
            wrong(case, state, &[&trigger]).await;
            case.sql.batch_execute(&format!("alter table orch.{table} enable always trigger {trigger}")).await.unwrap();
        }
        case.sql.batch_execute(&format!("drop trigger {trigger} on orch.{table}")).await.unwrap();
        wrong(case, "dropped", &[&trigger]).await;
        case.orch.run(["migrate"]).await.ok();
    }
    healthy(case).await;

    for check in ["has_an_owner_exactly_while_running", "status_is_known", "claimable_is_queued_and_waits_for_nobody"] {
        let of = format!("select pg_get_constraintdef(oid) from pg_constraint where conname = '{check}'");
        let definition = definition(case, &of).await;
        case.sql.batch_execute(&format!("alter table orch.jobs drop constraint {check}")).await.unwrap();
        wrong(case, "dropped", &[check]).await;
        let unproved = format!("alter table orch.jobs add constraint {check} {definition} not valid");
        case.sql.batch_execute(&unproved).await.unwrap();
        wrong(case, "not valid", &[check]).await;
        case.sql.batch_execute(&format!("alter table orch.jobs validate constraint {check}")).await.unwrap();
    }
    for index in ["jobs_running_gate", "jobs_live_dedupe_key", "jobs_claim", "jobs_impossible"] {
        let definition = definition(case, &format!("select pg_get_indexdef('orch.{index}'::regclass)")).await;
        case.sql.batch_execute(&format!("drop index orch.{index}")).await.unwrap();
        wrong(case, "dropped", &[index]).await;
        case.sql.batch_execute(&definition).await.unwrap();
    }
    let tame =
        "create or replace function orch.guard_job() returns trigger language plpgsql as 'begin return new; end'";
    case.sql.batch_execute(tame).await.unwrap();
    wrong(case, "a tame function", &["guard_job"]).await;
    case.orch.run(["migrate"]).await.ok();
    healthy(case).await;
}

/// The order that foreign keys would want, and the columns that COPY takes.
const TABLES: [&str; 3] = ["replicas", "jobs", "agent_runs"];

async fn columns(case: &Case, table: &str) -> String {
    let columns = "select string_agg(quote_ident(attname), ', ' order by attnum) from pg_attribute
        where attrelid = ('orch.' || $1)::regclass and attnum > 0 and not attisdropped and attgenerated = ''";
    case.sql.query_one(columns, &[&table]).await.unwrap().get(0)
}

/// Empties the tables as a restore does, and fills them as `pg_restore --data-only --disable-triggers` does.
async fn restore(case: &Case, dump: &[(String, Bytes)]) -> Result<(), tokio_postgres::Error> {
    case.sql.batch_execute("begin").await?;
    let restored = async {
        for table in TABLES {
            case.sql.batch_execute(&format!("alter table orch.{table} disable trigger all")).await?;
        }
        case.sql.batch_execute("delete from orch.agent_runs; delete from orch.jobs; delete from orch.replicas").await?;
        for (statement, rows) in dump {
            copy_in(&case.sql, statement, rows.clone()).await?;
        }
        for table in TABLES {
            case.sql.batch_execute(&format!("alter table orch.{table} enable trigger all")).await?;
        }
        Ok(())
    };
    let outcome = restored.await;
    case.sql.batch_execute(if outcome.is_ok() { "commit" } else { "rollback" }).await?;
    outcome
}

pub(crate) async fn a_data_only_restore_is_refused_or_found(case: &mut Case) {
    case.agent("quick", "exit 0", "");
    let waiting = case.enqueue("quick").await;
    let running = case.enqueue("quick").await;
    running_elsewhere(case, &[(running, 4711)]).await;
    let mut dump = Vec::new();
    for table in TABLES {
        let columns = columns(case, table).await;
        let rows = copy_out(&case.sql, &format!("copy orch.{table} ({columns}) to stdout")).await;
        dump.push((format!("copy orch.{table} ({columns}) from stdin"), rows));
    }

    // A dump made by hand, or of a time before the guards: the table itself refuses.
    let (statement, rows) = dump[1].clone();
    let rows = String::from_utf8(rows.to_vec()).unwrap();
    let impossible = rows.replace("\trunning\t", "\tqueued\t");
    assert_ne!(impossible, rows);
    let mut bad = dump.clone();
    bad[1] = (statement, impossible.into());
    let refused = restore(case, &bad).await.unwrap_err();
    assert_eq!(refused.as_db_error().unwrap().code().code(), "23514", "{refused}");

    // One that is consistent comes in, but leaves the triggers enabled, no longer always: replication would pass them.
    restore(case, &dump).await.unwrap();
    wrong(case, "a data-only restore", &["jobs_zz1_guard_job"]).await;
    case.orch.run(["migrate"]).await.ok();
    healthy_but_for_the_dead_owner(case).await;
    case.up().await;
    for job in [waiting, running] {
        case.until(job, "succeeded", BOUND_AFTER_OUTAGE).await;
    }
    assert_eq!(case.outcomes(running).await, [Some("lost".to_owned()), Some("succeeded".to_owned())]);
}

/// A live replica past its lease, and a reaper that rests, are worth a note or more; the guards are all there again.
async fn healthy_but_for_the_dead_owner(case: &Case) {
    let output = case.orch.run(["doctor"]).await;
    assert!(!output.stdout.contains("jobs_zz1_guard_job"), "{}", output.stdout);
}
