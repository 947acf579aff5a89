//! A Postgres in a container, through testcontainers, where a Docker engine answers.
//!
//! The container is labelled with the process's tag; at exit it is removed, and one that a killed process left is
//! removed by the next.

use std::{collections::HashMap, time::Duration};

use testcontainers::{
    ContainerAsync, GenericImage, ImageExt as _,
    bollard::query_parameters::{ListContainersOptionsBuilder, RemoveContainerOptionsBuilder},
    core::{IntoContainerPort as _, client::docker_client_instance},
    runners::AsyncRunner as _,
};

use super::leftover::{TAG, is_gone};

const LABEL: &str = "orch.test";
const STOCK: &str = "postgres:18";

/// A running container and where its server listens.
#[derive(Debug)]
pub(crate) struct ContainerServer {
    container: ContainerAsync<GenericImage>,
    /// The image that it was made from.
    pub(crate) image: String,
    /// The host, as this process reaches it.
    pub(crate) host: String,
    /// The port on that host.
    pub(crate) port: u16,
}

/// Whether a Docker engine answers within a moment.
pub(crate) async fn engine_answers() -> bool {
    let ping = async { docker_client_instance().await.ok()?.ping().await.ok() };
    tokio::time::timeout(Duration::from_secs(3), ping).await.ok().flatten().is_some()
}

impl ContainerServer {
    /// Starts a container of `ORCH_TEST_IMAGE`, or of the stock image. Its server may not answer yet.
    pub(crate) async fn start() -> Result<Self, String> {
        let image = std::env::var("ORCH_TEST_IMAGE").unwrap_or_else(|_| STOCK.to_owned());
        let (name, tag) = image.rsplit_once(':').unwrap_or((&image, "latest"));
        let settings = super::server::SETTINGS.iter().flat_map(|setting| ["-c", setting]);
        let container = GenericImage::new(name, tag)
            .with_exposed_port(5432.tcp())
            .with_env_var("POSTGRES_HOST_AUTH_METHOD", "trust")
            .with_label(LABEL, TAG.as_str())
            .with_startup_timeout(Duration::from_mins(3))
            .with_cmd(std::iter::once("postgres").chain(settings))
            .start()
            .await
            .map_err(|error| format!("start a container of {image}: {error}"))?;
        let host = container.get_host().await.map_err(|error| error.to_string())?.to_string();
        let port = container.get_host_port_ipv4(5432).await.map_err(|error| error.to_string())?;
        Ok(Self { container, image, host, port })
    }

    /// What the server has said, for the message of a failed start.
    pub(crate) async fn log(&self) -> String {
        String::from_utf8_lossy(&self.container.stderr_to_vec().await.unwrap_or_default()).into_owned()
    }

    /// Removes the container, and its data with it.
    pub(crate) async fn stop(self) {
        // What cannot be removed now is removed by the next run.
        let _ = self.container.rm().await;
    }
}

/// Removes the containers of test processes that are gone.
pub(crate) async fn remove_leftovers() {
    let Ok(docker) = docker_client_instance().await else { return };
    let filters = HashMap::from([("label".to_owned(), vec![LABEL.to_owned()])]);
    let list = ListContainersOptionsBuilder::new().all(true).filters(&filters).build();
    for container in docker.list_containers(Some(list)).await.unwrap_or_default() {
        let tag = container.labels.unwrap_or_default().remove(LABEL).unwrap_or_default();
        if let (true, Some(id)) = (is_gone(&tag), container.id) {
            let forced = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
            let _ = docker.remove_container(&id, Some(forced)).await;
        }
    }
}
