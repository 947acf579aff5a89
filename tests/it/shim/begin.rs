//! What the program gets: arguments, environment, directory, input, descriptors, signals; and how its end is told.

use std::fs;

use orch::{
    model::RunId,
    shim::{
        client::NotStarted,
        protocol::{Cause, Spec, Stdin},
    },
};

use super::stand::{Stand, containments, sh, spec};
use crate::support::eventually;

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

#[tokio::test]
async fn arguments_reach_the_program_as_they_are() {
    let stand = Stand::new().await;
    let script = "for word; do printf '<%s>' \"$word\"; done";
    let spec =
        spec(words(&["/bin/sh", "-c", script, "sh", "", "a b", "$(rm -rf /)", "; rm", "--flag", "*", "\n", "ä"]));
    let exit = stand.run(&spec).await;
    assert_eq!((exit.exit_code, exit.signal, exit.cause), (Some(0), None, Cause::Exited));
    assert_eq!(stand.text(&spec), "<><a b><$(rm -rf /)><; rm><--flag><*><\n><ä>");
}

#[tokio::test]
async fn the_environment_is_the_specs_and_the_run_id_cannot_be_forged() {
    let stand = Stand::new().await;
    let mut spec = spec(words(&["/usr/bin/env", "-0"]));
    let forged = RunId::new().to_string();
    spec.env = [("A", "1=2\n3"), ("EMPTY", ""), ("ORCH_RUN_ID", &forged)].map(|(k, v)| (k.into(), v.into())).to_vec();
    stand.run(&spec).await;
    assert_eq!(stand.text(&spec), format!("A=1=2\n3\0EMPTY=\0ORCH_RUN_ID={}\0", spec.run_id));
}

#[tokio::test]
async fn the_program_is_searched_in_the_jobs_path() {
    let stand = Stand::new().await;
    let bin = stand.path().join("bin");
    fs::create_dir(&bin).unwrap();
    std::os::unix::fs::symlink("/bin/echo", bin.join("some-tool")).unwrap();
    let mut spec = spec(words(&["some-tool", "found"]));
    spec.env = vec![("PATH".into(), format!("/nowhere:{}", bin.display()))];
    assert_eq!(stand.run(&spec).await.exit_code, Some(0));
    assert_eq!(stand.text(&spec), "found\n");
}

#[tokio::test]
async fn the_payload_is_its_input_and_its_file_and_the_run_its_directory() {
    let stand = Stand::new().await;
    let mut spec = Spec { stdin: Stdin::Payload, ..spec(sh("cat; cat ../payload.json; pwd; ls -a")) };
    let launched = stand.launch_with(&spec, b"{\"a\": \"\\u0000\"}\n").await;
    let job = fs::canonicalize(launched.dir.job_path()).unwrap();
    assert_eq!(launched.end().await.exit_code, Some(0));
    let payload = "{\"a\": \"\\u0000\"}\n";
    assert_eq!(stand.text(&spec), format!("{payload}{payload}{}\n.\n..\n", job.display()));

    spec = Spec { run_id: RunId::new(), stdin: Stdin::Null, cwd: Some("/".into()), argv: sh("cat; pwd"), ..spec };
    stand.run(&spec).await;
    assert_eq!(stand.text(&spec), "/\n");
}

#[tokio::test]
async fn exit_statuses_and_signals_are_told_as_they_were() {
    let stand = Stand::new().await;
    for containment in containments() {
        for (script, code, signal) in [
            ("exit 0", Some(0), None),
            ("exit 75", Some(75), None),
            ("exit 255", Some(255), None),
            ("kill -SEGV $$", None, Some(11)),
            ("kill -TERM $$", None, Some(15)),
            // A real-time signal has no name, and is an end all the same.
            ("kill -40 $$", None, Some(40)),
        ] {
            let exit = stand.run(&super::stand::contained(*containment, script)).await;
            assert_eq!((exit.exit_code, exit.signal), (code, signal), "{containment}: {script}");
            assert_eq!((exit.cause, exit.processes_killed, exit.processes_left), (Cause::Exited, 0, 0));
            assert_eq!(exit.started.unwrap().containment, *containment);
        }
    }
}

#[tokio::test]
async fn the_program_gets_three_descriptors_and_nothing_of_ours() {
    let stand = Stand::new().await;
    for containment in containments() {
        let spec = Spec { containment: Some(*containment), ..spec(words(&["/bin/ls", "/proc/self/fd"])) };
        stand.run(&spec).await;
        // The last is what `ls` reads.
        assert_eq!(stand.text(&spec), "0\n1\n2\n3\n", "{containment}");
    }
}

