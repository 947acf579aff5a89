//! Who may ask: whoever shows one of the bearer tokens of `http_token_file`. The two probes ask for none.
//!
//! Owns the file's form and the comparison. Never prints a token, and never says by an answer's time how much of one was
//! right.

use std::{
    fmt,
    io::{ErrorKind, Read as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::Path,
    sync::Arc,
};

use axum::{
    extract::{Request, State},
    http::{
        HeaderMap, HeaderValue, StatusCode,
        header::{AUTHORIZATION, WWW_AUTHENTICATE},
    },
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use subtle::ConstantTimeEq as _;

use super::{App, error::Problem};

/// The paths that answer without a token: those who ask there, to restart or to route, have none.
pub(super) const OPEN: [&str; 2] = ["/healthz", "/readyz"];

/// Fewer characters could be found by trying.
const SHORTEST: usize = 16;

/// Far more than any number of tokens needs.
const LARGEST_FILE: u64 = 64 << 10;

/// The tokens of a file, at least one.
#[derive(Clone, PartialEq, Eq)]
pub struct Tokens(Vec<String>);

impl Tokens {
    /// Reads the file: a token a line; empty lines and those that begin with `#` are skipped.
    ///
    /// # Errors
    /// A sentence that says what to do: the file cannot be read, others have rights on it, a line is no token, or there
    /// is none. It never quotes a line.
    pub fn read(path: &Path) -> Result<Self, String> {
        let place = path.display();
        let unreadable = |error| format!("http_token_file {place} cannot be read ({error}): name one that can");
        // A pipe without a writer would hold the open for ever.
        let opened = std::fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
        let file = opened.map_err(unreadable)?;
        let metadata = file.metadata().map_err(unreadable)?;
        if !metadata.is_file() {
            return Err(format!("http_token_file {place} is no plain file: name one with a token a line"));
        }
        if metadata.permissions().mode() & 0o007 != 0 {
            return Err(format!("others have rights on http_token_file {place}: take them away with chmod o= {place}"));
        }
        let mut text = String::new();
        match file.take(LARGEST_FILE + 1).read_to_string(&mut text) {
            Ok(_) if text.len() as u64 > LARGEST_FILE => {
                Err(format!("http_token_file {place} is larger than {LARGEST_FILE} bytes: write a token a line"))
            }
            Ok(_) => Self::parse(&text).map_err(|why| format!("http_token_file {place}{why}")),
            Err(error) if error.kind() == ErrorKind::InvalidData => {
                Err(format!("http_token_file {place} is no text: write a token a line"))
            }
            Err(error) => Err(unreadable(error)),
        }
    }

    /// The tokens of a text, or the end of a sentence that begins with the file's name.
    fn parse(text: &str) -> Result<Self, String> {
        let mut tokens = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            if !line.bytes().all(may_stand_in_a_token) {
                return Err(format!(
                    ":{} is no token: write letters, digits and any of \"-._~+/=\", without spaces",
                    index + 1
                ));
            }
            if line.len() < SHORTEST {
                return Err(format!(
                    ":{} is a token of fewer than {SHORTEST} characters, which could be guessed: \
                     make one with `openssl rand -hex 32`",
                    index + 1
                ));
            }
            tokens.push(line.to_owned());
        }
        if tokens.is_empty() {
            return Err(" holds no token: write one a line, made with `openssl rand -hex 32`".to_owned());
        }
        Ok(Self(tokens))
    }

    /// How many there are.
    #[must_use]
    pub const fn count(&self) -> usize {
        self.0.len()
    }

    /// Whether this is one of them. Each is compared to its end, so that the time says nothing.
    fn hold(&self, shown: &[u8]) -> bool {
        let none = subtle::Choice::from(0);
        self.0.iter().fold(none, |found, token| found | token.as_bytes().ct_eq(shown)).into()
    }
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} secret tokens", self.0.len())
    }
}

/// RFC 6750, 2.1: what may follow `Bearer` in the header.
const fn may_stand_in_a_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~' | b'+' | b'/' | b'=')
}

