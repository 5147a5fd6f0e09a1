//! Resources of a lab on this machine.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Everything that the lab of one directory creates on this machine and `lab down` must remove.
#[derive(Debug, PartialEq)]
pub struct Leftovers {
    networks: BTreeSet<String>,
    mounts: BTreeSet<String>,
    loops: BTreeSet<String>,
    groups: BTreeSet<String>,
    processes: BTreeSet<String>,
}

impl Leftovers {
    /// `dir`: the cluster directory, which the lab's processes have in their arguments.
    pub fn now(dir: &Path) -> Leftovers {
        let names = |at: &str| -> Vec<PathBuf> {
            std::fs::read_dir(at).into_iter().flatten().flatten().map(|e| e.path()).collect()
        };
        let text = |p: PathBuf| std::fs::read_to_string(p).unwrap_or_default();
        let shown = |p: &PathBuf| p.display().to_string();
        let name = hanode_lab::name(&dir.canonicalize().unwrap());
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let dir = dir.to_str().unwrap();
        let below = dir.replace(' ', "\\040");
        let mounts = mounts.lines().filter(|l| l.contains(&name) || l.contains(&below));
        let groups = walkdir::WalkDir::new("/sys/fs/cgroup").into_iter().flatten();
        let groups = groups.filter(|e| e.file_name().to_string_lossy().starts_with(&name));
        let own = std::process::id().to_string();
        let processes = names("/proc").into_iter().filter(|p| {
            let line = std::fs::read(p.join("cmdline")).unwrap_or_default();
            !p.ends_with(&own) && String::from_utf8_lossy(&line).contains(dir)
        });
        Leftovers {
            networks: names("/run/netns").iter().map(shown).filter(|n| n.contains(&name)).collect(),
            mounts: mounts.map(str::to_string).collect(),
            loops: names("/sys/block")
                .into_iter()
                .map(|b| text(b.join("loop/backing_file")))
                .filter(|file| file.contains(dir))
                .collect(),
            groups: groups.map(|e| e.path().display().to_string()).collect(),
            processes: processes.map(|p| shown(&p)).collect(),
        }
    }
}
