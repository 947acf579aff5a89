//! Who may ask: with tokens every route but the probes wants one, and an address that other hosts reach wants tokens.

use std::{fs, net::SocketAddr, os::unix::fs::PermissionsExt as _, time::Duration};

use nix::sys::signal::Signal;
use orch::{
    db::queue::Switches,
    http::{Info, Tokens, serve, served},
};
use tokio::{net::TcpListener, sync::watch};
use tokio_util::sync::CancellationToken;

use crate::support::{Answer, Orch, Output, TestDb, eventually, http_request};

const ONE: &str = "one-token-of-the-operators";
const OTHER: &str = "another-token-0123456789";

/// Asks with these `Authorization` headers.
async fn ask(address: SocketAddr, method: &str, target: &str, shown: &[&str]) -> Answer {
    let mut headers = vec![("Host", "orch.example:8080")];
    headers.extend(shown.iter().map(|value| ("Authorization", *value)));
    http_request(address, method, target, &headers, "").await.unwrap()
}

fn tokens(orch: &Orch, text: &str, mode: u32) {
    let path = orch.path("tokens");
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
}

/// Asserts that it was refused with a challenge and a sentence that does not quote what was shown.
#[track_caller]
fn refused(answer: &Answer, challenge: &str) {
    assert_eq!(answer.status, 401, "{answer:?}");
    let head = answer.head.to_ascii_lowercase();
    assert!(head.lines().any(|line| line == format!("www-authenticate: {challenge}")), "{answer:?}");
    assert!(answer.json()["error"].as_str().unwrap().contains("token"), "{answer:?}");
    assert!(!answer.body.contains(ONE), "{answer:?}");
}

#[tokio::test]
async fn every_route_but_the_probes_wants_a_right_token() {
    const MISSING: &str = r#"bearer realm="orch""#;
    const WRONG: &str = r#"bearer realm="orch", error="invalid_token""#;
    let db = TestDb::new().await;
    let orch = Orch::without_database();
    tokens(&orch, &format!("{OTHER}\n{ONE}\n"), 0o600);
    let known = watch::Sender::new(Tokens::read(&orch.path("tokens")).unwrap());
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let info = Info {
        switches: Switches { reaper_enabled: true, sanitize_enabled: true, serial_gate_enabled: true },
        lease: Duration::from_mins(1),
        replica: watch::channel(None).1,
        paused: watch::channel(None).1,
        unending: watch::channel(std::collections::BTreeSet::new()).1,
        stopping: CancellationToken::new(),
        payload_max: 1 << 20,
        tokens: Some(known.subscribe()),
    };
    let stop = CancellationToken::new();
    let _stop = stop.clone().drop_guard();
    tokio::spawn(serve(listener, db.db(), info, stop));

    let (right, wrong) = (format!("Bearer {ONE}"), format!("Bearer {ONE}x"));
    let mut routes: Vec<(String, String, bool)> = served()
        .into_iter()
        .map(|(method, path, open)| (method.to_string(), path.replace("{id}", "x"), open))
        .collect();
    let mut open: Vec<&str> = routes.iter().filter(|(.., open)| *open).map(|(_, path, _)| path.as_str()).collect();
    open.sort_unstable();
    assert_eq!(open, ["/healthz", "/readyz"], "nothing else is open");
    // What is no route is as closed, however much it looks like one that is open.
    for path in ["/", "/nowhere", "/healthz/", "//healthz", "/healthz%2f", "/Healthz", "/readyz/../queue"] {
        routes.push(("GET".to_owned(), path.to_owned(), false));
    }
    for (method, path, open) in &routes {
        for shown in [&[][..], &[wrong.as_str()], &["Basic b25lOm9uZQ=="], &[right.as_str(), wrong.as_str()]] {
            let answer = ask(address, method, path, shown).await;
            if *open {
                assert_ne!(answer.status, 401, "{method} {path} {shown:?}");
            } else {
                refused(&answer, if shown == [wrong.as_str()] { WRONG } else { MISSING });
            }
        }
        assert_ne!(ask(address, method, path, &[&right]).await.status, 401, "{method} {path}");
    }
    assert_eq!(ask(address, "GET", "/queue", &[&right]).await.status, 200);
    assert_eq!(ask(address, "GET", "/queue", &[&format!("bearer {OTHER}")]).await.status, 200);

    tokens(&orch, OTHER, 0o600);
    known.send_replace(Tokens::read(&orch.path("tokens")).unwrap());
    refused(&ask(address, "GET", "/queue", &[&right]).await, WRONG);
    assert_eq!(ask(address, "GET", "/queue", &[&format!("Bearer {OTHER}")]).await.status, 200);
}

