//! `sentinel.conf`: Sentinel stores its state in its configuration file and rewrites it at any time.

/// The fresh file with the state in the old one: Sentinel's id, the epochs, the known replicas and Sentinels, and the
/// monitored address. Everything else, such as passwords and timing, comes from the fresh file.
pub fn merge(fresh: &str, old: &str) -> String {
    let fresh_lines: Vec<&str> = fresh.lines().collect();
    let Some(master) = fresh_lines.iter().find_map(|line| Monitor::parse(line)) else {
        return fresh.to_string();
    };
    let old_master = old.lines().filter_map(Monitor::parse).find(|m| m.name == master.name);

    let mut out: Vec<String> = Vec::new();
    for line in fresh_lines {
        let monitored = old_master.as_ref().filter(|_| Monitor::parse(line).is_some());
        out.push(match monitored {
            Some(old) => {
                format!("sentinel monitor {} {} {} {}", master.name, old.ip, old.port, master.quorum)
            }
            None => line.to_string(),
        });
    }
    let state: Vec<&str> = old.lines().map(str::trim).filter(|line| is_state(line, master.name)).collect();
    if !state.is_empty() {
        out.push(String::new());
        out.push("# state of Sentinel".into());
        out.extend(state.into_iter().map(String::from));
    }
    out.join("\n") + "\n"
}

/// Whether the file has a Sentinel's complete state. After a power loss it may be torn: without its end or the id,
/// Sentinel would not start or would read half a line.
pub fn is_intact(text: &str) -> bool {
    text.ends_with('\n') && !text.contains('\0') && monitored(text).is_some() && id(text).is_some()
}

/// The primary in a file that is intact.
pub fn intact_primary(text: &str) -> Option<std::net::IpAddr> {
    monitored(text).filter(|_| is_intact(text))
}

/// The Sentinel's id.
pub fn id(text: &str) -> Option<&str> {
    let id = text.lines().find_map(|line| line.trim().strip_prefix("sentinel myid "))?;
    (id.len() == 40 && id.bytes().all(|b| b.is_ascii_hexdigit())).then_some(id)
}

/// The primary that the Sentinel monitors.
pub fn monitored(text: &str) -> Option<std::net::IpAddr> {
    text.lines().find_map(Monitor::parse)?.ip.parse().ok()
}

/// The highest epoch in the file.
pub fn epoch(text: &str) -> u64 {
    let epochs = text.lines().filter(|l| l.starts_with("sentinel ")).filter_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        matches!(*words.get(1)?, "current-epoch" | "config-epoch" | "leader-epoch")
            .then(|| words.last()?.parse().ok())?
    });
    epochs.max().unwrap_or(0)
}

/// A Sentinel state that monitors the primary chosen by the operator, with the id kept and a new epoch.
pub fn override_primary(id: &str, master: &str, primary: std::net::IpAddr, port: u16, epoch: u64) -> String {
    format!(
        "sentinel myid {id}\nsentinel monitor {master} {primary} {port} 1\nsentinel config-epoch {master} {epoch}\n\
         sentinel leader-epoch {master} {epoch}\nsentinel current-epoch {epoch}\n"
    )
}

struct Monitor<'a> {
    name: &'a str,
    ip: &'a str,
    port: &'a str,
    quorum: &'a str,
}

impl<'a> Monitor<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["sentinel", "monitor", name, ip, port, quorum] => Some(Monitor { name, ip, port, quorum }),
            _ => None,
        }
    }
}

