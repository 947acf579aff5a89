//! `engine`: claim and settle by whole replicas whose runs do nothing, beside the same statements without the loops, and
//! beside the least that any queue must do, with a history and without.

use anyhow::Context as _;

use super::{
    Options,
    figure::{Figure, Unit},
    hand::Hand,
    raw::{Bare, History},
    scratch::Scratch,
    through::{AGENT, Replica, Work},
};
use crate::{config::Settings, db::Db};

/// Connections that a ceiling uses, and the size of its batches: what was fastest of 1, 4, 8, 16 and 8, 50.
const CLIENTS: usize = 4;
const BATCH: usize = 50;
/// Slots of each replica, all else by default.
const SLOTS: usize = 256;
/// How many replicas.
const REPLICAS: [usize; 2] = [1, 4];

/// Jobs a second.
pub(super) async fn measure(settings: &Settings, scratch: &Scratch, options: &Options) -> anyhow::Result<Vec<Figure>> {
    let db = Db::new(scratch.server.clone(), CLIENTS, settings.prepared_statements)?;
    let bare = Bare::connect(&scratch.server, CLIENTS).await?;
    let mut by_hand: Vec<f64> = Vec::new();
    let (mut without_history, mut with_history): (Vec<f64>, Vec<f64>) = Default::default();
    let mut through: [Vec<f64>; REPLICAS.len()] = Default::default();
    // The first round warms caches, connections and prepared statements, and is thrown away.
    for round in 0..=options.rounds {
        let jobs = if round == 0 { options.jobs / 10 + SLOTS } else { options.jobs };
        without_history.push(bare.drain(jobs, BATCH as i64, History::None).await?);
        scratch.tidy().await?;
        with_history.push(bare.drain(jobs, BATCH as i64, History::Runs).await?);
        scratch.tidy().await?;

        let hand = Hand::register(settings, db.clone()).await?;
        db.enqueue_for_bench(AGENT, jobs as i64).await.context("failed to enqueue")?;
        by_hand.push(hand.drain(jobs, CLIENTS, BATCH).await?);
        hand.leave().await?;
        scratch.tidy().await?;

        for (replicas, figures) in REPLICAS.into_iter().zip(&mut through) {
            let mut started = Vec::new();
            for _ in 0..replicas {
                started.push(Replica::start(settings.clone(), scratch, SLOTS, Work::Nothing).await?);
            }
            if let Some(first) = started.first() {
                figures.push(first.pass(AGENT, jobs).await?);
            }
            for replica in started {
                replica.stop().await?;
            }
            scratch.tidy().await?;
        }
    }
    let pairs = |values: &[f64], ceilings: &[f64]| -> Vec<(f64, f64)> {
        values.iter().copied().zip(ceilings.iter().copied()).skip(1).collect()
    };
    let mut figures = Vec::new();
    for (replicas, values) in REPLICAS.into_iter().zip(&through) {
        let name = match replicas {
            1 => "jobs that do nothing, one replica".to_owned(),
            several => format!("jobs that do nothing, {several} replicas"),
        };
        let same = format!("the same statements on {CLIENTS} connections, {BATCH} at a time, without the loops");
        figures.push(Figure::new(name.clone(), Unit::PerSecond, same, pairs(values, &by_hand)));
        let least = format!("one UPDATE to claim, one to complete, no history, likewise {CLIENTS} and {BATCH}");
        figures.push(Figure::new(name.clone(), Unit::PerSecond, least, pairs(values, &without_history)));
        let kept = format!("the same and a row a run, opened and closed with them, likewise {CLIENTS} and {BATCH}");
        figures.push(Figure::new(name, Unit::PerSecond, kept, pairs(values, &with_history)));
    }
    Ok(figures)
}
