//! The faults, how often each comes, and what it does.

use std::time::Duration;

use nix::{
    sys::signal::{self, Signal},
    unistd::Pid,
};
use rand::{RngExt as _, seq::IndexedRandom as _};

use super::{
    Due, Soak, jobs,
    places::{Place, Standing},
};
use crate::{
    bound::{HEARTBEAT, LEASE},
    processes,
    proxy::{CLAIM, Fate, RENEWAL, SETTLE},
    recovery::now,
};

/// A kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    ReplicaKilled,
    SpawnerKilled,
    ShimKilled,
    MachineLost,
    ReplicaFrozen,
    StoppedToFinish,
    StoppedToHandOver,
    Drained,
    DatabaseCrashed,
    ConnectionsCut,
    ConnectionsRefused,
    BlackHole,
    RepliesHeld,
    SlowNetwork,
    ClaimReplyLost,
    SettleReplyLost,
    RenewalReplyLost,
    DiskFull,
}

/// How many of a hundred; the two planned stops are one choice, by what the replica was started with.
const MIX: [(Fault, u32); 17] = [
    (Fault::ReplicaKilled, 18),
    (Fault::SpawnerKilled, 8),
    (Fault::ShimKilled, 14),
    (Fault::MachineLost, 2),
    (Fault::ReplicaFrozen, 9),
    (Fault::StoppedToFinish, 10),
    (Fault::Drained, 3),
    (Fault::DatabaseCrashed, 4),
    (Fault::ConnectionsCut, 6),
    (Fault::ConnectionsRefused, 5),
    (Fault::BlackHole, 7),
    (Fault::RepliesHeld, 4),
    (Fault::SlowNetwork, 2),
    (Fault::ClaimReplyLost, 6),
    (Fault::SettleReplyLost, 6),
    (Fault::RenewalReplyLost, 4),
    (Fault::DiskFull, 3),
];

/// The machine whose replica lives from the beginning to the end.
const ELDEST: usize = 0;

impl Fault {
    /// As the report calls it.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::ReplicaKilled => "replica: `kill -9`, started again at once, in time, or too late",
            Self::SpawnerKilled => "spawner: `kill -9`",
            Self::ShimKilled => "shim: `kill -9`",
            Self::MachineLost => "machine lost with everything on it, another one comes",
            Self::ReplicaFrozen => "replica: SIGSTOP, mostly for longer than a lease, then CONT",
            Self::StoppedToFinish => "replica: planned stop, `finish`, and start",
            Self::StoppedToHandOver => "replica: planned stop, `handover`, and start",
            Self::Drained => "replica: drained for a while",
            Self::DatabaseCrashed => "Postgres: crash, and start",
            Self::ConnectionsCut => "network: every connection of a replica reset",
            Self::ConnectionsRefused => "network: partition by reset",
            Self::BlackHole => "network: black hole, both ways",
            Self::RepliesHeld => "network: black hole, replies alone",
            Self::SlowNetwork => "network: replies and requests slow",
            Self::ClaimReplyLost => "network: the reply to a claim lost, late or cut, or its request late",
            Self::SettleReplyLost => "network: the same of a settle",
            Self::RenewalReplyLost => "network: the same of a renewal",
            Self::DiskFull => "disk full under a state directory",
        }
    }
}

