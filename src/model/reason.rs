//! The reasons for which a job waits.

super::words! {
    /// What a waiting job waits for: the first of these that holds, in the order in which they stand.
    Reason as "reason" {
        /// An operator, or a rule, holds it.
        Held = "held",
        /// It was taken from its replica, which has not ended its old process yet.
        OldProcessEnding = "old_process_ending",
        /// Jobs that must have succeeded before.
        WaitsForJobs = "waits_for_jobs",
        /// Its time.
        NotDue = "not_due",
        /// Its project, its agent or everything is paused.
        Paused = "paused",
        /// No replica that claims serves its agent.
        NoReplicaServesAgent = "no_replica_serves_agent",
        /// None of those that do has the labels that it requires.
        NoReplicaMatchesLabels = "no_replica_matches_labels",
        /// Another job keeps its gate, or has it first.
        SerialGate = "serial_gate",
        /// A limit that it needs is closed.
        LimitClosed = "limit_closed",
        /// A limit that it needs has no room, or others have it first.
        LimitFull = "limit_full",
        /// Every replica that may take it is full.
        NoFreeSlot = "no_free_slot",
        /// There are slots, and other jobs have them first.
        FairShare = "fair_share",
        /// Nothing: the next claim takes it.
        Next = "next",
    }
}
