//! Which database this is: told by the server, and noted in `orch.meta`.
//!
//! Never decides whether they agree (that is `model::fingerprint`), and writes over what is noted only on an operator's
//! word.

use serde_json::Value;
use uuid::Uuid;

use super::{Db, Error, Result, Statement, statement};
use crate::model::{Fingerprint, JobId, RunId};

const LOOK: Statement = statement!("identity/look", []);
pub(super) const SYSTEM: Statement = statement!("identity/system", []);
const NOTE: Statement = statement!("identity/note", [INT8, OID]);
const ACCEPT: Statement = statement!("identity/accept", [INT8, OID, JSONB]);
const KNOWN_RUNS: Statement = statement!("identity/known_runs", [UUID_ARRAY]);

pub(super) const STATEMENTS: &[&Statement] = &[&LOOK, &SYSTEM, &NOTE, &ACCEPT, &KNOWN_RUNS];

/// What a database is, and says it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Its name, for people.
    pub name: String,
    /// What the server says.
    pub server: Fingerprint,
    /// What the database notes of itself; none until a replica noted it.
    pub recorded: Option<Fingerprint>,
    /// Whether it ever had a run.
    pub has_runs: bool,
}

/// A run that the database knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KnownRun {
    /// The run.
    pub run_id: RunId,
    /// Its job.
    pub job_id: JobId,
    /// Whether it has not ended.
    pub open: bool,
    /// It is over by an operator's hand, and its job waits until its process is gone.
    pub ending: bool,
}

impl Db {
    /// Which database this is.
    pub async fn identity(&self) -> Result<Identity> {
        let row = self.query_opt(&LOOK, &[]).await?.ok_or_else(|| Error::Server {
            code: "?????".to_owned(),
            message: "orch.meta has lost its row; insert it with `insert into orch.meta default values`".to_owned(),
        })?;
        let system_identifier = if row.try_get("may_ask_system")? {
            self.query_opt(&SYSTEM, &[]).await?.map(|row| row.try_get("system_identifier")).transpose()?
        } else {
            None
        };
        let recorded_oid: Option<u32> = row.try_get("recorded_oid")?;
        let recorded_system = row.try_get("recorded_system")?;
        Ok(Identity {
            name: row.try_get("database")?,
            server: Fingerprint { system_identifier, database_oid: row.try_get("database_oid")? },
            recorded: recorded_oid.map(|database_oid| Fingerprint { system_identifier: recorded_system, database_oid }),
            has_runs: row.try_get("has_runs")?,
        })
    }

    /// Notes which database this is, unless that has been noted.
    pub async fn note_identity(&self, server: Fingerprint) -> Result<()> {
        self.query(&NOTE, &[&server.system_identifier, &server.database_oid]).await.map(drop)
    }

    /// Notes, on an operator's word, that this database is the original from now on. `detail` is for the event.
    pub async fn accept_identity(&self, server: Fingerprint, detail: &Value) -> Result<()> {
        self.query(&ACCEPT, &[&server.system_identifier, &server.database_oid, detail]).await.map(drop)
    }

    /// Those of the runs that the database knows.
    pub async fn known_runs(&self, runs: &[RunId]) -> Result<Vec<KnownRun>> {
        let asked: Vec<Uuid> = runs.iter().map(|run| run.0).collect();
        let rows = self.query(&KNOWN_RUNS, &[&asked]).await?;
        rows.iter()
            .map(|row| {
                Ok(KnownRun {
                    run_id: RunId(row.try_get("run_id")?),
                    job_id: JobId(row.try_get("job_id")?),
                    open: row.try_get("open")?,
                    ending: row.try_get("ending")?,
                })
            })
            .collect()
    }
}
