//! A load balancer before a cluster with `vip_mode = "external"`.

use super::lab::Lab;
use std::net::{IpAddr, Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, sleep};
use std::time::Duration;

/// A load balancer as in clouds: it checks `/health` of each node and forwards clients to a healthy one.
pub struct Balancer {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Balancer {
    /// Listens on the virtual IP, which it adds to the lab's bridge.
    pub fn start(lab: &Lab) -> Balancer {
        let spec = lab.cluster.spec.clone();
        let vip = spec.network.vip;
        let output = lab
            .driver()
            .client_output(&["ip", "address", "add", &format!("{vip}/32"), "dev", "br0"])
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let nodes: Vec<IpAddr> = spec.nodes.iter().map(|n| n.address).collect();
        let stop = Arc::new(AtomicBool::new(false));
        // As `cloud-init/README.md` describes.
        let ports =
            [spec.postgres.vip_port, spec.postgres.vip_read_port, spec.redis.vip_port, spec.haproxy.crl_port];
        let serve = |port| {
            let listener = lab.in_network(|| TcpListener::bind((vip, port))).unwrap();
            listener.set_nonblocking(true).unwrap();
            let (nodes, stop) = (nodes.clone(), stop.clone());
            // A thread started in the lab's network namespace stays in it.
            lab.in_network(move || std::thread::spawn(move || balance(&listener, &nodes, port, &stop)))
        };
        Balancer { threads: ports.map(serve).into(), stop }
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn balance(listener: &TcpListener, nodes: &[IpAddr], port: u16, stop: &AtomicBool) {
    while !stop.load(Ordering::SeqCst) {
        let Ok((client, _)) = listener.accept() else {
            sleep(Duration::from_millis(10));
            continue;
        };
        let fit = nodes.iter().copied().find(|node| health_status(*node) == Some(200));
        let Some(node) = fit else { continue };
        let Ok(server) = TcpStream::connect_timeout(&(node, port).into(), Duration::from_secs(1)) else {
            continue;
        };
        client.set_nonblocking(false).unwrap();
        for (mut from, mut to) in
            [(client.try_clone().unwrap(), server.try_clone().unwrap()), (server, client)]
        {
            std::thread::spawn(move || {
                let _ = std::io::copy(&mut from, &mut to);
                let _ = to.shutdown(Shutdown::Both);
            });
        }
    }
}

/// The status code of a node's `/health`, if it answers.
pub fn health_status(node: IpAddr) -> Option<u16> {
    hanode_cluster::client::haproxy::probe(node, 7000, Duration::from_millis(500)).ok()
}
