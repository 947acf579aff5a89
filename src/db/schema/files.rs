//! The files of the schema, compiled in: migrations, each applied once, and definitions, re-applied as a whole.
//!
//! Owns their lists (a test compares them with the directories), the hash of the definitions, and the script that makes
//! the same schema by psql. Never touches a database.

use std::fmt::Write as _;

use refinery::Migration;

use super::HISTORY;

/// Lists files below a directory of the package as `(name, text)`.
macro_rules! files {
    ($dir:literal: $($name:literal),+ $(,)?) => {
        &[$(($name, include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/", $dir, "/", $name, ".sql")))),+]
    };
}

/// The migrations by version, without the suffix of the file.
pub const MIGRATIONS: &[(&str, &str)] = files!("migrations":
    "V1__create_jobs",
    "V2__create_agent_runs",
    "V3__create_replicas",
    "V4__create_agents",
    "V5__create_projects",
    "V6__create_bookkeeping",
    "V7__create_run_logs",
    "V8__add_lost_counted",
    "V9__add_limits_and_lanes",
    "V10__add_dependencies",
    "V11__create_schedules",
    "V12__make_name_checks_cheap",
    "V13__move_format_checks_to_a_trigger",
    "V14__make_checks_few",
);

/// The functions, views and triggers below `sql/schema`, in the order in which they are applied. A definition whose shape
/// `create or replace` cannot change, or that goes, is dropped by a migration, or where nothing may be without it for a
/// moment by the file that brings what follows it.
pub const DEFINITIONS: &[(&str, &str)] = files!("sql/schema":
    "functions/claim_order",
    "functions/dependencies",
    "functions/derive_helpers",
    "functions/enqueue",
    "functions/enqueue_helpers",
    "functions/enqueue_many",
    "functions/enqueue_tick",
    "functions/fire_ticks",
    "functions/guard_bounds",
    "functions/guard_delete",
    "functions/guard_format",
    "functions/guard_job",
    "functions/guard_owner",
    "functions/guard_replica",
    "functions/guard_run",
    "functions/guard_schedule",
    "functions/guard_transition",
    "functions/hold",
    "functions/judged_lanes",
    "functions/lane_of",
    "functions/late_rule",
    "functions/limit_names",
    "functions/limits",
    "functions/needs",
    "functions/operate",
    "functions/operate_schedules",
    "functions/own_wait",
    "functions/projects",
    "functions/settle_rule",
    "functions/wake",
    "functions/why",
    "functions/why_facts",
    "functions/why_words",
    "functions/wishes",
    "views/free_slots",
    "views/impossible_queued",
    "views/lanes",
    "views/limit_holders",
    "views/limit_use",
    "views/queue",
    "views/running",
    "views/taken_gates",
    "views/violations",
    "views/waiting",
    "triggers/agent_runs",
    "triggers/events",
    "triggers/jobs",
    "triggers/replicas",
    "triggers/schedules",
);

/// The advisory lock that whoever migrates holds, in the database that is migrated: `orch` in ASCII.
pub(super) const LOCK: i64 = 0x6f72_6368;

/// What a migration waits at the most for the locks of a table that is in use.
pub(super) const LOCK_TIMEOUT: &str = "set local lock_timeout = '5s';";

/// Functions come before the views that some of them read.
pub(super) const LATE_BOUND: &str = "set local check_function_bodies = off;";

/// The schema itself, which must be there before the history.
pub(super) const CREATE_SCHEMA: &str = "create schema if not exists orch;";

/// What psql shows of the schema and of the history, which no migration makes.
pub(super) const COMMENTS: &str = "\
comment on schema orch is 'The orchestrator: jobs, their runs, and the replicas that run them. Begin with \\d+ orch.jobs and orch.queue.';
comment on table orch.schema_history is 'The migrations that were applied, written by orch migrate.';
comment on column orch.schema_history.version is 'Its number.';
comment on column orch.schema_history.name is 'What it does.';
comment on column orch.schema_history.applied_on is 'When it was applied, RFC 3339.';
comment on column orch.schema_history.checksum is 'Of its text, so that a changed one is noticed.';
comment on constraint schema_history_pkey on orch.schema_history is 'A migration is applied once.';
";

/// The migrations as refinery takes them.
pub(super) fn migrations() -> Vec<Migration> {
    MIGRATIONS
        .iter()
        .map(|(name, sql)| Migration::unapplied(name, sql).expect("the test of the file lists parses every name"))
        .collect()
}

/// Names the definitions of this binary: FNV-1a over names and texts, in hexadecimal. It tells versions apart; it is no
/// protection against anyone.
pub(super) fn definitions_hash() -> String {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for (name, sql) in DEFINITIONS {
        for part in [name, sql] {
            for byte in part.bytes().chain([0]) {
                hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
            }
        }
    }
    format!("{hash:016x}")
}

/// The whole schema as one script for an empty database: `psql -v ON_ERROR_STOP=1`. It leaves what [`super::migrate`]
/// leaves, the history included, in one transaction.
#[must_use]
pub fn migrate_sql() -> String {
    let mut script = format!(
        "-- The schema of orch {version}, for a database without one: psql -X -v ON_ERROR_STOP=1 -f FILE\n\
         -- A database that has one already is brought up to date by `orch migrate`.\n\
         begin;\n\
         set local client_min_messages = 'warning';\n\
         select pg_advisory_xact_lock({LOCK});\n\
         create schema orch;\n\
         create table {HISTORY} (\n    \
             version int4 primary key,\n    \
             name varchar(255),\n    \
             applied_on varchar(255),\n    \
             checksum varchar(255)\n\
         );\n",
        version = env!("CARGO_PKG_VERSION"),
    );
    for migration in migrations() {
        let sql = migration.sql().unwrap_or_default();
        write!(
            script,
            "\n-- migrations/V{version}__{name}.sql\n{sql}\n\
             insert into {HISTORY} (version, name, applied_on, checksum) values\n    \
             ({version}, '{name}', to_char(now() at time zone 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"'), '{checksum}');\n",
            version = migration.version(),
            name = migration.name(),
            checksum = migration.checksum(),
        )
        .expect("a String takes all");
    }
    write!(script, "\n{LATE_BOUND}\n").expect("a String takes all");
    for (name, sql) in DEFINITIONS {
        write!(script, "\n-- sql/schema/{name}.sql\n{sql}\n").expect("a String takes all");
    }
    write!(script, "\n{COMMENTS}update orch.meta set schema_hash = '{}';\ncommit;\n", definitions_hash())
        .expect("a String takes all");
    script
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, path::Path};

    use super::*;

    fn files(dir: &str) -> BTreeSet<String> {
        std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(dir))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "sql"))
            .map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned())
            .collect()
    }

    #[test]
    fn every_migration_is_in_the_list_and_in_order() {
        let listed: BTreeSet<_> = MIGRATIONS.iter().map(|(name, _)| (*name).to_owned()).collect();
        assert_eq!(listed, files("migrations"));
        let versions: Vec<_> = migrations().iter().map(Migration::version).collect();
        assert_eq!(versions, (1..=versions.len() as i32).collect::<Vec<_>>());
    }

    #[test]
    fn every_definition_is_in_the_list_and_functions_come_before_views_and_triggers() {
        let listed: Vec<_> = DEFINITIONS.iter().map(|(name, _)| (*name).to_owned()).collect();
        let found: Vec<_> = ["functions", "views", "triggers"]
            .iter()
            .flat_map(|dir| files(&format!("sql/schema/{dir}")).into_iter().map(move |file| format!("{dir}/{file}")))
            .collect();
        assert_eq!(listed, found);
    }

    #[test]
    fn the_hash_of_the_definitions_is_stable_and_short() {
        assert_eq!(definitions_hash(), definitions_hash());
        assert_eq!(definitions_hash().len(), 16);
    }
}