#[tokio::test]
async fn an_address_that_others_reach_is_refused_without_tokens() {
    let db = TestDb::new().await;
    let mut orch = Orch::on(&db);
    orch.config("[agents.a]\ncommand = [\"true\"]\n");
    let one_sentence = |output: &Output, words: &[&str]| {
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert_eq!(output.stderr.lines().count(), 1, "{output:?}");
        for word in words {
            assert!(output.stderr.contains(word), "{word:?} is missing: {output:?}");
        }
        assert!(!output.stderr.contains(ONE), "{output:?}");
    };
    let port = orch.listen().port();
    for address in ["0.0.0.0", "[::]", "192.0.2.1"] {
        orch.set("ORCH_LISTEN", format!("{address}:{port}"));
        for command in [&["config", "check"][..], &["up"]] {
            one_sentence(&orch.run(command).await, &[address, "http_token_file", &format!("127.0.0.1:{port}")]);
        }
    }
    orch.set("ORCH_HTTP_TOKEN_FILE", orch.path("tokens").to_string_lossy());
    for (text, mode, words) in [
        (ONE, 0o644, ["others have rights", "chmod o="]),
        ("short", 0o600, [":1 is a token of fewer than 16 characters", "openssl rand"]),
        ("", 0o600, ["holds no token", "openssl rand"]),
    ] {
        tokens(&orch, text, mode);
        for command in [&["config", "check"][..], &["up"]] {
            one_sentence(&orch.run(command).await, &words);
        }
    }
    tokens(&orch, ONE, 0o600);
    orch.run(["config", "check"]).await.ok();
}

#[tokio::test]
async fn a_replica_takes_new_tokens_on_sighup_and_keeps_the_old_ones_if_the_file_is_bad() {
    let db = TestDb::new().await;
    let mut orch = Orch::on(&db);
    orch.config("[agents.a]\ncommand = [\"true\"]\n");
    orch.set("ORCH_LISTEN", format!("0.0.0.0:{}", orch.listen().port()));
    orch.set("ORCH_HTTP_TOKEN_FILE", orch.path("tokens").to_string_lossy());
    tokens(&orch, ONE, 0o640);
    let replica = orch.up().await;
    let status =
        async |token: &str| ask(orch.listen(), "GET", "/api/v1/replicas", &[&format!("Bearer {token}")]).await.status;
    assert_eq!((status(ONE).await, status(OTHER).await), (200, 401));
    tokens(&orch, OTHER, 0o600);
    replica.signal(Signal::SIGHUP);
    eventually("the new token", async || (status(OTHER).await == 200).then_some(())).await;
    assert_eq!(status(ONE).await, 401);
    tokens(&orch, ONE, 0o604);
    replica.signal(Signal::SIGHUP);
    let complaint = "the tokens stay as they were";
    eventually("the complaint", async || replica.log().contains(complaint).then_some(())).await;
    assert_eq!((status(ONE).await, status(OTHER).await), (401, 200));
    for token in [ONE, OTHER] {
        assert!(!replica.log().contains(token), "{}", replica.log());
    }
}