#[tokio::test]
async fn no_signal_is_blocked_or_ignored() {
    let stand = Stand::new().await;
    for containment in containments() {
        let spec = Spec {
            containment: Some(*containment),
            ..spec(words(&["/bin/grep", "^Sig\\(Blk\\|Ign\\)", "/proc/self/status"]))
        };
        stand.run(&spec).await;
        let zero = "0000000000000000";
        assert_eq!(stand.text(&spec), format!("SigBlk:\t{zero}\nSigIgn:\t{zero}\n"), "{containment}");
    }
}

#[tokio::test]
async fn standard_output_and_standard_error_keep_their_order() {
    let stand = Stand::new().await;
    let spec = spec(sh("echo 1; echo 2 >&2; echo 3; echo 4 >&2"));
    let exit = stand.run(&spec).await;
    assert_eq!(stand.text(&spec), "1\n2\n3\n4\n");
    assert_eq!((exit.log_bytes_kept, exit.log_bytes_dropped), (8, 0));
}

#[tokio::test]
async fn the_pid_is_the_main_process_and_the_secrets_are_gone_once_it_runs() {
    let stand = Stand::new().await;
    for containment in containments() {
        let spec = Spec { containment: Some(*containment), ..spec(words(&["/bin/sleep", "1000"])) };
        let mut launched = stand.launch(&spec).await;
        let started = launched.handle.started().await.unwrap();
        let stat = fs::read_to_string(format!("/proc/{}/stat", started.pid)).unwrap();
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_ascii_whitespace().collect();
        assert_eq!(fields[19].parse(), Ok(started.pid_started), "{containment}");
        // It is heard of a moment before the kernel shows its environment, by which it is found.
        eventually("the main process to be found", async || {
            super::stand::processes_of(spec.run_id).contains(&started.pid).then_some(())
        })
        .await;
        assert_eq!(started.remarks, [""; 0]);
        super::stand::kill(started.pid, nix::sys::signal::Signal::SIGKILL);
        assert_eq!(launched.end().await.signal, Some(9));
        assert!(!stand.dir(&spec).spec_path().exists());
    }
}

async fn refused(stand: &Stand, spec: &Spec) -> String {
    let mut launched = stand.launch(spec).await;
    let Err(NotStarted::Failed(error)) = launched.handle.started().await else { panic!("it started") };
    assert!(!error.temporary, "{error}");
    let exit = launched.end().await;
    assert_eq!(exit.never_started.as_ref(), Some(&error));
    assert_eq!((exit.started, exit.exit_code, exit.signal), (None, None, None));
    assert_eq!(stand.dir(spec).read_exit().unwrap().unwrap().never_started.as_ref(), Some(&error));
    error.message
}

#[tokio::test]
async fn a_program_that_cannot_be_started_is_refused_for_ever_and_says_why() {
    let stand = Stand::new().await;
    let plain = stand.path().join("plain");
    fs::write(&plain, "echo never").unwrap();
    let script = stand.path().join("script");
    fs::write(&script, "#!/no/such/interpreter\n").unwrap();
    let no_header = stand.path().join("no-header");
    fs::write(&no_header, "echo never\n").unwrap();
    for path in [&script, &no_header] {
        fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    }
    let text = |path: &std::path::Path| path.to_str().unwrap().to_owned();
    for containment in containments() {
        let spec = |argv| Spec { containment: Some(*containment), ..spec(argv) };
        for (argv, cwd, expected) in [
            (vec!["no-such-program".to_owned()], None, "execute \"no-such-program\": ENOENT"),
            (vec!["/no/such/program".to_owned()], None, "No such file"),
            (vec![text(&plain)], None, "Permission denied"),
            (vec![text(stand.path())], None, "Permission denied"),
            (vec![format!("{}/below", text(&plain))], None, "Not a directory"),
            (vec![text(&script)], None, "its interpreter is missing"),
            (vec![text(&no_header)], None, "Exec format error"),
            (vec!["/bin/true".to_owned(), "x".repeat(3 << 20)], None, "Argument list too long"),
            (vec!["/bin/true".to_owned()], Some("/no/such/directory"), "change to directory /no/such/directory"),
            (vec!["/bin/true".to_owned(), "a\0b".to_owned()], None, "NUL"),
            (vec![], None, "the command is empty"),
        ] {
            let spec = Spec { cwd: cwd.map(Into::into), ..spec(argv) };
            let message = refused(&stand, &spec).await;
            assert!(message.contains(expected.trim_end_matches(": ENOENT")), "{containment}: {message}");
        }
        let nobody = Spec { user: Some("no-such-user".into()), ..spec(sh("exit")) };
        assert!(refused(&stand, &nobody).await.contains("there is no user \"no-such-user\""));
    }
}
