//! The integration tests: one binary against a real Postgres. `support` says which server that is.
#![allow(clippy::unwrap_used, reason = "a test says no by panicking")]

mod adoption;
mod cli_doctor;
mod cli_doctor_runs;
mod cli_input;
mod cli_jobs;
mod cli_logs;
mod cli_replicas;
mod cli_run;
mod cli_up;
mod cli_wait;
mod config;
mod docs;
mod embedded;
mod footprint;
mod functions;
mod guards;
mod house;
mod http;
mod http_load;
mod identity;
mod late;
mod played;
mod prune;
mod reaper;
mod replica;
mod replica_settle;
mod replica_trouble;
mod runs;
mod schema;
mod settle_rule;
mod shim;
mod ship;
mod statements;
mod support;
mod takeover;
