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
    assert_eq!(found.server.hosts()[0].get_hosts(), [Host::Tcp("db.example".to_owned())]);
    assert_eq!(found.server.hosts()[0].get_ports(), [6000]);
    assert_eq!(found.server.hosts()[0].get_password(), Some(&b"pw"[..]));
    assert_eq!(found.server.hosts()[0].get_application_name(), Some("mine"));
    assert_eq!(found.server.hosts()[0].get_connect_timeout(), Some(&Duration::from_secs(5)));
    assert!(!format!("{found:?}").contains("pw"), "a password in Debug");
}

#[test]
fn variables_alone_name_a_database_but_a_password_does_not() {
    let directory = tempfile::tempdir().unwrap();
    let settings = settings(directory.path(), "");
    let named = environment(&[("PGHOST", "/run/pg"), ("PGUSER", "me"), ("PGDATABASE", "it's")]);
    let found = database_from(&settings, &named).unwrap();
    assert_eq!(found.source, Source::Variables);
    assert_eq!(found.server.hosts()[0].get_hosts(), [Host::Unix("/run/pg".into())]);
    assert_eq!(found.server.hosts()[0].get_dbname(), Some("it's"));

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
    assert_eq!(found.server.hosts()[0].get_ports(), [5999]);
    assert_eq!(found.server.hosts()[0].get_options(), None);
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
        assert_eq!(
            database_from(&settings, &environment).unwrap().server.hosts()[0].get_password(),
            expected,
            "{mode:o}"
        );
    }
}

#[test]
fn what_cannot_be_is_refused_without_the_password() {
    for (url, word) in [
        ("postgres://me:hunter2@h/d?sslmode=safe", "sslmode"),
        ("postgres://me:hunter2@h/d?sslpassword=hunter2", "openssl pkey"),
        ("postgres://me:hunter2@h/d?sslmode=disable&channel_binding=require", "TLS"),
        ("postgres://me:hunter2@h:99999/d", "port"),
        ("postgres://me:hunter2@h/d?connect_timeout=soon", "connect_timeout"),
        ("postgres://me:hunter2@h/d?target_session_attrs=some", "target_session_attrs"),
        ("postgres://me:hunter2@h/d?target_session_attrs=prefer-standby", "prefer-standby"),
        ("postgres://me:hunter2@h/d?load_balance_hosts=yes", "load_balance_hosts"),
        ("postgres://me:hunter2@h,i/d?port=1,2,3", "2 hosts and 3 ports"),
        ("postgres://me:hunter2@h,i/d?hostaddr=10.0.0.1", "2 hosts and 1 addresses"),
    ] {
        let overrides =
            Overrides::default().with("config", "/dev/null").with("state_dir", "/x").with("database_url", url);
        let error = load_from(&overrides, &|_| None).unwrap_err().to_string();
        assert!(error.contains(word) && !error.contains("hunter2"), "{url}: {error}");
    }
    let settings = settings(Path::new("/nowhere"), "host=h");
    let error = database_from(&settings, &environment(&[("PGSSLMODE", "verify-full")])).unwrap_err().to_string();
    assert!(error.contains("sslrootcert"), "{error}");
}

#[test]
fn of_several_hosts_each_has_its_own_and_the_one_that_takes_writes_is_meant() {
    use std::os::unix::fs::PermissionsExt as _;
    use tokio_postgres::config::TargetSessionAttrs::{Any, ReadOnly, ReadWrite};
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("pass");
    std::fs::write(&file, "b:5433:d:me:of b\n*:*:*:*:of the others\n").unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    let pairs = [("PGPASSFILE", file.to_str().unwrap()), ("PGHOST", "x"), ("PGTARGETSESSIONATTRS", "read-only")];
    let of = |url: &str, variables: &[(&str, &str)]| {
        database_from(&settings(Path::new("/nowhere"), url), &environment(variables)).unwrap().server
    };

    let server = of("postgres://me@a,b:5433,[::1]:6000/d?connect_timeout=3", &pairs[..1]);
    let seen: Vec<_> = server
        .hosts()
        .iter()
        .map(|host| (crate::db::place(host), String::from_utf8_lossy(host.get_password().unwrap()).into_owned()))
        .collect();
    let expected = [("a:5432", "of the others"), ("b:5433", "of b"), ("[::1]:6000", "of the others")];
    assert_eq!(seen, expected.map(|(place, password)| (place.to_owned(), password.to_owned())));
    for host in server.hosts() {
        assert_eq!(host.get_target_session_attrs(), ReadWrite);
        assert_eq!(host.get_connect_timeout(), Some(&Duration::from_secs(3)));
    }

    for (url, variables, count, expected) in [
        ("host=a", &pairs[..0], 1, Any),
        ("host=a", &pairs[1..], 1, ReadOnly),
        ("host=a,b port=5433", &pairs[..0], 2, ReadWrite),
        ("host=a,b target_session_attrs=any", &pairs[1..], 2, Any),
        ("host=a target_session_attrs=primary", &pairs[..0], 1, ReadWrite),
    ] {
        let server = of(url, variables);
        let attrs: Vec<_> = server.hosts().iter().map(tokio_postgres::Config::get_target_session_attrs).collect();
        assert_eq!(attrs, vec![expected; count], "{url}");
    }
    let by_variables = Overrides::default().with("config", "/dev/null").with("state_dir", "/x");
    let variables = environment(&[("PGHOST", "a,b"), ("PGPORT", "1,2")]);
    let found = database_from(&load_from(&by_variables, &variables).unwrap(), &variables).unwrap();
    assert_eq!(found.server.hosts().iter().map(crate::db::place).collect::<Vec<_>>(), ["a:1", "b:2"]);
}
