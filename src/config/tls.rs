//! What libpq's keywords say of TLS: which mode, whose signatures count, what the server is shown.
//!
//! Looks whether the default files below `~/.postgresql` are there; reads none of them, which the connection does.

use std::path::{Path, PathBuf};

use super::dsn::Pairs;
use crate::db::tls::{Mode, Roots, Tls, Versions};

/// What the keywords ask for. `home` is where libpq's default files are; none: they are not looked for, and what only they
/// could supply is not missed.
pub(super) fn of(pairs: &Pairs, home: Option<&Path>) -> Result<Tls, String> {
    let roots = pairs.get("sslrootcert").filter(|value| !value.is_empty());
    let system = roots.is_some_and(|value| value == "system");
    let mode = match pairs.get("sslmode").map(String::as_str) {
        Some("disable") => Mode::Disable,
        Some("allow") => Mode::Allow,
        Some("prefer") => Mode::Prefer,
        Some("require") => Mode::Require,
        Some("verify-ca") => Mode::VerifyCa,
        Some("verify-full") => Mode::VerifyFull,
        Some(_) => {
            return Err(
                "has an unknown sslmode: write disable, allow, prefer, require, verify-ca or verify-full".to_owned()
            );
        }
        None if system => Mode::VerifyFull,
        None => Mode::Prefer,
    };
    if mode == Mode::Disable {
        return if pairs.get("channel_binding").is_some_and(|value| value == "require") {
            Err("asks for channel binding, which needs TLS, and switches TLS off: write sslmode=verify-full".to_owned())
        } else {
            Ok(Tls::NONE)
        };
    }
    if system && mode != Mode::VerifyFull {
        return Err("trusts the authorities of the machine (sslrootcert=system), which sign for everybody: write \
                    sslmode=verify-full with it"
            .to_owned());
    }
    let default = |name: &str| home.map(|home| home.join(".postgresql").join(name)).filter(|file| file.exists());
    let roots = match roots {
        Some(_) if system => Roots::System,
        Some(file) => Roots::File(PathBuf::from(file)),
        None => default("root.crt").map_or(Roots::Unknown, Roots::File),
    };
    if roots == Roots::Unknown && mode >= Mode::VerifyCa && home.is_some() {
        return Err("asks to verify the server's certificate, but no root certificate is there: name the file of its \
                    authority with sslrootcert, put it at ~/.postgresql/root.crt, or write sslrootcert=system"
            .to_owned());
    }
    let direct = match pairs.get("sslnegotiation").map(String::as_str) {
        None | Some("postgres") => false,
        Some("direct") if mode >= Mode::Require => true,
        Some("direct") => {
            return Err("asks for TLS from the first byte (sslnegotiation=direct) and would do without: write \
                        sslmode=require or more with it"
                .to_owned());
        }
        Some(_) => return Err("has an unknown sslnegotiation: write postgres or direct".to_owned()),
    };
    Ok(Tls {
        mode,
        roots,
        revoked: file(pairs, "sslcrl").or_else(|| default("root.crl")),
        identity: identity(pairs, home)?,
        sni: switch(pairs, "sslsni")?,
        direct,
        versions: versions(pairs)?,
    })
}

