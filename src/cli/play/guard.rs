//! Who may ask.
//!
//! The port of 127.0.0.1 is open to every page of every site in the browser and to every user of the
//! machine. The token keeps other users out; Host keeps out names that were made to lead here (DNS
//! rebinding); Origin keeps out pages of others, should they learn the token.

use std::fmt::Write as _;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;
use subtle::ConstantTimeEq as _;

use super::{Shared, refuse};

const TOKEN_BYTES: usize = 16;

/// Where a script puts the token.
pub(super) const TOKEN_HEADER: HeaderName = HeaderName::from_static("x-driftheap-token");

/// A word that nobody can guess: 128 random bits.
pub(super) fn token() -> std::io::Result<String> {
    let mut bytes = [0u8; TOKEN_BYTES];
    let mut filled = 0;
    while filled < bytes.len() {
        let flags = rustix::rand::GetRandomFlags::empty();
        filled += rustix::rand::getrandom(&mut bytes[filled..], flags)?;
    }
    let mut text = String::with_capacity(2 * TOKEN_BYTES);
    for byte in bytes {
        let _never_fails = write!(text, "{byte:02x}");
    }
    Ok(text)
}

/// The names of this server.
fn hosts(port: u16) -> [String; 2] {
    [format!("127.0.0.1:{port}"), format!("localhost:{port}")]
}

/// Passes on what may be answered.
pub(super) async fn check(
    State(shared): State<Arc<Shared>>,
    request: Request,
    next: Next,
) -> Response {
    let mut response = match wrong(&shared, &request) {
        Some(why) => refuse(StatusCode::FORBIDDEN, why),
        None => next.run(request).await,
    };
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

/// Why a request is not answered.
fn wrong(shared: &Shared, request: &Request) -> Option<&'static str> {
    let headers = request.headers();
    let hosts = hosts(shared.port);
    let mut named = headers.get_all(header::HOST).iter();
    let known = |host: &HeaderValue| hosts.iter().any(|known| host == known.as_str());
    if !named.next().is_some_and(known) || named.next().is_some() {
        return Some("the Host is not this server; open the address that `driftheap play` printed");
    }
    for origin in headers.get_all(header::ORIGIN) {
        let known = |host: &String| origin == format!("http://{host}").as_str();
        if !hosts.iter().any(known) {
            return Some("a page of another origin may not ask here");
        }
    }
    let given = if request.method() == Method::GET {
        query_token(request.uri().query().unwrap_or_default())
    } else {
        headers.get(TOKEN_HEADER).map(HeaderValue::as_bytes)
    };
    let given = given.unwrap_or_default();
    if !bool::from(given.ct_eq(shared.token.as_bytes())) {
        return Some(
            "the token is missing or wrong; open the address that `driftheap play` printed, all of it",
        );
    }
    None
}

fn query_token(query: &str) -> Option<&[u8]> {
    query.split('&').find_map(|pair| pair.strip_prefix("token=")).map(str::as_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_long_and_never_the_same() {
        let (one, two) = (token().unwrap(), token().unwrap());
        assert!(one.len() == 32 && one.bytes().all(|byte| byte.is_ascii_hexdigit()));
        assert_ne!(one, two);
    }

    #[test]
    fn a_token_is_found_wherever_it_stands() {
        assert_eq!(query_token("token=ab"), Some(&b"ab"[..]));
        assert_eq!(query_token("x=1&token=ab&y"), Some(&b"ab"[..]));
        assert_eq!(query_token("mytoken=ab"), None);
        assert_eq!(query_token(""), None);
    }
}
