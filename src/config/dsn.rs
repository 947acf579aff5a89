//! How libpq writes a database: a URL or key=value pairs, taken apart into libpq's keywords.
//!
//! Pure. No refusal quotes a value, since any of them may hold the password.

use std::collections::BTreeMap;

/// Keywords with their values.
pub(super) type Pairs = BTreeMap<&'static str, String>;

/// What becomes of a keyword.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// It is used.
    Used,
    /// It changes nothing without GSSAPI or another client encoding, and is left out.
    Dropped,
    /// It would change what is promised to the caller, so it is refused.
    Refused,
}

/// Every keyword of libpq, with the variable that stands for it where it is left out.
const KEYWORDS: &[(&str, &str, Fate)] = &[
    ("host", "PGHOST", Fate::Used),
    ("hostaddr", "PGHOSTADDR", Fate::Used),
    ("port", "PGPORT", Fate::Used),
    ("dbname", "PGDATABASE", Fate::Used),
    ("user", "PGUSER", Fate::Used),
    ("password", "PGPASSWORD", Fate::Used),
    ("passfile", "PGPASSFILE", Fate::Used),
    ("options", "PGOPTIONS", Fate::Used),
    ("application_name", "PGAPPNAME", Fate::Used),
    ("fallback_application_name", "", Fate::Dropped),
    ("connect_timeout", "PGCONNECT_TIMEOUT", Fate::Used),
    ("keepalives", "", Fate::Used),
    ("keepalives_idle", "", Fate::Used),
    ("keepalives_interval", "", Fate::Used),
    ("keepalives_count", "", Fate::Used),
    ("tcp_user_timeout", "", Fate::Used),
    ("target_session_attrs", "PGTARGETSESSIONATTRS", Fate::Used),
    ("load_balance_hosts", "PGLOADBALANCEHOSTS", Fate::Used),
    ("sslmode", "PGSSLMODE", Fate::Used),
    ("channel_binding", "PGCHANNELBINDING", Fate::Used),
    ("gssencmode", "PGGSSENCMODE", Fate::Used),
    ("client_encoding", "", Fate::Dropped),
    ("sslcompression", "", Fate::Dropped),
    ("sslsni", "PGSSLSNI", Fate::Used),
    ("sslcert", "PGSSLCERT", Fate::Used),
    ("sslkey", "PGSSLKEY", Fate::Used),
    ("sslrootcert", "PGSSLROOTCERT", Fate::Used),
    ("sslcrl", "PGSSLCRL", Fate::Used),
    ("sslnegotiation", "PGSSLNEGOTIATION", Fate::Used),
    ("sslcertmode", "PGSSLCERTMODE", Fate::Used),
    ("ssl_min_protocol_version", "PGSSLMINPROTOCOLVERSION", Fate::Used),
    ("ssl_max_protocol_version", "PGSSLMAXPROTOCOLVERSION", Fate::Used),
    ("sslpassword", "", Fate::Refused),
    ("sslcrldir", "PGSSLCRLDIR", Fate::Refused),
    ("requirepeer", "PGREQUIREPEER", Fate::Refused),
    ("require_auth", "PGREQUIREAUTH", Fate::Refused),
    ("service", "PGSERVICE", Fate::Refused),
    ("replication", "", Fate::Refused),
];

/// The used keywords that have a variable, with it.
pub(super) fn variables() -> impl Iterator<Item = (&'static str, &'static str)> {
    KEYWORDS
        .iter()
        .filter(|(_, variable, fate)| !variable.is_empty() && *fate != Fate::Dropped)
        .map(|(keyword, variable, _)| (*keyword, *variable))
}

/// Adds a pair, or says why it cannot be.
pub(super) fn add(pairs: &mut Pairs, keyword: &str, value: String) -> Result<(), String> {
    let Some((known, _, fate)) = KEYWORDS.iter().find(|(known, ..)| *known == keyword) else {
        let plain = keyword.len() <= 40 && keyword.chars().all(|c| c.is_ascii_lowercase() || c == '_');
        return Err(if plain && !keyword.is_empty() {
            format!("has the unknown option {keyword:?}: remove it or correct it")
        } else {
            "is neither a URL postgres://USER:PASSWORD@HOST:PORT/DATABASE nor key=value pairs: write one of them"
                .to_owned()
        });
    };
    match (fate, *known) {
        (_, "gssencmode") if value == "require" => {
            Err("asks for GSSAPI encryption, which orch does not have: remove gssencmode".to_owned())
        }
        (Fate::Dropped, _) | (_, "gssencmode") => Ok(()),
        (Fate::Refused, "service") => {
            Err("names a service file, which orch does not read: write host, port, user and database instead"
                .to_owned())
        }
        (Fate::Refused, "sslpassword") => {
            Err("has the password of a private key, which orch does not read: decrypt the \
                                               key with `openssl pkey`, mode 600, and remove sslpassword"
                .to_owned())
        }
        (Fate::Refused, "sslcrldir") => {
            Err("names a directory of revoked certificates, which orch does not read: write \
                                             its lists into one file and name that with sslcrl"
                .to_owned())
        }
        (Fate::Refused, keyword) => Err(format!("has the option {keyword}, which orch does not have yet: remove it")),
        (Fate::Used, _) if value.contains('\0') => Err(format!("has a NUL byte in {known}: remove it")),
        (Fate::Used, _) => {
            pairs.insert(known, value);
            Ok(())
        }
    }
}

/// The keywords of a URL or of key=value pairs. A refusal is a sentence that begins after the setting's name.
pub(super) fn parse(text: &str) -> Result<Pairs, String> {
    let text = text.trim();
    match text.strip_prefix("postgres://").or_else(|| text.strip_prefix("postgresql://")) {
        Some(rest) => parse_url(rest),
        None => parse_pairs(text),
    }
}

