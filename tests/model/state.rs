//! What the model remembers: rows, files, processes, what replicas know, and what is on its way.
//!
//! Times are whole units that are left until a moment, so that two states that differ in their age alone are one: the
//! search needs no horizon. A state holds nothing that does not matter for what may follow.

use orch::model::{JobStatus, Outcome};

/// State directories; each is one machine.
pub(crate) const DIRS: usize = 2;
/// Boots of one state directory.
pub(crate) const BOOTS: usize = 2;
/// The most runs of all jobs together.
pub(crate) const RUNS: usize = 4;

/// A replica: a boot of a state directory.
pub(crate) type Boot = u8;

/// The boot number `n` of directory `dir`.
pub(crate) const fn boot(dir: usize, n: u8) -> Boot {
    (dir * BOOTS) as u8 + n
}

/// Where a boot is at home.
pub(crate) const fn dir_of(boot: Boot) -> usize {
    boot as usize / BOOTS
}

/// All there is at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct State {
    pub(crate) db: Database,
    pub(crate) replicas: [Replica; DIRS * BOOTS],
    pub(crate) dirs: [Dir; DIRS],
    pub(crate) jobs: [Job; 2],
    pub(crate) runs: [Run; RUNS],
    /// A program was started although its replica owned it no longer, or not yet.
    pub(crate) foreign_start: bool,
    /// A reap has taken a run from a replica that was live.
    pub(crate) robbed: bool,
}

/// The server, and what stands in `meta`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Database {
    pub(crate) outage: Once,
    /// For how long nobody has ticked.
    pub(crate) silent: i8,
    /// How long nobody is declared dead yet, and whether that was ever said.
    pub(crate) wait: i8,
    pub(crate) waited: bool,
    /// Whether its clock has jumped ahead.
    pub(crate) jumped: bool,
}

/// A fault that happens once and is over some time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Once {
    Ahead,
    Now,
    Over,
}

/// A row of `replicas`, and the lease file of that boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Replica {
    pub(crate) row: Row,
    /// Until `lease_until`, on the database's clock.
    pub(crate) lease: i8,
    /// Until D, on the machine's: what the file says.
    pub(crate) deadline: i8,
}

/// A replica for the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Row {
    None,
    Live,
    Dead,
}

/// A state directory, and the process that has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Dir {
    /// Which boot it is, or was last.
    pub(crate) boot: u8,
    pub(crate) life: Life,
    /// Whether it has had its crash, or its planned stop.
    pub(crate) crashed: bool,
    /// A renewal that was executed, and whose answer is on its way.
    pub(crate) answer: Option<Answer>,
}

/// The process of a replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Life {
    Up,
    Down,
    /// It was told that it is dead: it ends what it runs, then registers anew.
    ToldDead,
}

/// The answer to a renewal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Answer {
    /// Since t0.
    pub(crate) age: i8,
    /// Whether the row was live.
    pub(crate) live: bool,
    /// Runs that it lists and that were not known at t0, and runs that were known at t0 and that it does not list: bits.
    pub(crate) unknown: u8,
    pub(crate) missing: u8,
}

/// A row of `jobs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Job {
    pub(crate) status: JobStatus,
    /// The run and its owner, by their places.
    pub(crate) token: Option<(u8, Boot)>,
    pub(crate) last_run: Option<u8>,
    pub(crate) attempt: u8,
    pub(crate) failures: u8,
    pub(crate) lost: u8,
    pub(crate) interruptions: u8,
    pub(crate) retried: bool,
    /// A claim that its asker has forgotten, and that may still be executed.
    pub(crate) stray_claim: Option<Boot>,
}