/// Whether this line is state of the Sentinel itself or of `master`.
fn is_state(line: &str, master: &str) -> bool {
    let words: Vec<&str> = line.split_whitespace().collect();
    match words[..] {
        ["sentinel", "myid" | "current-epoch", _] => true,
        ["sentinel", "config-epoch" | "leader-epoch", name, _] => name == master,
        ["sentinel", "known-replica" | "known-slave" | "known-sentinel", name, ..] => name == master,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRESH: &str = "# fresh\nrequirepass \"new\"\nsentinel monitor redis-cluster 192.168.18.22 6378 3\n\
                         sentinel auth-pass redis-cluster new\nsentinel parallel-syncs redis-cluster 1\n";
    /// Rewritten by Redis 8 after a failover from node2 to node3.
    const REWRITTEN: &str = include_str!("sentinel-rewritten.conf");

    #[test]
    fn state_survives_and_settings_do_not() {
        let merged = merge(FRESH, REWRITTEN);
        let has = |line: &str| merged.lines().filter(|l| *l == line).count() == 1;
        // The address of the old file, the quorum of the new one.
        assert!(has("sentinel monitor redis-cluster 192.168.18.23 6378 3"), "{merged}");
        assert!(has("sentinel myid 26afef012466c725c0a513916ca611f7b10aed96"), "{merged}");
        for epoch in ["config-epoch redis-cluster 1", "leader-epoch redis-cluster 1", "current-epoch 1"] {
            assert!(has(&format!("sentinel {epoch}")), "{epoch}: {merged}");
        }
        assert!(has("sentinel known-replica redis-cluster 192.168.18.22 6378"), "{merged}");
        assert_eq!(merged.matches("sentinel known-").count(), 4, "{merged}");
        assert!(has("requirepass \"new\"") && !merged.contains("0123456789"), "{merged}");
        assert!(!merged.contains("user default") && !merged.contains("tls-port"), "{merged}");
    }

    #[test]
    fn an_overridden_sentinel_keeps_its_id_and_monitors_the_chosen_node() {
        assert_eq!(epoch(REWRITTEN), 1);
        assert_eq!(epoch("sentinel monitor a 1.2.3.4 1 2\nsentinel\n"), 0);
        let primary = "192.168.18.21".parse().expect("an address");
        let merged =
            merge(FRESH, &override_primary(id(REWRITTEN).expect("an id"), "redis-cluster", primary, 6378, 7));
        let has = |line: &str| merged.lines().any(|l| l == line);
        assert!(has("sentinel monitor redis-cluster 192.168.18.21 6378 3"), "{merged}");
        assert!(has("sentinel config-epoch redis-cluster 7") && has("sentinel current-epoch 7"), "{merged}");
        assert!(has("sentinel myid 26afef012466c725c0a513916ca611f7b10aed96"), "{merged}");
        assert!(!merged.contains("known-"), "{merged}");
    }

    #[test]
    fn a_torn_file_is_not_intact() {
        assert!(is_intact(REWRITTEN));
        let id = REWRITTEN.find("sentinel myid ").expect("an id");
        for cut in 0..REWRITTEN.len() {
            let torn = &REWRITTEN[..cut];
            let whole_lines = torn.ends_with('\n') && cut > id + 54 && monitored(torn).is_some();
            assert_eq!(is_intact(torn), whole_lines, "cut after {cut} bytes");
            // Neither function panics on it.
            epoch(torn);
            merge(FRESH, torn);
        }
        assert!(!is_intact(&(REWRITTEN[..1000].to_string() + &"\0".repeat(96) + "\n")));
        assert_eq!(epoch("sentinel \n"), 0);
    }

    #[test]
    fn merging_again_changes_nothing() {
        let merged = merge(FRESH, REWRITTEN);
        assert_eq!(merge(FRESH, &merged), merged);
        assert_eq!(merge(FRESH, ""), FRESH);
    }

    #[test]
    fn only_the_id_of_another_cluster_is_kept() {
        let merged = merge(&FRESH.replace("redis-cluster", "other"), REWRITTEN);
        assert!(merged.contains("sentinel monitor other 192.168.18.22 6378 3"), "{merged}");
        assert!(merged.contains("sentinel myid 26afef"), "{merged}");
        assert!(!merged.contains("redis-cluster"), "{merged}");
    }
}
