//! The result file: taken as text, and nothing that a job may put in its place can hurt or stop the shim.

use orch::shim::protocol::{RESULT_MAX, ResultFile};

use super::stand::{Stand, sh, spec};

async fn result_of(stand: &Stand, script: &str) -> Option<ResultFile> {
    let spec = spec(sh(script));
    let exit = stand.run(&spec).await;
    assert_eq!(exit.exit_code, Some(0), "{script}");
    let stored = stand.dir(&spec).read_exit().unwrap().unwrap();
    assert_eq!(stored.result, exit.result, "what is stored is what was told");
    exit.result
}

fn text(text: impl Into<String>) -> ResultFile {
    ResultFile::Text(text.into())
}

#[tokio::test]
async fn the_text_is_passed_on_unparsed() {
    let stand = Stand::new().await;
    assert_eq!(result_of(&stand, "exit 0").await, None);
    assert_eq!(result_of(&stand, "rm -rf \"$PWD\"").await, None);
    assert_eq!(
        result_of(&stand, "echo '{\"verdict\": \"ok\"}' > result.json").await,
        Some(text("{\"verdict\": \"ok\"}\n"))
    );
    assert_eq!(result_of(&stand, "printf '{\"a\": \\000' > result.json").await, Some(text("{\"a\": \0")));
    assert_eq!(result_of(&stand, ": > result.json").await, Some(text("")));
    // The largest there may be, and the one that is longest when written as JSON.
    let most = RESULT_MAX as usize;
    let script = format!("head -c {most} /dev/zero | tr '\\0' '\\1' > result.json");
    assert_eq!(result_of(&stand, &script).await, Some(text("\u{1}".repeat(most))));
}

#[tokio::test]
async fn what_cannot_be_taken_says_why() {
    let stand = Stand::new().await;
    for (script, expected) in [
        (format!("head -c {} /dev/zero > result.json", RESULT_MAX + 1), "1048577 bytes"),
        ("truncate -s 1T result.json".to_owned(), "1099511627776 bytes"),
        ("ln -s /etc/passwd result.json".to_owned(), "symbolic link"),
        ("ln -s /dev/zero result.json".to_owned(), "symbolic link"),
        ("mkfifo result.json".to_owned(), "no regular file"),
        ("mkdir result.json".to_owned(), "no regular file"),
        ("echo > other; ln other result.json".to_owned(), "hard link"),
        ("printf '\\377' > result.json".to_owned(), "not UTF-8"),
        ("d=$PWD; cd ..; mv \"$d\" away; ln -s away \"$d\"; echo > away/result.json".to_owned(), "directory"),
    ] {
        match result_of(&stand, &script).await {
            Some(ResultFile::Error(reason)) => assert!(reason.contains(expected), "{script}: {reason}"),
            other => panic!("{script}: {other:?}"),
        }
    }
}
