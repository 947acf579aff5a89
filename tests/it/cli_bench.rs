//! `orch bench`, small: every figure that needs no long run is there, and nothing is left of it.

use crate::support::{Orch, TestDb, eventually};

#[tokio::test]
async fn a_bench_measures_in_a_database_of_its_own_and_leaves_nothing_behind() {
    let db = TestDb::new().await;
    let client = db.client().await;
    let own: i64 = client.query_one("select orch.enqueue('bench')", &[]).await.unwrap().get(0);
    let orch = Orch::on(&db);
    let how =
        ["--rounds", "1", "--jobs", "300", "--runs", "5", "--samples", "3", "--depths", "12000", "--churn", "500"];
    // In two calls, each of which has the time of one.
    for (what, count) in [(&["engine", "run"][..], 6 + 2), (&["latency", "depth", "rot", "logs"], 2 + 1 + 2 + 2)] {
        let words = ["bench", "--json"].into_iter().chain(what.iter().copied()).chain(how);
        let figures = orch.run(words).await.ok().json();
        let figures = figures.as_array().unwrap();
        let names: Vec<&str> = figures.iter().map(|figure| figure["name"].as_str().unwrap()).collect();
        assert_eq!(names.len(), count, "{names:?}");
        for figure in figures {
            for value in ["value", "ceiling", "ratio"] {
                assert!(figure[value].as_f64().is_some_and(|value| value > 0.0), "{value} of {figure}");
            }
            let rounds = figure["rounds"].as_array().unwrap().len();
            assert_eq!(rounds, 1, "the round that warms up does not count: {figure}");
        }
    }
    let status: String = client.query_one("select status from orch.jobs where id = $1", &[&own]).await.unwrap().get(0);
    assert_eq!(status, "queued", "a job of the database that the settings name");
    eventually("the bench's databases to be gone", async || {
        let left = "select from pg_database where datname like 'orch\\_bench\\_%'";
        client.query(left, &[]).await.unwrap().is_empty().then_some(())
    })
    .await;
}
