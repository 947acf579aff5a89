//! What the pool holds: a connection, how it was encrypted, and on which timeline its server was.
//!
//! Owns when a connection is used no more. Never waits for the end of one.

use std::time::Duration;

use deadpool::managed::{self, Metrics, RecycleError, RecycleResult};
use deadpool_postgres::ClientWrapper;
use tokio_postgres::{
    NoTls, Row,
    types::{ToSql, Type},
};

use super::{Error, Params, Result, Server, Statement, Witness, connect::Made, tls::Connector};

/// A pooled connection.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) client: ClientWrapper,
    tls: Option<Connector>,
    /// Of its server when it was made, where somebody keeps watch.
    timeline: Option<u32>,
}

/// How long a server may take to hear that an answer is no longer wanted.
const CANCEL_WITHIN: Duration = Duration::from_secs(5);

impl Session {
    /// Runs a statement, prepared or with its types.
    pub(super) async fn query(
        &self,
        statement: &Statement,
        params: Params<'_>,
        prepared: bool,
    ) -> Result<Vec<Row>, tokio_postgres::Error> {
        if prepared {
            let prepared = self.client.prepare_typed_cached(statement.sql, statement.params).await?;
            self.client.query(&prepared, params).await
        } else {
            let typed: Vec<(&(dyn ToSql + Sync), Type)> =
                params.iter().copied().zip(statement.params.iter().cloned()).collect();
            self.client.query_typed(statement.sql, &typed).await
        }
    }

    /// Asks the server to stop what it does for this session, encrypted as the session is. Bounded, and not waited for.
    pub(super) fn cancel(self) {
        let (token, tls) = (self.client.cancel_token(), self.tls);
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(tokio::time::timeout(CANCEL_WITHIN, async move {
                match tls {
                    Some(tls) => token.cancel_query(tls).await,
                    None => token.cancel_query(NoTls).await,
                }
            }));
        }
    }
}

/// What the pool makes connections with.
#[derive(Debug)]
pub(super) struct Manager {
    pub(super) server: Server,
    pub(super) witness: Option<Witness>,
}

impl managed::Manager for Manager {
    type Type = Session;
    type Error = Error;

    async fn create(&self) -> Result<Session> {
        let (Made { client, task, tls, .. }, timeline) = self.server.make(self.witness.as_ref()).await?;
        Ok(Session { client: ClientWrapper::new(client, task), tls, timeline })
    }

    async fn recycle(&self, session: &mut Session, _: &Metrics) -> RecycleResult<Error> {
        let is_left_behind = |witness: &Witness| witness.has_seen_later_than(session.timeline);
        if session.client.is_closed() {
            Err(RecycleError::message("it was closed"))
        } else if self.witness.as_ref().is_some_and(is_left_behind) {
            Err(RecycleError::message("its server was left behind by a failover"))
        } else {
            Ok(())
        }
    }
}
