//! What every test stands on: a database of its own, the real binary, one way to wait and one way to say "cannot".
//!
//! Owns the test server, its databases, and the processes that a test starts; all of them end with the test process,
//! and what a killed one left behind is removed by the next. Must never sleep for correctness, and never share a
//! database between tests.
#![allow(dead_code, unused_imports, reason = "two test binaries share these helpers, and neither needs all of them")]

mod capability;
mod cluster;
mod container;
mod database;
mod embedded;
mod eventually;
mod http;
mod leftover;
mod orch;
mod port;
mod server;
mod sweep;

pub(crate) use capability::{
    Capability, fake_time_library, installed_postgres, lacking, not_run, requires, v1_hierarchy,
};
pub(crate) use cluster::{Cluster, Elsewhere};
pub(crate) use database::TestDb;
pub(crate) use eventually::{PATIENCE, eventually, eventually_within};
pub(crate) use http::{Answer, http_get, http_get_over, http_request};
pub(crate) use leftover::say;
pub(crate) use orch::{Orch, Output, Replica};
pub(crate) use port::free_port;
pub(crate) use sweep::{kill_beneath, processes_beneath};
