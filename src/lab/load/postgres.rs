//! The PostgreSQL writer: a long-lived psql, one line per statement and per result.

use super::Client;
use anyhow::{Context, Result, bail, ensure};
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::IpAddr;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

/// Time limit of a statement that is not part of the load itself.
const ADMIN_TIMEOUT: Duration = Duration::from_secs(30);
const END: &str = "-- end";

#[derive(Clone)]
pub(super) struct Login {
    pub(crate) host: IpAddr,
    pub(crate) port: u16,
    /// `None` where the spec turns TLS off for PostgreSQL.
    pub(crate) ca: Option<PathBuf>,
    pub(crate) password: String,
}

/// One table per load, so that two loads do not share one.
fn table(run: &str) -> String {
    format!("hanode_load_{run}")
}

impl Login {
    /// Returns at once; the first statement waits for the connection.
    pub(super) fn connect(&self, timeout: Duration) -> Result<Session> {
        let mut psql = Command::new("psql");
        psql.args(["--no-psqlrc", "--no-password", "--quiet", "--no-align", "--tuples-only"]);
        psql.arg("--set=ON_ERROR_STOP=1").env("LC_ALL", "C").env("PGDATABASE", "app");
        psql.env("PGHOST", self.host.to_string()).env("PGPORT", self.port.to_string());
        psql.env("PGUSER", "app").env("PGPASSWORD", &self.password);
        psql.env("PGCONNECT_TIMEOUT", timeout.as_secs().max(2).to_string());
        match &self.ca {
            Some(ca) => psql.env("PGSSLMODE", "verify-full").env("PGSSLROOTCERT", ca),
            None => psql.env("PGSSLMODE", "disable"),
        };
        // A Ctrl-C at the terminal would cancel the statement, and with it the wait for the standby.
        psql.process_group(0);
        psql.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = psql.spawn().context("starting psql")?;
        let (to, lines) = channel();
        let input = child.stdin.take().context("psql has no input")?;
        read_lines(child.stdout.take().context("psql has no output")?, to.clone(), Ok);
        read_lines(child.stderr.take().context("psql has no output")?, to, Err);
        Ok(Session { child, input, lines, timeout })
    }

    pub(super) fn create_table(&self, run: &str) -> Result<()> {
        let statement = format!("CREATE TABLE {} (number bigint PRIMARY KEY)", table(run));
        self.connect(ADMIN_TIMEOUT)?.rows(&statement).map(drop)
    }

    pub(super) fn numbers(&self, run: &str) -> Result<BTreeSet<u64>> {
        let rows = self.connect(ADMIN_TIMEOUT)?.rows(&format!("SELECT number FROM {}", table(run)))?;
        rows.iter().map(|row| row.parse().with_context(|| format!("psql answered {row:?}"))).collect()
    }

    pub(super) fn drop_table(&self, run: &str) -> Result<()> {
        self.connect(ADMIN_TIMEOUT)?.rows(&format!("DROP TABLE {}", table(run))).map(drop)
    }
}

/// Ends when psql ends, which closes the stream.
fn read_lines(
    from: impl Read + Send + 'static,
    to: Sender<Result<String, String>>,
    kind: fn(String) -> Result<String, String>,
) {
    std::thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            if to.send(kind(line)).is_err() {
                break;
            }
        }
    });
}

pub(super) struct Session {
    child: Child,
    input: ChildStdin,
    /// The output of psql: standard output as `Ok`, standard error as `Err`.
    lines: Receiver<Result<String, String>>,
    timeout: Duration,
}

/// psql prints the row once the commit is acknowledged.
pub(super) fn insert(session: &mut Session, client: &Client, number: u64) -> Result<bool> {
    session.send(&format!("INSERT INTO {} VALUES ({number}) RETURNING number;", table(&client.run)))?;
    let answer = session.line()?;
    ensure!(answer == number.to_string(), "psql answered {answer:?}");
    Ok(true)
}

impl Session {
    fn send(&mut self, line: &str) -> Result<()> {
        match writeln!(self.input, "{line}") {
            Ok(()) => Ok(()),
            // psql has ended, and may have printed why.
            Err(error) => self.line().map(drop).and(Err(error.into())),
        }
    }

    fn line(&mut self) -> Result<String> {
        match self.lines.recv_timeout(self.timeout) {
            Ok(Ok(line)) => Ok(line),
            Ok(Err(message)) => bail!("{message}"),
            Err(RecvTimeoutError::Timeout) => bail!("no answer within {} s", self.timeout.as_secs()),
            Err(RecvTimeoutError::Disconnected) => bail!("psql ended"),
        }
    }

    fn rows(&mut self, statement: &str) -> Result<Vec<String>> {
        self.send(&format!("{statement};\n\\echo '{END}'"))?;
        let mut rows = Vec::new();
        loop {
            match self.line()? {
                end if end == END => return Ok(rows),
                row => rows.push(row),
            }
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