impl Soak<'_> {
    /// Makes one, if what is chosen can be made now.
    pub(super) async fn some_fault(&mut self) -> bool {
        let (fault, _) = *MIX.choose_weighted(&mut self.case.random, |choice| choice.1).expect("there are some");
        let made = match fault {
            Fault::ReplicaKilled => self.kill_replica().await,
            Fault::SpawnerKilled => self.kill_spawner(),
            Fault::ShimKilled => self.kill_shim().await,
            Fault::MachineLost => self.lose_machine().await,
            Fault::ReplicaFrozen => self.freeze(),
            Fault::StoppedToFinish | Fault::StoppedToHandOver => return self.stop(),
            Fault::Drained => self.drain().await,
            Fault::DatabaseCrashed => self.crash_database(),
            Fault::ConnectionsCut => self.cut(),
            Fault::ConnectionsRefused | Fault::BlackHole | Fault::RepliesHeld | Fault::SlowNetwork => {
                self.impair(fault)
            }
            // Counted when it has come to one.
            Fault::ClaimReplyLost => return self.set_trap(fault, CLAIM),
            Fault::SettleReplyLost => return self.set_trap(fault, SETTLE),
            Fault::RenewalReplyLost => return self.set_trap(fault, RENEWAL),
            Fault::DiskFull => self.fill_disk(),
        };
        if made {
            self.count(fault);
        }
        made
    }

    /// A machine whose replica may go while another one looks after the jobs.
    fn some_victim(&mut self, is_meant: impl Fn(usize, &Place) -> bool) -> Option<usize> {
        let victim = self.some_place(|place, here| here.fragile.is_none() && is_meant(place, here))?;
        self.others_are_well(victim).then_some(victim)
    }

    async fn kill_replica(&mut self) -> bool {
        let lives = |standing| !matches!(standing, Standing::Down);
        let Some(place) = self.some_victim(|place, here| place != ELDEST && lives(here.standing)) else { return false };
        let name = self.places[place].name.clone();
        let node = self.case.node(&name);
        if node.has_ended().is_some() {
            // In this moment: seen as an end of its own.
            self.recovery.is_away("owner ended by itself", &name, now());
        } else {
            node.kill().await;
            self.recovery.is_away("owner killed", &name, now());
        }
        self.places[place].standing = Standing::Down;
        self.places[place].frozen = None;
        let again = match self.case.random.random_range(0..100) {
            0..45 => 0.0..0.3,
            45..75 => 0.5..2.0,
            _ => LEASE.as_secs_f64()..LEASE.as_secs_f64() + 3.0,
        };
        self.later(again, Due::Start(place));
        true
    }

    fn kill_spawner(&mut self) -> bool {
        let Some(place) = self.some_place(|_, here| here.is_ready() && here.fragile.is_none()) else { return false };
        self.case.node(&self.places[place].name).spawner().is_some_and(kill)
    }

    /// In a pid namespace of any machine; in a cgroup only where a replica lives that will sweep it, and nothing else
    /// happens to that one until then.
    async fn kill_shim(&mut self) -> bool {
        if self.database_is_away {
            return false;
        }
        let mut shims = Vec::new();
        for (place, here) in self.places.iter().enumerate() {
            let found = self.case.node(&here.name).shims();
            shims.extend(found.into_iter().map(|(run, pid)| (place, run, pid)));
        }
        let Some((place, run, pid)) = shims.choose(&mut self.case.random).cloned() else { return false };
        let agent = "select agent from orch.jobs where run_id = $1::text::uuid";
        let Some(agent) = self.case.sql.query_opt(agent, &[&run]).await.unwrap() else { return false };
        let is_alone = !jobs::is_in_a_pid_namespace(agent.get(0));
        if is_alone && !self.places[place].is_well() || !kill(pid) {
            return false;
        }
        let here = &mut self.places[place];
        self.recovery.shim_died(&here.name, &run, now());
        if is_alone {
            here.fragile = Some(run);
        }
        true
    }

    async fn lose_machine(&mut self) -> bool {
        let Some(place) = self.some_victim(|place, here| place != ELDEST && !here.has_disk() && here.is_ready()) else {
            return false;
        };
        let name = self.places[place].name.clone();
        self.case.node(&name).kill_everything().await;
        self.recovery.is_away("machine lost", &name, now());
        if let Some((since, _)) = self.places[place].impaired {
            self.recovery.may_renew_late(&name, since, now());
        }
        self.places[place] = self.new_machine().await;
        self.later(0.0..3.0, Due::Start(place));
        true
    }

    fn freeze(&mut self) -> bool {
        let Some(place) = self.some_victim(|_, here| here.is_ready()) else { return false };
        let here = &mut self.places[place];
        self.case.node(&here.name).replica().signal(Signal::SIGSTOP);
        here.standing = Standing::Frozen;
        here.frozen = Some(self.recovery.is_away("owner frozen", &here.name, now()));
        let long = LEASE.as_secs_f64() + 1.0..LEASE.as_secs_f64() + 5.0;
        let time = if self.case.random.random_bool(0.6) { long } else { 0.5..4.0 };
        self.later(time, Due::Thaw(place));
        true
    }

    fn stop(&mut self) -> bool {
        let Some(place) = self.some_victim(|place, here| place != ELDEST && here.is_ready()) else { return false };
        let here = &mut self.places[place];
        self.case.node(&here.name).replica().signal(Signal::SIGTERM);
        here.standing = Standing::Stopping(std::time::Instant::now());
        self.count(if self.places[place].hands_over { Fault::StoppedToHandOver } else { Fault::StoppedToFinish });
        true
    }

    async fn drain(&mut self) -> bool {
        if self.database_is_away {
            return false;
        }
        let Some(place) = self.some_victim(|_, here| here.is_well() && !here.is_draining) else { return false };
        let replica_id = self.case.replica_id(&self.places[place].name).await;
        // It may be declared dead in this moment.
        let drained = self.case.orch.run(["drain", &replica_id]).await;
        if !drained.status.success() {
            return false;
        }
        self.places[place].is_draining = true;
        self.later(1.0..5.0, Due::ClaimAgain(place, replica_id));
        true
    }

    fn crash_database(&mut self) -> bool {
        if self.database_is_away {
            return false;
        }
        self.database_is_away = true;
        let since = now();
        self.case.server().crash();
        let away = if self.case.random.random_bool(0.75) { 0.2..2.0 } else { 3.0..10.0 };
        self.later(away, Due::DatabaseBack(since));
        true
    }

    fn cut(&mut self) -> bool {
        let Some(place) = self.some_place(|_, here| here.is_ready() && here.impaired.is_none()) else { return false };
        self.places[place].proxy.cut();
        true
    }

    fn impair(&mut self, fault: Fault) -> bool {
        let Some(place) = self.some_victim(|_, here| here.is_ready() && here.impaired.is_none()) else { return false };
        let here = &mut self.places[place];
        let since = now();
        let passes = match fault {
            Fault::ConnectionsRefused => {
                here.proxy.refuse();
                false
            }
            Fault::BlackHole => {
                here.proxy.black_hole();
                false
            }
            Fault::RepliesHeld => {
                here.proxy.hold_replies();
                false
            }
            _ => {
                let [requests, replies] = [0, 1].map(|_| self.case.random.random_range(100..700));
                here.proxy.delay_requests(Duration::from_millis(requests));
                here.proxy.delay_replies(Duration::from_millis(replies));
                true
            }
        };
        // Where requests arrive, one more renewal does; no reply lets another one follow.
        let last = if fault == Fault::RepliesHeld { since + HEARTBEAT.as_secs_f64() } else { since };
        let absence = (!passes).then(|| self.recovery.is_away("owner cut off from the database", &here.name, last));
        here.impaired = Some((since, absence));
        let time = if self.case.random.random_bool(0.5) { 0.5..3.5 } else { 5.0..11.0 };
        self.later(time, Due::Heal(place));
        true
    }

    fn set_trap(&mut self, fault: Fault, statement: &str) -> bool {
        let has_none = |place: usize| self.traps.iter().all(|trap| trap.0 != place);
        let free: Vec<bool> = (0..self.places.len()).map(has_none).collect();
        let Some(place) = self.some_place(|place, here| here.is_well() && free[place]) else { return false };
        let fates = [Fate::StrayRequest, Fate::HoldReply, Fate::LoseReply, Fate::CutReply, Fate::CutReply];
        let fate = *fates.choose(&mut self.case.random).expect("there are some");
        let trap = self.places[place].proxy.trap(statement, fate);
        let after = Duration::from_secs_f64(self.case.random.random_range(0.3..5.0));
        self.traps.push((place, fault, trap, after));
        true
    }

    fn fill_disk(&mut self) -> bool {
        let Some(place) = self.some_victim(|_, here| here.has_disk() && here.is_well()) else { return false };
        self.places[place].fill();
        self.later(1.0..6.0, Due::Room(place));
        true
    }
}

/// Whether there was somebody to kill: a process may have ended since it was found.
fn kill(pid: i32) -> bool {
    // A zombie is killed for ever.
    processes::stat(pid).is_some_and(|stat| stat.state != 'Z')
        && signal::kill(Pid::from_raw(pid), Signal::SIGKILL).is_ok()
}
