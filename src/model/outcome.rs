//! How a run ended, who closed it, and what held its process tree.

super::words! {
    /// How a run ended. What follows for its job is the table of settling (`sql/schema/functions/settle_rule.sql`).
    Outcome as "outcome" {
        /// The command exited with a success code and its result, if any, could be read.
        Succeeded = "succeeded",
        /// The command exited otherwise, was ended by a signal not of ours, or left a malformed result.
        Failed = "failed",
        /// The command asked to be run again later: exit status 75, or `retry_after` in its result.
        Transient = "transient",
        /// The command outlived its timeout and was ended.
        TimedOut = "timed_out",
        /// The run was ended because its job was cancelled.
        Cancelled = "cancelled",
        /// Orch ended the run, or gave it up before it began; the command is not to blame.
        Interrupted = "interrupted",
        /// The owner died, or the shim did; nobody knows how the command ended.
        Lost = "lost",
        /// The command could not be started and would fail again: missing, forbidden, arguments too long.
        SpawnFailed = "spawn_failed",
    }
}

super::words! {
    /// Who wrote a run's end.
    ClosedBy as "closed_by" {
        /// The replica that started or adopted it.
        Owner = "owner",
        /// A later boot on the same state directory, by the former `replica_id`.
        Successor = "successor",
        /// The reaper, after the owner was declared dead.
        Reap = "reap",
        /// An operator's plain UPDATE.
        Operator = "operator",
        /// The sanitizer, for a run that no job runs.
        Sanitize = "sanitize",
    }
}

super::words! {
    /// What holds a run's process tree together, so that it can be ended whole. Best first.
    Containment as "containment" {
        /// A cgroup v2 of its own, ended by `cgroup.kill`.
        Cgroup = "cgroup",
        /// A pid namespace of its own, ended with its first process.
        Pidns = "pidns",
        /// Process group, subreaper and a sweep of `/proc`.
        Sweep = "sweep",
    }
}
