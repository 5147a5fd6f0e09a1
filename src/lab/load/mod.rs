//! Load: clients outside the nodes that write through the virtual IP and remember what was acknowledged.
//!
//! Each writer writes increasing numbers, one at a time. What it was told is kept must be there at the end
//! ([`Record::verify`]); a write without an answer may be there or not. The longest times without an
//! acknowledgement are the outages that clients saw.

mod ledger;
mod postgres;
mod redis;
mod verify;

pub(crate) use ledger::{Gap, Ledger};
pub use verify::{Kept, Verdict};

use super::Lab;
use super::net::Net;
use anyhow::{Context, Result, ensure};
use hanode_cluster::client::http::Http;
use hanode_cluster::client::tls::Credentials;
use hanode_cluster::health::Access;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

/// A client that has no answer by then gives up and connects anew.
const PATIENCE: Duration = Duration::from_secs(2);
/// Between two writes, and after one that failed.
const PACE: Duration = Duration::from_millis(20);
const AFTER_FAILURE: Duration = Duration::from_millis(100);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Service {
    /// HAProxy's health probe: no data, only who answers.
    Vip,
    /// A row, committed.
    Postgres,
    /// An item that `WAIT` confirmed, from so many replicas that a majority of the nodes has it.
    RedisWait,
    /// An item that was acknowledged, no more: never promised.
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

/// What it takes to be a client of the cluster, and under which names this load's data lies there.
#[derive(Clone)]
struct Client {
    net: Net,
    vip: IpAddr,
    postgres: postgres::Login,
    redis_tls: Option<Credentials>,
    redis_port: u16,
    redis_password: String,
    /// How many replicas `WAIT` waits for: 1 of three nodes, 2 of five.
    confirming: i64,
    probe_port: u16,
    /// Sets this load's data apart from that of any other.
    run: String,
}

pub struct Load {
    client: Client,
    bootstrapping: Instant,
    stop: Arc<AtomicBool>,
    ledgers: Vec<(Service, Arc<Mutex<Ledger>>)>,
    threads: Vec<JoinHandle<()>>,
}

/// What was written and what was answered, once the writers have stopped.
pub struct Record {
    client: Client,
    pub(crate) lasted: Duration,
    pub(crate) ledgers: Vec<(Service, Ledger)>,
}

impl Record {
    /// All times without an acknowledged write that lasted at least so long.
    pub fn gaps(&self, service: Service, at_least: Duration) -> Vec<Gap> {
        let found = self.ledgers.iter().find(|(s, _)| *s == service);
        found.map(|(_, ledger)| ledger.gaps(at_least, self.lasted)).unwrap_or_default()
    }
}

impl Load {
    /// On a lab whose cluster is in service.
    pub fn start(lab: &Lab, access: &Access) -> Result<Load> {
        hanode_util::command::require(&["psql"])?;
        let client = Client::new(lab, access);
        lab.in_network(|| client.postgres.make_table(&client.run))?.context("making the load's table")?;
        let mut load = Load {
            client,
            bootstrapping: Instant::now(),
            stop: Arc::default(),
            ledgers: Vec::new(),
            threads: Vec::new(),
        };
        load.writer(Service::Vip, Client::probe, Client::probed);
        load.writer(Service::Postgres, Client::session, postgres::insert);
        load.writer(Service::RedisWait, Client::redis, redis::push_and_wait);
        load.writer(Service::RedisPlain, Client::redis, redis::push);
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
        let (client, stop, began) = (self.client.clone(), self.stop.clone(), self.bootstrapping);
        self.threads.push(std::thread::spawn(move || {
            if let Err(error) = client.net.enter() {
                return open(&ledger).failed(&error);
            }
            let mut session = None;
            while !stop.load(Ordering::SeqCst) {
                let number = open(&ledger).attempt();
                let written = session.take().map_or_else(|| connect(&client), Ok).and_then(|mut s| {
                    let promised = write(&mut s, &client, number)?;
                    Ok((s, promised))
                });
                match written {
                    Ok((same, promised)) => {
                        session = Some(same);
                        open(&ledger).answered(number, promised, began.elapsed());
                        sleep(PACE);
                    }
                    Err(error) => {
                        open(&ledger).failed(&error);
                        sleep(AFTER_FAILURE);
                    }
                }
            }
        }));
    }

    /// Time in the load's own reckoning, as the gaps have it.
    pub fn now(&self) -> Duration {
        self.bootstrapping.elapsed()
    }

    /// The longest time without an acknowledgement that a client of this service saw since `from`.
    pub fn longest_gap(&self, service: Service, from: Duration) -> Gap {
        let found = self.ledgers.iter().find(|(s, _)| *s == service);
        found.map(|(_, ledger)| open(ledger).longest_gap(from, self.now())).unwrap_or_default()
    }

    /// How many writes each service has acknowledged so far.
    pub fn acknowledged(&self, service: Service) -> usize {
        let found = self.ledgers.iter().find(|(s, _)| *s == service);
        found.map_or(0, |(_, ledger)| open(ledger).acknowledged.len())
    }

    pub fn stop(mut self) -> Record {
        self.halt();
        let ledgers = self.ledgers.iter().map(|(s, ledger)| (*s, std::mem::take(&mut *open(ledger))));
        Record {
            lasted: self.bootstrapping.elapsed(),
            ledgers: ledgers.collect(),
            client: self.client.clone(),
        }
    }

    fn halt(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.halt();
    }
}

fn open(ledger: &Mutex<Ledger>) -> MutexGuard<'_, Ledger> {
    ledger.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Client {
    fn new(lab: &Lab, access: &Access) -> Client {
        let spec = &access.spec;
        let ca: Option<PathBuf> = spec.postgres.tls.then(|| lab.dir.join("pki/service/ca.crt"));
        let password = access.secrets.postgres_dbadmin.clone();
        Client {
            net: lab.net.clone(),
            vip: spec.network.vip,
            postgres: postgres::Login { host: spec.network.vip, port: spec.postgres.vip_port, ca, password },
            redis_tls: access.redis.clone(),
            redis_port: spec.redis.vip_port,
            redis_password: access.secrets.redis.clone(),
            confirming: spec.confirming_replicas() as i64,
            probe_port: spec.haproxy.stats_port,
            run: hex::encode(rand::random::<[u8; 4]>()),
        }
    }

    fn session(&self) -> Result<postgres::Session> {
        self.postgres.connect(PATIENCE)
    }

    fn redis(&self) -> Result<hanode_cluster::client::redis::Redis> {
        let tls = self.redis_tls.as_ref();
        hanode_cluster::client::redis::Redis::connect(
            tls,
            self.vip,
            self.redis_port,
            &self.redis_password,
            PATIENCE,
        )
    }

    /// No session: each probe is a connection of its own, as a load balancer's is.
    fn probe(&self) -> Result<Http> {
        Http::new(None, PATIENCE / 4)
    }

    fn probed(http: &mut Http, client: &Client, _: u64) -> Result<bool> {
        let url = format!("http://{}/health", SocketAddr::new(client.vip, client.probe_port));
        let status = http.get(&url)?.status;
        ensure!(status == 200, "HAProxy answers {status}");
        sleep(5 * PACE);
        Ok(true)
    }
}
