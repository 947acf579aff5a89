//! `logs`: how fast a run may write, beside the same program into a pipe that somebody reads; and how fast its output gets
//! into the database, where followers read it, beside plain INSERTs.

use std::{
    io::Read as _,
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context as _, ensure};

use super::{
    Options,
    figure::{Figure, Unit},
    scratch::Scratch,
    through::{AGENT, Replica, Work},
};
use crate::config::Settings;

/// What a run writes where writing is measured: far more than is kept.
const MUCH: usize = 512 * MIB;
/// And where its way into the database is: all of it is kept.
const KEPT: usize = 8 * MIB;
const MIB: usize = 1024 * 1024;
/// Of a plain INSERT.
const CHUNK: usize = 64 * 1024;

/// Megabytes a second.
pub(super) async fn measure(settings: &Settings, scratch: &Scratch, options: &Options) -> anyhow::Result<Vec<Figure>> {
    let (mut written, mut stored) = (Vec::new(), Vec::new());
    let much = ["head", "-c", &MUCH.to_string(), "/dev/zero"].map(str::to_owned);
    let kept = ["head", "-c", &KEPT.to_string(), "/dev/zero"].map(str::to_owned);
    // The first round warms up.
    for round in 0..=options.rounds {
        let bare = tokio::task::spawn_blocking({
            let words = much.clone();
            move || into_a_pipe(&words)
        });
        let bare = bare.await??;
        let replica =
            Replica::start(settings.clone(), scratch, 1, Work::Command(&much.each_ref().map(String::as_str))).await?;
        let through = MUCH as f64 / MIB as f64 * replica.pass(AGENT, 1).await?;
        replica.stop().await?;

        let inserted = insert(scratch).await?;
        let replica =
            Replica::start(settings.clone(), scratch, 1, Work::Command(&kept.each_ref().map(String::as_str))).await?;
        let took = replica.arrival(AGENT, KEPT as i64).await?;
        let arrived = KEPT as f64 / MIB as f64 / took.as_secs_f64();
        replica.idle().await?;
        replica.stop().await?;
        if round > 0 {
            written.push((through, bare));
            stored.push((arrived, inserted));
        }
    }
    let pipe = "the same into a pipe that is read";
    let insert = format!("the same by INSERTs of {} KiB, one after the other", CHUNK / 1024);
    Ok(vec![
        Figure::new(format!("a run that writes {} MiB", MUCH / MIB), Unit::MegabytesPerSecond, pipe, written),
        Figure::new(format!("{} MiB from a run to the database", KEPT / MIB), Unit::MegabytesPerSecond, insert, stored),
    ])
}

fn into_a_pipe(words: &[String]) -> anyhow::Result<f64> {
    let [program, args @ ..] = words else { anyhow::bail!("a command has a program") };
    let begun = Instant::now();
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("failed to start {program}"))?;
    let mut output = child.stdout.take().context("a piped output is there")?;
    let mut buffer = vec![0; CHUNK];
    let mut bytes = 0;
    loop {
        match output.read(&mut buffer)? {
            0 => break,
            read => bytes += read,
        }
    }
    ensure!(child.wait()?.success() && bytes == MUCH, "{program} wrote {bytes} bytes");
    Ok(MUCH as f64 / MIB as f64 / begun.elapsed().as_secs_f64())
}

async fn insert(scratch: &Scratch) -> anyhow::Result<f64> {
    let (client, _) = scratch.server.connect().await?;
    client.batch_execute("create table if not exists public.bare_logs (position bigint, bytes bytea)").await?;
    let insert = client.prepare("insert into public.bare_logs values ($1, $2)").await?;
    let chunk = vec![0_u8; CHUNK];
    let begun = Instant::now();
    for position in (0..KEPT).step_by(CHUNK) {
        client.execute(&insert, &[&(position as i64), &chunk]).await?;
    }
    Ok(KEPT as f64 / MIB as f64 / begun.elapsed().as_secs_f64())
}
