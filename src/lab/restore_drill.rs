//! `hanode lab drill`: boots the newest backup of a cluster as a lab of its own, and checks what came back.
//!
//! The nodes see an overlay over the repository: what the restored cluster archives disappears with the lab. In the real
//! repository its part would be the newest one, and the next restore would take it for the cluster.

use super::cgroup::private_mounts;
use super::{Lab, Probe, Unhealthy, UpOptions, up};
use anyhow::{Context, Result, bail, ensure};
use hanode_admin::access::access;
use hanode_admin::cluster_dir::{BUNDLE, PKI, SECRETS, SPEC};
use hanode_cluster::health::{self, Access};
use hanode_core::backup::time;
use hanode_core::restore::{Moment, PartOf, RestoreRecord, RestoreRequest, position_of};
use hanode_core::spec::Repository;
use hanode_core::state::Role;
use hanode_util::command::{command, run_to_end};
use hanode_util::interrupt;
use hanode_util::user_error::UserError;
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// For a server of the cluster whose backup is tested.
const TIMEOUT: Duration = Duration::from_secs(5);
/// For the status to report all of the restore, after the cluster is healthy.
const REPORT_LIMIT: Duration = Duration::from_secs(60);
/// Checks every page of heaps and indexes, and that each row is in its indexes.
const AMCHECK: &str = "for bin in /usr/lib/postgresql/*/bin /usr/pgsql-*/bin; do [ -x $bin/pg_amcheck ] && break; done; \
    [ -x $bin/pg_amcheck ] || exit 3; \
    exec runuser -u postgres -- $bin/pg_amcheck -h /run/postgresql -p $0 -U admin --all --install-missing --heapallindexed";

pub struct DrillOptions {
    pub dir: PathBuf,
    pub image: PathBuf,
    /// Where this machine has the repository.
    pub mount: Option<PathBuf>,
    pub timeout_scale: f64,
}

#[derive(Debug, Serialize)]
pub struct DrillReport {
    pub schema: u32,
    /// From the launch of the machines until the cluster was healthy.
    pub seconds: f64,
    pub restored: RestoreRecord,
    pub postgres: PostgresCheck,
    pub redis: RedisCheck,
    pub passed: bool,
}

#[derive(Debug, Serialize)]
pub struct PostgresCheck {
    /// WAL that the cluster had written when the drill began, and that was not restored; `None` if no leader answered.
    pub missing_bytes: Option<u64>,
    /// From the last restored transaction to the beginning of the drill.
    pub seconds_before: i64,
    /// Messages of pg_amcheck; `None` if the image has none (before PostgreSQL 14).
    pub damage: Option<Vec<String>>,
}

#[derive(Debug, Serialize)]
pub struct RedisCheck {
    pub keys: u64,
    /// In the cluster when the drill began; `None` if it did not answer.
    pub keys_before: Option<u64>,
}

/// What the cluster has when the drill begins.
struct Before {
    at: i64,
    wal: Option<u64>,
    keys: Option<u64>,
}

/// Runs the drill, and removes its lab, unless that does not become healthy: then it keeps running for examination.
pub fn drill(options: &DrillOptions) -> Result<DrillReport> {
    super::process::require_root()?;
    let dir =
        options.dir.canonicalize().with_context(|| format!("no directory {}", options.dir.display()))?;
    let source = source(&dir, options.mount.as_deref())?;
    let copy = drill_dir(&dir);
    create(&copy)?;
    super::tag_this_process(&copy)?;
    let _lock = lock(&copy)?;
    let done = before(&dir).and_then(|before| {
        // The nodes are children of this thread, and share its mounts, which disappear with the last of them.
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                private_mounts()?;
                run(&dir, &copy, &source, options, &before)
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    });
    match done {
        Err(error) if error.is::<Unhealthy>() => {
            Err(error.context(format!("the cluster of the drill, {}, is not healthy", copy.display())))
        }
        Err(error) => {
            // The first error says more.
            let _ = remove(&copy);
            Err(error)
        }
        Ok(report) => remove(&copy).map(|()| report),
    }
}

/// The cluster directory of the drill's lab: a lab belongs to one directory.
fn drill_dir(dir: &Path) -> PathBuf {
    dir.join(".drill")
}

fn create(copy: &Path) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    let created = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(copy);
    created.with_context(|| copy.display().to_string())
}

