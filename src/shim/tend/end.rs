//! How the tree that a shim tends comes to its end, and what is said of it.
//!
//! Owns when it is told to end: the lease, a timeout, silence, a request, a signal, or a main process that ended and left
//! others. TERM, then KILL, over the whole tree, until it is empty. What is due when is `model::fence`'s to decide; here it is
//! done. Waits for nothing.

use std::time::Duration;

use nix::sys::resource::{UsageWho, getrusage};

use super::{PIECE, Run};
use crate::{
    model::fence::{Due, Facts, Limit, Stage},
    shim::{
        clock::now,
        ending::read_result,
        process,
        protocol::{Cause, Exit, Report},
        sys::End,
        tree::Tree,
    },
};

/// What the main process left behind has this long between TERM and KILL, or the run's own grace if that is shorter.
const LEFTOVER_GRACE: Duration = Duration::from_secs(1);
/// Containment `sweep` can lose to a tree that forks faster than it is swept; then it says so.
const SWEEP_BOUND: Duration = Duration::from_secs(10);
/// A tree that lives on for so long after KILL is stuck, not slow.
const UNENDING_AFTER: Duration = Duration::from_secs(1);
/// What a pipe can hold at most when its last writers are gone.
const DRAIN_BOUND: usize = 1024 * 1024;

impl Run<'_> {
    /// Reads the lease, and ends the tree if its end has come.
    pub(super) fn look_at_lease(&mut self) {
        self.lease.refresh();
        // What came while we slept is not heard yet, so nobody is called silent or late.
        self.enforce(|facts| Facts { timeout_at: None, silent_at: None, ..facts });
    }

    /// Does what is due now.
    pub(super) fn keep_time(&mut self) {
        if self.main_end.is_some() && !self.is_followed && !self.is_tree_empty() {
            self.is_followed = true;
            self.count();
            match (self.stage, &self.tree) {
                (Stage::Living, _) => self.end(Cause::Exited, now() + self.grace.min(LEFTOVER_GRACE)),
                (_, Tree::Pidns(_)) => {}
                // Whoever was being forked when the others were told. They keep the grace that was given to all.
                _ => self.tree.terminate(self.main, &mut self.told),
            }
        }
        self.enforce(|facts| facts);
        if let Stage::Kill { since, .. } = self.stage
            && !self.is_unending
            && now() > since.saturating_add(UNENDING_AFTER)
            && !self.is_tree_empty()
        {
            self.is_unending = true;
            self.peers.tell(&Report::Unending);
        }
    }

    fn enforce(&mut self, limited: impl Fn(Facts) -> Facts) {
        loop {
            match limited(self.facts()).due() {
                Due::Nothing { until } => {
                    self.due_at = until;
                    return;
                }
                Due::Term { limit, kill_at } => {
                    // It may have written while we slept since the last look.
                    if limit != Limit::Silence || !self.read_output(1) {
                        self.end(limit.into(), kill_at);
                    }
                }
                Due::Kill => {
                    self.count();
                    self.tree.kill(self.main);
                    self.stage = self.stage.killed(now());
                }
            }
        }
    }

    fn facts(&self) -> Facts {
        // They are the main process' own.
        let runs = self.exit.started.is_some() && self.main_end.is_none();
        let silence = self.held.spec.silence_timeout_ms.map(Duration::from_millis);
        Facts {
            now: now(),
            lease: self.lease.deadline(),
            grace: self.grace,
            timeout_at: self.timeout_at.filter(|_| runs),
            silent_at: silence.filter(|_| runs).map(|silence| self.heard_at.saturating_add(silence)),
            stage: self.stage,
        }
    }

    /// Tells the tree to end, or shortens the grace of one that has been told.
    pub(super) fn end(&mut self, cause: Cause, kill_at: Duration) {
        if self.stage == Stage::Living {
            if self.main_end.is_none() {
                self.exit.cause = cause;
            }
            self.tree.terminate(self.main, &mut self.told);
        }
        self.stage = self.stage.told(kill_at);
    }

    /// Counts those who had to be ended beside the main process.
    fn count(&mut self) {
        if self.killed.len() >= process::DESCENDANTS_MAX {
            return;
        }
        let main = self.candidate.as_ref().or(self.exit.started.as_ref()).map(|started| started.pid);
        self.killed.extend(self.tree.living().into_iter().filter(|(pid, _)| Some(*pid) != main));
    }

    fn is_tree_empty(&self) -> bool {
        self.tree.is_empty(self.childless)
    }

    pub(super) fn is_over(&mut self) -> bool {
        if self.main_end.is_none() || self.birth.is_some() {
            return false;
        }
        if self.is_tree_empty() {
            return true;
        }
        matches!((&self.tree, self.stage), (Tree::Sweep, Stage::Kill { since, .. }) if now() > since + SWEEP_BOUND)
    }

    /// The tree is empty: takes what is left of its output and puts the facts together.
    pub(super) fn finish(mut self) -> Exit {
        self.read_output(DRAIN_BOUND / PIECE);
        self.keep_rest();
        // Before the end is told.
        if self.spool.total() > self.reported {
            self.peers.tell_output(self.spool.total());
        }
        let mut exit = self.exit;
        exit.processes_left = if self.childless { 0 } else { self.tree.living().len() as u32 };
        exit.processes_killed = self.killed.len() as u32;
        match self.main_end.filter(|_| exit.started.is_some()) {
            Some(End::Code(code)) => exit.exit_code = Some(code),
            Some(End::Signal(signal)) => exit.signal = Some(signal),
            None => {}
        }
        let usage = self.bounds.complete(self.tree.usage());
        if let Ok(children) = getrusage(UsageWho::RUSAGE_CHILDREN) {
            let seconds = |time: nix::sys::time::TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
            exit.user_cpu_seconds = usage.user_seconds.unwrap_or_else(|| seconds(children.user_time()));
            exit.system_cpu_seconds = usage.system_seconds.unwrap_or_else(|| seconds(children.system_time()));
            let largest = u64::try_from(children.max_rss()).unwrap_or(0) * 1024;
            exit.peak_memory_bytes = usage.peak_memory_bytes.unwrap_or(largest);
        }
        exit.oom_killed = usage.oom_kills.map(|kills| kills > 0);
        (exit.log_bytes_kept, exit.log_bytes_dropped) = self.spool.finish();
        if exit.started.is_some() {
            exit.result = read_result(&self.held.directory);
        }
        self.tree.remove();
        self.bounds.remove();
        exit
    }
}
