//! A node: one place where replicas run one after the other, with its own state directory, name and port.

use std::{
    path::{Path, PathBuf},
    process::ExitStatus,
    sync::Arc,
};

use nix::sys::signal::Signal;

use crate::{
    network::Place,
    processes,
    support::{Orch, Replica, eventually, kill_beneath, processes_beneath},
};

/// A node and its replica, if one is up.
#[derive(Debug)]
pub(crate) struct Node {
    name: String,
    pub(crate) orch: Orch,
    /// Where it is in the case's network, if it has one.
    pub(crate) place: Option<Arc<Place>>,
    replica: Option<Replica>,
}

impl Node {
    /// Beside another place: the same database, agents and settings.
    pub(crate) fn beside(orch: &Orch, name: &str) -> Self {
        let orch = orch.beside().with("ORCH_NAME", name);
        Self { name: name.to_owned(), orch, place: None, replica: None }
    }

    /// Starts its replica without waiting for anything.
    pub(crate) fn start(&mut self) {
        assert!(self.replica.is_none(), "{}: a second replica on one state directory", self.name);
        self.replica = Some(match &self.place {
            None => self.orch.start(),
            Some(place) => {
                let enter = place.enter();
                let words: Vec<&str> = enter.iter().map(String::as_str).collect();
                self.orch.start_by(&words, self.orch.program())
            }
        });
    }

    /// Starts its replica and waits until it is ready.
    pub(crate) async fn up(&mut self) {
        self.start();
        self.until_ready().await;
    }

    /// Waits until its replica is ready.
    pub(crate) async fn until_ready(&mut self) {
        if self.place.is_none() {
            return self.replica.as_mut().expect("a replica").until_ready().await;
        }
        eventually("the replica to be ready", async || self.is_ready().await.then_some(())).await;
    }

    /// Whether its replica is ready. Panics if it has ended.
    pub(crate) async fn is_ready(&mut self) -> bool {
        let replica = self.replica.as_mut().expect("a replica");
        let Some(place) = &self.place else { return replica.is_ready().await };
        replica.assert_running();
        place.get(self.orch.listen(), "/readyz").await.is_ok_and(|answer| answer.status == 200)
    }

    /// Gives it a replica that was started otherwise.
    pub(crate) fn adopt(&mut self, replica: Replica) {
        assert!(self.replica.is_none(), "{}: a second replica on one state directory", self.name);
        self.replica = Some(replica);
    }

    /// Whether a replica was started here that nobody has taken down since.
    pub(crate) fn is_up(&self) -> bool {
        self.replica.is_some()
    }

    /// Its replica.
    pub(crate) fn replica(&self) -> &Replica {
        self.replica.as_ref().unwrap_or_else(|| panic!("{} has no replica", self.name))
    }

    /// The process of its replica, also where another program started it and waits for it.
    pub(crate) fn process(&self) -> i32 {
        let own = self.replica().pid();
        let name = std::fs::read_to_string(format!("/proc/{own}/comm")).unwrap_or_default();
        let waits = ["unshare", "nsenter"].contains(&name.trim());
        if waits { *processes::children(own).first().expect("the replica that is waited for") } else { own }
    }

    /// `kill -9` of everything that works at its state directory: replica, spawner, shims and jobs.
    pub(crate) async fn kill_everything(&mut self) {
        kill_beneath(self.state_dir());
        self.ended().await;
        eventually("all of the node's processes to be gone", async || self.processes().is_empty().then_some(())).await;
    }

    /// What its replicas have logged.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.orch.path("replica.log")).unwrap_or_default()
    }

    /// `kill -9` of its replica: spawner, shims and jobs are left to themselves.
    pub(crate) async fn kill(&mut self) {
        self.replica.take().expect("a replica").kill().await;
    }

    /// How its replica ended, if it has.
    pub(crate) fn has_ended(&mut self) -> Option<ExitStatus> {
        let status = self.replica.as_mut().expect("a replica").has_ended()?;
        self.replica = None;
        Some(status)
    }

    /// Waits for the end of its replica, which was told to or kills itself.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        self.replica.take().expect("a replica").ended().await
    }

    /// SIGTERM, and what it ends with, which must be well.
    pub(crate) async fn stop(&mut self) {
        if self.is_up() {
            processes::signal(self.process(), Signal::SIGTERM);
            let status = self.ended().await;
            assert!(status.success(), "{} ended with {status}:\n{}", self.name, self.log());
        }
        let log = self.log();
        assert!(!log.contains("panicked"), "a panic in the log of {}:\n{log}", self.name);
    }

    /// What passes between it and the server.
    pub(crate) fn place(&self) -> Arc<Place> {
        self.place.clone().unwrap_or_else(|| panic!("{} has no network", self.name))
    }

    /// Its state directory.
    pub(crate) fn state_dir(&self) -> &Path {
        self.orch.state_dir()
    }

    /// Its living processes of any kind.
    pub(crate) fn processes(&self) -> Vec<i32> {
        processes_beneath(self.state_dir())
    }

    /// Its spawner: whoever holds the lock of it.
    pub(crate) fn spawner(&self) -> Option<i32> {
        processes::flock_holders(&[self.state_dir().join("spawner.lock")]).pop().map(|(_, pid)| pid)
    }

    /// Its shims: run and pid.
    pub(crate) fn shims(&self) -> Vec<(String, i32)> {
        let runs = std::fs::read_dir(self.state_dir().join("runs")).into_iter().flatten().flatten();
        let locks: Vec<PathBuf> = runs.map(|run| run.path().join("lock")).collect();
        let holders = processes::flock_holders(&locks).into_iter();
        let run = |lock: PathBuf| Some(lock.parent()?.file_name()?.to_str()?.to_owned());
        let replica = self.replica.as_ref().map(Replica::pid);
        // A replica holds a run's lock as well, for the moment in which it gives the run up.
        holders
            .filter(|(_, pid)| Some(*pid) != replica)
            .filter_map(|(lock, pid)| run(lock).map(|run| (run, pid)))
            .collect()
    }

    /// Its name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }
}
