//! `enqueue`: one by one from 16 clients, with and without wake-ups, while a replica takes what comes; and in bulk, beside
//! COPY of the same rows.

use std::{
    io::Cursor,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use futures_util::{SinkExt as _, future::try_join_all};

use super::{
    Options,
    figure::{Figure, Unit, per_second},
    scratch::Scratch,
    through::{AGENT, Replica, Work},
};
use crate::{
    config::Settings,
    db::{Db, jobs::NewJob},
};

const CLIENTS: usize = 16;
/// How long a round of one by one lasts.
const LASTS: Duration = Duration::from_secs(4);
/// Slots of the replica that takes what comes.
const SLOTS: usize = 256;
/// Wishes of one piece of a bulk.
const PIECE: usize = 1000;

/// Jobs a second.
pub(super) async fn measure(settings: &Settings, scratch: &Scratch, options: &Options) -> anyhow::Result<Vec<Figure>> {
    let db = Db::new(scratch.server.clone(), CLIENTS, settings.prepared_statements)?;
    let mut one_by_one = Vec::new();
    let mut bulk = Vec::new();
    for round in 0..=options.rounds {
        let mut rates = [0.0; 2];
        for (rate, notify) in rates.iter_mut().zip([true, false]) {
            let settings = Settings { notify, ..settings.clone() };
            let replica = Replica::start(settings, scratch, SLOTS, Work::Nothing).await?;
            *rate = from_many(&db).await?;
            replica.idle().await?;
            replica.stop().await?;
            scratch.tidy().await?;
        }
        let in_bulk = in_bulk(&db, options.jobs).await?;
        scratch.tidy().await?;
        let copied = copied(scratch, options.jobs).await?;
        scratch.tidy().await?;
        // The first round warms up.
        if round > 0 {
            one_by_one.push((rates[0], rates[1]));
            bulk.push((in_bulk, copied));
        }
    }
    Ok(vec![
        Figure::new(
            format!("enqueued one by one, {CLIENTS} clients, wake-ups on"),
            Unit::PerSecond,
            "the same with notify = false",
            one_by_one,
        ),
        Figure::new(
            format!("enqueued in bulk, {} jobs in pieces of {PIECE}", options.jobs),
            Unit::PerSecond,
            "COPY of the same rows into orch.jobs",
            bulk,
        ),
    ])
}

async fn from_many(db: &Db) -> anyhow::Result<f64> {
    let job = NewJob { agent: AGENT.to_owned(), project: "bench".to_owned(), ..NewJob::default() };
    let begun = Instant::now();
    let counts = try_join_all((0..CLIENTS).map(|_| async {
        let mut count = 0;
        while begun.elapsed() < LASTS {
            db.enqueue_job(&job).await?;
            count += 1;
        }
        anyhow::Ok(count)
    }))
    .await?;
    Ok(per_second(counts.iter().sum(), begun.elapsed()))
}

async fn in_bulk(db: &Db, jobs: usize) -> anyhow::Result<f64> {
    let wish = format!(r#"{{"agent": "{AGENT}", "project": "bench"}}"#);
    let piece = format!("[{}]", vec![wish; PIECE].join(","));
    let begun = Instant::now();
    let bulk = db.begin_bulk().await?;
    let pieces = jobs.div_ceil(PIECE);
    for _ in 0..pieces {
        if let Err(refusal) = bulk.enqueue(&piece).await? {
            anyhow::bail!("a wish of the bench was refused: {refusal:?}");
        }
    }
    bulk.commit().await?;
    Ok(per_second(pieces * PIECE, begun.elapsed()))
}

async fn copied(scratch: &Scratch, jobs: usize) -> anyhow::Result<f64> {
    let (client, _) = scratch.server.connect().await?;
    let piece = Cursor::new(format!("{AGENT}\tbench\t{{}}\n").repeat(PIECE));
    let begun = Instant::now();
    let sink = client.copy_in("copy orch.jobs (agent, project, payload) from stdin").await?;
    let mut sink = std::pin::pin!(sink);
    let pieces = jobs.div_ceil(PIECE);
    for _ in 0..pieces {
        sink.send(piece.clone()).await.context("failed to copy")?;
    }
    sink.as_mut().finish().await?;
    Ok(per_second(pieces * PIECE, begun.elapsed()))
}
