//! A test's own directory below target/.

use super::schedule::{self, Turn};
use hanode_util::scratch::Scratch;
use std::fs::{DirEntry, File};
use std::path::{Path, PathBuf};

const PREFIX: &str = "test-";

/// Gone when it is dropped. It holds the test's turn.
pub struct Workdir {
    home: PathBuf,
    held: Scratch,
    _turn: Option<Turn>,
}

impl Workdir {
    pub fn path(&self) -> &Path {
        &self.home
    }

    /// The directory that is locked, around [`Workdir::path`].
    pub fn outer(&self) -> &Path {
        self.held.path()
    }
}

/// For a test that runs beside others.
pub fn workdir() -> Workdir {
    make(PREFIX, Some(schedule::beside_others()))
}

/// For a test that runs alone.
pub fn workdir_alone() -> Workdir {
    make(PREFIX, Some(schedule::alone()))
}

/// For a cluster that several tests share, and for a test that has its turn.
pub fn workdir_without_turn() -> Workdir {
    make(PREFIX, None)
}

/// The same with another beginning of its name.
pub fn workdir_named(prefix: &str) -> Workdir {
    make(prefix, None)
}

fn make(prefix: &str, turn: Option<Turn>) -> Workdir {
    let tmp = Path::new(env!("CARGO_TARGET_TMPDIR"));
    take_down_labs_of_killed_tests(tmp, prefix);
    let held = Scratch::within(tmp, prefix).unwrap();
    // A scratch space locks its directory, and a program that makes one of its own beside a file locks the file's.
    let home = held.join("home");
    std::fs::create_dir(&home).unwrap();
    Workdir { home, held, _turn: turn }
}

/// A killed test leaves a directory that nobody locks, and the lab in it runs on. [`Scratch`] removes the directory.
fn take_down_labs_of_killed_tests(tmp: &Path, prefix: &str) {
    let dead: Vec<(PathBuf, File)> = {
        // Directories are made under this lock: none is there that is not locked yet.
        let all = File::open(tmp).unwrap();
        all.lock().unwrap();
        let named = |entry: &DirEntry| entry.file_name().to_string_lossy().starts_with(prefix);
        let unlocked = |at: PathBuf| {
            let lock = File::open(&at).ok()?;
            lock.try_lock().ok().map(|()| (at, lock))
        };
        tmp.read_dir().unwrap().flatten().filter(named).filter_map(|entry| unlocked(entry.path())).collect()
    };
    for (at, _lock) in &dead {
        for cluster in walkdir::WalkDir::new(at).max_depth(2).into_iter().flatten() {
            if cluster.path().join(".lab").is_dir()
                && let Err(error) = hanode_lab::down(cluster.path())
            {
                eprintln!("taking down the lab of a killed test: {error:#}");
            }
        }
    }
}
