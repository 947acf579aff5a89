//! Which server a case stands on: the suite's, one of its own, two that replicate, or one across a network.

use tokio_postgres::config::TargetSessionAttrs;

use super::Case;
use crate::{
    auditor::Auditor,
    disk::SmallDisk,
    network::Network,
    node::Node,
    support::{Cluster, eventually},
};

impl Case {
    /// Gives the case a server of its own, which the row may crash. Before any node is added.
    pub(crate) async fn move_to_own_server(&mut self) {
        self.move_to_own_server_with("").await;
    }

    /// The same with these lines of `postgresql.conf`.
    pub(crate) async fn move_to_own_server_with(&mut self, settings: &str) {
        self.move_to(Cluster::start_with(settings, "", &[]).await).await;
    }

    /// Puts the data of the server of [`Case::move_to_own_server`] on a disk of this size (`128m`).
    pub(crate) async fn move_server_to_small_disk(&mut self, size: &str) {
        let server = self.server();
        server.stop();
        let disk = SmallDisk::new(size);
        server.give_away(disk.path());
        let copied = std::process::Command::new("cp").arg("-a").arg(server.data().join(".")).arg(disk.path()).status();
        assert!(copied.is_ok_and(|status| status.success()), "the data on its disk");
        std::fs::remove_dir_all(server.data()).expect("the data that was copied");
        std::os::unix::fs::symlink(disk.path(), server.data()).expect("a link to the disk");
        server.come_back().await;
        self.disk = Some(disk);
        self.reconnect().await;
    }

    /// The disk of [`Case::move_server_to_small_disk`].
    pub(crate) fn disk(&self) -> &SmallDisk {
        self.disk.as_ref().expect("a small disk")
    }

    /// As [`Case::move_to_own_server`], with a streaming standby that has all before a commit is acknowledged. The replicas
    /// know both hosts, and the judge as well.
    pub(crate) async fn move_to_replicated_servers(&mut self) {
        self.move_to_replicated_servers_with(&[]).await;
    }

    /// The same, with these variables in the standby's environment.
    pub(crate) async fn move_to_replicated_servers_with(&mut self, env: &[(String, String)]) {
        self.move_to_own_server().await;
        let standby = self.server().standby_with("standby", env).await;
        self.sql.batch_execute("alter system set synchronous_standby_names = 'standby'").await.unwrap();
        self.sql.batch_execute("select pg_reload_conf()").await.unwrap();
        eventually("the standby to be synchronous", async || {
            let synchronous = "select from pg_stat_replication where sync_state = 'sync'";
            (!self.sql.query(synchronous, &[]).await.unwrap().is_empty()).then_some(())
        })
        .await;
        let hosts = format!("127.0.0.1:{},127.0.0.1:{}", self.server().port(), standby.port());
        self.orch.set("DATABASE_URL", format!("postgres://postgres@{hosts}/postgres?connect_timeout=2"));
        self.standby = Some(standby);
        self.auditor = Auditor::start(self.config());
        self.reconnect().await;
    }

    /// The standby hears no more of the primary, which does not wait for it any longer.
    pub(crate) async fn cut_off_standby(&self) {
        let caught_up = "select from pg_stat_replication where replay_lsn >= pg_current_wal_lsn()";
        eventually("the standby to have all", async || {
            (!self.sql.query(caught_up, &[]).await.unwrap().is_empty()).then_some(())
        })
        .await;
        self.sql.batch_execute("alter system reset synchronous_standby_names").await.unwrap();
        self.server().prepend("pg_hba.conf", "host replication all all reject");
        self.sql.batch_execute("select pg_reload_conf()").await.unwrap();
        eventually("the standby to be cut off", async || {
            let cut = "select pg_terminate_backend(pid) from pg_stat_replication";
            self.sql.query(cut, &[]).await.unwrap().is_empty().then_some(())
        })
        .await;
    }

    /// The primary crashes for good, and the standby is promoted.
    pub(crate) async fn fail_over(&mut self) {
        self.server().crash();
        self.standby.as_ref().expect("a standby").promote().await;
    }

    /// The server of [`Case::move_to_own_server`].
    pub(crate) fn server(&self) -> &Cluster {
        self.cluster.as_ref().expect("a server of the case's own")
    }

    /// How to connect to the case's database.
    pub(crate) fn config(&self) -> tokio_postgres::Config {
        let mut config = self.cluster.as_ref().map_or_else(|| self.db.config(), Cluster::config);
        if let Some(standby) = &self.standby {
            config.host("127.0.0.1").port(standby.port()).target_session_attrs(TargetSessionAttrs::ReadWrite);
        }
        config
    }

    /// As [`Case::move_to_own_server`], with a server in a network of its own, where [`Case::add_node_apart`] puts nodes.
    pub(crate) async fn move_to_network(&mut self) {
        let network = Network::new();
        let cluster = Cluster::start_elsewhere(network.for_server()).await;
        self.network = Some(network);
        self.move_to(cluster).await;
    }

    /// As [`Case::add_node`], in a place of its own in the network.
    pub(crate) fn add_node_apart(&mut self, name: &str) -> &mut Node {
        let place = self.network.as_mut().expect("a network").add_place();
        let node = self.add_node(name);
        node.place = Some(place);
        node
    }

    async fn move_to(&mut self, cluster: Cluster) {
        assert!(self.replica.is_none() && self.nodes.is_empty(), "replicas that know another server");
        orch::db::schema::migrate(&cluster.config()).await.expect("a migrated database");
        self.orch.set("DATABASE_URL", cluster.url());
        self.auditor = Auditor::start(cluster.config());
        self.cluster = Some(cluster);
        self.reconnect().await;
    }
}
