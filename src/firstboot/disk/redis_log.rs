//! Whether Redis failed to read its data on this disk: a full disk can leave the append-only file unreadable.

use super::Disk;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::time::SystemTime;

const TAIL_BYTES: u64 = 4096;
/// Parts of the last line of a start that failed to read the data; a start that succeeds logs more lines.
const FATAL_MESSAGES: [&str; 4] = [
    "reading the append only file",
    "of the append only file",
    "Unrecoverable error, aborting now",
    "Terminating server after rdb file reading failure",
];
/// The files that Redis reads at its start.
pub(super) const DATA_FILES: [&str; 3] = ["appendonlydir", "appendonly.aof", "dump.rdb"];

impl Disk {
    /// Whether Redis' log ends with such a failure and the data has not changed since.
    pub(crate) fn redis_is_unreadable(&self) -> bool {
        let log = self.at(&self.paths.redis_log).join("redis.log");
        let data = self.at(&self.paths.redis);
        tail(&log)
            .is_some_and(|(end, written)| ends_with_fatal_message(&end) && !changed_since(&data, written))
    }
}

/// The end of a file, and the time of its last write.
fn tail(log: &Path) -> Option<(String, SystemTime)> {
    let mut file = std::fs::File::open(log).ok()?;
    let found = file.metadata().ok()?;
    file.seek(SeekFrom::Start(found.len().saturating_sub(TAIL_BYTES))).ok()?;
    let mut end = Vec::new();
    file.read_to_end(&mut end).ok()?;
    Some((String::from_utf8_lossy(&end).into_owned(), found.modified().ok()?))
}

fn ends_with_fatal_message(end: &str) -> bool {
    end.lines().last().is_some_and(|line| FATAL_MESSAGES.iter().any(|message| line.contains(message)))
}

fn changed_since(data: &Path, then: SystemTime) -> bool {
    let within =
        std::fs::read_dir(data.join(DATA_FILES[0])).into_iter().flatten().flatten().map(|e| e.path());
    let files = DATA_FILES.iter().map(|part| data.join(part)).chain(within);
    files.filter_map(|f| f.metadata().ok()?.modified().ok()).any(|at| at > then)
}

#[cfg(test)]
mod tests {
    use std::fs::{create_dir_all, write};
    use std::time::Duration;

    #[test]
    fn data_is_unreadable_until_it_changes() {
        let (_root, disk) = crate::disk::tests::empty(&crate::disk::tests::debian());
        let at = |path: &str| disk.at(path);
        assert!(!disk.redis_is_unreadable(), "no log");
        create_dir_all(at("/var/lib/redis/appendonlydir")).unwrap();
        create_dir_all(at("/var/log/redis")).unwrap();
        let incr = at("/var/lib/redis/appendonlydir/appendonly.aof.1.incr.aof");
        write(&incr, "garbage").unwrap();
        std::thread::sleep(Duration::from_millis(20));
        let log = |text: &str| write(at("/var/log/redis/redis.log"), text).unwrap();
        let fatal_line = "1:M 25 Nov 2026 # Bad file format reading the append only file appendonly.aof.1.incr.aof: \
                        make a backup of your AOF file, then use ./redis-check-aof --fix <filename.manifest>\n";
        log(fatal_line);
        assert!(disk.redis_is_unreadable());
        log(&format!("{fatal_line}2:C 25 Nov 2026 * oO0OoO0OoO0Oo Redis is starting oO0OoO0OoO0Oo\n"));
        assert!(!disk.redis_is_unreadable(), "another start is in progress");
        log(fatal_line);
        std::thread::sleep(Duration::from_millis(20));
        write(&incr, "").unwrap();
        assert!(!disk.redis_is_unreadable(), "the data has changed since");
    }
}
