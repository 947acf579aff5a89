//! The output: kept as it is, bounded, and never a reason to wait.

use std::{fs, time::Duration};

use orch::shim::protocol::{Cause, Reason, Spec};

use super::stand::{Stand, contained, containments, sh, spec};
use crate::support::eventually;

/// Kilobytes of memory of a process that stand in no file.
fn anonymous_kilobytes(pid: i32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("Anonymous:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

fn kept_on_disk(stand: &Stand, spec: &Spec) -> u64 {
    let entries = fs::read_dir(stand.dir(spec).log_path()).into_iter().flatten().flatten();
    entries.filter_map(|entry| Some(entry.metadata().ok()?.len())).sum()
}

#[tokio::test]
async fn head_and_tail_are_kept_and_the_middle_is_counted() {
    let stand = Stand::new().await;
    let cap = 64 * 1024;
    let spec = Spec { log_cap: cap, ..spec(sh("seq 1 100000")) };
    let exit = stand.run(&spec).await;
    let whole: Vec<u8> = (1..=100_000).flat_map(|number| format!("{number}\n").into_bytes()).collect();
    let (kept, dropped) = stand.output(&spec);
    assert_eq!(kept.len() as u64, exit.log_bytes_kept);
    assert_eq!(exit.log_bytes_kept + exit.log_bytes_dropped, whole.len() as u64);
    assert_eq!(dropped, [exit.log_bytes_dropped]);
    assert!(exit.log_bytes_kept <= cap && exit.log_bytes_kept >= cap * 7 / 8, "{}", exit.log_bytes_kept);
    let (head, tail) = kept.split_at(cap as usize / 2);
    assert!(whole.starts_with(head) && whole.ends_with(tail));
}

#[tokio::test]
async fn what_fits_is_kept_whole() {
    let stand = Stand::new().await;
    for (cap, length, kept, dropped) in [
        (1024, 1024, 1024, 0),
        (1000, 1000, 1000, 0),
        (7, 5, 5, 0),
        (7, 7, 7, 0),
        (7, 8, 7, 1),
        (1, 3, 1, 2),
        (0, 3, 0, 3),
    ] {
        let spec = Spec { log_cap: cap, ..spec(sh(&format!("head -c {length} /dev/zero"))) };
        let exit = stand.run(&spec).await;
        assert_eq!((exit.log_bytes_kept, exit.log_bytes_dropped), (kept, dropped), "{length} bytes within {cap}");
        assert_eq!(stand.output(&spec).0.len() as u64, kept);
    }
}

#[tokio::test]
async fn an_endless_flood_is_bounded_on_disk_and_in_memory() {
    let stand = Stand::new().await;
    let cap = 256 * 1024;
    for flood in ["yes", "cat /dev/zero"] {
        let spec = Spec { log_cap: cap, ..spec(sh(flood)) };
        let mut launched = stand.launch(&spec).await;
        launched.handle.started().await.unwrap();
        let shim = launched.shim();
        let gone_round = async |times: u64| {
            eventually("the tail to have gone round", async || {
                let names = fs::read_dir(launched.dir.log_path()).ok()?.flatten();
                let newest = names.filter_map(|entry| entry.file_name().to_str()?.parse::<u64>().ok()).max()?;
                assert!(kept_on_disk(&stand, &spec) <= cap);
                (newest > times * cap).then_some(())
            })
            .await;
        };
        gone_round(5).await;
        let early = anonymous_kilobytes(shim);
        gone_round(100).await;
        let late = anonymous_kilobytes(shim);
        assert!(late < early + 200, "{flood}: from {early} to {late} kB");
        launched.terminate(Duration::from_secs(1), Reason::Cancel).await;
        let exit = launched.end().await;
        assert_eq!(exit.cause, Cause::Terminated(Reason::Cancel), "the flood did not delay the request");
        assert!(exit.log_bytes_kept <= cap && exit.log_bytes_dropped > 90 * cap, "{flood}: {exit:?}");
    }
}

#[tokio::test]
async fn one_line_of_a_hundred_megabytes_is_output_like_any_other() {
    let stand = Stand::new().await;
    let cap = 1024 * 1024;
    let spec = Spec { log_cap: cap, ..spec(sh("printf start; head -c 100000000 /dev/zero | tr '\\0' x; printf end")) };
    let exit = stand.run(&spec).await;
    assert_eq!(exit.log_bytes_kept + exit.log_bytes_dropped, 100_000_008);
    let (kept, _) = stand.output(&spec);
    assert!(kept.starts_with(b"startxxx") && kept.ends_with(b"xxxend"));
    assert!(kept.len() as u64 <= cap);
}

#[tokio::test]
async fn control_sequences_and_binary_are_kept_as_they_are() {
    let stand = Stand::new().await;
    let spec = spec(sh("printf '\\000\\033[31mred\\033[0m\\r\\n\\377\\376<b>\\007'"));
    stand.run(&spec).await;
    assert_eq!(stand.output(&spec), (b"\0\x1b[31mred\x1b[0m\r\n\xff\xfe<b>\x07".to_vec(), vec![]));
}

#[tokio::test]
async fn a_grandchild_that_keeps_the_output_open_does_not_delay_the_end() {
    let stand = Stand::new().await;
    for containment in containments() {
        let spec = Spec { kill_grace_ms: 500, ..contained(*containment, "echo out; sleep 1000000 & exit 0") };
        let began = std::time::Instant::now();
        let exit = stand.run(&spec).await;
        assert!(began.elapsed() < Duration::from_secs(5), "{containment}: {:?}", began.elapsed());
        assert_eq!((exit.exit_code, exit.processes_killed), (Some(0), 1), "{containment}");
        assert_eq!(stand.text(&spec), "out\n");
    }
}

#[tokio::test]
async fn a_program_that_closes_its_output_runs_on() {
    let stand = Stand::new().await;
    let spec = spec(sh("echo out; exec >&- 2>&-; sleep 0.2; exit 6"));
    let exit = stand.run(&spec).await;
    assert_eq!((exit.exit_code, stand.text(&spec).as_str()), (Some(6), "out\n"));
}
