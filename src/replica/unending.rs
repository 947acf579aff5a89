//! The runs of which processes live on although they were killed: stuck in the kernel, or frozen. Each keeps its slot and is
//! not settled; this process counts them for `/metrics`.

use std::collections::BTreeSet;

use tokio::sync::watch;
use tracing::{info, warn};

use crate::model::RunId;

/// As long as it lives, its run is one of them.
#[derive(Debug)]
pub(super) struct Unending {
    runs: watch::Sender<BTreeSet<RunId>>,
    run_id: RunId,
}

impl Unending {
    /// Counts a run, and says so. `None`: it is counted already.
    pub(super) fn new(runs: &watch::Sender<BTreeSet<RunId>>, run_id: RunId) -> Option<Self> {
        runs.send_if_modified(|runs| runs.insert(run_id)).then(|| {
            warn!(%run_id, "processes of a run live on after KILL; it is not settled while they live");
            Self { runs: runs.clone(), run_id }
        })
    }
}

impl Drop for Unending {
    fn drop(&mut self) {
        info!(run_id = %self.run_id, "a run's last processes have ended after all");
        self.runs.send_modify(|runs| {
            runs.remove(&self.run_id);
        });
    }
}
