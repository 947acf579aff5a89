//! Secrets that an agent names: in no log, wherever one looks for it.

use std::{fs, path::Path};

use crate::support::{Orch, TestDb, eventually};

const TOKEN: &str = "hunter2-of-the-replica";
const KEY: &str = "-----BEGIN-----\\nMIIEowIBAAK\\n-----END-----";

/// The files beneath that have a text in them.
fn files_with(text: &str, directory: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.extend(files_with(text, &entry.path()));
        } else if fs::read(entry.path())
            .is_ok_and(|bytes| bytes.windows(text.len()).any(|part| part == text.as_bytes()))
        {
            found.push(entry.path());
        }
    }
    found
}

#[tokio::test]
async fn a_named_secret_is_in_no_log_on_the_machine_nor_in_the_database() {
    let db = TestDb::new().await;
    let orch = Orch::on(&db).with("TOKEN", TOKEN);
    let script = "echo token=$TOKEN; echo \"$KEY\"; echo $MODE; until [ -e $GO ]; do sleep 0.05; done";
    let go = orch.path("go");
    orch.config(&format!(
        "[agents.a]\ncommand = [\"sh\", \"-c\", {}]\npass_env = [\"TOKEN\", \"UNSET\"]\nredact = [\"TOKEN\", \"KEY\", \"UNSET\"]\n\
         env = {{ KEY = \"{KEY}\", MODE = \"plain\", GO = {} }}\n",
        serde_json::to_string(script).unwrap(),
        serde_json::to_string(&go).unwrap(),
    ));
    let mut replica = orch.up().await;
    orch.run(["enqueue", "a"]).await.ok();
    let expected = "token=[redacted TOKEN]\n[redacted KEY]\n[redacted KEY]\n[redacted KEY]\nplain\n";
    eventually("the log to have come", async || {
        // Refused as long as the job has not run.
        let output = orch.run(["logs", "1"]).await;
        (output.status.success() && output.stdout == expected).then_some(())
    })
    .await;
    for secret in [TOKEN, "MIIEowIBAAK"] {
        assert_eq!(files_with(secret, orch.state_dir()), Vec::<std::path::PathBuf>::new(), "while it runs");
    }
    fs::write(&go, "").unwrap();
    eventually("the job to end", async || {
        let job = orch.run(["--json", "job", "1"]).await.ok().json();
        (job["status"] == "succeeded").then_some(())
    })
    .await;
    let sql = "select (select count(*) from orch.run_logs where position(convert_to($1, 'UTF8') in bytes) > 0),
                      (select count(*) from orch.run_logs where position('[redacted TOKEN]'::bytea in bytes) > 0)";
    let counted = db.client().await.query_one(sql, &[&TOKEN]).await.unwrap();
    assert_eq!((counted.get::<_, i64>(0), counted.get::<_, i64>(1)), (0, 1));
    assert!(!replica.log().contains(TOKEN));
    replica.signal(nix::sys::signal::Signal::SIGTERM);
    replica.ended().await;
}

#[tokio::test]
async fn a_secret_that_is_too_short_to_be_hidden_fails_its_job_with_a_word() {
    let db = TestDb::new().await;
    let orch = Orch::on(&db).with("PIN", "123");
    orch.config("[agents.a]\ncommand = [\"sh\", \"-c\", \"echo $PIN\"]\npass_env = [\"PIN\"]\nredact = [\"PIN\"]\n");
    let checked = orch.run(["config", "check"]).await.ok();
    assert!(
        checked.stderr.contains("PIN is too short here to be hidden") || checked.stdout.contains("PIN is too short"),
        "{checked:?}"
    );
    let mut replica = orch.up().await;
    let output = orch.run(["enqueue", "a", "--wait"]).await;
    assert!(!output.status.success(), "{output:?}");
    let job = orch.run(["job", "1"]).await.ok().stdout;
    assert!(job.contains("PIN is in redact and has no line of at least 4 bytes") && !job.contains("123"), "{job}");
    assert_eq!(orch.run(["logs", "1"]).await.stdout, "");
    replica.signal(nix::sys::signal::Signal::SIGTERM);
    replica.ended().await;
}
