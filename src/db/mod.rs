//! The only room with SQL. One file a noun, each with its folder below `sql/`.
//!
//! Every statement goes through [`Db`], which knows each file's parameter types and prepares it once a connection,
//! or sends types and text together where prepared statements are off. Nothing here keeps session state on a pooled
//! connection: no SET, no LISTEN, no session lock, no transaction that outlives a call. A bulk ([`bulk`]) is one
//! transaction of many calls, on a connection that never comes back to the pool. What a
//! replica hears wake-ups on is no pooled one.

pub mod agents;
pub mod bench;
pub mod bulk;
mod connect;
pub mod dependencies;
pub mod doctor;
mod error;
pub mod horizon;
pub mod identity;
pub mod jobs;
pub mod limits;
mod lineage;
pub mod logs;
pub mod projects;
pub mod prune;
pub mod queue;
pub mod reaper;
pub mod replicas;
pub mod runs;
pub mod schedules;
pub mod schema;
mod session;
mod statement;
pub mod tls;
pub mod upkeep;
mod verify;
pub mod wake;
pub mod why;

use std::time::Duration;

pub use connect::{Server, place};
use deadpool::{
    Runtime,
    managed::{Object, Pool, QueueMode},
};
pub use error::{Error, REFUSAL_CLASS};
pub use lineage::Witness;
use session::{Manager, Session};
pub use statement::Statement;
pub(crate) use statement::statement;
use tokio_postgres::{Row, types::ToSql};

use crate::model::Lineage;

/// The result of a statement.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The parameters of a statement, in order.
pub type Params<'a> = &'a [&'a (dyn ToSql + Sync)];

/// How long a statement may take before its connection is given up: far longer than any takes, short enough that a
/// network which swallows packets is noticed.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// How often a statement that had to give way in a deadlock is sent again before its caller hears of it.
const CONFLICTS: u32 = 5;

/// A pool of connections to one database.
#[derive(Debug, Clone)]
pub struct Db {
    pool: Pool<Manager>,
    prepared: bool,
    answer_within: Duration,
    witness: Option<Witness>,
}

impl Db {
    /// A pool of at most `size` connections; none is opened yet. `prepared` is the setting `prepared_statements`.
    pub fn new(server: impl Into<Server>, size: usize, prepared: bool) -> Result<Self> {
        Self::build(server.into(), size, prepared, None)
    }

    /// As [`Db::new`], for a replica: connects to no server of a lower timeline or another cluster than `witness` has seen,
    /// and believes no renewal of one.
    pub fn believing(server: impl Into<Server>, size: usize, prepared: bool, witness: &Witness) -> Result<Self> {
        Self::build(server.into(), size, prepared, Some(witness.clone()))
    }

    fn build(server: Server, size: usize, prepared: bool, witness: Option<Witness>) -> Result<Self> {
        let pool = Pool::builder(Manager { server, witness: witness.clone() })
            .max_size(size)
            // The one that was used last has what a statement needs at hand; a server process that slept has to find it again.
            .queue_mode(QueueMode::Lifo)
            .runtime(Runtime::Tokio1)
            .build()
            .map_err(|error| Error::Unavailable(error.to_string()))?;
        Ok(Self { pool, prepared, answer_within: ANSWER_WITHIN, witness })
    }

    /// As this one, with another bound on how long a statement may take.
    #[must_use]
    pub fn answering_within(mut self, bound: Duration) -> Self {
        self.answer_within = bound;
        self
    }

    /// Runs a statement and returns its rows. Any error but [`Error::Unavailable`] means that it had no effect. A
    /// deadlock is nobody's to hear of: whoever was chosen to give way says it again.
    pub async fn query(&self, statement: &Statement, params: Params<'_>) -> Result<Vec<Row>> {
        debug_assert_eq!(statement.params.len(), params.len(), "parameters of {}", statement.name);
        let answer = async {
            let mut tries = 0;
            loop {
                match self.query_unbounded(statement, params).await {
                    Err(Error::Conflict(_)) if tries < CONFLICTS => tries += 1,
                    answer => return answer,
                }
                tokio::time::sleep(Duration::from_millis(20).mul_f64(rand::random::<f64>() * f64::from(tries))).await;
            }
        };
        match tokio::time::timeout(self.answer_within, answer).await {
            Ok(answer) => answer,
            Err(_) => Err(Error::Unavailable(format!(
                "no answer to {} within {:.0} s",
                statement.name,
                self.answer_within.as_secs_f64()
            ))),
        }
    }

    async fn query_unbounded(&self, statement: &Statement, params: Params<'_>) -> Result<Vec<Row>> {
        let lent = Lent::new(self.pool.get().await?);
        let rows = lent.get().query(statement, params, self.prepared).await;
        match rows.map_err(Error::from) {
            // The server became a standby, or read-only by decree: the next connection is to a server that takes writes.
            Err(error @ Error::Unavailable(_)) => {
                lent.throw_away();
                Err(error)
            }
            answer => {
                lent.give_back();
                answer
            }
        }
    }

    /// Whether an answer of this timeline may be believed; any may, where nobody keeps watch.
    fn judge(&self, timeline: Option<u32>) -> Result<()> {
        let answer = Lineage { system_identifier: None, timeline };
        self.witness.as_ref().map_or(Ok(()), |witness| witness.judge(answer))
    }

    /// As [`Db::query`], for a statement that returns at most one row.
    pub async fn query_opt(&self, statement: &Statement, params: Params<'_>) -> Result<Option<Row>> {
        Ok(self.query(statement, params).await?.into_iter().next())
    }

    /// Opens no connection and closes those that are idle; what is lent is closed when it comes back.
    pub fn close(&self) {
        self.pool.close();
    }
}

/// A lent connection. One that is dropped before its answer came, because the caller was cancelled or ran out of
/// patience, never returns to the pool: the next borrower would wait behind the answer that nobody wants.
struct Lent(Option<Object<Manager>>);

impl Lent {
    fn new(object: Object<Manager>) -> Self {
        Self(Some(object))
    }

    fn get(&self) -> &Session {
        self.0.as_ref().expect("a lent connection is there until it is given back, which consumes it")
    }

    fn give_back(mut self) {
        drop(self.0.take());
    }

    /// Closes it; another takes its place in the pool.
    fn throw_away(mut self) {
        drop(self.0.take().map(Object::take));
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let Some(object) = self.0.take() else { return };
        let session = Object::take(object);
        // A server that waits for a lock does not look at its socket: unasked to stop, it would hold one of the few
        // connections until the lock is granted, and every further try one more.
        if !session.client.is_closed() {
            session.cancel();
        }
    }
}

/// Every statement, of every noun.
pub fn all_statements() -> impl Iterator<Item = &'static Statement> {
    [
        agents::STATEMENTS,
        bench::STATEMENTS,
        bulk::STATEMENTS,
        dependencies::STATEMENTS,
        doctor::STATEMENTS,
        horizon::STATEMENTS,
        identity::STATEMENTS,
        jobs::STATEMENTS,
        limits::STATEMENTS,
        lineage::STATEMENTS,
        logs::STATEMENTS,
        projects::STATEMENTS,
        prune::STATEMENTS,
        queue::STATEMENTS,
        reaper::STATEMENTS,
        replicas::STATEMENTS,
        runs::STATEMENTS,
        schedules::STATEMENTS,
        upkeep::STATEMENTS,
        wake::STATEMENTS,
        why::STATEMENTS,
    ]
    .into_iter()
    .flatten()
    .copied()
}
