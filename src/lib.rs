//! Orch: a Postgres-native orchestrator. A job is a row; a run of it is a process that a replica supervises.
//!
//! The rooms and who may import whom are described in `docs/architecture/README.md`:
//! `cli → {ops, replica, http} → db → model` and `replica → agents, shim::protocol`.
//! `http` and `replica` never import each other; they meet in Postgres.

pub mod agents;
pub mod cli;
pub mod config;
pub mod db;
pub mod embedded;
pub mod failpoint;
pub mod http;
pub mod model;
pub mod ops;
pub mod replica;
pub mod shim;
pub mod telemetry;
