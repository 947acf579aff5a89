//! Refuses a request that a browser was tricked into sending: the name it was sent to must be one of loopback.
//!
//! A page of a stranger can make a browser ask `http://evil.example:8080/queue` with that name pointing to 127.0.0.1;
//! the Host header still says `evil.example`. And it can make one POST to 127.0.0.1 itself: its Origin is another then.

use std::net::IpAddr;

use axum::{
    extract::Request,
    http::{StatusCode, header, uri::Authority},
    middleware::Next,
    response::{IntoResponse as _, Response},
};

use super::error::Problem;

/// Middleware: lets through what was sent to a loopback name.
pub(super) async fn loopback_names_only(request: Request, next: Next) -> Response {
    let mut names = request.headers().get_all(header::HOST).iter();
    // An absolute request target outranks the header (RFC 9112, 3.2.2), so both must be fine.
    let target = request.uri().authority().is_none_or(is_loopback);
    let host = match (names.next(), names.next()) {
        (Some(name), None) => {
            name.to_str().ok().and_then(|name| name.parse().ok()).is_some_and(|name| is_loopback(&name))
        }
        _ => false,
    };
    if target && host {
        if !is_own_page(&request) {
            let sentence = "the Origin header names another page: requests from a browser must come from orch's own";
            return Problem::new(StatusCode::FORBIDDEN, sentence).into_response();
        }
        next.run(request).await
    } else {
        Problem::new(
            StatusCode::FORBIDDEN,
            "the Host header names no loopback address: ask for localhost, 127.0.0.1 or [::1]",
        )
        .into_response()
    }
}

/// Whether no browser sent this for a page of somebody else: it says so in every request that could change anything.
fn is_own_page(request: &Request) -> bool {
    let headers = request.headers();
    let mut origins = headers.get_all(header::ORIGIN).iter();
    match (origins.next(), origins.next()) {
        (None, _) => true,
        (Some(origin), None) => {
            let origin = origin.to_str().ok().and_then(|origin| origin.strip_prefix("http://"));
            origin.is_some() && origin == headers.get(header::HOST).and_then(|host| host.to_str().ok())
        }
        _ => false,
    }
}

fn is_loopback(authority: &Authority) -> bool {
    let host = authority.host();
    let address = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
    host.eq_ignore_ascii_case("localhost") || address.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::is_loopback;

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
}