/// Middleware: lets through what shows a token, where tokens are asked for. All that is not open by name is closed, also
/// what is not there.
pub(super) async fn with_a_token(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let Some(tokens) = &app.info.tokens else { return next.run(request).await };
    if OPEN.contains(&request.uri().path()) {
        return next.run(request).await;
    }
    let (challenge, sentence) = match bearer(request.headers()) {
        Some(shown) if tokens.borrow().hold(shown) => return next.run(request).await,
        Some(_) => (r#"Bearer realm="orch", error="invalid_token""#, "the token is none of http_token_file"),
        None => (r#"Bearer realm="orch""#, "no token was shown: send the header Authorization: Bearer TOKEN"),
    };
    let mut refusal = Problem::new(StatusCode::UNAUTHORIZED, sentence).into_response();
    refusal.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
    refusal
}

/// What the only `Authorization` header shows, if it shows a bearer token.
fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let mut shown = headers.get_all(AUTHORIZATION).iter();
    let (Some(value), None) = (shown.next(), shown.next()) else { return None };
    let (scheme, token) = value.as_bytes().split_at_checked("Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then(|| token.trim_ascii())
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};

    use super::*;

    const ONE: &str = "0123456789abcdef";
    const OTHER: &str = "fedcba9876543210~+/=";

    #[test]
    fn a_file_holds_a_token_a_line() {
        let tokens = Tokens::parse(&format!("# for the dashboard\n{ONE}\r\n\n  {OTHER}\n")).unwrap();
        assert_eq!(tokens.count(), 2);
        assert!(tokens.hold(ONE.as_bytes()) && tokens.hold(OTHER.as_bytes()));
        for wrong in ["", "0123456789abcde", "0123456789abcdeF", "0123456789abcdef0", "# for the dashboard"] {
            assert!(!tokens.hold(wrong.as_bytes()), "{wrong}");
        }
        assert!(!format!("{tokens:?}").contains(ONE));
    }

    #[test]
    fn what_is_no_token_is_refused_by_its_line_and_not_quoted() {
        for (text, words) in [
            (format!("{ONE}\n0123456789abcde\n"), ":2 is a token of fewer than 16 characters"),
            (format!("{ONE}\n{ONE} {OTHER}\n"), ":2 is no token"),
            ("0123456789abcdéf".to_owned(), ":1 is no token"),
            (String::new(), " holds no token"),
            ("\n# nothing\n".to_owned(), " holds no token"),
        ] {
            let error = Tokens::parse(&text).unwrap_err();
            assert!(error.starts_with(words) && !error.contains("0123"), "{text:?}: {error}");
        }
    }

    #[test]
    fn a_file_on_which_others_have_rights_is_refused_and_so_is_none() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("tokens");
        let refused = |words: &str| {
            let error = Tokens::read(&path).unwrap_err();
            assert!(error.contains(words) && error.contains(path.to_str().unwrap()), "{error}");
        };
        refused("cannot be read");
        fs::write(&path, ONE).unwrap();
        for (mode, fine) in [(0o600, true), (0o640, true), (0o440, true), (0o644, false), (0o602, false)] {
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            if fine {
                assert!(Tokens::read(&path).unwrap().hold(ONE.as_bytes()), "{mode:o}");
            } else {
                refused("others have rights");
            }
        }
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        fs::write(&path, [0xff; 20]).unwrap();
        refused("is no text");
        fs::write(&path, vec![b'\n'; LARGEST_FILE as usize + 1]).unwrap();
        refused("is larger than");
        fs::remove_file(&path).unwrap();
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRUSR).unwrap();
        refused("is no plain file");
    }

    #[test]
    fn a_token_is_shown_by_one_header_of_the_bearer_scheme() {
        let headers = |values: &[&'static str]| {
            values.iter().map(|value| (AUTHORIZATION, HeaderValue::from_static(value))).collect::<HeaderMap>()
        };
        for good in ["Bearer x", "bearer x", "BEARER   x "] {
            assert_eq!(bearer(&headers(&[good])), Some(&b"x"[..]), "{good}");
        }
        for bad in [&[][..], &["Basic x"], &["Bearer"], &["Bearerx"], &["x"], &["Bearer x", "Bearer x"]] {
            assert_eq!(bearer(&headers(bad)), None, "{bad:?}");
        }
    }
}
