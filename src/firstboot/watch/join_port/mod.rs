//! The server of the join port (hanode-join.service): it sends this node's report to peers and operators.
//!
//! Any machine may connect before the handshake. A connection costs a place and a thread until it ends; [`places`] limits
//! both for each kind of client, so that strangers keep no node away. systemd holds the listening socket, where connections
//! wait while this program restarts.

mod config;
mod places;

use crate::start::self_report;
use anyhow::{Context, Result, bail};
use config::Config;
use places::{Admission, Client, Place, Places};
use std::net::{IpAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

/// Until the first byte: a client of TLS sends first, at once.
const HELLO_TIMEOUT: Duration = Duration::from_secs(1);
/// For the handshake and the report.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(3);
/// A connection that is older waits for the disk, since its client cannot keep it so long.
const STUCK_AFTER: Duration = Duration::from_secs(30);
/// After an error of the listening socket, such as too many open files.
const RETRY_INTERVAL: Duration = Duration::from_millis(10);

/// Serves the listening socket on standard input until an error.
pub(crate) fn serve(root: &Path) -> Result<()> {
    let socket = std::io::stdin().as_fd().try_clone_to_owned().context("standard input is not a socket")?;
    let listener = TcpListener::from(socket);
    listener.local_addr().context("standard input is not a listening socket")?;
    let server = Arc::new(Server { config: Config::new(root), places: Mutex::default() });
    loop {
        match listener.accept() {
            Ok((socket, peer)) => server.accept(socket, peer.ip().to_canonical())?,
            Err(error) => {
                tracing::warn!("accepting a connection: {error}");
                sleep(RETRY_INTERVAL);
            }
        }
    }
}

struct Server {
    config: Config,
    places: Mutex<Places>,
}

impl Server {
    fn places(&self) -> MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a thread for the connection, or closes it.
    fn accept(self: &Arc<Server>, socket: TcpStream, address: IpAddr) -> Result<()> {
        let client = self.config.classify(address);
        let place = match self.places().admit(client, address, Instant::now()) {
            Admission::Admitted(place) => place,
            Admission::Refused { oldest } if oldest > STUCK_AFTER => {
                // systemd starts this program again.
                bail!("connections have been waiting for {} s", oldest.as_secs())
            }
            Admission::Refused { .. } => return Ok(()),
        };
        let connection = Connection { server: self.clone(), place };
        let thread = thread::Builder::new().spawn(move || connection.serve(socket));
        if let Err(error) = thread {
            tracing::warn!("starting a thread: {error}");
        }
        Ok(())
    }
}

/// Frees its place at the end.
struct Connection {
    server: Arc<Server>,
    place: Place,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.server.places().leave(&self.place);
    }
}

impl Connection {
    fn serve(self, socket: TcpStream) {
        // Strangers would fill the journal.
        if let Err(error) = self.exchange(socket)
            && self.place.client != Client::Stranger
        {
            tracing::warn!("{}: {error:#}", self.place.address);
        }
    }

    fn exchange(&self, socket: TcpStream) -> Result<()> {
        if !sends(&socket) {
            return Ok(());
        }
        let turn = self.server.places().next_turn(&self.place, Instant::now());
        sleep(turn.saturating_duration_since(Instant::now()));
        let Some(current) = self.server.config.current() else { return Ok(()) };
        current.port.serve(socket, EXCHANGE_TIMEOUT, || self_report::own_report(&current.node))
    }
}

/// Whether the peer sends anything in time.
fn sends(socket: &TcpStream) -> bool {
    socket.set_read_timeout(Some(HELLO_TIMEOUT)).is_ok()
        && socket.peek(&mut [0]).is_ok_and(|received| received > 0)
}
