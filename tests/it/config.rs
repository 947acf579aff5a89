//! The settings as a user meets them: the real binary, `orch config check`, and the example in this repository.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use crate::support::{Orch, TestDb, eventually, http_get};

#[tokio::test]
async fn a_bad_configuration_is_refused_by_every_command_with_all_that_is_wrong() {
    let orch = Orch::without_database();
    for (toml, sentences) in [
        ("leese = \"60s\"\n", &["orch.toml:1: unknown key \"leese\": did you mean \"lease\"?"][..]),
        ("lease = \"60\"\n", &["orch.toml:1: lease is \"60\", which is no duration: write for example"]),
        ("listen = \"127.0.0.1:x\"\n", &["orch.toml:1: listen is \"127.0.0.1:x\", which is no address"]),
        (
            "pool_size = 1\n[agents.a]\ncommand = [\"true\"]\ntimeot = \"1s\"\n",
            &["orch.toml:1: pool_size is 1", "orch.toml:4: agent \"a\" has the unknown key \"timeot\""],
        ),
    ] {
        orch.config(toml);
        for command in [&["config", "check"][..], &["queue"], &["up"]] {
            let output = orch.run(command).await;
            assert!(!output.status.success(), "{command:?} {output:?}");
            assert_eq!(output.stdout, "", "{command:?}");
            let lines = if command[0] == "config" { sentences.len() } else { 1 };
            assert_eq!(output.stderr.lines().count(), lines, "{command:?} {output:?}");
            for sentence in sentences {
                assert!(output.stderr.contains(sentence), "{sentence}: {command:?} {output:?}");
            }
        }
    }
}

#[tokio::test]
async fn flags_and_variables_are_refused_by_their_own_names() {
    let orch = Orch::without_database().with("ORCH_HEARTBEAT", "soon");
    let output = orch.run(["config", "check", "--reap-grace", "never"]).await;
    assert!(!output.status.success());
    for sentence in ["ORCH_HEARTBEAT: heartbeat is \"soon\"", "--reap-grace: reap_grace is \"never\""] {
        assert!(output.stderr.contains(sentence), "{output:?}");
    }
}

#[tokio::test]
async fn a_check_warns_and_explains_but_does_not_refuse() {
    let orch = Orch::without_database().with("ORCH_REAP_GRASE", "1s");
    orch.config("[agents.a]\ncommand = [\"no-such-program\", \"{{ payload.x }}\"]\n");
    let output = orch.run(["config", "check", "--json"]).await.ok().json();
    let warnings = output["warnings"].to_string();
    for words in ["ORCH_REAP_GRASE", "may begin with", "no-such-program"] {
        assert!(warnings.contains(words), "{output:#}");
    }
    assert!(output["notes"].to_string().contains("45s"), "{output:#}");
}

#[tokio::test]
async fn no_password_is_ever_printed() {
    let url = "postgres://me:hunter2@127.0.0.1:1/d?sslmode=disable&channel_binding=require";
    let orch = Orch::without_database().with("DATABASE_URL", url);
    for command in [&["config", "check"][..], &["queue"], &["up"]] {
        let output = orch.run(command).await;
        assert!(!output.status.success(), "{output:?}");
        assert!(output.stderr.contains("TLS") && !output.stderr.contains("hunter2"), "{output:?}");
    }
}

#[tokio::test]
async fn a_replica_whose_log_nobody_reads_still_works_and_obeys() {
    let db = TestDb::new().await;
    let orch = Orch::on(&db);
    orch.config("[agents.a]\ncommand = [\"true\"]\n");
    let mut replica = orch.command(["up"]).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    drop(replica.stderr.take());
    eventually("the replica to be ready", async || {
        http_get(orch.listen(), "/readyz").await.is_ok_and(|answer| answer.status == 200).then_some(())
    })
    .await;
    orch.run(["enqueue", "a", "--wait"]).await.ok();
    let pid = nix::unistd::Pid::from_raw(replica.id().unwrap() as i32);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(30), replica.wait()).await;
    assert!(ended.expect("SIGTERM ends it").unwrap().success());
}

#[tokio::test]
async fn the_example_of_this_repository_is_right() {
    let orch = Orch::without_database();
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("orch.toml");
    let report = orch.run(["config", "check", "--json", "--config", file.to_str().unwrap()]).await.ok().json();
    assert_eq!(report["warnings"], serde_json::json!([]), "{report:#}");
}

#[test]
fn the_example_counts_lines_whatever_the_files_are_called() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(directory.path().join(name), text).unwrap();
    write(
        "Cargo.toml",
        "[package]\nname = \"counted\"\nversion = \"1.2.3\"\nedition = \"2024\"\n[lib]\npath = \"we ird\\n\\\"name.rs\"\n",
    );
    write("we ird\n\"name.rs", "1\n2\n3\n");
    write("-rf.sql", "1\n");
    write("untracked.rs", "1\n");
    std::os::unix::fs::symlink("-rf.sql", directory.path().join("link.sql")).unwrap();
    let git = |arguments: &[&str]| {
        let status = Command::new("git").args(arguments).current_dir(directory.path()).status().unwrap();
        assert!(status.success(), "git {arguments:?}");
    };
    git(&["init", "--quiet"]);
    git(&["add", "--", "Cargo.toml", "we ird\n\"name.rs", "-rf.sql", "link.sql"]);
    let result = directory.path().join("result.json");
    let output = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/count-lines.sh"))
        .current_dir(directory.path())
        .env("ORCH_RESULT_FILE", &result)
        .output()
        .unwrap();
    let table = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{table}{}", String::from_utf8_lossy(&output.stderr));
    let result: serde_json::Value = serde_json::from_slice(&fs::read(&result).unwrap()).unwrap();
    let languages = serde_json::json!({
        "Rust": {"files": 1, "lines": 3},
        "SQL": {"files": 1, "lines": 1},
        "TOML": {"files": 1, "lines": 6},
    });
    assert_eq!(result["data"], serde_json::json!({"package": "counted 1.2.3", "languages": languages}), "{table}");
    assert!(table.starts_with("counted 1.2.3\n"), "{table}");
}
