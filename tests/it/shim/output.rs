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

/// A run that gets a secret, and whose output shall not have it.
fn secretive(value: &str, script: &str) -> Spec {
    let plain = spec(sh(script));
    let env = [plain.env.clone(), vec![("TOKEN".to_owned(), value.to_owned())]].concat();
    Spec { env, redact: vec!["TOKEN".to_owned()], ..plain }
}

#[tokio::test]
async fn a_secret_never_reaches_the_disk_however_it_is_written() {
    let stand = Stand::new().await;
    // Each half comes in a read of its own, and the second time no line ends.
    let halves = "printf '\\377<%s' \"${TOKEN%????}\"; sleep 0.3; printf '%s>\\n' \"${TOKEN#????????}\"; sleep 0.3";
    let spec =
        secretive("s3cret-value", &format!("{halves}; printf ready; sleep 0.3; {halves}; printf %s \"${{TOKEN%?}}\""));
    let exit = stand.run(&spec).await;
    let expected = b"\xff<[redacted TOKEN]>\nready\xff<[redacted TOKEN]>\n[redacted TOKEN]";
    assert_eq!(stand.output(&spec), (expected.to_vec(), vec![]));
    assert_eq!(exit.log_bytes_kept, expected.len() as u64);
    assert!(!stand.dir(&spec).spec_path().exists(), "which has it as well");
}

#[tokio::test]
async fn what_may_become_a_secret_counts_as_output_and_the_rest_is_there_at_once() {
    let stand = Stand::new().await;
    let script =
        "for i in 1 2 3 4 5 6 7 8; do printf \"%s\" \"${TOKEN%?????}\"; sleep 0.3; done; printf prompt:; sleep 100000";
    let spec = Spec { silence_timeout_ms: Some(1_500), ..secretive("s3cret-value", script) };
    let launched = stand.launch(&spec).await;
    eventually("the prompt", async || stand.text(&spec).ends_with("prompt:").then_some(())).await;
    let exit = launched.end().await;
    assert_eq!((exit.cause, stand.text(&spec)), (Cause::Silent, format!("{}prompt:", "s3cret-".repeat(8))));
}

#[tokio::test]
async fn a_flood_of_secrets_is_bounded_and_delays_no_end() {
    let stand = Stand::new().await;
    let cap = 256 * 1024;
    let key = (0..40).map(|line| format!("{line:02}{}", "k".repeat(62))).collect::<Vec<_>>().join("\n");
    let gone_round = async |spec: &Spec, times: u64| {
        eventually("the tail to have gone round", async || {
            let names = fs::read_dir(stand.dir(spec).log_path()).ok()?.flatten();
            let newest = names.filter_map(|entry| entry.file_name().to_str()?.parse::<u64>().ok()).max()?;
            (newest > times * cap).then_some(())
        })
        .await;
    };
    let mut memory = Vec::new();
    let plain = Spec { log_cap: cap, ..spec(sh("yes")) };
    for spec in [plain, Spec { log_cap: cap, ..secretive(&key, "yes \"$TOKEN\"") }] {
        let mut launched = stand.launch(&spec).await;
        launched.handle.started().await.unwrap();
        for times in [3, 20] {
            gone_round(&spec, times).await;
            memory.push(anonymous_kilobytes(launched.shim()));
        }
        let began = std::time::Instant::now();
        launched.terminate(Duration::from_millis(500), Reason::Cancel).await;
        launched.end().await;
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
        let (kept, _) = stand.output(&spec);
        assert!(!kept.windows(8).any(|part| part == b"kkkkkkkk"));
        assert_eq!(kept.starts_with(b"[redacted TOKEN]\n[redacted TOKEN]\n"), !spec.redact.is_empty());
    }
    let [_, plain, early, late] = memory[..] else { panic!("{memory:?}") };
    assert!(late < early + 200 && late < plain + 500, "from {plain} without a secret, and {early}, to {late} kB");
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
