//! Attacks with a discarded disk or image, from the operators' network: its certificates and passwords, after the
//! certificates are revoked. The tests use the cluster of [`super::config_reload`].

use crate::config_reload::cluster;
use crate::support::lab::{Lab, NODES};
use std::path::Path;
use std::time::Duration;

const HEALTHY: Duration = Duration::from_secs(120);
const LEAVES: [(&str, &str); 8] = [
    ("cluster", "node"),
    ("cluster", "patroni"),
    ("cluster", "etcd"),
    ("service", "redis"),
    ("service", "pgsql"),
    ("service", "replicator"),
    ("service", "rewind_user"),
    ("service", "haproxy"),
];

/// What a discarded disk holds: the leaves with their keys.
struct OldDisk(tempfile::TempDir);

impl OldDisk {
    fn of(lab: &Lab) -> OldDisk {
        let disk = tempfile::tempdir().unwrap();
        for (ca, leaf) in LEAVES {
            for ending in ["crt", "key"] {
                let file = format!("{leaf}.{ending}");
                let from = lab.cluster.dir.join("pki").join(ca).join("leaves").join(&file);
                std::fs::copy(from, disk.path().join(&file)).unwrap();
            }
        }
        OldDisk(disk)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// The status of a request to a node from outside the nodes, or the error of curl.
    fn request(
        &self,
        lab: &Lab,
        leaf: &str,
        node: &str,
        method: &[&str],
        url: &str,
    ) -> Result<String, String> {
        let address = lab.cluster.spec.node(node).unwrap().address.to_string();
        let file = |ending: &str| self.path().join(format!("{leaf}.{ending}")).display().to_string();
        let ca = lab.cluster.dir.join("pki/cluster/ca.crt").display().to_string();
        let (crt, key, url) = (file("crt"), file("key"), url.replace("NODE", &address));
        let tls = ["curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", "--cacert", &ca];
        let certificate: &[&str] = if leaf.is_empty() { &[] } else { &["--cert", &crt, "--key", &key] };
        lab.outside(&[&tls[..], certificate, method, &[&url]].concat())
    }

    /// Logs in to PostgreSQL through the virtual IP with the password of a node's role, and with its certificate if
    /// wanted; the answer to the first command of its protocol, or the error.
    fn log_in(
        &self,
        lab: &Lab,
        role: &str,
        password: &str,
        replication: bool,
        certificate: bool,
    ) -> Result<String, String> {
        let ca = lab.cluster.dir.join("pki/service/ca.crt").display().to_string();
        let mut target = format!(
            "host=192.168.18.20 port=5432 user={role} password={password} dbname=postgres connect_timeout=5 \
             sslmode=verify-full sslrootcert={ca}"
        );
        if replication {
            target += " replication=1";
        }
        if certificate {
            let file = self.path().join(role);
            target += &format!(" sslcert={0}.crt sslkey={0}.key", file.display());
        }
        let command = if replication { "IDENTIFY_SYSTEM" } else { "SELECT current_user" };
        lab.outside(&["psql", "-XAtqc", command, &target])
    }

    /// Changes Patroni's configuration from a node's network namespace, so from an address in Patroni's `allowlist`: as
    /// code on a node, or a machine that takes the address of one, can.
    fn patch_from_node(&self, lab: &Lab, node: &str, leaf: &str) -> String {
        let address = lab.cluster.spec.node(node).unwrap().address;
        let pem =
            |ending: &str| std::fs::read_to_string(self.path().join(format!("{leaf}.{ending}"))).unwrap();
        let login = format!("patroni:{}", lab.cluster.secrets.patroni_rest);
        let script = format!(
            "umask 077; d=$(mktemp -d); cat > $d/pem <<'END'\n{}{}END\n\
             python3 - $d/pem <<'END'\n\
             import base64, http.client, ssl, sys\n\
             tls = ssl.create_default_context(cafile='/etc/ssl/hanode/ca.crt')\n\
             tls.load_cert_chain(sys.argv[1])\n\
             server = http.client.HTTPSConnection('{address}', 8008, context=tls)\n\
             login = 'Basic ' + base64.b64encode(b'{login}').decode()\n\
             try:\n    \
                 server.request('PATCH', '/config', '{{\"loop_wait\": 10}}', {{'Authorization': login}})\n    \
                 print(server.getresponse().status)\n\
             except (ssl.SSLError, ConnectionResetError, BrokenPipeError) as error:\n    \
                 print('refused', error)\n\
             END\nrm -r $d",
            pem("crt"),
            pem("key")
        );
        lab.sh(node, &script)
    }
}

/// What must not restart: Patroni, PostgreSQL, etcd and Redis.
fn processes(lab: &Lab, node: &str) -> String {
    lab.sh(
        node,
        "systemctl show -p MainPID --value patroni etcd redis-server; head -n 1 /var/lib/postgresql/17/hanode/postmaster.pid",
    )
}

#[test]
fn a_revoked_certificate_does_not_command_patroni() {
    let cluster = cluster();
    let lab: &Lab = &cluster;
    let disk = OldDisk::of(lab);
    let before: Vec<_> = NODES.iter().map(|node| processes(lab, node)).collect();
    // The join port answers without HTTP.
    let join = |node: &str| disk.request(lab, "node", node, &[], "https://NODE:7081/").unwrap_err();
    for node in NODES {
        assert!(join(node).contains("HTTP/0.9"), "{node}: {}", join(node));
        assert_eq!(disk.patch_from_node(lab, node, "patroni"), "200", "{node}");
        assert_eq!(
            disk.request(lab, "etcd", node, &[], "https://NODE:8008/config").unwrap(),
            "200",
            "{node}"
        );
        assert_eq!(
            disk.request(lab, "etcd", node, &[], "https://NODE:2379/version").unwrap(),
            "200",
            "{node}"
        );
    }

    let secrets = lab.cluster.secrets.clone();
    let node_roles = [
        ("replicator", &secrets.replicator, true),
        ("replicator", &secrets.replicator, false),
        ("rewind_user", &secrets.rewind, false),
    ];
    for (role, password, replication) in node_roles {
        disk.log_in(lab, role, password, replication, true).unwrap();
    }

    for (_, leaf) in LEAVES {
        lab.certs("revoke", &[leaf]);
    }
    lab.apply_everywhere();
    lab.eventually("the revocation list takes effect", 60, || {
        NODES.iter().all(|node| disk.request(lab, "etcd", node, &[], "https://NODE:2379/version").is_err())
    });
    lab.healthy_within(HEALTHY);
    lab.presents_the_current_certificates();
    for (role, password, replication) in node_roles {
        // PostgreSQL gets the list from Patroni, at the next round of its loop.
        lab.eventually(&format!("{role} is refused"), 30, || {
            disk.log_in(lab, role, password, replication, true).is_err_and(|error| error.contains("revoked"))
        });
    }
    for (node, before) in NODES.iter().zip(before) {
        lab.eventually(&format!("{node}: the join port refuses it"), 20, || join(node).contains("revoked"));
        for leaf in ["patroni", "etcd", "node"] {
            // Patroni reloads at the next round of its loop.
            lab.eventually(&format!("{node}: {leaf} is refused"), 30, || {
                disk.patch_from_node(lab, node, leaf).starts_with("refused")
            });
            // A client of TLS 1.3 may see a reset before it reads the reason.
            lab.eventually(&format!("{node}: {leaf} is revoked"), 20, || {
                let read = disk.request(lab, leaf, node, &[], "https://NODE:8008/config");
                read.is_err_and(|error| error.contains("revoked"))
            });
        }
        assert_eq!(processes(lab, node), before, "{node}: a server was restarted");
    }
    // Every HAProxy reaches every PostgreSQL with the new certificates.
    for node in &lab.health().nodes {
        let down = node.servers.haproxy.down.as_ref().expect("the view of HAProxy");
        let dead = |name: &&str| {
            ["postgres_primary", "postgres_replicas"]
                .iter()
                .all(|backend| down.iter().any(|s| s.node == **name && s.backend == *backend))
        };
        assert_eq!(NODES.into_iter().find(dead), None, "{}: {down:?}", node.name);
    }
}

/// The passwords of a discarded disk, without its certificates: no role of nodes or administrators logs in through the
/// virtual IP, though HAProxy lends its clients a node's address.
#[test]
fn passwords_of_administrative_roles_alone_are_no_key() {
    let cluster = cluster();
    let lab: &Lab = &cluster;
    let (disk, secrets) = (OldDisk::of(lab), &lab.cluster.secrets);
    let roles = [
        ("admin", &secrets.postgres_admin),
        ("dbadmin", &secrets.postgres_dbadmin),
        ("replicator", &secrets.replicator),
        ("rewind_user", &secrets.rewind),
    ];
    for (role, password) in roles {
        for replication in [false, true] {
            let refused = disk.log_in(lab, role, password, replication, false).unwrap_err();
            let why = ["requires a valid client certificate", "pg_hba.conf rejects", "no pg_hba.conf entry"];
            assert!(why.iter().any(|why| refused.contains(why)), "{role} {replication}: {refused}");
        }
    }
    // An administrator's certificate and password together suffice, until the certificate is revoked.
    lab.certs("client", &["dbadmin"]);
    for ending in ["crt", "key"] {
        let file = format!("dbadmin.{ending}");
        std::fs::copy(lab.cluster.dir.join("pki/service/clients").join(&file), disk.path().join(&file))
            .unwrap();
    }
    let log_in = || disk.log_in(lab, "dbadmin", &secrets.postgres_dbadmin, false, true);
    assert_eq!(log_in().as_deref(), Ok("dbadmin"));
    lab.certs("revoke", &["dbadmin"]);
    lab.apply_everywhere();
    lab.eventually("the administrator's certificate is refused", 60, || {
        log_in().is_err_and(|error| error.contains("revoked"))
    });
    lab.healthy_within(HEALTHY);
}

/// Outside the nodes, a valid certificate with the password changes nothing, and nothing is read without a certificate.
#[test]
fn patroni_answers_strangers_nothing() {
    let cluster = cluster();
    let lab: &Lab = &cluster;
    let disk = OldDisk::of(lab);
    let login = format!("patroni:{}", lab.cluster.secrets.patroni_rest);
    let patch = ["-u", login.as_str(), "-X", "PATCH", "-d", "{\"loop_wait\": 10}"];
    for node in NODES {
        let config = "https://NODE:8008/config";
        assert_eq!(disk.request(lab, "patroni", node, &patch, config).unwrap(), "403", "{node}");
        assert_eq!(disk.request(lab, "", node, &[], config).unwrap(), "403", "{node}");
        assert_eq!(disk.request(lab, "", node, &[], "https://NODE:8008/primary").unwrap(), "403", "{node}");
        assert_eq!(disk.request(lab, "patroni", node, &[], config).unwrap(), "200", "{node}");
    }
}
