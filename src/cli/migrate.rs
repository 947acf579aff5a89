//! `orch migrate`: bring the database's schema to this binary's.

use clap::Args;
use serde_json::json;

use super::{context::Context, exit::Exit, output};
use crate::db::schema::{self, MigrateError};

/// What to do.
#[derive(Debug, Args)]
pub(super) struct MigrateArgs {
    /// Print the whole schema as one script for an empty database, and touch none
    #[arg(long)]
    sql: bool,
}

pub(super) async fn run(context: &Context, args: MigrateArgs) -> anyhow::Result<Exit> {
    if args.sql {
        output::write(schema::migrate_sql().as_bytes())?;
        return Ok(Exit::Done);
    }
    let report = schema::migrate(&context.database()?.server).await.map_err(|error| explain(&error))?;
    if context.json {
        output::document(&json!({
            "version": report.version,
            "applied": report.applied,
            "definitions_changed": report.definitions_changed,
        }))?;
        return Ok(Exit::Done);
    }
    for migration in &report.applied {
        output::line(&format!("applied {migration}"))?;
    }
    let definitions = if report.definitions_changed { "are new" } else { "are as they were" };
    output::line(&format!("the schema is at version {}; functions, views and triggers {definitions}", report.version))?;
    Ok(Exit::Done)
}

/// One sentence of why not.
pub(super) fn explain(error: &MigrateError) -> anyhow::Error {
    match error {
        MigrateError::Db(error) => super::context::explain(error),
        MigrateError::Unfit(state) => anyhow::anyhow!("{state}"),
    }
}
