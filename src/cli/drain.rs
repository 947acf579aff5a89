//! `orch drain`: tells replicas to claim nothing more. What they run goes on.

use std::time::Duration;

use anyhow::bail;
use clap::Args;
use serde_json::json;

use super::{
    context::{Context, explain},
    exit::{Exit, remark, say},
    output,
    wait::is_passing,
};
use crate::{
    db::{Db, replicas::ReplicaLine},
    model::ReplicaId,
};

/// More replicas than any database serves.
const MOST: i64 = 10_000;

/// Between two looks at what still runs.
const PAUSE: Duration = Duration::from_millis(500);

/// Which replicas, and whether to drain them.
#[derive(Debug, Args)]
pub(super) struct DrainArgs {
    /// Names or `replica_id`s of live replicas, as `orch replicas` shows them
    #[arg(value_name = "REPLICA", required_unless_present = "all")]
    replicas: Vec<String>,
    /// Every live replica
    #[arg(long, conflicts_with = "replicas")]
    all: bool,
    /// Let them claim again
    #[arg(long)]
    off: bool,
    /// Wait until they have no open run
    #[arg(long, conflicts_with = "off")]
    wait: bool,
}

pub(super) async fn run(context: &Context, args: DrainArgs) -> anyhow::Result<Exit> {
    let db = context.db().await?;
    let known = db.list_replicas(true, MOST).await.map_err(|error| explain(&error))?;
    let chosen = choose(&known, &args)?;
    if chosen.is_empty() {
        remark("no replica is live; nothing was changed");
    }
    let ids: Vec<ReplicaId> = chosen.iter().map(|replica| replica.replica_id).collect();
    let answers = db.set_draining(&ids, !args.off).await.map_err(|error| explain(&error))?;
    let (mut changed, mut gone) = (Vec::new(), Vec::new());
    for replica in chosen {
        let name = format!("{} on {} ({})", replica.name, replica.host, replica.replica_id);
        let answer = answers.iter().find(|(id, _)| *id == replica.replica_id);
        match answer {
            Some((id, true)) => changed.push(*id),
            Some((_, false)) => {}
            None => gone.push(replica.replica_id),
        }
        let sentence = match (answer, args.off) {
            (None, _) => {
                say(&format!("{name} is not live any more"));
                continue;
            }
            (Some((_, true)), false) => format!("{name} claims nothing more; what it runs goes on"),
            (Some((_, false)), false) => format!("{name} was draining already"),
            (Some((_, true)), true) => format!("{name} claims again"),
            (Some((_, false)), true) => format!("{name} was not draining"),
        };
        if !context.json {
            output::line(&sentence)?;
        }
    }
    let mut well = gone.is_empty();
    if args.wait {
        well &= until_idle(&db, &ids, context.json).await?;
    }
    if context.json {
        output::document(&json!({ "draining": !args.off, "changed": changed, "not_live": gone }))?;
    }
    Ok(Exit::from_success(well))
}

/// The live replicas that are meant: each named one exactly once.
fn choose<'a>(known: &'a [ReplicaLine], args: &DrainArgs) -> anyhow::Result<Vec<&'a ReplicaLine>> {
    if args.all {
        return Ok(known.iter().filter(|replica| replica.is_live()).collect());
    }
    let mut chosen: Vec<&ReplicaLine> = Vec::new();
    for word in &args.replicas {
        let replica = one(known, word)?;
        if !chosen.iter().any(|other| other.replica_id == replica.replica_id) {
            chosen.push(replica);
        }
    }
    Ok(chosen)
}

