//! `/metrics`: the queue and the replicas, as Prometheus reads them.
//!
//! A fresh registry a scrape, since the figures are the database's: whichever replica is asked says the same. But what no KILL
//! ends is known only where it lives, and told by that process alone.

use std::{sync::Arc, sync::atomic::AtomicU64};

use axum::{
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::{Registry, Unit},
};

use super::{App, error::Problem, in_time};
use crate::{
    db::{horizon::Horizon, queue::Live},
    model::{JobStatus, Reason},
};

type Seconds = Gauge<f64, AtomicU64>;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Owner {
    replica_id: String,
    replica: String,
    host: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Cause {
    reason: String,
}

/// `GET /metrics`.
pub(super) async fn scrape(State(app): State<Arc<App>>) -> Result<Response, Problem> {
    let live = in_time(app.queue.counted()).await?.live;
    let horizon = in_time(app.db.horizon()).await?;
    let mut text = String::new();
    let unending = app.info.unending.borrow().len();
    encode(&mut text, &registry(&live, &horizon, app.info.lease.as_secs_f64(), unending)).map_err(|error| {
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, format!("failed to write metrics: {error}"))
    })?;
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Ok(([(header::CONTENT_TYPE, kind)], text).into_response())
}

fn registry(live: &Live, horizon: &Horizon, lease_seconds: f64, unending: usize) -> Registry {
    let mut registry = Registry::with_prefix("orch");
    for (name, help, status) in [
        ("queued_jobs", "Jobs that are queued, scheduled and retrying ones included", JobStatus::Queued),
        ("held_jobs", "Jobs that wait for an operator", JobStatus::Held),
        ("running_jobs", "Jobs that are running", JobStatus::Running),
    ] {
        let gauge = Gauge::<i64>::default();
        gauge.set(live.count(status));
        registry.register(name, help, gauge);
    }
    let waiting = Family::<Cause, Gauge>::default();
    for reason in Reason::ALL {
        let jobs = live.waiting.get(reason).copied().unwrap_or_default();
        waiting.get_or_create(&Cause { reason: reason.to_string() }).set(jobs);
    }
    registry.register("waiting_jobs", "Jobs that wait, by what they wait for", waiting);
    let stuck = Gauge::<i64>::default();
    stuck.set(i64::try_from(unending).unwrap_or(i64::MAX));
    registry.register("unending_runs", "Runs of the replica that answers of which processes live on after KILL", stuck);
    let dead = Gauge::<i64>::default();
    dead.set(horizon.dead_rows);
    registry.register("dead_rows", "Dead rows of jobs and runs, as the server's statistics have them", dead);
    let snapshot = Seconds::default();
    snapshot.set(horizon.alarm_seconds());
    registry.register_with_unit(
        "old_snapshot",
        "For how long an old snapshot has been held that many dead rows wait for; 0 where there is none",
        Unit::Seconds,
        snapshot,
    );
    let oldest = Seconds::default();
    oldest.set(live.oldest_queued_seconds.unwrap_or(0.0));
    registry.register_with_unit(
        "oldest_queued",
        "How long the longest waiting due job has been due",
        Unit::Seconds,
        oldest,
    );
    for (name, help, total) in [
        ("reaped", "Runs taken back from dead replicas", live.reaped_total),
        ("guard_repairs", "Rows whose ownership the database's guard cleared", live.guard_repairs_total),
        ("impossible_queued", "Impossible queued rows that the sweep repaired", live.impossible_queued_total),
    ] {
        let counter: Counter = Counter::default();
        counter.inc_by(u64::try_from(total).unwrap_or(0));
        registry.register(name, help, counter);
    }
    let ages = Family::<Owner, Seconds>::default();
    for replica in &live.replicas {
        let labels = Owner {
            replica_id: replica.replica_id.to_string(),
            replica: replica.name.clone(),
            host: replica.host.clone(),
        };
        // A lease is renewed to L from then on; one that was prolonged for a handover is younger than new.
        ages.get_or_create(&labels).set((lease_seconds - replica.lease_left_seconds).max(0.0));
    }
    registry.register_with_unit("renewal_age", "Time since each live replica renewed its lease", Unit::Seconds, ages);
    registry
}
