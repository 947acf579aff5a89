//! Wake-ups: a connection of a replica's own on which it hears that there may be a job for it.
//!
//! Owns the only session state there is: a LISTEN and two advisory locks, which end with the connection. So it never is
//! a pooled one, and never trusted before a call was heard on it: a pooler in between may share its sessions. What is heard
//! is a hint; nothing may depend on one.

use std::time::Duration;

use tokio::{sync::mpsc, task::JoinHandle, time::timeout};
use tokio_postgres::{Client, Row};

use super::{Db, Error, Params, Result, Statement, Witness, connect::Made, statement};
use crate::model::ReplicaId;

const HEAR: Statement = statement!("wake/hear", [UUID]);
const CALL: Statement = statement!("wake/call", [UUID]);
const AWAIT: Statement = statement!("wake/await", [UUID, BOOL]);
const PASS_ON: Statement = statement!("wake/pass_on", [TEXT, INT4]);

pub(super) const STATEMENTS: &[&Statement] = &[&HEAR, &CALL, &AWAIT, &PASS_ON];

/// How long the server may take to answer on the listening connection before another is made.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// How long a call may take to be heard: it takes a millisecond, and a second on a machine that swaps.
const HEARD_WITHIN: Duration = Duration::from_secs(3);

/// A connection that hears wake-ups for one replica.
#[derive(Debug)]
pub struct Listener {
    client: Client,
    task: JoinHandle<()>,
    heard: mpsc::UnboundedReceiver<()>,
    replica_id: ReplicaId,
    prepared: bool,
    witness: Option<Witness>,
    timeline: Option<u32>,
}

impl Db {
    /// Connects where this pool does, and makes sure that what `calls` says is heard there: it is not through a pooler
    /// that shares its sessions, and then there is no listener. It does not wait yet.
    pub async fn listen_for(&self, replica_id: ReplicaId, calls: &Self) -> Result<Option<Listener>> {
        let manager = self.pool.manager();
        let made = manager.server.make(manager.witness.as_ref());
        let (Made { client, task, heard, .. }, timeline) = bounded(made).await?;
        let prepared = self.prepared;
        let witness = manager.witness.clone();
        let mut listener = Listener { client, task, heard, replica_id, prepared, witness, timeline };
        listener.query(&HEAR, &[&replica_id.0]).await?;
        calls.query(&CALL, &[&replica_id.0]).await?;
        match timeout(HEARD_WITHIN, listener.heard()).await {
            Ok(Some(())) => Ok(Some(listener)),
            Ok(None) => Err(Error::Unavailable("the connection ended".to_owned())),
            Err(_) => Ok(None),
        }
    }
}

impl Listener {
    /// The next wake-up; several that came together are one. None once the connection has ended. May be dropped and asked
    /// again.
    pub async fn heard(&mut self) -> Option<()> {
        let heard = self.heard.recv().await;
        while self.heard.try_recv().is_ok() {}
        heard
    }

    /// From now on the replica waits for a wake-up, or does not. What is enqueued after this has been answered wakes it;
    /// what was enqueued before is to be looked for. `false` where a former connection still holds its place.
    pub async fn set_waiting(&self, waits: bool) -> Result<bool> {
        if let (Some(witness), timeline) = (&self.witness, self.timeline)
            && witness.has_seen_later_than(timeline)
        {
            return Err(Error::Unavailable("its server was left behind by a failover".to_owned()));
        }
        self.query(&AWAIT, &[&self.replica_id.0, &waits]).await?.map_or(Ok(false), |row| Ok(row.try_get("done")?))
    }

    /// Whether the connection is still there. Only while it waits.
    pub async fn check(&self) -> Result<()> {
        self.query(&HEAR, &[&self.replica_id.0]).await.map(drop)
    }

    /// Wakes up to `replicas` others that wait and serve `agent`.
    pub async fn pass_on(&self, agent: &str, replicas: i32) -> Result<()> {
        self.query(&PASS_ON, &[&agent, &replicas]).await.map(drop)
    }

    async fn query(&self, statement: &Statement, params: Params<'_>) -> Result<Option<Row>> {
        let answer = async {
            let rows = if self.prepared {
                let prepared = self.client.prepare_typed(statement.sql, statement.params).await?;
                self.client.query(&prepared, params).await?
            } else {
                let typed: Vec<_> = params.iter().copied().zip(statement.params.iter().cloned()).collect();
                self.client.query_typed(statement.sql, &typed).await?
            };
            Ok(rows.into_iter().next())
        };
        bounded(answer).await
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // The server ends what waits for nobody.
        self.task.abort();
    }
}

async fn bounded<T>(answer: impl Future<Output = Result<T>>) -> Result<T> {
    timeout(ANSWER_WITHIN, answer)
        .await
        .unwrap_or_else(|_| Err(Error::Unavailable(format!("no answer within {} s", ANSWER_WITHIN.as_secs()))))
}
