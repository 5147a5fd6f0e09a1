//! Input from outside (metadata, spec, bundle, reports of peers) may be hostile: every reader ends within bounded time
//! and memory, with an error instead of a panic. Valid input with random damage reaches more code than noise.

use crate::common::loopback::with_loopback;
use flate2::read::GzDecoder;
use flate2::{Compression, write::GzEncoder};
use hanode_admin::cluster_dir::ClusterDir;
use hanode_cluster::client::tls::{Credentials, TlsIdentity};
use hanode_cluster::peer::JoinPort;
use hanode_core::bundle::Bundle;
use hanode_core::peer::{self, NodeReport};
use hanode_core::spec;
use hanode_firstboot::identity::metadata;
use hanode_util::file_tree::Entry;
use proptest::prelude::*;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// One change to the input. A place is a fraction of the input's length, in 65536ths.
#[derive(Debug, Clone)]
enum Damage {
    Byte(u16, u8),
    Cut(u16, u16),
    Again(u16, u16),
    Insert(u16, Vec<u8>),
    End(u16),
}

fn damage() -> impl Strategy<Value = Vec<Damage>> {
    let text = prop_oneof![
        proptest::collection::vec(any::<u8>(), 1..40),
        "[\\[\\]{}\",:=\\-0-9e.\n\u{0}é]{1,40}".prop_map(String::into_bytes),
        Just(b"9999999999999999999999".to_vec()),
        Just(vec![b'['; 3000]),
    ];
    let one = prop_oneof![
        (any::<u16>(), any::<u8>()).prop_map(|(at, byte)| Damage::Byte(at, byte)),
        (any::<u16>(), 1..400u16).prop_map(|(at, n)| Damage::Cut(at, n)),
        (any::<u16>(), 1..400u16).prop_map(|(at, n)| Damage::Again(at, n)),
        (any::<u16>(), text).prop_map(|(at, text)| Damage::Insert(at, text)),
        any::<u16>().prop_map(Damage::End),
    ];
    proptest::collection::vec(one, 1..6)
}

fn damaged(valid: &[u8], damage: &[Damage]) -> Vec<u8> {
    let mut bytes = valid.to_vec();
    for one in damage {
        let place = |at: u16| usize::from(at) * bytes.len() / 65536;
        match one {
            Damage::Byte(at, byte) => {
                let at = place(*at);
                bytes.get_mut(at).into_iter().for_each(|old| *old = *byte);
            }
            Damage::Cut(at, n) => {
                drop(bytes.drain(place(*at)..(place(*at) + usize::from(*n)).min(bytes.len())))
            }
            Damage::Again(at, n) => {
                let (from, to) = (place(*at), (place(*at) + usize::from(*n)).min(bytes.len()));
                let again = bytes[from..to].to_vec();
                bytes.splice(from..from, again);
            }
            Damage::Insert(at, text) => drop(bytes.splice(place(*at)..place(*at), text.iter().copied())),
            Damage::End(at) => bytes.truncate(place(*at)),
        }
    }
    bytes
}

/// Runs a reader with a time limit. An idle machine needs milliseconds, and two seconds for the worst spec.
fn in_time<T>(read: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = read();
    assert!(start.elapsed() < Duration::from_secs(60), "took {:?}", start.elapsed());
    result
}

/// Peak memory of this process in MiB.
fn peak_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
}

static METADATA: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let recorded = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/metadata/recorded");
    let files = walkdir::WalkDir::new(recorded).into_iter().map(Result::unwrap);
    files.filter(|f| f.file_type().is_file()).map(|f| std::fs::read(f.path()).unwrap()).collect()
});

/// A bundle, and the archive in it, whose damage gzip's checksum does not catch.
static BUNDLE: LazyLock<(Vec<u8>, Vec<u8>)> = LazyLock::new(|| {
    let members = vec![
        Entry::file("/etc/ssl/pgsql/server.key", 0o600, "a key").owned("postgres", "postgres"),
        Entry::dir("/etc/ssl/pgsql", 0o755),
    ];
    let packed =
        Bundle::new("hspas", 7, hanode_admin::cluster_dir::generate_secrets(), members).pack().unwrap();
    let mut plain = Vec::new();
    GzDecoder::new(packed.as_slice()).read_to_end(&mut plain).unwrap();
    (packed, plain)
});

fn gzip(plain: &[u8]) -> Vec<u8> {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(plain).unwrap();
    gzip.finish().unwrap()
}

