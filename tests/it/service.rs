//! What a service manager is told: ready, each renewal, stopping; and nothing while the lease is not renewed.

use std::{sync::Mutex, time::Duration};

use nix::sys::signal::Signal;
use tokio::net::UnixDatagram;

use crate::support::{Orch, TestDb, eventually};

/// A service manager that writes down what it is told.
struct Manager {
    socket: UnixDatagram,
    told: Mutex<Vec<String>>,
}

impl Manager {
    fn of(orch: &mut Orch) -> Self {
        let path = orch.path("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        orch.set("NOTIFY_SOCKET", path.to_string_lossy());
        // Patience enough that only silence is judged here, never pace.
        orch.set("WATCHDOG_USEC", "60000000");
        Self { socket, told: Mutex::default() }
    }

    /// All that it was told since this was last asked.
    fn told(&self) -> Vec<String> {
        let mut told = self.told.lock().unwrap();
        let mut buffer = [0; 1024];
        while let Ok(length) = self.socket.try_recv(&mut buffer) {
            told.push(String::from_utf8(buffer[..length].to_vec()).unwrap());
        }
        std::mem::take(&mut told)
    }

    async fn hears(&self, line: &str) -> String {
        eventually(&format!("{line} to be told"), async || {
            self.told().into_iter().find(|message| message.lines().any(|said| said == line))
        })
        .await
    }
}

fn place(db: &TestDb) -> Orch {
    let orch = Orch::on(db)
        .with("ORCH_HEARTBEAT", "100ms")
        .with("ORCH_LEASE", "3s")
        .with("ORCH_KILL_GRACE", "200ms")
        .with("ORCH_REAP_GRACE", "200ms")
        .with("ORCH_REAP_INTERVAL", "200ms");
    orch.config("[agents.a]\ncommand = [\"true\"]\n");
    orch
}

#[tokio::test]
async fn a_manager_is_told_of_the_start_of_each_renewal_and_of_the_stop() {
    let db = TestDb::new().await;
    let mut orch = place(&db);
    let manager = Manager::of(&mut orch);
    let mut replica = orch.up().await;
    assert!(manager.hears("READY=1").await.contains("STATUS=replica "));
    for _ in 0..3 {
        manager.hears("WATCHDOG=1").await;
    }

    // Nobody can renew a row that another transaction holds, and nobody can declare its replica dead.
    let mut client = db.client().await;
    let held = client.transaction().await.unwrap();
    held.execute("select 1 from orch.replicas for update", &[]).await.unwrap();
    let in_vain = "failed to renew the lease";
    eventually("a renewal to fail", async || replica.log().contains(in_vain).then_some(())).await;
    manager.told();
    let over = "select bool_and(lease_until < clock_timestamp()) from orch.replicas";
    eventually("the lease to run out", async || {
        held.query_one(over, &[]).await.unwrap().get::<_, bool>(0).then_some(())
    })
    .await;
    assert_eq!(manager.told(), Vec::<String>::new(), "a replica that does not renew feeds no watchdog");
    drop(held);
    manager.hears("WATCHDOG=1").await;

    replica.signal(Signal::SIGTERM);
    manager.hears("STOPPING=1").await;
    assert!(replica.ended().await.success(), "{}", replica.log());
    assert!(!manager.told().iter().any(|message| message.contains("READY=1")));
}

#[tokio::test]
async fn a_paused_replica_has_started_says_why_it_waits_and_is_let_alone() {
    let db = TestDb::new().await;
    db.client().await.batch_execute("update orch.meta set system_identifier = 1, database_oid = 1").await.unwrap();
    let mut orch = place(&db);
    let manager = Manager::of(&mut orch);
    // Half of this is the pace at which one that waits shows that it does.
    orch.set("WATCHDOG_USEC", "200000");
    let _replica = orch.start();
    let ready = manager.hears("READY=1").await;
    assert!(ready.contains("STATUS=paused: ") && ready.contains("--accept-identity"), "{ready}");
    for _ in 0..3 {
        manager.hears("WATCHDOG=1").await;
    }
    orch.run(["doctor", "--accept-identity"]).await.ok();
    let going_on = eventually("the replica to go on", async || {
        manager.told().into_iter().find(|message| message.starts_with("STATUS=replica "))
    });
    assert!(!going_on.await.contains("READY=1"), "it is ready once");
}

#[tokio::test]
async fn a_manager_that_is_not_there_keeps_nobody_from_working() {
    let db = TestDb::new().await;
    let orch = place(&db).with("NOTIFY_SOCKET", "/nowhere/notify").with("WATCHDOG_USEC", "1000000");
    let replica = orch.up().await;
    eventually("the log to say so", async || {
        let log = replica.log();
        (log.contains("service manager does not take") && log.contains("make WatchdogSec longer")).then_some(())
    })
    .await;
    let wrong = place(&db).with("NOTIFY_SOCKET", "notify");
    let output = wrong.run(["up"]).await;
    assert!(!output.status.success() && output.stderr.contains("NOTIFY_SOCKET is notify"), "{output:?}");
    tokio::time::timeout(Duration::from_secs(30), orch.run(["enqueue", "a", "--wait"])).await.unwrap().ok();
}
