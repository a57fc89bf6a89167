//! What the servers of `play`, `run --web` and `serve --web` have in common: pages for one person on
//! this machine.
//!
//! | file | what |
//! |---|---|
//! | `guard` | who may ask: Host, Origin, token |
//!
//! # Invariants
//! - They listen on 127.0.0.1 and nowhere else.
//! - Every request but none is guarded: the guard is a layer around all routes.
//! - A document runs its own scripts, by a nonce, and nothing else, whatever it shows.

mod guard;

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;

use anyhow::Context as _;
use axum::Router;
use axum::body::Bytes;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use maud::{DOCTYPE, Markup, PreEscaped, html};
use serde::Serialize;
use serde::de::DeserializeOwned;

const TOKEN_BYTES: usize = 16;

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

/// The door of a server: where it is, and the word that opens it.
#[derive(Debug)]
pub(super) struct Gate {
    token: String,
    port: u16,
    /// What printed the address.
    verb: &'static str,
}

impl Gate {
    /// The address of the page, with its token.
    pub(super) fn address(&self) -> String {
        format!("http://127.0.0.1:{}/?token={}", self.port, self.token)
    }
}

/// Listens on this machine alone, at a port or at any that is free (0).
pub(super) fn listen(port: u16, verb: &'static str) -> anyhow::Result<(TcpListener, Gate)> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let listener = TcpListener::bind(address)
        .with_context(|| format!("can't listen on {address}; port 0 is any that is free"))?;
    listener.set_nonblocking(true).context("can't listen without waiting")?;
    let port = listener.local_addr().context("can't tell the port")?.port();
    let token = token().context("can't get a random token")?;
    Ok((listener, Gate { token, port, verb }))
}

/// The routes with the guard around them.
pub(super) fn guarded(routes: Router, gate: &Arc<Gate>) -> Router {
    routes.layer(axum::middleware::from_fn_with_state(Arc::clone(gate), guard::check))
}

/// What went wrong, for a person.
pub(super) fn refuse(status: StatusCode, why: impl Into<String>) -> Response {
    let text = serde_json::json!({ "error": why.into() }).to_string();
    (status, [(header::CONTENT_TYPE, "application/json")], text).into_response()
}

pub(super) fn json(value: &impl Serialize) -> Response {
    match serde_json::to_string(value) {
        Ok(text) => ([(header::CONTENT_TYPE, "application/json")], text).into_response(),
        Err(error) => refuse(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

/// A request that is not answered, and why.
pub(super) struct HttpError(pub(super) StatusCode, pub(super) String);

impl IntoResponse for HttpError {
    fn into_response(self) -> Response {
        refuse(self.0, self.1)
    }
}

pub(super) type Reply = Result<Response, HttpError>;

/// A body as what it has to be.
pub(super) fn read<T: DeserializeOwned>(body: &Bytes) -> Result<T, HttpError> {
    let why = |error| format!("the request is not understood: {error}");
    serde_json::from_slice(body).map_err(|error| HttpError(StatusCode::BAD_REQUEST, why(error)))
}

/// What a document is made of.
pub(super) struct Page<'a> {
    pub(super) title: &'a str,
    /// The class of the body.
    pub(super) class: &'a str,
    pub(super) styles: &'a [&'a str],
    pub(super) scripts: &'a [&'a str],
    /// JSON for the scripts, by class.
    pub(super) data: &'a [(&'a str, &'a str)],
}

/// The document. What is ours is marked by a nonce: nothing else may run, whatever `body` contains.
pub(super) fn document(page: &Page<'_>, body: &Markup) -> Response {
    let nonce = match token() {
        Ok(nonce) => nonce,
        Err(error) => return refuse(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    };
    let policy = format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; \
         connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; \
         frame-ancestors 'none'"
    );
    let text = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                link rel="icon" href="data:,";
                title { (page.title) " - driftheap" }
                style nonce=(nonce) { @for style in page.styles { (PreEscaped(style)) } }
            }
            body class=(page.class) {
                (body)
                @for (class, text) in page.data {
                    script class=(class) type="application/json" nonce=(nonce) {
                        // In a script element a text ends at `</`, wherever it stands.
                        (PreEscaped(text.replace('<', "\\u003c")))
                    }
                }
                @for script in page.scripts { script nonce=(nonce) { (PreEscaped(script)) } }
            }
        }
    };
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, policy.as_str()),
    ];
    (headers, text.into_string()).into_response()
}

#[cfg(test)]
mod tests {
    use super::token;

    #[test]
    fn tokens_are_long_and_never_the_same() {
        let (one, two) = (token().unwrap(), token().unwrap());
        assert!(one.len() == 32 && one.bytes().all(|byte| byte.is_ascii_hexdigit()));
        assert_ne!(one, two);
    }
}
