//! `orch doctor`: every finding a line; a violation or a guard that does not work makes the exit code 1.

use clap::Args;

use super::{
    context::{Context, explain},
    exit::Exit,
    output,
};
use crate::{
    db::schema::{self, SchemaState},
    ops::doctor::{Finding, Verdict, examine_database, examine_machine},
};

/// What to look at: everything.
#[derive(Debug, Args)]
pub(super) struct DoctorArgs {}

pub(super) async fn run(context: &Context, _: DoctorArgs) -> anyhow::Result<Exit> {
    let mut findings = examine(context)
        .await
        .unwrap_or_else(|error| vec![Finding::new("database", Verdict::Wrong, format!("{error:#}"))]);
    findings.extend(examine_machine(&context.settings.state_dir));
    if context.json {
        output::document(&findings)?;
    } else {
        for finding in &findings {
            let verdict = match finding.verdict {
                Verdict::Ok => "ok",
                Verdict::Note => "note",
                Verdict::Wrong => "WRONG",
            };
            output::line(&format!("{verdict:<7}{:<16}{}", finding.check, finding.what))?;
        }
    }
    Ok(Exit::from_success(findings.iter().all(|finding| finding.verdict != Verdict::Wrong)))
}

/// Looks at the database as far as its schema lets one look.
async fn examine(context: &Context) -> anyhow::Result<Vec<Finding>> {
    let db = context.pool(context.database()?)?;
    let state = schema::check(&db).await.map_err(|error| explain(&error))?;
    let verdict = if state == SchemaState::Current { Verdict::Ok } else { Verdict::Wrong };
    let mut findings = vec![Finding::new("schema", verdict, state.to_string())];
    // Guards and rows can be looked at where only the definitions are another build's; else names have changed.
    if matches!(state, SchemaState::Current | SchemaState::Drifted) {
        findings.extend(examine_database(&db).await.map_err(|error| explain(&error))?);
    }
    Ok(findings)
}
