//! Spawner and shim, through the calls that a replica makes and the real binary.

mod begin;
mod contain;
mod stand;
