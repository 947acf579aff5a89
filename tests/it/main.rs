//! The integration tests: one binary against a real Postgres. `support` says which server that is.
#![allow(clippy::unwrap_used, reason = "a test says no by panicking")]

mod house;
mod http;
mod played;
mod schema;
mod support;
