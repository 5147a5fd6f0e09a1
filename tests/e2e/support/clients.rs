//! Clients of a running cluster that count their dropped and refused connections.

use super::lab::Lab;
use std::io::Write;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{JoinHandle, sleep};
use std::time::Duration;

/// Connections of each kind that are held throughout.
const HELD: usize = 20;

/// Clients that hold a connection and use it, and others that open a new connection each time.
pub struct Clients {
    stop: Arc<AtomicBool>,
    sessions: Vec<Child>,
    threads: Vec<JoinHandle<()>>,
    dropped_redis: Arc<AtomicUsize>,
    connected: Arc<[AtomicUsize; 2]>,
    refused: Arc<[AtomicUsize; 2]>,
}

#[derive(Debug)]
#[allow(dead_code)]
pub struct Count {
    pub held: usize,
    pub dropped_postgres: usize,
    pub dropped_redis: usize,
    pub new_postgres: usize,
    pub refused_postgres: usize,
    pub new_redis: usize,
    pub refused_redis: usize,
}

impl Clients {
    pub fn start(lab: &Lab) -> Clients {
        let mut clients = Clients {
            stop: Arc::default(),
            sessions: Vec::new(),
            threads: Vec::new(),
            dropped_redis: Arc::default(),
            connected: Arc::default(),
            refused: Arc::default(),
        };
        for _ in 0..HELD {
            let mut psql = lab.driver().client_command(&["psql", "-XAtq", &psql_login(lab)]);
            psql.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
            let mut psql = psql.spawn().unwrap();
            // Repeats until an error.
            psql.stdin.take().unwrap().write_all(b"\\set ON_ERROR_STOP 1\nSELECT 1\n\\watch 0.5\n").unwrap();
            clients.sessions.push(psql);
        }
        let access = Arc::new(lab.access());
        for held in (0..HELD).map(|_| true).chain([false]) {
            let (driver, access) = (lab.driver(), access.clone());
            let (stop, dropped) = (clients.stop.clone(), clients.dropped_redis.clone());
            let (connected, refused) = (clients.connected.clone(), clients.refused.clone());
            let work = move || {
                while !stop.load(Ordering::SeqCst) {
                    match access.redis_on_vip(Duration::from_secs(5)) {
                        Ok(mut redis) if held => {
                            while !stop.load(Ordering::SeqCst) && redis.query(&["PING"]).is_ok() {
                                sleep(Duration::from_millis(500));
                            }
                            if !stop.load(Ordering::SeqCst) {
                                dropped.fetch_add(1, Ordering::SeqCst);
                            }
                        }
                        Ok(_) => drop(connected[1].fetch_add(1, Ordering::SeqCst)),
                        Err(_) => drop(refused[1].fetch_add(1, Ordering::SeqCst)),
                    }
                    sleep(Duration::from_millis(100));
                }
            };
            clients.threads.push(std::thread::spawn(move || driver.in_network(work).unwrap()));
        }
        let (driver, target) = (lab.driver(), psql_login(lab));
        let (stop, connected, refused) =
            (clients.stop.clone(), clients.connected.clone(), clients.refused.clone());
        let work = move || {
            while !stop.load(Ordering::SeqCst) {
                let output = Command::new("psql").args(["-XAtqc", "SELECT 1", &target]).output().unwrap();
                let count = if output.status.success() { &connected } else { &refused };
                count[0].fetch_add(1, Ordering::SeqCst);
                sleep(Duration::from_millis(100));
            }
        };
        clients.threads.push(std::thread::spawn(move || driver.in_network(work).unwrap()));
        sleep(Duration::from_secs(3));
        clients
    }

    pub fn end(mut self) -> Count {
        let ended = |psql: &mut Child| psql.try_wait().unwrap().is_some();
        let dropped_postgres = self.sessions.iter_mut().filter_map(|psql| ended(psql).then_some(())).count();
        self.halt();
        let number = |n: &AtomicUsize| n.load(Ordering::SeqCst);
        Count {
            held: HELD,
            dropped_postgres,
            dropped_redis: number(&self.dropped_redis),
            new_postgres: number(&self.connected[0]),
            refused_postgres: number(&self.refused[0]),
            new_redis: number(&self.connected[1]),
            refused_redis: number(&self.refused[1]),
        }
    }

    fn halt(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        for psql in &mut self.sessions {
            let _ = psql.kill();
            let _ = psql.wait();
        }
        self.threads.drain(..).for_each(|thread| drop(thread.join()));
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        self.halt();
    }
}

/// The connection string of the applications' role, through the virtual IP.
pub fn psql_login(lab: &Lab) -> String {
    let ca = lab.cluster.dir.join("pki/service/ca.crt");
    format!(
        "host=192.168.18.20 port=5432 user=app password={} dbname=app sslmode=verify-full connect_timeout=5 sslrootcert={}",
        lab.cluster.secrets.app().unwrap(),
        ca.display()
    )
}
