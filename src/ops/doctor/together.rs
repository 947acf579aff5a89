//! The database and the state directory together: whether they belong together, and what of either the other lacks.

use std::path::Path;

use super::{Finding, Verdict};
use crate::{db::Db, replica::identity};

/// Looks at both. Blocks for some milliseconds.
pub async fn examine_together(db: &Db, state_dir: &Path) -> anyhow::Result<Vec<Finding>> {
    Ok(vec![fingerprint(db, state_dir).await?])
}

async fn fingerprint(db: &Db, state_dir: &Path) -> anyhow::Result<Finding> {
    let look = identity::look(db, state_dir).await?;
    Ok(match look.obstacle() {
        Some(why) => Finding::new("fingerprint", Verdict::Wrong, format!("a replica here is paused: {why}")),
        None if look.is_whole() => Finding::new("fingerprint", Verdict::Ok, look.database()),
        None => Finding::new(
            "fingerprint",
            Verdict::Note,
            format!(
                "{}: this user may not execute pg_control_system(), so that databases are told apart by their oid alone",
                look.database()
            ),
        ),
    })
}
