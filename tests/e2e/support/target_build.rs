//! Builds images of an old target with the `hanode` of `make dist`, from fixtures of the target's archives, and simulates
//! faults of an archive.

use super::lab::Lab;
use super::{Workdir, fixture};
use hanode_admin::cluster_dir::ClusterDir;
use hanode_util::file_tree::below;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;

pub struct TargetBuild {
    workdir: Workdir,
    target: &'static str,
    /// A separate cache shows what a failed build leaves in it.
    own_cache: bool,
}

impl TargetBuild {
    /// With this table `[versions]`.
    pub fn new(workdir: Workdir, target: &'static str, versions: &str, own_cache: bool) -> TargetBuild {
        let build = TargetBuild { workdir, target, own_cache };
        fixture::run(build.hanode().arg("init").arg(build.path("demo")));
        build.pin(versions);
        build
    }

    /// A lab of the image of this name.
    pub fn into_lab(self, image: &str) -> Lab {
        let (cluster, image) = (ClusterDir::load(&self.path("demo")).unwrap(), self.path(image));
        Lab::of(self.workdir, cluster, image)
    }

    pub fn hanode(&self) -> Command {
        Command::new(fixture::dist().join("hanode"))
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.workdir.path().join(name)
    }

    /// Replaces the table `[versions]` of the spec.
    pub fn pin(&self, versions: &str) {
        let at = self.path("demo/cluster.toml");
        let text = std::fs::read_to_string(&at).unwrap();
        let (head, rest) = text.split_once("[versions]\n").unwrap();
        let rest = rest.trim_start_matches(|c| c != '#');
        std::fs::write(at, format!("{head}{versions}{rest}")).unwrap();
    }

    pub fn build(&self, out: &str, sources: &[String]) -> Result<(), String> {
        let mut hanode = self.hanode();
        hanode.current_dir(self.workdir.path()).args([
            "build",
            "demo",
            "--target",
            self.target,
            "--out",
            out,
        ]);
        hanode.args(sources.iter().flat_map(|source| ["--source", source]));
        if self.own_cache {
            hanode.env("XDG_CACHE_HOME", self.path("cache"));
        }
        let output = hanode.output().unwrap();
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.success() { Ok(()) } else { Err(message) }
    }

    /// Builds a disk and checks its file system, then builds an archive and unpacks it with all attributes.
    pub fn image(&self, sources: &[String]) -> PathBuf {
        self.build("node.raw", sources).unwrap();
        let raw = self.path("node.raw");
        fixture::run(Command::new("e2fsck").arg("-fn").arg(format!(
            "{}?offset={}",
            raw.display(),
            36864 * 512
        )));
        self.build("node.tar", sources).unwrap();
        let root = self.path("root");
        std::fs::create_dir(&root).unwrap();
        let mut tar = Command::new("tar");
        tar.args(["--numeric-owner", "--xattrs", "--xattrs-include=*", "-xf"]).arg(self.path("node.tar"));
        fixture::run(tar.arg("-C").arg(&root));
        root
    }

    /// Asserts that the build fails with these words, and leaves no image, base, working file or mount.
    #[track_caller]
    pub fn refuses(&self, sources: &[String], words: &[&str]) {
        let message = self.build("node.tar", sources).expect_err("it was built");
        for word in words {
            assert!(message.contains(word), "{word:?} is not in\n{message}");
        }
        let names = |at: &Path| -> Vec<String> {
            let entries = std::fs::read_dir(at).into_iter().flatten();
            entries.map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect()
        };
        let here = names(self.workdir.path());
        let ours = ["cache", "demo", "damaged", "archive"];
        assert!(here.iter().all(|name| ours.contains(&name.as_str())), "{here:?}");
        let cached = names(&self.path("cache/hanode/base"));
        assert!(cached.iter().all(|name| name.ends_with(".lock")), "{cached:?}");
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(self.workdir.path().to_str().unwrap()), "{mounts}");
    }
}

/// The sources with one of them replaced.
pub fn with(mut sources: Vec<String>, name: &str, text: String) -> Vec<String> {
    let place = sources.iter_mut().find(|source| source.starts_with(&format!("{name}="))).unwrap();
    *place = text;
    sources
}

/// Serves the files below a directory, and closes the connection in the middle of those with `cut` in their path.
pub fn server(dir: PathBuf, cut: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let dir = dir.clone();
            std::thread::spawn(move || answer(stream, &dir, cut));
        }
    });
    url
}

fn answer(mut stream: TcpStream, dir: &Path, cut: &str) -> Option<()> {
    let mut lines = BufReader::new(stream.try_clone().ok()?).lines().map_while(|line| line.ok());
    let path = lines.next()?.split(' ').nth(1)?.to_string();
    let path = [("%7e", "~"), ("%2b", "+"), ("%2B", "+"), ("%25", "%")]
        .into_iter()
        .fold(path, |path, (code, letter)| path.replace(code, letter));
    // To the end of the request: a connection that is closed with data unread is reset.
    lines.find(|line| line.is_empty())?;
    let Ok(content) = std::fs::read(below(dir, &path)) else {
        write!(stream, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").ok()?;
        return None;
    };
    write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", content.len())
        .ok()?;
    let all = if path.contains(cut) { content.len() / 2 } else { content.len() };
    stream.write_all(&content[..all]).ok()
}
