//! `orch bench`, small: every figure that needs no long run is there, and nothing is left of it.

use crate::support::{Orch, TestDb, eventually};

#[tokio::test]
async fn a_bench_measures_in_a_database_of_its_own_and_leaves_nothing_behind() {
    let db = TestDb::new().await;
    let client = db.client().await;
    let own: i64 = client.query_one("select orch.enqueue('bench')", &[]).await.unwrap().get(0);
    let orch = Orch::on(&db);
    let what = ["bench", "engine", "run", "latency", "depth", "rot", "logs", "--json"];
    let how =
        ["--rounds", "1", "--jobs", "300", "--runs", "5", "--samples", "3", "--depths", "12000", "--churn", "500"];
    let figures = orch.run(what.into_iter().chain(how)).await.ok().json();
    let names: Vec<&str> = figures.as_array().unwrap().iter().map(|figure| figure["name"].as_str().unwrap()).collect();
    assert_eq!(names.len(), 6 + 2 + 2 + 1 + 2 + 2, "{names:?}");
    for figure in figures.as_array().unwrap() {
        for value in ["value", "ceiling", "ratio"] {
            assert!(figure[value].as_f64().is_some_and(|value| value > 0.0), "{value} of {figure}");
        }
        assert_eq!(figure["rounds"].as_array().unwrap().len(), 1, "the round that warms up does not count: {figure}");
    }
    let status: String = client.query_one("select status from orch.jobs where id = $1", &[&own]).await.unwrap().get(0);
    assert_eq!(status, "queued", "a job of the database that the settings name");
    eventually("the bench's databases to be gone", async || {
        let left = "select from pg_database where datname like 'orch\\_bench\\_%'";
        client.query(left, &[]).await.unwrap().is_empty().then_some(())
    })
    .await;
}
