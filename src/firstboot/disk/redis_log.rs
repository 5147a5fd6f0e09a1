//! Whether Redis gave up reading its data on this disk: a disk that was full can leave its log unreadable.

use anyhow::Result;
use hanode_core::target::Target;
use hanode_util::file_tree::below;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::time::SystemTime;

const TAIL: u64 = 4096;
/// Of the last line before it ends. A start that gets further adds others.
const LAST_WORDS: [&str; 4] = [
    "reading the append only file",
    "of the append only file",
    "Unrecoverable error, aborting now",
    "Terminating server after rdb file reading failure",
];
/// What Redis reads at a start.
pub(crate) const DATA: [&str; 3] = ["appendonlydir", "appendonly.aof", "dump.rdb"];

/// As its own log tells, unless somebody has mended the data since.
pub(crate) fn unreadable(root: &Path, target: &Target) -> Result<bool> {
    let log = below(root, target.path("redis_log")?).join("redis.log");
    let data = below(root, target.path("redis_data")?);
    Ok(tail(&log).is_some_and(|(end, told)| gave_up(&end) && !changed_since(&data, told)))
}

/// The end of a file, and when it was last written to.
fn tail(log: &Path) -> Option<(String, SystemTime)> {
    let mut file = std::fs::File::open(log).ok()?;
    let found = file.metadata().ok()?;
    file.seek(SeekFrom::Start(found.len().saturating_sub(TAIL))).ok()?;
    let mut end = Vec::new();
    file.read_to_end(&mut end).ok()?;
    Some((String::from_utf8_lossy(&end).into_owned(), found.modified().ok()?))
}

fn gave_up(end: &str) -> bool {
    end.lines().last().is_some_and(|line| LAST_WORDS.iter().any(|words| line.contains(words)))
}

fn changed_since(data: &Path, then: SystemTime) -> bool {
    let within = std::fs::read_dir(data.join(DATA[0])).into_iter().flatten().flatten().map(|e| e.path());
    let files = DATA.iter().map(|part| data.join(part)).chain(within);
    files.filter_map(|f| f.metadata().ok()?.modified().ok()).any(|at| at > then)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{create_dir_all, write};
    use std::time::Duration;

    #[test]
    fn redis_last_words_count_until_its_data_is_mended() {
        let root = tempfile::tempdir().unwrap();
        let (own, files) = (
            include_str!("../../../image/targets/debian-13.toml"),
            include_str!("../../../image/files.toml"),
        );
        let target = Target::parse(&format!("{own}\n{files}")).unwrap();
        let at = |path: &str| below(root.path(), path);
        assert!(!unreadable(root.path(), &target).unwrap(), "nothing there");
        create_dir_all(at("/var/lib/redis/appendonlydir")).unwrap();
        create_dir_all(at("/var/log/redis")).unwrap();
        let incr = at("/var/lib/redis/appendonlydir/appendonly.aof.1.incr.aof");
        write(&incr, "garbage").unwrap();
        std::thread::sleep(Duration::from_millis(20));
        let log = |text: &str| write(at("/var/log/redis/redis.log"), text).unwrap();
        let given_up = "1:M 25 Nov 2026 # Bad file format reading the append only file appendonly.aof.1.incr.aof: \
                        make a backup of your AOF file, then use ./redis-check-aof --fix <filename.manifest>\n";
        log(given_up);
        assert!(unreadable(root.path(), &target).unwrap());
        log(&format!("{given_up}2:C 25 Nov 2026 * oO0OoO0OoO0Oo Redis is starting oO0OoO0OoO0Oo\n"));
        assert!(!unreadable(root.path(), &target).unwrap(), "it may get further now");
        log(given_up);
        std::thread::sleep(Duration::from_millis(20));
        write(&incr, "").unwrap();
        assert!(!unreadable(root.path(), &target).unwrap(), "mended since");
    }
}