fn report(problem: String) -> NodeReport {
    let valid = serde_json::json!({
        "schema": peer::SCHEMA,
        "cluster": "hspas",
        "node": "node2",
        "bundle_generation": 1,
        "spec_hash": "0123",
        "install_id": "4567",
        "disk": "blank",
        "data": { "etcd": false, "postgres": false, "redis": false, "sentinel": false },
        "etcd_member": "1234",
        "generation": 1,
        "phase": "waiting-for-peers",
        "image": { "target": "debian-13" },
        "file_systems": [{
            "mount": "/",
            "holds": ["system", "etcd"],
            "size_bytes": 4_294_967_296u64,
            "used_bytes": 1_073_741_824u64,
            "free_bytes": 3_006_477_107u64,
            "growth_bytes_per_hour": -1,
            "age_seconds": 3,
        }],
        "problems": [{ "component": "etcd", "kind": "check-failed", "detail": problem }],
    });
    serde_json::from_value(valid).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn damaged_metadata_never_panics(which in 0..20usize, damage in damage()) {
        let bytes = damaged(&METADATA[which % METADATA.len()], &damage);
        in_time(|| {
            if let Ok(value) = serde_json::from_slice(&bytes) {
                let found = metadata::parse(&value);
                assert!(found.node.is_none_or(|node| node.len() <= 255));
            }
        });
    }

    #[test]
    fn a_damaged_spec_never_panics(damage in damage()) {
        let text = String::from_utf8_lossy(&damaged(spec::STARTER.as_bytes(), &damage)).into_owned();
        if let Err(faults) = in_time(|| spec::parse(&text)) {
            prop_assert!(!faults.to_string().is_empty());
        }
    }

    #[test]
    fn a_damaged_bundle_never_panics(damage in damage(), inside: bool) {
        let (packed, plain) = &*BUNDLE;
        let bytes = if inside { gzip(&damaged(plain, &damage)) } else { damaged(packed, &damage) };
        if let Ok(bundle) = in_time(|| Bundle::read(&bytes)) {
            for entry in bundle.entries {
                prop_assert!(entry.path.starts_with("/etc/ssl/") && !entry.path.contains(".."), "{}", entry.path);
            }
        }
    }

    #[test]
    fn a_damaged_report_never_panics(damage in damage()) {
        let valid = serde_json::to_vec(&report("none".into())).unwrap();
        let _ = in_time(|| peer::parse(&damaged(&valid, &damage)));
    }
}

