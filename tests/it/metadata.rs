//! The node name in a platform's metadata: read from cloud-init's instance data, or queried from the platform.

use crate::common::loopback::with_loopback;
use crate::common::{PLATFORMS, recorded_metadata as recorded};
use hanode_firstboot::identity::{metadata, platform};
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::Path;
use std::time::{Duration, Instant};

#[test]
fn the_node_name_is_found_in_the_metadata_of_each_cloud_init_version() {
    for (version, older) in [("20.4", true), ("22.4", false), ("25.1", false)] {
        for platform in PLATFORMS {
            if older && platform == "vmware" {
                continue; // 20.4 has no such data source.
            }
            let found = metadata::parse(&recorded(version, platform));
            // 20.4 does not query EC2's tags; hanode queries them itself.
            let node = if older && platform == "ec2" { None } else { Some("node2") };
            assert_eq!(found.node.as_deref(), node, "{version} {platform}");
            assert!(found.instance_id.is_some() && found.hostname.is_some(), "{version} {platform}");
            let named = found.platform.unwrap();
            assert_eq!(named, platform, "{version}");
        }
    }
}

/// The part of EC2's metadata service that hanode uses. It answers the first `busy` requests with 503.
fn imds(mut busy: usize, tag: Option<&'static str>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for socket in listener.incoming() {
            let mut socket = socket.unwrap();
            let lines = BufReader::new(socket.try_clone().unwrap()).lines().map_while(Result::ok);
            let head: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
            let has = |name: &str| head.iter().any(|line| line.to_lowercase().starts_with(name));
            let (status, body) = if busy > 0 {
                busy -= 1;
                (503, "busy")
            } else if head[0].starts_with("PUT /latest/api/token ")
                && has("x-aws-ec2-metadata-token-ttl-seconds:")
            {
                (200, "secret")
            } else if !has("x-aws-ec2-metadata-token: secret") {
                (401, "")
            } else if head[0].starts_with("GET /latest/meta-data/tags/instance/hanode_node ") {
                tag.map_or((404, ""), |tag| (200, tag))
            } else {
                (404, "")
            };
            let length = body.len();
            let _ = write!(
                socket,
                "HTTP/1.1 {status} x\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
            );
        }
    });
    address
}

#[test]
fn ec2_is_queried_with_a_token_until_it_answers() {
    with_loopback("metadata::ec2_is_queried_with_a_token_until_it_answers", || {
        let timeout = Duration::from_secs(10);
        assert_eq!(
            platform::ec2(&imds(0, Some("node2\n")), "hanode_node", timeout).unwrap().as_deref(),
            Some("node2")
        );
        assert_eq!(
            platform::ec2(&imds(3, Some("node2")), "hanode_node", timeout).unwrap().as_deref(),
            Some("node2")
        );
        assert_eq!(platform::ec2(&imds(0, None), "hanode_node", timeout).unwrap(), None);
    });
}

#[test]
fn an_unresponsive_metadata_service_runs_into_the_timeout() {
    with_loopback("metadata::an_unresponsive_metadata_service_runs_into_the_timeout", || {
        let unresponsive = TcpListener::bind("127.0.0.1:0").unwrap();
        let gone = {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            listener.local_addr().unwrap()
        };
        let busy = imds(usize::MAX, None);
        for (service, why) in [
            (format!("http://{}", unresponsive.local_addr().unwrap()), "timeout"),
            (format!("http://{gone}"), "refused"),
            (busy, "503"),
        ] {
            let start = Instant::now();
            let message =
                format!("{:#}", platform::ec2(&service, "hanode_node", Duration::from_secs(1)).unwrap_err());
            assert!(message.contains(&service) && message.contains(why), "{message}");
            assert!(start.elapsed() < Duration::from_secs(20), "{service}: {:?}", start.elapsed());
        }
    });
}

#[test]
fn a_tag_longer_than_a_node_name_is_ignored() {
    with_loopback("metadata::a_tag_longer_than_a_node_name_is_ignored", || {
        let long: &'static str = "x".repeat(4096).leak();
        assert_eq!(platform::ec2(&imds(0, Some(long)), "hanode_node", Duration::from_secs(5)).unwrap(), None);
    });
}

/// Replaces open-vm-tools' program, which works on VMware only.
fn rpctool(root: &Path, script: &str) {
    let firmware = root.join("sys/class/dmi/id");
    std::fs::create_dir_all(&firmware).unwrap();
    std::fs::write(firmware.join("sys_vendor"), "VMware, Inc.\n").unwrap();
    let bin = root.join("usr/bin");
    std::fs::create_dir_all(&bin).unwrap();
    hanode_util::file_tree::replace(&bin.join("vmware-rpctool"), script.as_bytes(), 0o755, None).unwrap();
}

#[test]
fn guestinfo_is_queried_if_cloud_init_has_no_node_name() {
    let root = tempfile::tempdir().unwrap();
    let complete = |known: Option<metadata::Metadata>| {
        let mut metadata = known;
        platform::complete(root.path(), &mut metadata, Duration::from_secs(1)).map(|()| metadata)
    };
    assert_eq!(complete(None).unwrap(), None, "not VMware");
    rpctool(root.path(), "#!/bin/sh\n[ \"$*\" = 'info-get guestinfo.hanode_node' ] && echo node3\n");
    assert_eq!(complete(None).unwrap().unwrap().node.as_deref(), Some("node3"));
    let known = metadata::Metadata { node: Some("node1".into()), ..Default::default() };
    assert_eq!(
        complete(Some(known)).unwrap().unwrap().node.as_deref(),
        Some("node1"),
        "cloud-init has the name"
    );
    rpctool(root.path(), "#!/bin/sh\necho No value found; exit 1\n");
    assert_eq!(complete(None).unwrap(), None);
    rpctool(root.path(), "#!/bin/sh\nexec sleep 60\n");
    assert!(format!("{:#}", complete(None).unwrap_err()).contains("did not answer"));
}