/// The one live replica with this `replica_id` or this name.
fn one<'a>(known: &'a [ReplicaLine], word: &str) -> anyhow::Result<&'a ReplicaLine> {
    let id = word.parse::<ReplicaId>().ok();
    let named: Vec<&ReplicaLine> = match id {
        Some(id) => known.iter().filter(|replica| replica.replica_id == id).collect(),
        None => known.iter().filter(|replica| replica.name == word).collect(),
    };
    let live: Vec<&ReplicaLine> = named.iter().copied().filter(|replica| replica.is_live()).collect();
    match (live.as_slice(), named.first()) {
        ([replica], _) => Ok(replica),
        ([], Some(gone)) => {
            bail!(
                "{word} is not live: its last boot {} is {}; `orch replicas` shows who is",
                gone.replica_id,
                gone.state
            )
        }
        ([], None) => {
            let mut alive: Vec<&str> =
                known.iter().filter(|replica| replica.is_live()).map(|replica| replica.name.as_str()).collect();
            alive.sort_unstable();
            alive.dedup();
            let live =
                if alive.is_empty() { "none is live".to_owned() } else { format!("live are {}", alive.join(", ")) };
            bail!("there is no replica {word:?}: {live}")
        }
        (several, _) => {
            let ids: Vec<String> =
                several.iter().map(|replica| format!("{} on {}", replica.replica_id, replica.host)).collect();
            bail!("{word} is the name of {} live replicas: name one by its replica_id ({})", ids.len(), ids.join(", "))
        }
    }
}

/// Waits until none of them has an open run. `false` where one died meanwhile, whose runs are taken back by the reaper.
async fn until_idle(db: &Db, ids: &[ReplicaId], quiet: bool) -> anyhow::Result<bool> {
    let (mut told, mut well, mut away) = (None, true, false);
    loop {
        let known = match db.list_replicas(true, MOST).await {
            Ok(known) => known,
            Err(error) if is_passing(&error) => {
                if !std::mem::replace(&mut away, true) {
                    say("the database does not answer; waiting for it");
                }
                tokio::time::sleep(PAUSE).await;
                continue;
            }
            Err(error) => return Err(explain(&error)),
        };
        away = false;
        let asked = known.iter().filter(|replica| ids.contains(&replica.replica_id) && replica.open_runs > 0);
        let (live, dead): (Vec<_>, Vec<_>) = asked.partition(|replica| replica.is_live());
        for replica in dead {
            if std::mem::replace(&mut well, false) {
                say(&format!("{} died with {} open runs: the reaper takes them back", replica.name, replica.open_runs));
            }
        }
        let open: i64 = live.iter().map(|replica| replica.open_runs).sum();
        if open == 0 {
            return Ok(well);
        }
        if !quiet && told != Some(open) {
            remark(&format!("{open} runs are still open"));
            told = Some(open);
        }
        tokio::time::sleep(PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replica(name: &str, state: &str) -> ReplicaLine {
        ReplicaLine {
            replica_id: ReplicaId::new(),
            name: name.to_owned(),
            host: "host".to_owned(),
            state: state.to_owned(),
            draining: false,
            version: None,
            agents: Vec::new(),
            labels: std::collections::BTreeMap::new(),
            max_concurrency: 1,
            open_runs: 0,
            started_at: jiff::Timestamp::UNIX_EPOCH,
            lease_left_seconds: 1.0,
        }
    }

    #[test]
    fn a_replica_is_named_by_name_or_id_and_must_be_one_that_lives() {
        let known = [
            replica("a", "live"),
            replica("b", "live"),
            replica("b", "live"),
            replica("a", "dead"),
            replica("c", "left"),
        ];
        let id = |index: usize| known[index].replica_id.to_string();
        assert_eq!(one(&known, "a").unwrap().replica_id, known[0].replica_id);
        assert_eq!(one(&known, &id(2)).unwrap().replica_id, known[2].replica_id);
        for (word, said) in [
            ("b".to_owned(), "2 live replicas"),
            ("c".to_owned(), "is left"),
            (id(3), "is dead"),
            ("d".to_owned(), "live are a, b"),
            (ReplicaId::new().to_string(), "there is no replica"),
        ] {
            let error = one(&known, &word).unwrap_err().to_string();
            assert!(error.contains(said), "{word}: {error}");
        }
        let twice = DrainArgs { replicas: vec!["a".to_owned(), id(0)], all: false, off: false, wait: false };
        assert_eq!(choose(&known, &twice).unwrap().len(), 1);
        assert_eq!(choose(&known, &DrainArgs { replicas: Vec::new(), all: true, ..twice }).unwrap().len(), 3);
    }
}