/// Peak memory counts all tests of a process, so this one runs again in a process without others.
#[test]
fn large_and_deep_input_is_refused_in_little_memory() {
    const ALONE: &str = "HANODE_TEST_ALONE";
    if std::env::var_os(ALONE).is_some() {
        return refuse_large_and_deep_input();
    }
    let mut alone = Command::new(std::env::current_exe().unwrap());
    let name = "hostile_input::large_and_deep_input_is_refused_in_little_memory";
    let output = alone.args(["--exact", name]).env(ALONE, "1").output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

fn refuse_large_and_deep_input() {
    // A mebibyte of zeros packs to a kibibyte: 200 KiB become 200 MiB.
    let mut bomb = GzEncoder::new(Vec::new(), Compression::fast());
    for _ in 0..200 {
        bomb.write_all(&vec![0; 1 << 20]).unwrap();
    }
    let bomb = bomb.finish().unwrap();
    assert!(in_time(|| Bundle::read(&bomb)).is_err());

    let root = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(root.path().join("run/cloud-init")).unwrap();
    let file = root.path().join("run/cloud-init/instance-data.json");
    let huge = std::fs::File::create(&file).unwrap();
    huge.set_len(4 << 30).unwrap();
    assert!(in_time(|| metadata::read(root.path())).is_err());
    std::fs::write(&file, "[".repeat(1 << 20)).unwrap();
    assert!(in_time(|| metadata::read(root.path())).is_err());

    for text in ["[[node]]\n", "a.", "x = [", "[a]\n", "nod = 1\n", "é"] {
        let many = text.repeat((64 << 10) / text.len());
        assert!(in_time(|| spec::parse(&many)).is_err(), "{text:?}");
    }
    assert!(in_time(|| spec::parse(&"x".repeat(64 << 20))).is_err());
    assert!(peak_mib() < 400, "{} MiB", peak_mib());
}

/// For both sides of the join port: all nodes of a cluster have the same credentials.
fn credentials() -> Credentials {
    let dir = tempfile::tempdir().unwrap();
    let cluster = ClusterDir::init(&dir.path().join("demo"), spec::STARTER).unwrap();
    let member = |name: &str| cluster.bundle.file(&format!("/etc/ssl/hanode/{name}")).unwrap().to_vec();
    Credentials {
        ca: member("ca.crt"),
        identity: Some(TlsIdentity { certificate: member("node.crt"), key: member("node.key") }),
    }
}

/// Sends the start of a TLS record byte by byte, without end.
fn send_slowly(mut socket: TcpStream) {
    std::thread::spawn(move || {
        for byte in [0x16, 3, 3, 0x40, 0].into_iter().chain(std::iter::repeat(1)) {
            if socket.write_all(&[byte]).is_err() {
                return;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    });
}

#[test]
fn a_slow_peer_runs_into_the_timeout() {
    with_loopback("hostile_input::a_slow_peer_runs_into_the_timeout", || {
        let (credentials, timeout) = (credentials(), Duration::from_secs(1));
        let listener = TcpListener::bind((LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || listener.incoming().for_each(|socket| send_slowly(socket.unwrap())));
        let queried = in_time(|| hanode_cluster::peer::fetch_report(&credentials, LOCALHOST, port, timeout));
        assert!(queried.is_err());

        let listener = TcpListener::bind((LOCALHOST, 0)).unwrap();
        send_slowly(TcpStream::connect(listener.local_addr().unwrap()).unwrap());
        let (socket, _) = listener.accept().unwrap();
        let port = JoinPort::new(&credentials, None).unwrap();
        let served = in_time(|| port.serve(socket, timeout, || Ok(report(String::new()))));
        assert!(served.is_err());
    });
}

/// Records that are larger than TLS allows, or of no TLS at all: refused at once, not read to their end.
#[test]
fn a_huge_record_is_refused() {
    with_loopback("hostile_input::a_huge_record_is_refused", || {
        let port = JoinPort::new(&credentials(), None).unwrap();
        for start in [&[0x16, 3, 1, 0xff, 0xff, 1], &[0x17, 3, 3, 0xff, 0xff, 0], b"GET / ", &[0; 6]] {
            let listener = TcpListener::bind((LOCALHOST, 0)).unwrap();
            let mut socket = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let sender = std::thread::spawn(move || {
                let mut sent = 0;
                let _ = socket.write_all(start);
                // More than the buffers of the kernel.
                while sent < 64 << 20 && socket.write_all(&[1; 1 << 16]).is_ok() {
                    sent += 1 << 16;
                }
                sent
            });
            let (socket, _) = listener.accept().unwrap();
            let begin = Instant::now();
            let limit = Duration::from_secs(30);
            let report = || Ok(report(String::new()));
            assert!(port.serve(socket, limit, report).is_err());
            assert!(begin.elapsed() < limit / 2, "{start:?}: read for {:?}", begin.elapsed());
            assert!(sender.join().unwrap() < 64 << 20, "{start:?}: everything was read");
        }
    });
}

/// A message of a handshake may have 16 MiB, in records of any size.
#[test]
fn an_endless_handshake_is_refused() {
    with_loopback("hostile_input::an_endless_handshake_is_refused", || {
        let port = JoinPort::new(&credentials(), None).unwrap();
        let listener = TcpListener::bind((LOCALHOST, 0)).unwrap();
        let mut socket = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let sender = std::thread::spawn(move || {
            let mut message = vec![1, 0xff, 0xff, 0xff];
            while socket.write_all(&[&[0x16, 3, 1, 0, message.len() as u8][..], &message].concat()).is_ok() {
                message = vec![7; 100];
            }
        });
        let (socket, _) = listener.accept().unwrap();
        let served = in_time(|| port.serve(socket, Duration::from_secs(30), || Ok(report(String::new()))));
        let error = format!("{:#}", served.unwrap_err());
        assert!(error.starts_with("handshake: "), "{error}");
        sender.join().unwrap();
    });
}

/// A peer that has a certificate, but another program: hanode itself shortens its report.
fn send_large_report(member: &TlsIdentity, socket: TcpStream, size: usize) -> Option<()> {
    let certificate = CertificateDer::from_pem_slice(&member.certificate).unwrap();
    let key = PrivateKeyDer::from_pem_slice(&member.key).unwrap();
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.unwrap().with_no_client_auth().with_single_cert(vec![certificate], key).unwrap();
    let connection = rustls::ServerConnection::new(std::sync::Arc::new(config)).unwrap();
    let mut stream = rustls::StreamOwned::new(connection, socket);
    stream.write_all(&serde_json::to_vec(&report("x".repeat(size))).ok()?).ok()?;
    stream.conn.send_close_notify();
    stream.flush().ok()
}

#[test]
fn a_report_over_the_size_limit_is_rejected() {
    with_loopback("hostile_input::a_report_over_the_size_limit_is_rejected", || {
        let credentials = credentials();
        let listener = TcpListener::bind((LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let member = credentials.identity.clone().unwrap();
        std::thread::spawn(move || {
            for size in [10, 1 << 20] {
                let (socket, _) = listener.accept().unwrap();
                let _ = send_large_report(&member, socket, size);
            }
        });
        let query =
            || hanode_cluster::peer::fetch_report(&credentials, LOCALHOST, port, Duration::from_secs(5));
        assert_eq!(in_time(query).unwrap(), report("x".repeat(10)));
        let refused = in_time(query).unwrap_err().to_string();
        assert!(refused.contains("longer than 64 KiB"), "{refused}");
    });
}
