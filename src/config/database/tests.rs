//! Which database wins, what the variables fill in, and that no refusal shows a password.

use std::{collections::HashMap, ffi::OsString};

use tokio_postgres::config::Host;

use super::*;
use crate::config::{Overrides, load_from};

fn settings(state_dir: &Path, url: &str) -> Settings {
    let overrides = Overrides::default()
        .with("config", "/dev/null")
        .with("state_dir", state_dir.to_str().unwrap())
        .with("database_url", url);
    load_from(&overrides, &|_| None).unwrap()
}

fn environment(pairs: &[(&str, &str)]) -> impl Fn(&str) -> Option<OsString> {
    let map: HashMap<String, OsString> = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).into())).collect();
    move |name| map.get(name).cloned()
}

#[test]
fn variables_fill_in_what_the_url_leaves_out() {
    let settings = settings(Path::new("/nowhere"), "postgres://me@db.example/app");
    let environment =
        environment(&[("PGHOST", "other"), ("PGPASSWORD", "pw"), ("PGPORT", "6000"), ("PGAPPNAME", "mine")]);
    let found = database_from(&settings, &environment).unwrap();
    assert_eq!(found.source, Source::Setting);
    assert_eq!(found.config.get_hosts(), [Host::Tcp("db.example".to_owned())]);
    assert_eq!(found.config.get_ports(), [6000]);
    assert_eq!(found.config.get_password(), Some(&b"pw"[..]));
    assert_eq!(found.config.get_application_name(), Some("mine"));
    assert_eq!(found.config.get_connect_timeout(), Some(&Duration::from_secs(5)));
    assert!(!format!("{found:?}").contains("pw"), "a password in Debug");
}

#[test]
fn variables_alone_name_a_database_but_a_password_does_not() {
    let directory = tempfile::tempdir().unwrap();
    let settings = settings(directory.path(), "");
    let named = environment(&[("PGHOST", "/run/pg"), ("PGUSER", "me"), ("PGDATABASE", "it's")]);
    let found = database_from(&settings, &named).unwrap();
    assert_eq!(found.source, Source::Variables);
    assert_eq!(found.config.get_hosts(), [Host::Unix("/run/pg".into())]);
    assert_eq!(found.config.get_dbname(), Some("it's"));

    let error = database_from(&settings, &environment(&[("PGPASSWORD", "pw")])).unwrap_err();
    assert!(error.to_string().contains("DATABASE_URL") && error.to_string().contains("orch up"), "{error}");
}

#[test]
fn the_embedded_server_is_found_and_the_variables_have_no_say_in_it() {
    let directory = tempfile::tempdir().unwrap();
    let url = "postgres://postgres:pw@127.0.0.1:5999/postgres\n";
    std::fs::write(directory.path().join(DATABASE_URL_FILE), url).unwrap();
    let settings = settings(directory.path(), "");
    let found = database_from(&settings, &environment(&[("PGOPTIONS", "-c x=y"), ("PGSSLMODE", "require")])).unwrap();
    assert_eq!(found.source, Source::StateDir(directory.path().to_owned()));
    assert_eq!(found.config.get_ports(), [5999]);
    assert_eq!(found.config.get_options(), None);
}

#[test]
fn the_password_file_is_asked_last_and_only_if_it_is_private() {
    use std::os::unix::fs::PermissionsExt as _;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("pass");
    std::fs::write(&file, "db.example:5432:app:me:from the file\n").unwrap();
    let settings = settings(Path::new("/nowhere"), "host=db.example user=me dbname=app");
    let pairs = [("PGPASSFILE", file.to_str().unwrap())];
    let environment = environment(&pairs);
    for (mode, expected) in [(0o600, Some(&b"from the file"[..])), (0o644, None)] {
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
        assert_eq!(database_from(&settings, &environment).unwrap().config.get_password(), expected, "{mode:o}");
    }
}

#[test]
fn what_cannot_be_is_refused_without_the_password() {
    for (url, word) in [
        ("postgres://me:hunter2@h/d?sslmode=require", "TLS"),
        ("postgres://me:hunter2@h/d?sslmode=verify-full", "TLS"),
        ("postgres://me:hunter2@h/d?channel_binding=require", "TLS"),
        ("postgres://me:hunter2@h:99999/d", "port"),
        ("postgres://me:hunter2@h/d?connect_timeout=soon", "connect_timeout"),
        ("postgres://me:hunter2@h/d?target_session_attrs=some", "target_session_attrs"),
    ] {
        let overrides =
            Overrides::default().with("config", "/dev/null").with("state_dir", "/x").with("database_url", url);
        let error = load_from(&overrides, &|_| None).unwrap_err().to_string();
        assert!(error.contains(word) && !error.contains("hunter2"), "{url}: {error}");
    }
    let settings = settings(Path::new("/nowhere"), "host=h");
    let error = database_from(&settings, &environment(&[("PGSSLMODE", "require")])).unwrap_err().to_string();
    assert!(error.contains("TLS"), "{error}");
}
