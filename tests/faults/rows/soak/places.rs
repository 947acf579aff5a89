//! The machines: what each is about, who renews and who does not, and what is told to the measure of recoveries.

use std::{
    fs::File,
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use rand::RngExt as _;

use super::{Due, MACHINES, Soak};
use crate::{
    proxy::Proxy,
    recovery::{Absence, At, now},
};

/// A replica that is stopped has ended within this, or is stuck.
const STOPPED_WITHIN: Duration = Duration::from_mins(1);

/// What a machine's replica is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    Down,
    Starting,
    Ready,
    Frozen,
    Stopping(Instant),
}

/// A machine.
pub(super) struct Place {
    pub(super) name: String,
    pub(super) proxy: Proxy,
    pub(super) standing: Standing,
    /// While it is frozen.
    pub(super) frozen: Option<Absence>,
    /// While its way to the database is not as it should be: since when, and whether no renewal passes.
    pub(super) impaired: Option<(At, Option<Absence>)>,
    pub(super) hands_over: bool,
    pub(super) is_draining: bool,
    /// Its replica must live until this run, whose shim was killed in a cgroup, is settled.
    pub(super) fragile: Option<String>,
    /// Something has happened that a replica may end by, to be started again by whoever looks after it.
    excused_until: Instant,
    disk: Option<SmallDisk>,
}

impl Place {
    pub(super) fn is_ready(&self) -> bool {
        self.standing == Standing::Ready
    }

    /// Whether it can renew, claim, and reap.
    pub(super) fn is_well(&self) -> bool {
        self.is_ready() && self.impaired.is_none() && self.fragile.is_none() && !self.is_full()
    }

    pub(super) fn has_disk(&self) -> bool {
        self.disk.is_some()
    }

    pub(super) fn is_full(&self) -> bool {
        self.disk.as_ref().is_some_and(|disk| disk.is_full)
    }

    pub(super) fn fill(&mut self) {
        self.disk.as_mut().expect("a disk of its own").fill();
        self.excuse(Duration::from_secs(20));
    }

    pub(super) fn make_room(&mut self) {
        if let Some(disk) = &mut self.disk {
            disk.make_room();
            self.excuse(Duration::from_secs(5));
        }
    }

    pub(super) fn excuse(&mut self, time: Duration) {
        self.excused_until = self.excused_until.max(Instant::now() + time);
    }

    fn is_excused(&self) -> bool {
        Instant::now() < self.excused_until || self.impaired.is_some()
    }
}

