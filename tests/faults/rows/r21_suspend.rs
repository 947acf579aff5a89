//! Row 21: the machine is suspended. The lease goes on meanwhile: after less than what is left of it the runs live on, after
//! more they end before anything else happens, although no other clock of the machine has moved.

use std::{
    fs,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::Signal,
    time::{ClockId, clock_gettime},
};

use crate::{
    bound::{BOUND, KILL_GRACE, LEASE},
    case::Case,
    failpoints,
    node::Node,
    processes,
    support::{eventually, eventually_within},
    witness,
};

/// From the machine's return to the end of the trees. A clock that stood still would leave them more.
const AT_ONCE: Duration = KILL_GRACE.saturating_mul(2);
/// What is slept through and survived, each time.
const SHORT: Duration = Duration::from_secs(2);
const LONG: Duration = Duration::from_hours(1);

pub(crate) async fn is_counted_by_the_lease(case: &mut Case) {
    case.agent("long", "[ $ORCH_ATTEMPT -gt 1 ] || { trap '' TERM; setsid -f sleep 100000; sleep 100000; }", "");
    // This build hands down to its spawner what the suite preloads.
    let program = failpoints::program().await;
    let clock = Clock::of(case.add_node("laptop"));
    case.node("laptop").orch.set_program(&program);
    case.node("laptop").up().await;
    let mut jobs = Vec::new();
    for _ in 0..3 {
        jobs.push(case.enqueue("long").await);
    }
    for job in &jobs {
        case.until_alive(*job).await;
    }
    let alive = |case: &Case| jobs.iter().filter(|job| witness::is_alive(&case.witness(), **job)).count();

    for _ in 0..4 {
        renewed(case, &clock).await;
        stop(case.node("laptop"));
        clock.move_on(SHORT);
        go_on(case.node("laptop"));
        renewed(case, &clock).await;
    }
    assert!(SHORT * 4 > LEASE, "in all it was away for longer than a lease");
    assert_eq!(alive(case), jobs.len(), "runs were ended though their lease was renewed each time");

    stop(case.node("laptop"));
    clock.move_on(LONG);
    // Nobody but the shims is awake yet, and nothing but their own clock can tell them.
    let woken = Instant::now();
    for (_, shim) in case.node("laptop").shims() {
        processes::signal(shim, Signal::SIGCONT);
    }
    eventually_within(BOUND, "the trees to end", async || (alive(case) == 0).then_some(())).await;
    let took = woken.elapsed();
    assert!(took < AT_ONCE, "the trees lived on for {took:?} after an hour without a renewal");
    go_on(case.node("laptop"));
    for job in &jobs {
        case.until(*job, "succeeded", BOUND).await;
        let fenced = case.runs(*job).await.swap_remove(0);
        assert_eq!(fenced.get::<_, Option<&str>>("outcome"), Some("interrupted"), "job {job}");
        assert!(fenced.get::<_, Option<&str>>("error").is_some_and(|error| error.starts_with("fenced")), "job {job}");
    }
}

/// Waits until the lease that the shims read is fresh.
async fn renewed(case: &mut Case, clock: &Clock) {
    let lease = format!("leases/{}", case.replica_id("laptop").await);
    let lease = case.node("laptop").state_dir().join(lease);
    let fresh = LEASE.mul_f64(0.9);
    eventually("the lease to be renewed", async || (clock.left(&lease) > fresh).then_some(())).await;
    // Enough to sleep a little, and far more than the end of the trees may take by a clock that stood still.
    assert!(fresh.saturating_sub(SHORT) > KILL_GRACE && fresh.saturating_sub(KILL_GRACE) > AT_ONCE * 2);
}

/// Everything of the node stands still, the replica first: it renews no more.
fn stop(node: &Node) {
    signal_all(node, Signal::SIGSTOP);
}

fn go_on(node: &Node) {
    signal_all(node, Signal::SIGCONT);
}

fn signal_all(node: &Node, signal: Signal) {
    processes::signal(node.process(), signal);
    let shims = node.shims().into_iter().map(|(_, shim)| shim);
    for pid in node.spawner().into_iter().chain(shims) {
        processes::signal(pid, signal);
    }
}

/// The node's `CLOCK_BOOTTIME`, which the row moves on.
struct Clock(PathBuf);

impl Clock {
    fn of(node: &mut Node) -> Self {
        let library = node.orch.path("suspend.so");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/faults/suspend.c");
        let compiled = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(source).output().unwrap();
        assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
        let clock = Self(node.orch.path("suspended"));
        fs::write(&clock.0, "0").unwrap();
        node.orch.set("LD_PRELOAD", library.to_str().unwrap());
        node.orch.set("ORCH_TEST_SUSPENDED", clock.0.to_str().unwrap());
        clock
    }

    fn suspended(&self) -> Duration {
        Duration::from_secs(fs::read_to_string(&self.0).unwrap().parse().unwrap())
    }

    /// As a suspend of this length does. Whole at once: somebody may be reading.
    fn move_on(&self, by: Duration) {
        let new = self.0.with_extension("new");
        fs::write(&new, (self.suspended() + by).as_secs().to_string()).unwrap();
        fs::rename(new, &self.0).unwrap();
    }

    /// How much of this lease is left: its deadline is the eight bytes behind the boot's name.
    fn left(&self, lease: &Path) -> Duration {
        let mut deadline = [0; 8];
        fs::File::open(lease).and_then(|file| file.read_exact_at(&mut deadline, 64)).expect("the lease");
        let now = Duration::from(clock_gettime(ClockId::CLOCK_BOOTTIME).unwrap()) + self.suspended();
        Duration::from_nanos(u64::from_le_bytes(deadline)).saturating_sub(now)
    }
}
