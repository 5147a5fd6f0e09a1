//! A socket with a deadline for the whole exchange: the timeouts of a socket restart with each byte, so that a slow peer
//! could hold a reader forever.

use std::io::{Error, ErrorKind, Read, Result, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

pub(crate) struct Deadline {
    socket: TcpStream,
    end: Instant,
}

impl Deadline {
    pub(crate) fn within(socket: TcpStream, timeout: Duration) -> Self {
        Deadline { socket, end: Instant::now() + timeout }
    }

    /// Sets the deadline of the next exchange.
    pub(crate) fn renew(&mut self, timeout: Duration) {
        self.end = Instant::now() + timeout;
    }

    /// The time left; an error once it is over.
    fn remaining(&self) -> Result<Option<Duration>> {
        let left = self.end.saturating_duration_since(Instant::now());
        // A socket takes zero for no limit.
        if left.is_zero() { Err(Error::new(ErrorKind::TimedOut, "timed out")) } else { Ok(Some(left)) }
    }
}

impl Read for Deadline {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        self.socket.set_read_timeout(self.remaining()?)?;
        self.socket.read(buffer)
    }
}

impl Write for Deadline {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        self.socket.set_write_timeout(self.remaining()?)?;
        self.socket.write(bytes)
    }

    fn flush(&mut self) -> Result<()> {
        self.socket.flush()
    }
}
