//! The loop that stamps pids, in batches, once the processes exist. For people: nothing waits for a stamp, and a run
//! that ends before its stamp is written carries it into the settle.

use std::{sync::Arc, time::Duration};

use tokio::sync::mpsc;

use super::{Boot, outage::Outage};
use crate::{
    db::runs::Process,
    model::{JobId, RunId},
};

/// A run and its process.
pub(super) type Stamp = (JobId, RunId, Process);

/// The most runs of one statement.
const BATCH: usize = 200;

/// Stamps until nobody sends any more.
pub(super) async fn run(boot: Arc<Boot>, mut stamps: mpsc::UnboundedReceiver<Stamp>) -> &'static str {
    let mut outage = Outage::new("stamp pids", Duration::from_secs(5));
    let mut batch = Vec::new();
    loop {
        if stamps.recv_many(&mut batch, BATCH).await == 0 {
            return "stamp";
        }
        while !batch.is_empty() {
            batch.retain(|(_, run_id, _)| boot.local().is_live(*run_id));
            if batch.is_empty() {
                break;
            }
            batch.sort_by_key(|(job_id, ..)| *job_id);
            match boot.db().stamp_runs(boot.replica_id(), &batch).await {
                Ok(_) => {
                    outage.worked();
                    batch.clear();
                }
                Err(error) => tokio::time::sleep(outage.failed(&error)).await,
            }
        }
    }
}
