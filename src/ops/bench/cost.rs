//! `depth`, `rot` and `projects`: what a claim costs as the queue grows, as dead rows gather, and as tenants come. Each
//! state has a database of its own, and the rounds go from one to the next.

use std::time::Instant;

use tokio_postgres::Client;

use super::{
    Options,
    figure::{Figure, Unit},
    hand::{Hand, Remembered},
    scratch::Scratch,
};
use crate::{
    config::Settings,
    db::{Db, Server},
};

/// Claims of a round, so many that the one which looks at everything is no more of it than of a replica's time; and the jobs
/// of each: as many as a busy replica's free slots.
const CLAIMS: usize = 150;
const BATCH: usize = 8;
/// The queue beside which others are measured.
const SHALLOW: usize = 10_000;
/// Jobs that are shared among the projects.
const SHARED: usize = 100_000;
/// How a churn is done: the way in which the engine does it.
const SIDE_BY_SIDE: usize = 4;
const CHURN_BATCH: usize = 100;

/// A database in the state that is measured.
struct State {
    scratch: Scratch,
    hand: Hand,
    /// An open transaction with a snapshot, where there is one. It is open as long as this is there.
    snapshot: Option<Client>,
    /// Claims by the statement for any queue alone.
    general: bool,
}

impl State {
    async fn new(settings: &Settings, database: &Server) -> anyhow::Result<Self> {
        let scratch = Scratch::create(database).await?;
        let db = Db::new(scratch.server.clone(), SIDE_BY_SIDE, settings.prepared_statements)?;
        let hand = Hand::register(settings, db).await?;
        Ok(Self { scratch, hand, snapshot: None, general: false })
    }

    async fn filled(settings: &Settings, database: &Server, jobs: usize, projects: usize) -> anyhow::Result<Self> {
        let state = Self::new(settings, database).await?;
        state.scratch.fill(jobs, projects).await?;
        Ok(state)
    }

    /// So many jobs have come and gone before those that are queued now, under a snapshot that sees them all or without.
    async fn churned(settings: &Settings, database: &Server, jobs: usize, held: bool) -> anyhow::Result<Self> {
        let mut state = Self::new(settings, database).await?;
        if held {
            let (client, _) = state.scratch.server.connect().await?;
            client.batch_execute("begin isolation level repeatable read; select from orch.jobs limit 1").await?;
            state.snapshot = Some(client);
        }
        // In pieces: a queue that is worked off, not one that was never met.
        let mut left = jobs;
        while left > 0 {
            let piece = left.min(SHALLOW);
            state.scratch.fill(piece, 1).await?;
            state.hand.drain(piece, SIDE_BY_SIDE, CHURN_BATCH).await?;
            left -= piece;
        }
        state.scratch.fill(SHALLOW, 1).await?;
        Ok(state)
    }

    /// Milliseconds of a claim, the mean of a round: of many claims some look at everything, and those count. What is
    /// claimed is settled, and not measured.
    async fn cost(&self) -> anyhow::Result<f64> {
        let mut took = 0.0;
        let mut remembered = if self.general { Remembered::general() } else { Remembered::default() };
        for _ in 0..CLAIMS {
            let begun = Instant::now();
            let claimed = self.hand.claim_again(BATCH, &mut remembered).await?;
            took += begun.elapsed().as_secs_f64() * 1000.0;
            anyhow::ensure!(claimed.len() == BATCH, "a claim found {} of {BATCH} jobs", claimed.len());
            self.hand.settle(claimed).await?;
        }
        Ok(took / CLAIMS as f64)
    }
}

/// Milliseconds of a claim from the deeper queues, beside the shallow one.
pub(super) async fn depth(settings: &Settings, database: &Server, options: &Options) -> anyhow::Result<Vec<Figure>> {
    let mut states = vec![(String::new(), State::filled(settings, database, SHALLOW, 1).await)];
    for jobs in &options.depths {
        let name = format!("a claim of {BATCH}, {jobs} queued");
        states.push((name, State::filled(settings, database, *jobs, 1).await));
    }
    beside_the_first(states, format!("the same, {SHALLOW} queued"), options.rounds).await
}

/// Milliseconds of a claim after a churn, beside a queue that had none.
pub(super) async fn rot(settings: &Settings, database: &Server, options: &Options) -> anyhow::Result<Vec<Figure>> {
    let churn = options.churn;
    let states = vec![
        (String::new(), State::filled(settings, database, SHALLOW, 1).await),
        (format!("a claim of {BATCH} after {churn} jobs"), State::churned(settings, database, churn, false).await),
        (
            format!("a claim of {BATCH} after {churn} jobs, an old snapshot held"),
            State::churned(settings, database, churn, true).await,
        ),
    ];
    beside_the_first(states, "the same on a fresh queue".to_owned(), options.rounds).await
}

/// Milliseconds of a claim with the jobs of many projects, beside as many jobs of one; and what the statement takes that is for
/// one project's jobs where they are all alike. It is not what many projects are measured by: that would tell how much the
/// smaller statement is faster, and not what projects cost.
pub(super) async fn projects(settings: &Settings, database: &Server, options: &Options) -> anyhow::Result<Vec<Figure>> {
    let one = State::filled(settings, database, SHARED, 1).await;
    let mut states = vec![
        (String::new(), one.map(|state| State { general: true, ..state })),
        (
            format!("a claim of {BATCH}, {SHARED} jobs of one project, by claim_lone"),
            State::filled(settings, database, SHARED, 1).await,
        ),
    ];
    for projects in [100, 10_000] {
        let name = format!("a claim of {BATCH}, {SHARED} jobs of {projects} projects");
        states.push((name, State::filled(settings, database, SHARED, projects).await));
    }
    beside_the_first(states, "the same statement, all of one project".to_owned(), options.rounds).await
}

async fn beside_the_first(
    states: Vec<(String, anyhow::Result<State>)>,
    ceiling: String,
    rounds: usize,
) -> anyhow::Result<Vec<Figure>> {
    let measured = measured(&states, rounds).await;
    let names: Vec<String> = states.iter().map(|(name, _)| name.clone()).collect();
    for (_, state) in states {
        if let Ok(state) = state {
            drop(state.hand);
            state.scratch.drop().await;
        }
    }
    let measured = measured?;
    let figure = |place: usize, name: &String| {
        let rounds = measured.iter().map(|round| (round[place], round[0])).collect();
        Figure::new(name.clone(), Unit::Milliseconds, ceiling.clone(), rounds)
    };
    Ok(names.iter().enumerate().skip(1).map(|(place, name)| figure(place, name)).collect())
}

/// A row a round, a column a state.
async fn measured(states: &[(String, anyhow::Result<State>)], rounds: usize) -> anyhow::Result<Vec<Vec<f64>>> {
    let mut measured = Vec::new();
    for round in 0..=rounds {
        let mut costs = Vec::new();
        for (_, state) in states {
            match state {
                Ok(state) => costs.push(state.cost().await?),
                Err(error) => anyhow::bail!("{error:#}"),
            }
        }
        // The first one warms up.
        if round > 0 {
            measured.push(costs);
        }
    }
    Ok(measured)
}
