//! A statement: one file below `sql/`, with the types of its parameters.

use tokio_postgres::types::Type;

/// One file `sql/<noun>/<verb>.sql`, compiled in.
#[derive(Debug)]
pub struct Statement {
    /// `<noun>/<verb>`, as the file is called.
    pub name: &'static str,
    /// The text of the file.
    pub sql: &'static str,
    /// The types of `$1`, `$2`, …, as the file's header says them.
    pub params: &'static [Type],
}

/// Declares a [`Statement`] from its file and parameter types: `statement!("jobs/list", [INT8, TEXT_ARRAY])`.
macro_rules! statement {
    ($name:literal, [$($ty:ident),* $(,)?]) => {
        $crate::db::Statement {
            name: $name,
            sql: include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/sql/", $name, ".sql")),
            params: &[$(tokio_postgres::types::Type::$ty),*],
        }
    };
}
pub(crate) use statement;
