//! Spawner and shim, through the calls that a replica makes and the real binary.

mod begin;
mod contain;
mod crash;
mod lease;
mod output;
mod reports;
mod result;
mod scarce;
mod spare;
mod stand;