impl Soak<'_> {
    /// A machine that nobody knows yet. The second one of all has a small disk of its own.
    pub(super) async fn new_machine(&mut self) -> Place {
        let name = format!("machine-{}", self.machines);
        let has_disk = self.machines == 1;
        self.machines += 1;
        let proxy = Proxy::before(self.case.config()).await;
        let url = proxy.url(&self.case.server().url());
        let node = self.case.add_node(&name);
        node.orch.set("DATABASE_URL", url);
        let disk = has_disk.then(|| SmallDisk::over(node.state_dir()));
        Place {
            name,
            proxy,
            standing: Standing::Down,
            frozen: None,
            impaired: None,
            hands_over: false,
            is_draining: false,
            fragile: None,
            excused_until: Instant::now(),
            disk,
        }
    }

    pub(super) fn start(&mut self, place: usize) {
        if self.places[place].standing != Standing::Down {
            return;
        }
        let hands_over = self.case.random.random_bool(0.5);
        let node = self.case.node(&self.places[place].name);
        node.orch.set("ORCH_DRAIN", if hands_over { "handover" } else { "finish" });
        node.start();
        self.places[place].standing = Standing::Starting;
        self.places[place].hands_over = hands_over;
        self.places[place].is_draining = false;
    }

    /// Notes who has become ready, who has ended, and who was told to.
    pub(super) async fn look_after_machines(&mut self) {
        for place in 0..self.places.len() {
            if self.database_is_away {
                self.places[place].excuse(Duration::from_secs(5));
            }
            let here = &mut self.places[place];
            if matches!(here.standing, Standing::Down | Standing::Frozen) {
                continue;
            }
            let node = self.case.node(&here.name);
            if let Some(status) = node.has_ended() {
                let is_told = matches!(here.standing, Standing::Stopping(_));
                let is_well = is_told && status.success();
                assert!(is_well || here.is_excused(), "{} ended with {status}:\n{}", here.name, tail(&node.log()));
                if is_told && here.hands_over {
                    self.recovery.handed_over(&here.name, now());
                }
                let why = if is_told { "owner stopped as planned" } else { "owner ended by itself" };
                self.recovery.is_away(why, &here.name, now());
                here.standing = Standing::Down;
                let again = if is_told && self.case.random.random_bool(0.2) { 6.0..14.0 } else { 0.1..2.0 };
                self.later(again, Due::Start(place));
                continue;
            }
            match here.standing {
                Standing::Starting if node.is_ready().await => here.standing = Standing::Ready,
                Standing::Stopping(since) => {
                    let took = since.elapsed();
                    assert!(took < STOPPED_WITHIN, "{} does not stop:\n{}", here.name, tail(&node.log()));
                }
                _ => {}
            }
            if !self.database_is_away
                && let Some(run) = here.fragile.clone()
            {
                let runs = "select from orch.jobs where run_id = $1::text::uuid";
                if self.case.sql.query(runs, &[&run]).await.unwrap().is_empty() {
                    here.fragile = None;
                }
            }
        }
    }

    pub(super) fn thaw(&mut self, place: usize) {
        let here = &mut self.places[place];
        if here.standing == Standing::Frozen {
            self.case.node(&here.name).replica().signal(Signal::SIGCONT);
            here.standing = Standing::Ready;
            if let Some(absence) = here.frozen.take() {
                self.recovery.is_back(absence, now());
            }
        }
    }

    pub(super) fn heal(&mut self, place: usize) {
        let here = &mut self.places[place];
        here.proxy.heal();
        if let Some((since, absence)) = here.impaired.take() {
            here.excuse(Duration::from_secs(5));
            if let Some(absence) = absence {
                self.recovery.is_back(absence, now());
            }
            // What it held arrives now.
            self.recovery.may_renew_late(&here.name, since, now());
        }
    }

    /// Whether one is left that renews, claims and reaps, if not this one does.
    pub(super) fn others_are_well(&self, place: usize) -> bool {
        self.places.iter().enumerate().any(|(other, here)| other != place && here.is_well() && !here.is_draining)
    }

    /// One of the machines that these are about.
    pub(super) fn some_place(&mut self, is_meant: impl Fn(usize, &Place) -> bool) -> Option<usize> {
        let meant: Vec<usize> = (0..MACHINES).filter(|place| is_meant(*place, &self.places[*place])).collect();
        (!meant.is_empty()).then(|| meant[self.case.random.random_range(0..meant.len())])
    }
}

/// The end of a log.
fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}

/// A small disk under a state directory; gone with this value.
pub(super) struct SmallDisk {
    dir: PathBuf,
    is_full: bool,
}

impl SmallDisk {
    fn over(dir: &Path) -> Self {
        std::fs::create_dir_all(dir).unwrap();
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=64m,mode=0711", "none"]).arg(dir).output();
        let mounted = mounted.unwrap();
        assert!(mounted.status.success(), "{}", String::from_utf8_lossy(&mounted.stderr));
        Self { dir: dir.to_owned(), is_full: false }
    }

    fn fill(&mut self) {
        let mut ballast = File::create(self.dir.join("ballast")).expect("a file");
        let block = vec![0; 1 << 16];
        while ballast.write_all(&block).is_ok() {}
        while ballast.write_all(&block[..512]).is_ok() {}
        self.is_full = true;
    }

    fn make_room(&mut self) {
        let _ = std::fs::remove_file(self.dir.join("ballast"));
        self.is_full = false;
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a process of a failed row may still look at it.
        let _ = Command::new("umount").arg("-l").arg(&self.dir).status();
    }
}
