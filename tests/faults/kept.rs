//! What a failed row leaves behind: the seed, the database, the replica's log, its state directory and the witness's
//! records, below `tests/faults/kept`, or where `ORCH_TEST_KEPT` says.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use tokio_postgres::Client;

/// A fresh directory for this row.
pub(crate) fn directory(row: &str, seed: u64) -> PathBuf {
    let name = format!("{}-{seed}", row.replace("::", "-"));
    let home = std::env::var_os("ORCH_TEST_KEPT").map(PathBuf::from);
    let home = home.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/faults/kept"));
    let path = home.join(name);
    let _ = fs::remove_dir_all(&path);
    fs::create_dir_all(&path).expect("a directory for the evidence");
    path
}

/// Every table of the schema as JSON, a row a line.
pub(crate) async fn tables(client: &Client, to: &Path) -> Result<(), tokio_postgres::Error> {
    let names = client
        .query(
            "select relname::text from pg_class where relnamespace = 'orch'::regnamespace and relkind in ('r', 'v')",
            &[],
        )
        .await?;
    for name in names {
        let name: String = name.get(0);
        let rows = client.query(&format!("select to_jsonb(t)::text from orch.\"{name}\" t"), &[]).await?;
        let lines: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
        fs::write(to.join(format!("{name}.jsonl")), lines.join("\n")).expect("a file of rows");
    }
    Ok(())
}

/// Copies files and directories; what is neither (a socket) and what vanishes meanwhile is left out, and of a large
/// file all but its first mebibyte.
pub(crate) fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let kind = fs::symlink_metadata(from)?.file_type();
    if kind.is_dir() {
        fs::create_dir_all(to)?;
        for entry in fs::read_dir(from)?.flatten() {
            let _ = copy(&entry.path(), &to.join(entry.file_name()));
        }
    } else if kind.is_file() {
        io::copy(&mut io::Read::take(fs::File::open(from)?, 1 << 20), &mut fs::File::create(to)?)?;
    }
    Ok(())
}
