//! A temporary directory below target/ for a test.

use super::schedule::{self, Turn};
use hanode_util::scratch::Scratch;
use std::fs::{DirEntry, File};
use std::path::{Path, PathBuf};

const PREFIX: &str = "test-";

/// The directory is removed on drop. It holds the test's [`Turn`].
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

/// For a test that runs at the same time as others.
pub fn workdir() -> Workdir {
    make(PREFIX, Some(schedule::concurrent()))
}

/// For a test that runs alone.
pub fn workdir_alone() -> Workdir {
    make(PREFIX, Some(schedule::alone()))
}

/// For a cluster that several tests share, and for a test that already has its turn.
pub fn workdir_without_turn() -> Workdir {
    make(PREFIX, None)
}

/// The same with another prefix of its name.
pub fn workdir_named(prefix: &str) -> Workdir {
    make(prefix, None)
}

fn make(prefix: &str, turn: Option<Turn>) -> Workdir {
    let tmp = Path::new(env!("CARGO_TARGET_TMPDIR"));
    take_down_labs_of_killed_tests(tmp, prefix);
    let held = Scratch::within(tmp, prefix).unwrap();
    // `Scratch` locks its directory, and a program that creates one next to a file locks the file's directory.
    let home = held.join("home");
    std::fs::create_dir(&home).unwrap();
    Workdir { home, held, _turn: turn }
}

/// A killed test leaves an unlocked directory and a running lab. [`Scratch`] removes the directory.
fn take_down_labs_of_killed_tests(tmp: &Path, prefix: &str) {
    let dead: Vec<(PathBuf, File)> = {
        // Directories are created under this lock, so none of them is new and still unlocked.
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
