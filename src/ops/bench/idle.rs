//! `idle`: what a replica without a job asks of the database.

use std::time::Duration;

use tokio::time::sleep;

use super::{
    Options,
    figure::{Figure, Unit, per_second},
    scratch::Scratch,
    through::{Replica, Work},
};
use crate::config::Settings;

/// How long a round is: several turns of every loop.
const LASTS: Duration = Duration::from_secs(15);
/// By then the start is over, and each session of the pool has prepared every statement that it will send.
const WARM_AFTER: Duration = Duration::from_mins(1);
/// What the plan for a hundred machines goes by.
const TARGET: f64 = 2.0;

/// Statements a second: every one is a transaction of its own.
pub(super) async fn measure(settings: &Settings, scratch: &Scratch, options: &Options) -> anyhow::Result<Vec<Figure>> {
    let replica = Replica::start(settings.clone(), scratch, 8, Work::Nothing).await?;
    sleep(WARM_AFTER).await;
    let mut rounds = Vec::new();
    for _ in 0..options.rounds {
        let before = scratch.transactions().await?;
        sleep(LASTS).await;
        rounds.push((per_second((scratch.transactions().await? - before) as usize, LASTS), TARGET));
    }
    replica.stop().await?;
    Ok(vec![Figure::new("statements of an idle replica", Unit::PerSecond, "the bound that was set", rounds)])
}
