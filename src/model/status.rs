//! The statuses of a job.

super::words! {
    /// Where a job stands. `scheduled` and `retrying` are no statuses: they are `queued` with a later `run_at`.
    JobStatus as "status" {
        /// Waits to be claimed, now or from `run_at` on.
        Queued = "queued",
        /// Waits for an operator.
        Held = "held",
        /// Owned by a replica, with one open run.
        Running = "running",
        /// Finished well.
        Succeeded = "succeeded",
        /// Finished badly: no attempt is left, or none would help.
        Failed = "failed",
        /// Finished by an operator's wish.
        Cancelled = "cancelled",
    }
}

impl JobStatus {
    /// Whether the job has ended; only an operator's retry takes it back.
    #[must_use]
    pub const fn is_finished(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }
}
