//! Who keeps dead rows from being removed: the holder of the oldest snapshot, and how many there are.
//!
//! Owns when that is an alarm, and its words, which the log, the doctor and `/metrics` share. Never ends anybody's session.

use std::{fmt::Write as _, time::Duration};

use super::{Db, Error, Result, Statement, statement};

const LOOK: Statement = statement!("horizon/look", []);

pub(super) const STATEMENTS: &[&Statement] = &[&LOOK];

/// A snapshot that is held for longer is old.
pub const OLD: Duration = Duration::from_secs(30);
/// Where it is not known for how long: one that so many transactions have begun since.
const OLD_TRANSACTIONS: i32 = 10_000;
/// With fewer dead rows nobody feels it.
const MANY: i64 = 10_000;

/// What is dead, and who has the oldest snapshot.
#[derive(Debug, Clone, PartialEq)]
pub struct Horizon {
    /// Dead rows of jobs and runs, as the server's statistics have them.
    pub dead_rows: i64,
    /// Who, if anybody.
    pub holder: Option<Holder>,
}

/// Who has the oldest snapshot.
#[derive(Debug, Clone, PartialEq)]
pub struct Holder {
    /// What it is.
    pub kind: Kind,
    /// Its process on the server.
    pub pid: Option<i32>,
    /// Of the prepared transaction, or of the slot.
    pub name: Option<String>,
    /// Whose it is.
    pub role: Option<String>,
    /// As it calls itself.
    pub application: Option<String>,
    /// Its address; none over a local socket.
    pub client: Option<String>,
    /// As `pg_stat_activity` says it.
    pub state: Option<String>,
    /// Since its transaction began. Not known of a standby or a slot, nor to a role that may not see other roles' sessions.
    pub held: Option<Duration>,
    /// Transactions that have begun since.
    pub transactions: i32,
}

/// What can hold a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A session in a transaction.
    Session,
    /// A standby that sends feedback.
    Standby,
    /// A prepared transaction.
    Prepared,
    /// A replication slot.
    Slot,
}

impl Horizon {
    /// Seconds for which an old snapshot has been held that many dead rows wait for; 0 where there is none. One whose age is
    /// not known counts as just old.
    #[must_use]
    pub fn alarm_seconds(&self) -> f64 {
        self.alarming().map_or(0.0, |holder| holder.held.unwrap_or(OLD).as_secs_f64())
    }

    /// Who is to blame, and what to do, where many dead rows wait for an old snapshot.
    #[must_use]
    pub fn alarm(&self) -> Option<String> {
        let holder = self.alarming()?;
        Some(format!(
            "{holder} keeps {} dead rows of orch.jobs and orch.agent_runs from being removed, and claims grow slower: {}",
            self.dead_rows,
            holder.remedy()
        ))
    }

    fn alarming(&self) -> Option<&Holder> {
        self.holder.as_ref().filter(|holder| self.dead_rows >= MANY && holder.is_old())
    }
}

impl Holder {
    fn is_old(&self) -> bool {
        self.held.map_or(self.transactions >= OLD_TRANSACTIONS, |held| held >= OLD)
    }

    fn remedy(&self) -> String {
        let name = self.name.as_deref().unwrap_or_default();
        match (self.kind, self.pid) {
            (Kind::Session, Some(pid)) => format!(
                "have it end its transaction, or `select pg_terminate_backend({pid})`; `idle_in_transaction_session_timeout` \
                 bounds such"
            ),
            (Kind::Session | Kind::Standby, _) => {
                "a long query runs on the standby: end it there, or set its `hot_standby_feedback` off".to_owned()
            }
            (Kind::Prepared, _) => format!("`commit prepared '{name}'`, or `rollback prepared '{name}'`"),
            (Kind::Slot, _) => format!(
                "have its standby come back or end its long query, or, if nobody needs it, `select \
                 pg_drop_replication_slot('{name}')`"
            ),
        }
    }
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut who = match (self.kind, &self.name, self.pid) {
            (Kind::Prepared, Some(name), _) => format!("the prepared transaction {name:?}"),
            (Kind::Slot, Some(name), _) => format!("the replication slot {name:?}"),
            (Kind::Standby, _, Some(pid)) => format!("the standby of walsender {pid}"),
            (_, _, pid) => format!("session {}", pid.unwrap_or_default()),
        };
        let mut about = |what: &str, value: &Option<String>| {
            if let Some(value) = value {
                let _infallible = write!(who, ", {what}{value:?}");
            }
        };
        about("user ", &self.role);
        about("application ", &self.application);
        about("from ", &self.client);
        about("", &self.state);
        let held = self.held.map(|held| Duration::from_secs(held.as_secs()));
        match held {
            Some(held) => write!(f, "{who}, in a transaction for {}", humantime::format_duration(held)),
            None => write!(f, "{who}, {} transactions old", self.transactions),
        }
    }
}

