//! Who may ask.
//!
//! The port of 127.0.0.1 is open to every page of every site in the browser and to every user of the
//! machine. The token keeps other users out; Host keeps out names that were made to lead here (DNS
//! rebinding); Origin keeps out pages of others, should they learn the token.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;
use subtle::ConstantTimeEq as _;

use super::{Gate, refuse};

/// Where a script puts the token.
const TOKEN_HEADER: HeaderName = HeaderName::from_static("x-driftheap-token");

/// The names of this server.
fn hosts(port: u16) -> [String; 2] {
    [format!("127.0.0.1:{port}"), format!("localhost:{port}")]
}

/// Passes on what may be answered.
pub(super) async fn check(State(gate): State<Arc<Gate>>, request: Request, next: Next) -> Response {
    let mut response = match wrong(&gate, &request) {
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
fn wrong(gate: &Gate, request: &Request) -> Option<String> {
    let headers = request.headers();
    let verb = gate.verb;
    let hosts = hosts(gate.port);
    let mut named = headers.get_all(header::HOST).iter();
    let known = |host: &HeaderValue| hosts.iter().any(|known| host == known.as_str());
    if !named.next().is_some_and(known) || named.next().is_some() {
        return Some(format!(
            "the Host is not this server; open the address that `{verb}` printed"
        ));
    }
    for origin in headers.get_all(header::ORIGIN) {
        let known = |host: &String| origin == format!("http://{host}").as_str();
        if !hosts.iter().any(known) {
            return Some("a page of another origin may not ask here".to_owned());
        }
    }
    let given = if request.method() == Method::GET {
        query_token(request.uri().query().unwrap_or_default())
    } else {
        headers.get(TOKEN_HEADER).map(HeaderValue::as_bytes)
    };
    let given = given.unwrap_or_default();
    if !bool::from(given.ct_eq(gate.token.as_bytes())) {
        return Some(format!(
            "the token is missing or wrong; open the address that `{verb}` printed, all of it"
        ));
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
    fn a_token_is_found_wherever_it_stands() {
        assert_eq!(query_token("token=ab"), Some(&b"ab"[..]));
        assert_eq!(query_token("x=1&token=ab&y"), Some(&b"ab"[..]));
        assert_eq!(query_token("mytoken=ab"), None);
        assert_eq!(query_token(""), None);
    }
}
