//! The rows, a file each; `table` says which are run and what they need.

pub(crate) mod judges;
pub(crate) mod r01_incident;
pub(crate) mod r02_dead_owner;
pub(crate) mod r06_random_kills;
pub(crate) mod r07_every_step;
pub(crate) mod r08_frozen_replica;
pub(crate) mod r10_shim_killed;
pub(crate) mod r22_all_dead;
pub(crate) mod r23_daemons;
pub(crate) mod r26_no_resources;
pub(crate) mod r27_cannot_start;
pub(crate) mod r28_zombies;
pub(crate) mod r30_log_flood;
pub(crate) mod r31_open_stdout;
pub(crate) mod r32_disk_full;
pub(crate) mod r41_poison;
pub(crate) mod r42_deploy;
pub(crate) mod r44_guards_bypassed;
pub(crate) mod r46_bad_input;
pub(crate) mod r47_injection;
pub(crate) mod r51_bad_row;
pub(crate) mod r52_late_start;
pub(crate) mod r53_successors;
pub(crate) mod r56_plain_update;
pub(crate) mod r57_lost_reply;