/// Held during a drill.
fn lock(copy: &Path) -> Result<std::fs::File> {
    let file = std::fs::File::open(copy)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(_) => {
            let what = format!("a drill already runs in {}", copy.display());
            bail!(UserError::with_help(what, "wait until it ends"))
        }
    }
}

fn remove(copy: &Path) -> Result<()> {
    super::down(copy)?;
    std::fs::remove_dir_all(copy).with_context(|| format!("removing {}", copy.display()))
}

/// Removes the lab of a drill that failed or was killed.
pub(crate) fn remove_left(dir: &Path) -> Result<()> {
    let copy = drill_dir(dir);
    if !copy.exists() {
        return Ok(());
    }
    let _lock = lock(&copy)?;
    remove(&copy)
}

/// The directory on this machine with the content of the repository.
fn source(dir: &Path, mount: Option<&Path>) -> Result<PathBuf> {
    let access = access(dir)?;
    let backup = access.spec.backup.as_ref().with_context(hanode_cluster::repository::no_backup)?;
    let Repository::File { path } = &backup.repository else {
        let what = format!("{} is not on a file system, and a lab has no way out to it", backup.repository);
        let help = "only file:// repositories can be drilled; `hanode backup verify` reads every other one";
        bail!(UserError::with_help(what, help));
    };
    let found = mount.unwrap_or(Path::new(path));
    ensure!(
        found.join("backup").is_dir(),
        UserError::with_help(
            format!("{} has no backups", found.display()),
            format!("mount what the nodes have at {path}, and name its place with --mount"),
        )
    );
    Ok(found.canonicalize()?)
}

fn before(dir: &Path) -> Result<Before> {
    let access = access(dir)?;
    let ask = || (wal_of_leader(&access).ok(), keys(&access).ok());
    // A cluster that runs in the lab is in the lab's network.
    let lab = Lab::open(dir).ok().filter(|lab| lab.nodes().any(|node| lab.running(node)));
    let (wal, keys) = match lab {
        Some(lab) => lab.in_network(ask)?,
        None => ask(),
    };
    Ok(Before { at: SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs() as i64, wal, keys })
}

fn wal_of_leader(access: &Access) -> Result<u64> {
    for node in &access.spec.nodes {
        let patroni = access.patroni(node, TIMEOUT)?;
        if patroni.status().is_ok_and(|status| status.role == Some(Role::Leader)) {
            return patroni.written_wal();
        }
    }
    bail!("no PostgreSQL leads")
}

/// Of Redis' primary.
fn keys(access: &Access) -> Result<u64> {
    for node in &access.spec.nodes {
        let Ok(mut redis) = access.redis(node.address, TIMEOUT) else { continue };
        if redis.replication()?.is_primary() {
            return redis.keys();
        }
    }
    bail!("no Redis is primary")
}

/// Fills the cluster directory of the drill, in place of what an earlier drill left there.
fn fill(dir: &Path, copy: &Path) -> Result<()> {
    super::down(copy)?;
    for entry in std::fs::read_dir(copy)? {
        let path = entry?.path();
        let removed =
            if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
        removed.with_context(|| format!("removing {}", path.display()))?;
    }
    let files = [SPEC, SECRETS, BUNDLE, PKI].map(|name| dir.join(name));
    run_to_end(command("cp").arg("-a").args(files).arg(copy)).map(drop)
}

fn run(of: &Path, dir: &Path, source: &Path, options: &DrillOptions, before: &Before) -> Result<DrillReport> {
    fill(of, dir)?;
    overlay(dir, source)?;
    let access = access(dir)?;
    let up_options = UpOptions {
        dir: dir.into(),
        image: options.image.clone(),
        vm: false,
        timeout_scale: options.timeout_scale,
        nodes: Vec::new(),
        verbose: false,
        restore: Some(RestoreRequest { part: PartOf::ThisCluster, moment: Moment::Latest }),
        program: None,
    };
    let launch = Instant::now();
    up(&up_options, &access.spec, &|| Probe::of(&access), interrupt::flag())?;
    let seconds = launch.elapsed().as_secs_f64();
    let lab = Lab::open(dir)?;
    let (restored, leader) = lab.in_network(|| restored(&access))??;
    let damage = check_postgres(&lab, &leader, access.spec.postgres.port)?;
    // An interrupt also ends pg_amcheck, which is no damage then.
    interrupt::check()?;
    let reached = restored.postgres.as_ref().map_or(restored.choice.backup_finished, |p| p.reached);
    let lsn = restored.postgres.as_ref().and_then(|postgres| position_of(&postgres.lsn));
    let missing_bytes = before.wal.zip(lsn).map(|(written, lsn)| written.saturating_sub(lsn));
    let keys = lab.in_network(|| keys(&access))??;
    Ok(DrillReport {
        schema: 1,
        seconds,
        passed: damage.as_ref().is_none_or(Vec::is_empty),
        postgres: PostgresCheck { missing_bytes, seconds_before: (before.at - reached).max(0), damage },
        redis: RedisCheck { keys, keys_before: before.keys },
        restored,
    })
}

