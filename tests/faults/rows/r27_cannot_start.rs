//! Row 27: programs that cannot be started, in every way.

use std::os::unix::fs::PermissionsExt as _;

use crate::case::{BOUND, Case};

pub(crate) async fn every_way_ends_the_job_at_once(case: &mut Case) {
    let plain = case.orch.path("plain-file");
    std::fs::write(&plain, "#!/bin/sh\nexit 0\n").unwrap();
    std::fs::set_permissions(&plain, std::fs::Permissions::from_mode(0o644)).unwrap();
    let garbage = case.orch.path("garbage");
    std::fs::write(&garbage, "neither a script nor an executable").unwrap();
    std::fs::set_permissions(&garbage, std::fs::Permissions::from_mode(0o755)).unwrap();
    let no_interpreter = case.orch.path("no-interpreter");
    std::fs::write(&no_interpreter, "#!/no/such/interpreter\n").unwrap();
    std::fs::set_permissions(&no_interpreter, std::fs::Permissions::from_mode(0o755)).unwrap();
    let directory = case.orch.path("");

    case.plain_agent("missing", &["/no/such/program"], "");
    case.plain_agent("missing_in_path", &["orch-no-such-program"], "");
    case.plain_agent("not_executable", &[plain.to_str().unwrap()], "");
    case.plain_agent("a_directory", &[directory.to_str().unwrap()], "");
    case.plain_agent("garbage", &[garbage.to_str().unwrap()], "");
    case.plain_agent("no_interpreter", &[no_interpreter.to_str().unwrap()], "");
    case.plain_agent("no_cwd", &["true"], "cwd = \"/no/such/directory\"");
    case.plain_agent("no_user", &["true"], "user = \"no-such-user\"");
    case.plain_agent("too_long", &["echo", "{{ payload.text }}"], "");
    case.plain_agent("fine", &["true"], "");
    case.up().await;

    let mut jobs = Vec::new();
    for agent in [
        "missing",
        "missing_in_path",
        "not_executable",
        "a_directory",
        "garbage",
        "no_interpreter",
        "no_cwd",
        "too_long",
    ] {
        // One argument may have 128 KiB.
        let payload = serde_json::json!({"text": "x".repeat(200_000)});
        jobs.push((agent, case.enqueue_with(agent, &payload).await));
    }
    let fine = case.enqueue("fine").await;
    for (agent, job) in jobs {
        case.until(job, "failed", BOUND).await;
        assert_eq!(
            case.outcomes(job).await,
            [Some("spawn_failed".to_owned())],
            "{agent}: one try, no retry would help"
        );
        let error: Option<String> = case.job(job).await.get("error");
        let error = error.unwrap_or_else(|| panic!("{agent}: no reason is given"));
        assert!(error.len() > 10 && error.len() < 1000, "{agent}: a sentence, not {error:?}");
    }
    case.until(fine, "succeeded", BOUND).await;
}
