//! The build that can be killed between two durable steps, and how one kill is ordered.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::LazyLock,
};

use orch::failpoint::Point;

use crate::{
    bound::BOUND_AFTER_OUTAGE,
    node::Node,
    support::{eventually_within, say},
};

/// The binary with the feature `failpoints`, built once where it is not there yet; `.ci/mutations` names another.
static PROGRAM: LazyLock<Result<PathBuf, String>> = LazyLock::new(build);

fn build() -> Result<PathBuf, String> {
    if let Some(built) = std::env::var_os("ORCH_TEST_FAILPOINTS_PROGRAM") {
        return Ok(built.into());
    }
    let target = Path::new(env!("CARGO_BIN_EXE_orch"))
        .ancestors()
        .find(|directory| directory.file_name().is_some_and(|name| name == "target"))
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("target"), Path::to_owned)
        .join("failpoints");
    let start = std::time::Instant::now();
    let mut command = Command::new(env!("CARGO"));
    // All that is needed was fetched for the build of this test.
    command.args([
        "build",
        "--quiet",
        "--locked",
        "--offline",
        "--bin",
        "orch",
        "--features",
        "failpoints",
        "--target-dir",
    ]);
    // As CI builds it: incremental files are worth nothing for one build.
    command.arg(&target).current_dir(env!("CARGO_MANIFEST_DIR")).env("CARGO_INCREMENTAL", "0");
    let output = command.output().map_err(|error| format!("cargo cannot be run: {error}"))?;
    if !output.status.success() {
        return Err(format!("the build with failpoints failed:\n{}", String::from_utf8_lossy(&output.stderr)));
    }
    say(&format!("the build with failpoints took {:.0} s", start.elapsed().as_secs_f64()));
    Ok(target.join("debug/orch"))
}

/// The binary with failpoints. Other rows go on while it is built.
pub(crate) async fn program() -> PathBuf {
    let built = tokio::task::spawn_blocking(|| PROGRAM.clone()).await;
    built.expect("the build does not panic").unwrap_or_else(|error| panic!("{error}"))
}

/// An order to kill whoever passes a point, once.
#[derive(Debug)]
pub(crate) struct Kill {
    point: Point,
    file: PathBuf,
}

impl Kill {
    /// Has the node's next replica, with its spawner and shims, killed at this point: the first process that passes it.
    pub(crate) async fn at(point: Point, node: &mut Node) -> Self {
        node.orch.set_program(&program().await);
        let file = node.orch.path(&format!("kill-{}-{}", point.name(), rand::random::<u32>()));
        std::fs::write(&file, "").expect("a file");
        node.orch.set("FAILPOINTS", format!("{}=return({})", point.name(), file.display()));
        Self { point, file }
    }

    /// Whether a process was killed there.
    pub(crate) fn is_done(&self) -> bool {
        !self.file.exists()
    }

    /// Waits until a process was killed there.
    pub(crate) async fn done(&self) {
        let what = format!("a process to be killed at {:?}", self.point);
        eventually_within(BOUND_AFTER_OUTAGE, &what, async || self.is_done().then_some(())).await;
    }
}