fn file(pairs: &Pairs, keyword: &str) -> Option<PathBuf> {
    pairs.get(keyword).filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// What the server is shown: what was named, else the default files.
fn identity(pairs: &Pairs, home: Option<&Path>) -> Result<Option<(PathBuf, PathBuf)>, String> {
    match pairs.get("sslcertmode").map(String::as_str) {
        None | Some("allow") => {}
        Some("disable") => return Ok(None),
        Some("require") => {
            return Err(
                "has sslcertmode=require, which orch does not have: let pg_hba.conf of the server ask for the \
                        client certificate (clientcert=verify-full)"
                    .to_owned(),
            );
        }
        Some(_) => return Err("has an unknown sslcertmode: write allow or disable".to_owned()),
    }
    let default = |name: &str| home.map(|home| home.join(".postgresql").join(name));
    let certificate = match file(pairs, "sslcert") {
        Some(named) => named,
        None => match default("postgresql.crt").filter(|file| file.exists()) {
            Some(found) => found,
            None => return Ok(None),
        },
    };
    match file(pairs, "sslkey").or_else(|| default("postgresql.key")) {
        Some(key) => Ok(Some((certificate, key))),
        // Only where the default files are not looked for.
        None => Ok(None),
    }
}

fn switch(pairs: &Pairs, keyword: &str) -> Result<bool, String> {
    match pairs.get(keyword).map(String::as_str) {
        None | Some("1") => Ok(true),
        Some("0") => Ok(false),
        Some(_) => Err(format!("has a bad value for {keyword}: write 0 or 1")),
    }
}

/// Orch speaks 1.2 and 1.3; a lower bound below them bounds nothing.
fn versions(pairs: &Pairs) -> Result<Versions, String> {
    let bound = |keyword: &str, default: u8| match pairs.get(keyword).map(String::as_str) {
        None | Some("") => Ok(default),
        Some("TLSv1") => Ok(0),
        Some("TLSv1.1") => Ok(1),
        Some("TLSv1.2") => Ok(2),
        Some("TLSv1.3") => Ok(3),
        Some(_) => Err(format!("has a bad value for {keyword}: write TLSv1.2 or TLSv1.3")),
    };
    let (oldest, newest) = (bound("ssl_min_protocol_version", 2)?, bound("ssl_max_protocol_version", 3)?);
    let versions = Versions { tls12: (oldest..=newest).contains(&2), tls13: (oldest..=newest).contains(&3) };
    if versions.tls12 || versions.tls13 {
        Ok(versions)
    } else {
        Err("leaves no version of TLS that orch speaks: let 1.2 or 1.3 lie between ssl_min_protocol_version and \
             ssl_max_protocol_version"
            .to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(pairs: &[(&'static str, &str)]) -> Pairs {
        pairs.iter().map(|(keyword, value)| (*keyword, (*value).to_owned())).collect()
    }

    #[test]
    fn what_is_left_out_is_as_in_libpq() {
        let home = tempfile::tempdir().unwrap();
        let prefer = of(&Pairs::new(), Some(home.path())).unwrap();
        assert_eq!((prefer.mode, prefer.roots, prefer.identity), (Mode::Prefer, Roots::Unknown, None));
        let system = of(&pairs(&[("sslrootcert", "system")]), Some(home.path())).unwrap();
        assert_eq!((system.mode, system.roots), (Mode::VerifyFull, Roots::System));
    }

    #[test]
    fn the_default_files_are_used_where_they_are() {
        let home = tempfile::tempdir().unwrap();
        let files = home.path().join(".postgresql");
        std::fs::create_dir(&files).unwrap();
        for name in ["root.crt", "root.crl", "postgresql.crt"] {
            std::fs::write(files.join(name), "").unwrap();
        }
        let found = of(&pairs(&[("sslmode", "verify-full")]), Some(home.path())).unwrap();
        assert_eq!(found.roots, Roots::File(files.join("root.crt")));
        assert_eq!(found.revoked, Some(files.join("root.crl")));
        assert_eq!(found.identity, Some((files.join("postgresql.crt"), files.join("postgresql.key"))));
        let named = pairs(&[("sslrootcert", "/a"), ("sslcert", "/b"), ("sslkey", "/c"), ("sslcrl", "/d")]);
        let found = of(&named, Some(home.path())).unwrap();
        assert_eq!(found.roots, Roots::File("/a".into()));
        assert_eq!(found.identity, Some(("/b".into(), "/c".into())));
        assert_eq!(found.revoked, Some("/d".into()));
        let none = of(&pairs(&[("sslcertmode", "disable")]), Some(home.path())).unwrap();
        assert_eq!(none.identity, None);
    }

    #[test]
    fn weak_mixes_are_refused() {
        let home = tempfile::tempdir().unwrap();
        for (given, word) in [
            (&[("sslmode", "verify-full")][..], "sslrootcert"),
            (&[("sslmode", "verify-ca")], "sslrootcert"),
            (&[("sslmode", "require"), ("sslrootcert", "system")], "verify-full"),
            (&[("sslmode", "prefer"), ("sslnegotiation", "direct")], "sslmode=require"),
            (&[("sslmode", "disable"), ("channel_binding", "require")], "channel binding"),
            (&[("sslmode", "yes")], "sslmode"),
            (&[("sslsni", "yes")], "sslsni"),
            (&[("sslcertmode", "require")], "pg_hba.conf"),
            (&[("ssl_max_protocol_version", "TLSv1.1")], "version"),
        ] {
            let refused = of(&pairs(given), Some(home.path())).unwrap_err();
            assert!(refused.contains(word), "{given:?}: {refused}");
        }
        let only = of(&pairs(&[("ssl_min_protocol_version", "TLSv1.3")]), Some(home.path())).unwrap();
        assert_eq!(only.versions, Versions { tls12: false, tls13: true });
    }
}