/// A run: its row, its directory, its processes, and what is on its way about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Run {
    pub(crate) row: RunRow,
    /// `replica_id` of the row.
    pub(crate) owner: Boot,
    pub(crate) lost_counted: bool,
    /// Who claimed it: in whose state directory it lies, and by whose lease it starts.
    pub(crate) claimant: Boot,
    pub(crate) known: Known,
    pub(crate) tree: Tree,
    pub(crate) void: bool,
    /// What is to be told of its end: from `exit.json`, or as it was given up.
    pub(crate) told: Option<Outcome>,
    /// A settle that was sent, with its token's owner. It may be executed late, never, or more than once.
    pub(crate) settle: Option<Boot>,
    /// A reap that was sent, with the owner that was seen.
    pub(crate) reap: Option<Boot>,
    /// An adoption whose snapshot is taken: former owner and successor.
    pub(crate) adoption: Option<(Boot, Boot)>,
    /// How often it was settled, and how often its result was taken late.
    pub(crate) settles: u8,
    pub(crate) lates: u8,
}

/// A row of `agent_runs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum RunRow {
    None,
    Open,
    /// By the owner or its successor.
    Closed(Outcome),
    /// As lost, by a reap.
    Reaped,
}

/// What the present boot of its state directory knows of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Known {
    /// Nothing (any more).
    No,
    /// A claim or an adoption is under way.
    Asked,
    /// It is listed as ours, and we know nothing of it.
    Listed,
    /// It is looked after.
    Yes,
    /// It was looked at after a restart, and is nobody's here.
    Seen,
}

/// The processes of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Tree {
    /// The spawner was never asked.
    None,
    /// It was asked, and the shim does not hold the lock yet.
    Starting,
    /// The shim holds the lock and the program lives, by the lease file of that boot.
    Lives(Boot, Told),
    /// Nothing lives, nor ever will, and the lock is free.
    Gone,
}

/// What its shim has told a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Told {
    Nothing,
    Term,
    Kill,
}

impl Run {
    /// A place that no run has taken.
    pub(crate) const fn unused() -> Self {
        Self {
            row: RunRow::None,
            owner: 0,
            lost_counted: false,
            claimant: 0,
            known: Known::No,
            tree: Tree::None,
            void: false,
            told: None,
            settle: None,
            reap: None,
            adoption: None,
            settles: 0,
            lates: 0,
        }
    }

    /// A run that is over, of which nothing can matter but how it was closed and what was counted.
    pub(crate) const fn over(&self) -> Self {
        Self {
            row: self.row,
            tree: Tree::Gone,
            lost_counted: self.lost_counted,
            settles: self.settles,
            lates: self.lates,
            ..Self::unused()
        }
    }

    /// Whether something of it lives, so that its lock is held.
    pub(crate) const fn lives(&self) -> bool {
        matches!(self.tree, Tree::Lives(..))
    }
}

impl State {
    /// The boot that a state directory is at, or was at last.
    pub(crate) fn present(&self, dir: usize) -> Boot {
        boot(dir, self.dirs[dir].boot)
    }

    pub(crate) fn is_live(&self, boot: Boot) -> bool {
        self.replicas[boot as usize].row == Row::Live
    }

    pub(crate) fn db_answers(&self) -> bool {
        self.db.outage != Once::Now
    }

    /// Whether any replica's process is there: to tick, to reap.
    pub(crate) fn somebody_is_up(&self) -> bool {
        self.dirs.iter().any(|dir| dir.life == Life::Up)
    }

    /// The same with the two state directories exchanged.
    pub(crate) fn mirrored(&self) -> Self {
        let other = |boot: Boot| (boot + BOOTS as Boot) % (DIRS * BOOTS) as Boot;
        let mut state = *self;
        state.dirs.swap(0, 1);
        state.replicas.rotate_left(BOOTS);
        for job in &mut state.jobs {
            job.token = job.token.map(|(run, owner)| (run, other(owner)));
            job.stray_claim = job.stray_claim.map(other);
        }
        for run in &mut state.runs {
            if *run == Run::unused() || *run == run.over() {
                continue;
            }
            run.owner = other(run.owner);
            run.claimant = other(run.claimant);
            run.settle = run.settle.map(other);
            run.reap = run.reap.map(other);
            run.adoption = run.adoption.map(|(former, successor)| (other(former), other(successor)));
            if let Tree::Lives(follows, told) = run.tree {
                run.tree = Tree::Lives(other(follows), told);
            }
        }
        state
    }
}