impl Db {
    /// Looks.
    pub async fn horizon(&self) -> Result<Horizon> {
        let row = self.query_opt(&LOOK, &[]).await?;
        let row = row.ok_or_else(|| Error::Server { code: "?????".into(), message: "no row".into() })?;
        let kind = match row.try_get::<_, Option<&str>>("kind")? {
            None => None,
            Some("standby") => Some(Kind::Standby),
            Some("prepared") => Some(Kind::Prepared),
            Some("slot") => Some(Kind::Slot),
            Some(_) => Some(Kind::Session),
        };
        let holder = match kind {
            None => None,
            Some(kind) => Some(Holder {
                kind,
                pid: row.try_get("pid")?,
                name: row.try_get("name")?,
                role: row.try_get("role")?,
                application: row.try_get("application")?,
                client: row.try_get("client")?,
                state: row.try_get("state")?,
                held: row
                    .try_get::<_, Option<f64>>("held_seconds")?
                    .map(|seconds| Duration::try_from_secs_f64(seconds).unwrap_or_default()),
                transactions: row.try_get("transactions")?,
            }),
        };
        Ok(Horizon { dead_rows: row.try_get("dead_rows")?, holder })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn horizon(dead_rows: i64, held: Option<u64>, transactions: i32) -> Horizon {
        let holder = Holder {
            kind: Kind::Session,
            pid: Some(71),
            name: None,
            role: Some("analyst".into()),
            application: Some("psql".into()),
            client: None,
            state: Some("idle in transaction".into()),
            held: held.map(Duration::from_secs),
            transactions,
        };
        Horizon { dead_rows, holder: Some(holder) }
    }

    #[test]
    fn an_alarm_takes_an_old_snapshot_and_many_dead_rows() {
        for (dead_rows, held, transactions, alarm) in [
            (10_000, Some(30), 1, true),
            (9_999, Some(3_000), 1_000_000, false),
            (1_000_000, Some(29), 1_000_000, false),
            (1_000_000, None, 10_000, true),
            (1_000_000, None, 9_999, false),
        ] {
            let horizon = horizon(dead_rows, held, transactions);
            assert_eq!(horizon.alarm().is_some(), alarm, "{horizon:?}");
            assert_eq!(horizon.alarm_seconds() > 0.0, alarm, "{horizon:?}");
        }
        assert_eq!(Horizon { dead_rows: 1_000_000, holder: None }.alarm(), None);
    }

    #[test]
    fn an_alarm_names_who_it_is_and_what_to_do() {
        let text = horizon(20_000, Some(95), 1).alarm().unwrap();
        let who =
            "session 71, user \"analyst\", application \"psql\", \"idle in transaction\", in a transaction for 1m 35s";
        assert!(
            text.starts_with(who) && text.contains("20000 dead rows") && text.contains("pg_terminate_backend(71)"),
            "{text}"
        );
        for (kind, words) in [
            (Kind::Prepared, ["prepared transaction \"gone\"", "rollback prepared 'gone'"]),
            (Kind::Slot, ["replication slot \"gone\"", "pg_drop_replication_slot('gone')"]),
            (Kind::Standby, ["standby of walsender 71", "hot_standby_feedback"]),
        ] {
            let mut horizon = horizon(20_000, None, 20_000);
            let holder = horizon.holder.as_mut().unwrap();
            (holder.kind, holder.name) = (kind, Some("gone".into()));
            let text = horizon.alarm().unwrap();
            assert!(words.iter().all(|word| text.contains(word)) && text.contains("20000 transactions old"), "{text}");
        }
    }
}
