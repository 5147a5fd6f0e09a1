//! Write load: clients outside the nodes that write through the virtual IP and record the acknowledged writes.
//!
//! Each writer writes increasing numbers, one at a time. Every acknowledged write must be stored at the end
//! ([`Written::verify`]); a write without an answer may be stored or not. The longest gaps between acknowledged writes
//! are the outages that clients saw.

mod ledger;
mod postgres;
mod redis;
mod verify;

pub(crate) use ledger::{Gap, Ledger};
pub(crate) use verify::verification_failure;
pub use verify::{RestoredWrites, Verification, WriteCounts};

use super::Lab;
use super::net::Net;
use anyhow::{Context, Result};
use hanode_cluster::client::haproxy;
use hanode_cluster::client::redis::RedisClient;
use hanode_cluster::health::Access;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

/// A client without an answer by then gives up and reconnects.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(2);
/// Pause between two writes.
const WRITE_INTERVAL: Duration = Duration::from_millis(20);
/// Pause after a write that failed.
const RETRY_INTERVAL: Duration = Duration::from_millis(100);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Service {
    /// HAProxy's health probe, without data.
    Vip,
    /// A committed row.
    Postgres,
    /// A list item that `WAIT` confirmed on a majority of the nodes.
    RedisWait,
    /// A list item that only the primary acknowledged; it may be lost at a failover.
    RedisPlain,
}

impl Service {
    pub const ALL: [Service; 4] = [Service::Vip, Service::Postgres, Service::RedisWait, Service::RedisPlain];

    pub fn name(self) -> &'static str {
        match self {
            Service::Vip => "virtual IP",
            Service::Postgres => "PostgreSQL",
            Service::RedisWait => "Redis WAIT",
            Service::RedisPlain => "Redis",
        }
    }
}

/// The addresses and credentials of the cluster, and the name of this load's data.
#[derive(Clone)]
struct Client {
    net: Net,
    access: Arc<Access>,
    postgres: postgres::Login,
    /// How many replicas `WAIT` waits for: 1 of three nodes, 2 of five.
    confirming: i64,
    /// Unique to this load, part of its table and keys.
    run: String,
}

pub struct Load {
    client: Client,
    started: Instant,
    stop: Arc<AtomicBool>,
    ledgers: Vec<(Service, Arc<Mutex<Ledger>>)>,
    threads: Vec<JoinHandle<()>>,
}

/// The ledgers of all writers, once these have stopped.
pub struct Written {
    client: Client,
    pub(crate) duration: Duration,
    pub(crate) ledgers: Vec<(Service, Ledger)>,
}

impl Written {
    /// All gaps of at least this length.
    pub fn gaps(&self, service: Service, at_least: Duration) -> Vec<Gap> {
        let found = self.ledgers.iter().find(|(s, _)| *s == service);
        found.map(|(_, ledger)| ledger.gaps(at_least, self.duration)).unwrap_or_default()
    }
}

impl Load {
    /// Requires a lab whose cluster is in service.
    pub fn start(lab: &Lab, access: &Access) -> Result<Load> {
        hanode_util::command::require(&["psql"])?;
        let client = Client::new(lab, access)?;
        lab.in_network(|| client.postgres.create_table(&client.run))?
            .context("creating the table of the load")?;
        let mut load = Load {
            client,
            started: Instant::now(),
            stop: Arc::default(),
            ledgers: Vec::new(),
            threads: Vec::new(),
        };
        load.writer(Service::Vip, Client::no_session, Client::probe);
        load.writer(Service::Postgres, Client::connect_postgres, postgres::insert);
        load.writer(Service::RedisWait, Client::connect_redis, redis::push_and_wait);
        load.writer(Service::RedisPlain, Client::connect_redis, redis::push);
        Ok(load)
    }

    fn writer<S: 'static>(
        &mut self,
        service: Service,
        connect: fn(&Client) -> Result<S>,
        write: fn(&mut S, &Client, u64) -> Result<bool>,
    ) {
        let ledger = Arc::new(Mutex::new(Ledger::default()));
        self.ledgers.push((service, ledger.clone()));
        let (client, stop, started) = (self.client.clone(), self.stop.clone(), self.started);
        self.threads.push(std::thread::spawn(move || {
            if let Err(error) = client.net.enter() {
                return lock(&ledger).failed(&error);
            }
            let mut session = None;
            while !stop.load(Ordering::SeqCst) {
                let number = lock(&ledger).attempt();
                let written = session.take().map_or_else(|| connect(&client), Ok).and_then(|mut s| {
                    let confirmed = write(&mut s, &client, number)?;
                    Ok((s, confirmed))
                });
                match written {
                    Ok((same, confirmed)) => {
                        session = Some(same);
                        lock(&ledger).answered(number, confirmed, started.elapsed());
                        sleep(WRITE_INTERVAL);
                    }
                    Err(error) => {
                        lock(&ledger).failed(&error);
                        sleep(RETRY_INTERVAL);
                    }
                }
            }
        }));
    }

    /// Time since the load started, as used in gaps.
    pub fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// The longest gap that ends after `from`.
    pub fn longest_gap(&self, service: Service, from: Duration) -> Gap {
        let found = self.ledgers.iter().find(|(s, _)| *s == service);
        found.map(|(_, ledger)| lock(ledger).longest_gap(from, self.now())).unwrap_or_default()
    }

    /// The number of writes that the service has acknowledged so far.
    pub fn acknowledged(&self, service: Service) -> usize {
        let found = self.ledgers.iter().find(|(s, _)| *s == service);
        found.map_or(0, |(_, ledger)| lock(ledger).acknowledged.len())
    }

    pub fn stop(mut self) -> Written {
        self.stop_writers();
        let ledgers = self.ledgers.iter().map(|(s, ledger)| (*s, std::mem::take(&mut *lock(ledger))));
        Written { duration: self.started.elapsed(), ledgers: ledgers.collect(), client: self.client.clone() }
    }

    fn stop_writers(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop_writers();
    }
}

fn lock(ledger: &Mutex<Ledger>) -> MutexGuard<'_, Ledger> {
    ledger.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Client {
    fn new(lab: &Lab, access: &Access) -> Result<Client> {
        let spec = &access.spec;
        let ca: Option<PathBuf> = spec.postgres.tls.then(|| lab.dir.join("pki/service/ca.crt"));
        let password = access.secrets.app()?.to_string();
        Ok(Client {
            net: lab.net.clone(),
            postgres: postgres::Login { host: spec.network.vip, port: spec.postgres.vip_port, ca, password },
            confirming: spec.confirming_replicas() as i64,
            access: Arc::new(access.clone()),
            run: hex::encode(rand::random::<[u8; 4]>()),
        })
    }

    fn connect_postgres(&self) -> Result<postgres::Session> {
        self.postgres.connect(CLIENT_TIMEOUT)
    }

    fn connect_redis(&self) -> Result<RedisClient> {
        self.access.redis_on_vip(CLIENT_TIMEOUT)
    }

    /// Each probe opens a new connection, as a load balancer does.
    fn no_session(&self) -> Result<()> {
        Ok(())
    }

    fn probe((): &mut (), client: &Client, _: u64) -> Result<bool> {
        let spec = &client.access.spec;
        haproxy::require_healthy(spec.network.vip, spec.haproxy.stats_port, CLIENT_TIMEOUT / 4)?;
        sleep(5 * WRITE_INTERVAL);
        Ok(true)
    }
}
