//! HTTP as it is written, and a server of `driftheap play`.
#![allow(dead_code, reason = "each test file uses a part")]

use std::io::{BufRead, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// A request as text; the server is asked to close when it has answered.
pub(crate) fn request(method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> String {
    let mut text = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n");
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    if method == "POST" {
        text.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    text + "\r\n" + body
}

/// A connection that is not waited for without an end.
pub(crate) fn connect(host: &str) -> TcpStream {
    let stream = TcpStream::connect(host).expect("connected");
    stream.set_read_timeout(Some(Duration::from_secs(120))).expect("a limit");
    stream
}

/// Sends a request, and reads the whole answer: the status, and everything.
pub(crate) fn exchange(host: &str, request: &[u8]) -> (u16, String) {
    let mut stream = connect(host);
    // A server that refuses need not read all of it.
    let _refused = stream.write_all(request);
    let mut bytes = Vec::new();
    let mut part = [0; 1 << 14];
    // Not every server closes, asked or not.
    while !is_whole(&bytes) {
        match stream.read(&mut part) {
            Ok(count) if count > 0 => bytes.extend_from_slice(&part[..count]),
            _ => break,
        }
    }
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let status = text.split(' ').nth(1).and_then(|status| status.parse().ok());
    (status.unwrap_or_else(|| panic!("no status: {text:?}")), text)
}

/// Whether as much has come as the headers say.
fn is_whole(bytes: &[u8]) -> bool {
    let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else { return false };
    let head = String::from_utf8_lossy(&bytes[..end]).to_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
    let length = length.and_then(|length| length.trim().parse::<usize>().ok());
    length.is_some_and(|length| bytes.len() >= end + 4 + length)
}

/// The port and the token of the address that is printed.
pub(crate) fn address(mut lines: impl BufRead) -> (u16, String) {
    let mut all = String::new();
    loop {
        let before = all.len();
        assert!(lines.read_line(&mut all).expect("a line") > 0, "no address: {all}");
        let Some((_, rest)) = all[before..].trim().split_once("http://127.0.0.1:") else {
            continue;
        };
        let (port, token) = rest.split_once("/?token=").expect("a token");
        return (port.parse().expect("a port"), token.to_owned());
    }
}

/// A server, ended when this is dropped.
pub(crate) struct Server {
    pub(crate) child: Child,
    pub(crate) port: u16,
    pub(crate) token: String,
}

impl Server {
    pub(crate) fn start(arguments: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_driftheap"))
            .arg("play")
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("driftheap starts");
        let stdout = child.stdout.take().expect("its output");
        let (port, token) = address(BufReader::new(stdout));
        Self { child, port, token }
    }

    pub(crate) fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _status = self.child.wait();
    }
}
