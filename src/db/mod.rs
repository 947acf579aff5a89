//! The only room with SQL. One file a noun, each with its folder below `sql/`.
//!
//! Every statement goes through [`Db`], which knows each file's parameter types and prepares it once a connection,
//! or sends types and text together where prepared statements are off. Nothing here keeps session state on a pooled
//! connection: no SET, no LISTEN, no session lock, no transaction that outlives a call.

pub mod agents;
mod error;
pub mod reaper;
pub mod replicas;
pub mod runs;
mod statement;

use deadpool_postgres::{Manager, ManagerConfig, Pool, RecyclingMethod};
pub use error::{Error, REFUSAL_CLASS};
pub use statement::Statement;
pub(crate) use statement::statement;
use tokio_postgres::{
    NoTls, Row,
    types::{ToSql, Type},
};

/// The result of a statement.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The parameters of a statement, in order.
pub type Params<'a> = &'a [&'a (dyn ToSql + Sync)];

/// A pool of connections to one database.
#[derive(Debug, Clone)]
pub struct Db {
    pool: Pool,
    prepared: bool,
}

impl Db {
    /// A pool of at most `size` connections; none is opened yet. `prepared` is the setting `prepared_statements`.
    pub fn new(config: tokio_postgres::Config, size: usize, prepared: bool) -> Result<Self> {
        let manager = Manager::from_config(config, NoTls, ManagerConfig { recycling_method: RecyclingMethod::Fast });
        let pool = Pool::builder(manager)
            .max_size(size)
            .runtime(deadpool_postgres::Runtime::Tokio1)
            .build()
            .map_err(|error| Error::Unavailable(error.to_string()))?;
        Ok(Self { pool, prepared })
    }

    /// Runs a statement and returns its rows. Any error but [`Error::Unavailable`] means that it had no effect.
    pub async fn query(&self, statement: &Statement, params: Params<'_>) -> Result<Vec<Row>> {
        debug_assert_eq!(statement.params.len(), params.len(), "parameters of {}", statement.name);
        let client = self.pool.get().await?;
        let rows = if self.prepared {
            let prepared = client.prepare_typed_cached(statement.sql, statement.params).await?;
            client.query(&prepared, params).await?
        } else {
            let typed: Vec<(&(dyn ToSql + Sync), Type)> =
                params.iter().copied().zip(statement.params.iter().cloned()).collect();
            client.query_typed(statement.sql, &typed).await?
        };
        Ok(rows)
    }

    /// As [`Db::query`], for a statement that returns at most one row.
    pub async fn query_opt(&self, statement: &Statement, params: Params<'_>) -> Result<Option<Row>> {
        Ok(self.query(statement, params).await?.into_iter().next())
    }
}

/// Every statement, of every noun.
pub fn all_statements() -> impl Iterator<Item = &'static Statement> {
    [agents::STATEMENTS, reaper::STATEMENTS, replicas::STATEMENTS, runs::STATEMENTS].into_iter().flatten().copied()
}