/// Mounts an overlay over the repository, where the lab looks for it.
fn overlay(dir: &Path, source: &Path) -> Result<()> {
    let scratch = dir.join("repository");
    let at = super::container::repository_of(dir);
    for part in ["upper", "work"] {
        std::fs::create_dir_all(scratch.join(part))?;
    }
    std::fs::create_dir_all(&at).with_context(|| at.display().to_string())?;
    // By links without commas and colons, which would end the option.
    std::os::unix::fs::symlink(source, scratch.join("lower"))?;
    let layers = "lowerdir=lower,upperdir=upper,workdir=work";
    let mut mount = command("mount");
    mount.args(["--types", "overlay", "--options", layers, "overlay"]).arg(&at).current_dir(&scratch);
    run_to_end(&mut mount).map(drop).context("mounting an overlay over the repository")
}

/// What was restored, and PostgreSQL's leader.
fn restored(access: &Access) -> Result<(RestoreRecord, String)> {
    let start = Instant::now();
    loop {
        let nodes = health::collect(access)?.nodes;
        let leader = nodes.iter().find(|node| node.servers.postgres.role == Some(Role::Leader));
        let leader = leader.map(|node| node.name.clone());
        let records = nodes.into_iter().filter_map(|node| node.backup?.restore);
        let record = records.into_iter().find(|record| record.postgres.is_some() && record.redis.is_some());
        match record.zip(leader) {
            Some(found) => return Ok(found),
            None if start.elapsed() > REPORT_LIMIT => bail!("no node reports the restore"),
            None => std::thread::sleep(Duration::from_secs(1)),
        }
        interrupt::check()?;
    }
}

/// The messages of pg_amcheck, on all databases; `None` if the image does not have it.
fn check_postgres(lab: &Lab, leader: &str, port: u16) -> Result<Option<Vec<String>>> {
    let output = lab.exec_output(leader, &["sh", "-c", AMCHECK, &port.to_string()])?;
    let text =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    let lines = || text.lines().map(hanode_util::terminal::line).filter(|line| !line.trim().is_empty());
    match output.status.code() {
        Some(0) => Ok(Some(Vec::new())),
        Some(3) => Ok(None),
        // 2: it found damage; otherwise it could not check, which is as bad.
        _ => Ok(Some(lines().take(50).chain([format!("pg_amcheck: {}", output.status)]).collect())),
    }
}

impl DrillReport {
    /// A line for each server.
    pub fn text(&self) -> String {
        let mut text =
            format!("restored and healthy {:.1} s after launch: {}\n", self.seconds, self.restored);
        let PostgresCheck { missing_bytes, seconds_before, damage } = &self.postgres;
        let reached = self.restored.postgres.as_ref().map_or(0, |postgres| postgres.reached);
        let missing = match missing_bytes {
            Some(bytes) => format!("{bytes} bytes of WAL were written after it"),
            None => "no leader answered, so what is missing is not known".into(),
        };
        text += &format!(
            "PostgreSQL: last transaction of {}, {seconds_before} s before the drill; {missing}\n",
            time::text(reached)
        );
        text += &match damage {
            None => "PostgreSQL: not checked, since the image has no pg_amcheck\n".to_string(),
            Some(damage) if damage.is_empty() => "PostgreSQL: pg_amcheck found no damage\n".into(),
            Some(damage) => format!("PostgreSQL: DAMAGED\n  {}\n", damage.join("\n  ")),
        };
        let keys = self.redis.keys_before.map(|keys| format!(", {keys} in the cluster when the drill began"));
        text + &format!("Redis: {} keys{}\n", self.redis.keys, keys.unwrap_or_default())
    }
}
