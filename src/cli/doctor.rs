//! `orch doctor`: every finding a line; a violation or a guard that does not work makes the exit code 1.

use clap::Args;
use serde_json::json;

use super::{
    context::{Context, explain},
    exit::{Exit, remark},
    output,
};
use crate::{
    db::schema::{self, SchemaState},
    ops::doctor::{Finding, Verdict, examine_database, examine_machine, examine_together},
    replica::identity::{self, Look},
};

/// Everything is looked at.
#[derive(Debug, Args)]
pub(super) struct DoctorArgs {
    /// Look at nothing; note that this database is the original from now on, and that this state directory serves it
    #[arg(long, long_help = ACCEPT_HELP)]
    accept_identity: bool,
}

const ACCEPT_HELP: &str = "\
Look at nothing; note that this database is the original from now on, and that this state directory serves it.

For a replica that is paused because the two do not agree: a restored dump, a new database, a directory that served another \
one. Run it on the replica's machine, as its user, with its settings; the replica goes on by itself. Be sure that nobody \
works for the original any more: its running jobs run again here.";

pub(super) async fn run(context: &Context, args: DoctorArgs) -> anyhow::Result<Exit> {
    if args.accept_identity {
        return accept_identity(context).await;
    }
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

async fn accept_identity(context: &Context) -> anyhow::Result<Exit> {
    let db = context.db().await?;
    let state_dir = &context.settings.state_dir;
    let accepted = identity::accept(&db, state_dir).await?;
    let before = accepted.as_ref().and_then(Look::obstacle);
    if context.json {
        let now = identity::look(&db, state_dir).await?;
        output::document(&json!({
            "accepted": accepted.is_some(),
            "database": now.database(),
            "state_dir": state_dir,
            "disagreement": before,
        }))?;
    } else if let Some(look) = accepted {
        output::line(&format!("accepted: {} is the original, and {} serves it", look.database(), state_dir.display()))?;
        remark(&format!("until now {}", before.unwrap_or_default()));
    } else {
        output::line("nothing to accept: the database and the state directory agree")?;
    }
    Ok(Exit::Done)
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
        let state_dir = &context.settings.state_dir;
        let together = examine_together(&db, state_dir, context.settings.reap_grace).await;
        findings.extend(together.unwrap_or_else(|error| {
            // The database has been looked at; another user's directory may keep itself to itself.
            vec![Finding::new("runs", Verdict::Note, format!("cannot be compared with the state directory: {error:#}"))]
        }));
    }
    Ok(findings)
}
