//! This node's metrics: hanode-ready.service writes them to a file, and one unprivileged process per request
//! sends it to HAProxy over a Unix socket. HAProxy limits access as for its statistics page.

use crate::node::NodeContext;
use crate::start::self_report;
use anyhow::{Context, Result, ensure};
use hanode_cluster::health;
use hanode_util::file_tree::below;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

const METRICS_FILE: &str = "/run/hanode/metrics.prom";
/// Older metrics are not served: hanode-ready.service does not run any more.
const MAX_AGE: Duration = Duration::from_secs(60);
const SOCKET_TIMEOUT: Duration = Duration::from_secs(3);
/// Upper bound on untrusted input.
const MAX_REQUEST_BYTES: usize = 8 << 10;

/// Queries this node's services and writes their metrics to the file.
pub(crate) fn save(node: &NodeContext) -> Result<()> {
    let status = health::collect_local(node.access(), node.own(), self_report::own_report(node)?)?;
    Ok(node.tree()?.replace(METRICS_FILE, health::node_metrics(&status).as_bytes(), 0o644, None)?)
}

/// Answers one HTTP request on standard input, a socket from systemd.
pub(crate) fn serve(root: &Path) -> Result<()> {
    let socket = std::io::stdin().as_fd().try_clone_to_owned().context("standard input is not a socket")?;
    let mut socket = UnixStream::from(socket);
    socket.set_read_timeout(Some(SOCKET_TIMEOUT))?;
    socket.set_write_timeout(Some(SOCKET_TIMEOUT))?;
    answer(&mut socket, read_current(root))
}

fn read_current(root: &Path) -> Result<String> {
    let at = below(root, METRICS_FILE);
    let age = std::fs::metadata(&at).and_then(|m| m.modified()).context("no metrics yet")?.elapsed();
    ensure!(age.unwrap_or_default() < MAX_AGE, "hanode-ready.service writes no metrics any more");
    Ok(std::fs::read_to_string(at)?)
}

fn answer(socket: &mut (impl Read + Write), metrics: Result<String>) -> Result<()> {
    let mut head: Vec<u8> = Vec::new();
    let mut piece = [0; 1024];
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        let n = socket.read(&mut piece).context("reading the request")?;
        ensure!(n > 0 && head.len() < MAX_REQUEST_BYTES, "not an HTTP request");
        head.extend(&piece[..n]);
    }
    let (status, kind, text) = match metrics {
        Ok(text) => ("200 OK", "text/plain; version=0.0.4; charset=utf-8", text),
        Err(error) => ("503 Service Unavailable", "text/plain", format!("{error:#}\n")),
    };
    let length = text.len();
    write!(
        socket,
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{text}"
    )?;
    Ok(socket.flush()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The response to a request.
    fn response_to(request: &[u8], metrics: Result<String>) -> Result<String> {
        let (mut near, mut far) = UnixStream::pair()?;
        near.write_all(request)?;
        near.shutdown(std::net::Shutdown::Write)?;
        answer(&mut far, metrics)?;
        drop(far);
        let mut text = String::new();
        near.read_to_string(&mut text)?;
        Ok(text)
    }

    #[test]
    fn only_http_requests_are_answered() {
        let get = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n";
        let response = response_to(get, Ok("x 1\n".into())).expect("an answer");
        assert!(
            response.starts_with("HTTP/1.1 200 OK\r\n")
                && response.ends_with("Content-Length: 4\r\nConnection: close\r\n\r\nx 1\n"),
            "{response}"
        );
        let response = response_to(get, Err(anyhow::anyhow!("no metrics yet"))).expect("an answer");
        assert!(
            response.starts_with("HTTP/1.1 503 ") && response.ends_with("no metrics yet\n"),
            "{response}"
        );
        assert!(response_to(b"GET /metrics", Ok(String::new())).is_err());
        assert!(response_to(&[b'x'; 2 * MAX_REQUEST_BYTES], Ok(String::new())).is_err());
    }

    #[test]
    fn old_metrics_are_not_served() {
        let root = tempfile::tempdir().expect("a directory");
        let at = root.path().join("run/hanode/metrics.prom");
        std::fs::create_dir_all(at.parent().expect("a parent")).expect("a directory");
        assert!(read_current(root.path()).is_err());
        std::fs::write(&at, "x 1\n").expect("writing");
        assert_eq!(read_current(root.path()).expect("current metrics"), "x 1\n");
        let old = std::time::SystemTime::now() - MAX_AGE - SOCKET_TIMEOUT;
        std::fs::File::options().write(true).open(&at).and_then(|f| f.set_modified(old)).expect("ageing");
        assert!(read_current(root.path()).is_err());
    }
}
