//! The loop that looks for cancel requests among the live runs, once a poll. None is sent while nothing runs.

use std::{sync::Arc, time::Duration};

use tokio::time::sleep;

use super::{
    Boot,
    local::Order,
    outage::{Outage, jittered},
};
use crate::db::Result;

/// Looks until the boot ends it.
pub(super) async fn run(boot: Arc<Boot>) -> &'static str {
    let mut outage = Outage::new("look for cancel requests", Duration::from_secs(5));
    loop {
        let pause = match tick(&boot).await {
            Ok(()) => {
                outage.worked();
                jittered(boot.settings().poll_interval)
            }
            Err(error) => outage.failed(&error),
        };
        sleep(pause).await;
    }
}

/// One look.
pub(super) async fn tick(boot: &Boot) -> Result<()> {
    if boot.local().len() > 0 {
        for run_id in boot.db().list_cancelled(boot.replica_id()).await? {
            boot.local().order(run_id, Order::Cancel);
        }
    }
    Ok(())
}
