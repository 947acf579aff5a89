//! The documentation: what it tells people to type works, and what it leads to is there.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use crate::support::TestDb;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every page.
fn pages() -> Vec<PathBuf> {
    let mut found = vec![root().join("README.md"), root().join("CHANGELOG.md")];
    let mut folders = vec![root().join("docs")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                found.push(path);
            }
        }
    }
    found
}

#[tokio::test]
async fn every_query_for_operators_is_one_that_the_database_takes() {
    let db = TestDb::new().await;
    let client = db.client().await;
    let mut queries = 0;
    for page in ["docs/architecture/ownership.md", "docs/operations/schedules.md"] {
        let page = std::fs::read_to_string(root().join(page)).unwrap();
        for block in page.split("```sql\n").skip(1) {
            let (block, _) = block.split_once("```").expect("a block ends");
            let lines = block.lines().filter(|line| !line.starts_with("--")).collect::<Vec<_>>().join("\n");
            for query in lines.split(';').filter(|query| !query.trim().is_empty()) {
                client.query(query, &[]).await.unwrap_or_else(|error| panic!("{query}\n{error:?}"));
                queries += 1;
            }
        }
    }
    assert!(queries >= 13, "{queries}");
}

#[test]
fn every_link_between_pages_leads_somewhere() {
    for page in pages() {
        let text = std::fs::read_to_string(&page).unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let file = link.split('#').next().unwrap_or_default();
            if file.is_empty() || link.contains("://") {
                continue;
            }
            let target = page.parent().unwrap_or(Path::new("/")).join(file);
            assert!(target.exists(), "{} leads to {link}, which is not there", page.display());
        }
    }
}

/// A page that promises a row which is not there, or runs elsewhere than it says, promises too much; one that leaves a row
/// out hides what is tried.
#[test]
fn the_rows_on_the_page_about_reliability_are_those_of_the_fault_suite() {
    let mut rows: BTreeMap<u32, BTreeSet<&str>> = BTreeMap::new();
    for line in include_str!("../faults/table.rs").lines() {
        let words: Vec<&str> = line.split([',', ' ']).filter(|word| !word.is_empty()).collect();
        let number = words.first().and_then(|name| name.strip_prefix('r')?.get(..2)?.parse().ok());
        if let (Some(number), Some(kind)) = (number, words.get(1).copied()) {
            rows.entry(number).or_default().insert(kind);
        }
    }
    // The guards' mutations are a script beside the suite.
    rows.insert(50, BTreeSet::from(["gate", "long"]));
    let page = std::fs::read_to_string(root().join("docs/reliability.md")).unwrap();
    let (_, listed) = page.split_once("| row |").expect("a table of the rows");
    let (listed, _) = listed.split_once("\n\n").expect("it ends");
    let mut seen = BTreeSet::new();
    for line in listed.lines().skip(2) {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        let number: u32 = cells[0].parse().expect("the number of a row");
        let kinds: BTreeSet<&str> = cells[3].split(", ").collect();
        assert_eq!(rows.get(&number), Some(&kinds), "row {number}");
        seen.insert(number);
    }
    let left_out: Vec<_> = rows.keys().filter(|number| !seen.contains(number)).collect();
    assert!(left_out.is_empty(), "rows {left_out:?} are not on the page");
}
