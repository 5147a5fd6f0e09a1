//! This node's metrics: the ready service keeps them in a file, and one unprivileged process per question hands it
//! to HAProxy, which asks over a socket of its own and lets in whom the statistics page lets in.

use crate::node_config::NodeConfig;
use crate::start::self_report;
use anyhow::{Context, Result, ensure};
use hanode_cluster::health::{self, Access};
use hanode_util::file_tree::below;
use hanode_util::safe_path::SafeTree;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

const FILE: &str = "/run/hanode/metrics.prom";
/// Older ones mean that nobody writes them any more: better none than old ones.
const STALE: Duration = Duration::from_secs(60);
const TIMEOUT: Duration = Duration::from_secs(3);
/// No honest request comes near this.
const LONGEST: usize = 8 << 10;

/// Asks this node's services and keeps the answer.
pub(crate) fn keep(root: &Path, config: &NodeConfig, access: &Access, node: &str) -> Result<()> {
    let known = access.spec.node(node).with_context(|| format!("{node} is not in the spec"))?;
    let status = health::collect_local(access, known, self_report::own_report(root, config, node)?)?;
    Ok(SafeTree::open(root)?.replace(FILE, health::node_metrics(&status).as_bytes(), 0o644, None)?)
}

/// Answers one HTTP request on standard input, a socket handed over by systemd.
pub(crate) fn serve(root: &Path) -> Result<()> {
    let socket = std::io::stdin().as_fd().try_clone_to_owned().context("standard input is no socket")?;
    let mut socket = UnixStream::from(socket);
    socket.set_read_timeout(Some(TIMEOUT))?;
    socket.set_write_timeout(Some(TIMEOUT))?;
    answer(&mut socket, fresh(root))
}

fn fresh(root: &Path) -> Result<String> {
    let at = below(root, FILE);
    let age = std::fs::metadata(&at).and_then(|m| m.modified()).context("no metrics yet")?.elapsed();
    ensure!(age.unwrap_or_default() < STALE, "hanode-ready.service writes no metrics any more");
    Ok(std::fs::read_to_string(at)?)
}

fn answer(socket: &mut (impl Read + Write), metrics: Result<String>) -> Result<()> {
    let mut head: Vec<u8> = Vec::new();
    let mut piece = [0; 1024];
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        let n = socket.read(&mut piece).context("reading the request")?;
        ensure!(n > 0 && head.len() < LONGEST, "this is no HTTP request");
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

    /// What comes back for a request.
    fn ask(request: &[u8], metrics: Result<String>) -> Result<String> {
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
    fn a_request_is_answered_and_anything_else_is_not() {
        let get = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n";
        let said = ask(get, Ok("x 1\n".into())).expect("an answer");
        assert!(
            said.starts_with("HTTP/1.1 200 OK\r\n")
                && said.ends_with("Content-Length: 4\r\nConnection: close\r\n\r\nx 1\n"),
            "{said}"
        );
        let said = ask(get, Err(anyhow::anyhow!("no metrics yet"))).expect("an answer");
        assert!(said.starts_with("HTTP/1.1 503 ") && said.ends_with("no metrics yet\n"), "{said}");
        assert!(ask(b"GET /metrics", Ok(String::new())).is_err());
        assert!(ask(&[b'x'; 2 * LONGEST], Ok(String::new())).is_err());
    }

    #[test]
    fn old_metrics_are_none() {
        let root = tempfile::tempdir().expect("a directory");
        let at = root.path().join("run/hanode/metrics.prom");
        std::fs::create_dir_all(at.parent().expect("a parent")).expect("a directory");
        assert!(fresh(root.path()).is_err());
        std::fs::write(&at, "x 1\n").expect("writing");
        assert_eq!(fresh(root.path()).expect("fresh"), "x 1\n");
        let old = std::time::SystemTime::now() - STALE - TIMEOUT;
        std::fs::File::options().write(true).open(&at).and_then(|f| f.set_modified(old)).expect("ageing");
        assert!(fresh(root.path()).is_err());
    }
}
