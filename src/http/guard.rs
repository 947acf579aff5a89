//! Refuses a request that a browser was tricked into sending.
//!
//! A page of a stranger can make a browser ask `http://evil.example:8080/queue` with that name pointing to 127.0.0.1;
//! the Host header still says `evil.example`. And it can make one POST to 127.0.0.1 itself: its Origin is another then.
//!
//! Without tokens the name must therefore be one of loopback. With tokens any name may be used, since operators have names
//! of their own for their hosts, balancers and proxies: no page makes a browser show a token that it does not know, and
//! the probes, which ask for none, tell only whether the process is well. The Origin must be orch's own in any case.

use std::{net::IpAddr, sync::Arc};

use axum::{
    extract::{Request, State},
    http::{StatusCode, header, uri::Authority},
    middleware::Next,
    response::{IntoResponse as _, Response},
};

use super::{App, error::Problem};

/// Middleware: lets through what was sent to this server by its name, and not for somebody else's page.
pub(super) async fn sent_to_us(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    match obstacle(&request, app.info.tokens.is_some()) {
        None => next.run(request).await,
        Some(sentence) => Problem::new(StatusCode::FORBIDDEN, sentence).into_response(),
    }
}

/// What is wrong with the names of a request, if anything is.
fn obstacle(request: &Request, has_tokens: bool) -> Option<&'static str> {
    let mut names = request.headers().get_all(header::HOST).iter();
    let (Some(host), None) = (names.next(), names.next()) else {
        return Some("a request has one Host header: send the name of this server in it");
    };
    let name = host.to_str().ok().and_then(|name| name.parse::<Authority>().ok());
    let Some(name) = name.filter(|name| !name.host().is_empty() && !name.as_str().contains('@')) else {
        return Some("the Host header is no name: send this server's, with its port");
    };
    // An absolute request target outranks the header (RFC 9112, 3.2.2), so both must be fine.
    let target = request.uri().authority().is_none_or(is_loopback);
    let is_local = target && is_loopback(&name);
    if !has_tokens && !is_local {
        return Some("the Host header names no loopback address: ask for localhost, 127.0.0.1 or [::1]");
    }
    (!is_own_page(request, &name, has_tokens))
        .then_some("the Origin header names another page: requests from a browser must come from orch's own")
}

/// Whether no browser sent this for a page of somebody else: it says so in every request that could change anything.
/// Before a server that other hosts reach there may be a proxy that speaks TLS.
fn is_own_page(request: &Request, name: &Authority, may_be_tls: bool) -> bool {
    let mut origins = request.headers().get_all(header::ORIGIN).iter();
    let (Some(origin), more) = (origins.next(), origins.next()) else { return true };
    let Ok(origin) = origin.to_str() else { return false };
    let plain = origin.strip_prefix("http://");
    let page = if may_be_tls { plain.or_else(|| origin.strip_prefix("https://")) } else { plain };
    more.is_none() && page.is_some_and(|page| page.eq_ignore_ascii_case(name.as_str()))
}

fn is_loopback(authority: &Authority) -> bool {
    let host = authority.host();
    let address = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
    host.eq_ignore_ascii_case("localhost") || address.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    fn sent(target: &str, headers: &[(&str, &str)]) -> Request {
        let request = Request::builder().uri(target);
        let with = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        with.body(Body::empty()).unwrap()
    }

    #[test]
    fn only_names_of_loopback_pass() {
        for good in ["localhost", "LOCALHOST:8080", "127.0.0.1", "127.0.0.1:8080", "127.9.9.9", "[::1]:8080", "[::1]"] {
            assert!(is_loopback(&good.parse().unwrap()), "{good}");
        }
        for bad in
            ["evil.example", "localhost.evil.example", "10.0.0.1", "0.0.0.0", "[::]", "[fe80::1]", "127.0.0.1.nip.io"]
        {
            assert!(!is_loopback(&bad.parse().unwrap()), "{bad}");
        }
    }

    #[test]
    fn without_tokens_a_strange_name_is_refused_and_with_them_only_what_is_no_name() {
        for name in ["orch.example", "10.0.0.7:8080", "north:8080", "[fe80::1]:80"] {
            let request = sent("/queue", &[("host", name)]);
            assert!(obstacle(&request, false).unwrap().contains("no loopback"), "{name}");
            assert_eq!(obstacle(&request, true), None, "{name}");
        }
        for headers in
            [&[][..], &[("host", "")], &[("host", "a"), ("host", "a")], &[("host", "a@b")], &[("host", "a b")]]
        {
            assert!(obstacle(&sent("/queue", headers), true).is_some(), "{headers:?}");
            assert!(obstacle(&sent("/queue", headers), false).is_some(), "{headers:?}");
        }
        let absolute = sent("http://evil.example/queue", &[("host", "localhost")]);
        assert!(obstacle(&absolute, false).is_some());
    }

    #[test]
    fn a_page_is_our_own_by_the_name_that_was_asked() {
        let passes = |origins: &[&str], has_tokens: bool| {
            let mut headers = vec![("host", "localhost:8080")];
            headers.extend(origins.iter().map(|origin| ("origin", *origin)));
            obstacle(&sent("/", &headers), has_tokens).is_none()
        };
        for has_tokens in [true, false] {
            assert!(passes(&[], has_tokens) && passes(&["http://localhost:8080"], has_tokens));
            for bad in ["null", "http://localhost", "http://evil.example", "ftp://localhost:8080"] {
                assert!(!passes(&[bad], has_tokens), "{bad}");
            }
            assert!(!passes(&["http://localhost:8080"; 2], has_tokens));
        }
        assert!(passes(&["https://localhost:8080"], true) && !passes(&["https://localhost:8080"], false));
    }
}
