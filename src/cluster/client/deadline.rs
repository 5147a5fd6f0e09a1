//! A socket with an end: however slowly the other side lets bytes drip, reading and writing stop in time. A
//! socket's own timeouts begin anew with each byte.

use std::io::{Error, ErrorKind, Read, Result, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

pub(crate) struct Deadline {
    socket: TcpStream,
    end: Instant,
}

impl Deadline {
    pub(crate) fn within(socket: TcpStream, patience: Duration) -> Self {
        Deadline { socket, end: Instant::now() + patience }
    }

    /// Another exchange has its own time.
    pub(crate) fn renew(&mut self, patience: Duration) {
        self.end = Instant::now() + patience;
    }

    fn left(&self) -> Result<Option<Duration>> {
        let left = self.end.saturating_duration_since(Instant::now());
        // Zero would mean no limit.
        if left.is_zero() { Err(Error::new(ErrorKind::TimedOut, "out of time")) } else { Ok(Some(left)) }
    }
}

impl Read for Deadline {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        self.socket.set_read_timeout(self.left()?)?;
        self.socket.read(buffer)
    }
}

impl Write for Deadline {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        self.socket.set_write_timeout(self.left()?)?;
        self.socket.write(bytes)
    }

    fn flush(&mut self) -> Result<()> {
        self.socket.flush()
    }
}
