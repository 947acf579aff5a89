//! What a shim says of a run's output while it lives, and what it does when there is none.

use std::{
    io::Read,
    os::unix::net::UnixStream,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use orch::shim::{
    client::boottime,
    protocol::{Cause, Reason, RunDir, Spec},
};
use serde_json::Value;

use super::stand::{Stand, contained, containments, kill, sh, spec, stop};
use crate::support::eventually;

/// Hears all that a shim says, frame by frame, from the socket in the run's directory, which is made after a moment.
async fn reports(dir: &RunDir) -> impl Iterator<Item = Value> + use<> {
    let mut stream = eventually("the socket", async || UnixStream::connect(dir.socket_path()).ok()).await;
    std::iter::from_fn(move || {
        let mut length = [0; 4];
        stream.read_exact(&mut length).ok()?;
        let mut text = vec![0; u32::from_le_bytes(length) as usize];
        stream.read_exact(&mut text).ok()?;
        Some(serde_json::from_slice(&text).unwrap())
    })
}

fn output(report: &Value) -> Option<u64> {
    report.get("output")?["bytes"].as_u64()
}

#[tokio::test]
async fn output_is_reported_twice_a_second_at_most_and_to_its_last_byte() {
    let stand = Stand::new().await;
    let spec = spec(sh("i=0; while [ $i -lt 200 ]; do echo x; sleep 0.01; i=$((i+1)); done"));
    let mut launched = stand.launch(&spec).await;
    launched.handle.started().await.unwrap();
    let began = Instant::now();
    let reports = reports(&launched.dir).await;
    let heard: Vec<Value> = tokio::task::spawn_blocking(move || reports.collect()).await.unwrap();
    let half_seconds = began.elapsed().as_millis() / 500;
    let totals: Vec<u64> = heard.iter().filter_map(output).collect();
    assert!(totals.is_sorted_by(|one, next| one < next), "{totals:?}");
    // One at once, and the last one whenever it ends.
    assert!(totals.len() >= 4 && totals.len() as u128 <= half_seconds + 2, "{totals:?} in {half_seconds} half seconds");
    assert_eq!(totals.last(), Some(&400));
    assert!(heard[heard.len() - 1].get("exit").is_some() && output(&heard[heard.len() - 2]) == Some(400));
    assert_eq!(launched.end().await.log_bytes_kept, 400);
}

#[tokio::test]
async fn the_handle_hears_the_last_growth_although_nothing_happens_after_it_and_a_newcomer_hears_it_too() {
    let stand = Stand::new().await;
    let mut launched = stand.launch(&spec(sh("printf a; sleep 0.1; printf b; exec sleep 1000"))).await;
    let mut bytes = launched.handle.output();
    tokio::select! {
        ended = launched.handle.ended() => panic!("{ended:?}"),
        heard = bytes.wait_for(|bytes| *bytes == 2) => drop(heard.unwrap()),
    }
    let reports = reports(&launched.dir).await;
    let words: Vec<Value> = tokio::task::spawn_blocking(move || reports.take(3).collect()).await.unwrap();
    let names = words.iter().map(|word| word.as_object().unwrap().keys().next().unwrap().as_str());
    assert_eq!(names.collect::<Vec<_>>(), ["hello", "started", "output"]);
    assert_eq!(output(&words[2]), Some(2));
    launched.terminate(Duration::ZERO, Reason::Stop).await;
    launched.end().await;
}

#[tokio::test]
async fn a_run_that_is_silent_for_too_long_is_ended() {
    let stand = Stand::new().await;
    let silence = Duration::from_secs(2);
    for containment in containments() {
        let spec = Spec {
            silence_timeout_ms: Some(silence.as_millis() as u64),
            kill_grace_ms: 300,
            // Some words first: the clock starts anew with each.
            ..contained(*containment, "echo 1; sleep 0.2; echo 2; exec sleep 1000")
        };
        let began = Instant::now();
        let exit = stand.run(&spec).await;
        assert!(began.elapsed() >= silence + Duration::from_millis(200), "{containment}");
        assert_eq!((exit.cause, exit.signal, exit.exit_code), (Cause::Silent, Some(15), None), "{containment}");
        assert_eq!(stand.text(&spec), "1\n2\n", "{containment}");
    }
}

#[tokio::test]
async fn a_run_that_writes_now_and_then_lives_and_so_does_one_whose_shim_was_stopped() {
    let stand = Stand::new().await;
    let silence = Duration::from_millis(1500);
    let spec = Spec {
        silence_timeout_ms: Some(silence.as_millis() as u64),
        ..spec(sh("while ! [ -e go ]; do echo word; sleep 0.05; done; exit 3"))
    };
    let mut launched = stand.launch(&spec).await;
    launched.handle.started().await.unwrap();
    let passed = async |moment: Duration| {
        eventually("a moment to pass", async || (boottime() > moment).then_some(())).await;
    };
    passed(boottime() + silence * 2).await;
    let shim = launched.shim();
    stop(shim).await;
    passed(boottime() + silence).await;
    kill(shim, Signal::SIGCONT);
    std::fs::write(launched.dir.job_path().join("go"), "").unwrap();
    let exit = launched.end().await;
    assert_eq!((exit.cause, exit.exit_code), (Cause::Exited, Some(3)));
}