fn parse_url(rest: &str) -> Result<Pairs, String> {
    let mut pairs = Pairs::new();
    let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, database) = place.split_once('/').unwrap_or((place, ""));
    let (login, hosts) = match authority.rsplit_once('@') {
        Some((login, hosts)) => (Some(login), hosts),
        None => (None, authority),
    };
    if let Some(login) = login {
        let (user, password) = login.split_once(':').unwrap_or((login, ""));
        for (keyword, value) in [("user", user), ("password", password)] {
            if !value.is_empty() {
                add(&mut pairs, keyword, decode(value)?)?;
            }
        }
    }
    let (mut names, mut ports) = (Vec::new(), Vec::new());
    for host in hosts.split(',') {
        let (name, port) = split_port(host)?;
        names.push(decode(name)?);
        ports.push(port);
    }
    if names.iter().any(|name| !name.is_empty()) {
        add(&mut pairs, "host", names.join(","))?;
    }
    if ports.iter().any(|port| !port.is_empty()) {
        add(&mut pairs, "port", ports.join(","))?;
    }
    if !database.is_empty() {
        add(&mut pairs, "dbname", decode(database)?)?;
    }
    for option in query.split('&').filter(|option| !option.is_empty()) {
        let Some((keyword, value)) = option.split_once('=') else {
            return Err("has an option without a value after \"?\": write KEY=VALUE".to_owned());
        };
        match (keyword, decode(value)?) {
            // The way that the JDBC driver spells it, which libpq takes as well.
            ("ssl", value) if value == "true" => add(&mut pairs, "sslmode", "require".to_owned())?,
            (keyword, value) => add(&mut pairs, &decode(keyword)?, value)?,
        }
    }
    Ok(pairs)
}

/// A host and its port, of which either may be empty: `name:5432`, `[::1]:5432`.
fn split_port(host: &str) -> Result<(&str, &str), String> {
    if let Some(rest) = host.strip_prefix('[') {
        let (name, after) = rest.split_once(']').ok_or("has \"[\" without \"]\" in its host: close the bracket")?;
        let port = after.strip_prefix(':').unwrap_or(after);
        return Ok((name, port));
    }
    Ok(host.split_once(':').unwrap_or((host, "")))
}

fn decode(text: &str) -> Result<String, String> {
    let refused = || "has a broken % sequence: write for example %40 for \"@\"".to_owned();
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let mut digit = || rest.next().and_then(|byte| char::from(byte).to_digit(16)).ok_or_else(refused);
            let (high, low) = (digit()?, digit()?);
            bytes.push((high * 16 + low) as u8);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).map_err(|_| refused())
}

fn parse_pairs(text: &str) -> Result<Pairs, String> {
    let mut pairs = Pairs::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let (keyword, after) = rest.split_once('=').unwrap_or((rest, ""));
        let mut value = String::new();
        let after = after.trim_start();
        let quoted = after.strip_prefix('\'');
        let mut chars = quoted.unwrap_or(after).char_indices();
        let body = quoted.unwrap_or(after);
        rest = loop {
            match chars.next() {
                Some((_, '\\')) => value.extend(chars.next().map(|(_, c)| c)),
                Some((at, '\'')) if quoted.is_some() => break &body[at + 1..],
                Some((at, c)) if quoted.is_none() && c.is_whitespace() => break &body[at..],
                Some((_, c)) => value.push(c),
                None if quoted.is_some() => return Err("has a quote that does not end: close it".to_owned()),
                None => break "",
            }
        };
        rest = rest.trim_start();
        add(&mut pairs, keyword.trim(), value)?;
    }
    Ok(pairs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(expected: &[(&'static str, &str)]) -> Pairs {
        expected.iter().map(|(keyword, value)| (*keyword, (*value).to_owned())).collect()
    }

    #[test]
    fn urls_are_taken_apart() {
        let url = "postgresql://me:p%40ss@[::1]:5433,other/data?application_name=a%20b&connect_timeout=3";
        let expected = [
            ("user", "me"),
            ("password", "p@ss"),
            ("host", "::1,other"),
            ("port", "5433,"),
            ("dbname", "data"),
            ("application_name", "a b"),
            ("connect_timeout", "3"),
        ];
        assert_eq!(parse(url).unwrap(), pairs(&expected));
        assert_eq!(parse("postgres://").unwrap(), Pairs::new());
        assert_eq!(parse("postgres://%2Frun%2Fpg/db").unwrap(), pairs(&[("host", "/run/pg"), ("dbname", "db")]));
    }

    #[test]
    fn key_value_pairs_are_taken_apart() {
        let text = r"host=/run/pg  user = 'a b' password='it\'s' dbname=x\ y client_encoding=1";
        let expected = [("host", "/run/pg"), ("user", "a b"), ("password", "it's"), ("dbname", "x y")];
        assert_eq!(parse(text).unwrap(), pairs(&expected));
        assert_eq!(parse("").unwrap(), Pairs::new());
    }

    #[test]
    fn no_refusal_quotes_a_secret() {
        for text in [
            "postgres:/me:hunter2@host/db",
            "me:hunter2@host",
            "mysql://me:hunter2@host/db",
            "password='hunter2",
            "postgres://me:hunter2%@host",
            "postgres://me:hunter2@host/db?servce=hunter2",
            "postgres://me:hunter2@host/db?service=hunter2",
            "hunter2=x",
        ] {
            let error = parse(text).unwrap_err();
            assert!(!error.contains("hunter2"), "{text}: {error}");
        }
    }
}
