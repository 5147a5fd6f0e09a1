//! `[backup]`: where backups go, and when.

use super::reader::{Reader, Section};
use super::rules;
use super::suggest::printable;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Backup {
    pub repository: Repository,
    /// Host and optional port of the object storage; set for S3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    pub region: String,
    /// Whether the bucket is in the path of each URL instead of the host name.
    pub path_style: bool,
    /// A file on the nodes with the CA of the object storage; unset: the distribution's CAs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<String>,
    /// systemd's calendar syntax.
    pub schedule: String,
    /// Days for which a restore to any moment must be possible.
    pub retention: u32,
    /// Seconds after which a WAL segment that is not full is archived.
    pub archive_timeout: u32,
}

/// Where backups go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Repository {
    /// A file system that all nodes mount at this path.
    File {
        path: String,
    },
    S3 {
        bucket: String,
        prefix: String,
    },
}

impl std::fmt::Display for Repository {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Repository::File { path } => write!(f, "file://{path}"),
            Repository::S3 { bucket, prefix } if prefix.is_empty() => write!(f, "s3://{bucket}"),
            Repository::S3 { bucket, prefix } => write!(f, "s3://{bucket}/{prefix}"),
        }
    }
}

/// Reads the table; `None` if the spec has none.
pub(super) fn read(s: Section) -> Option<Backup> {
    let repository = s.text("repository");
    let repository = s.required_if_present(
        "repository",
        repository,
        String::new(),
        "write where backups go, e.g. file:///mnt/backup",
    );
    let archive_timeout = s.text("archive_timeout").unwrap_or_else(|| "60s".into());
    let backup = Backup {
        repository: repository_of(&s, &repository),
        endpoint: s.text("endpoint"),
        region: s.text("region").unwrap_or_else(|| "us-east-1".into()),
        path_style: s.flag("path_style").unwrap_or(false),
        ca_file: s.text("ca_file"),
        schedule: s.text("schedule").unwrap_or_else(|| "*-*-* 01:30:00".into()),
        retention: s.number("retention", 1..=3650).unwrap_or(14),
        archive_timeout: seconds(&s, &archive_timeout),
    };
    s.finish();
    s.is_present().then_some(backup)
}

fn repository_of(s: &Section, text: &str) -> Repository {
    let placeholder = Repository::File { path: String::new() };
    if text.is_empty() {
        return placeholder;
    }
    let fault = |what: String, help: &str| {
        s.fault("repository", what, help);
        placeholder.clone()
    };
    let shown = printable(text);
    let Some((scheme, rest)) = text.split_once("://") else {
        return fault(
            format!("repository \"{shown}\" is not a URL"),
            "write file:///PATH or s3://BUCKET/PREFIX",
        );
    };
    let plain = |part: &str| {
        !part.is_empty()
            && part != "."
            && part != ".."
            && part.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
    };
    match scheme {
        "file" if rest.strip_prefix('/').is_some_and(|path| path.split('/').all(plain)) => {
            Repository::File { path: rest.into() }
        }
        "file" => fault(
            format!("repository \"{shown}\" is not a plain absolute path"),
            "write file:///PATH with letters, digits, - _ . and without a slash at the end",
        ),
        "s3" => {
            let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
            match plain(bucket) && (prefix.is_empty() || prefix.split('/').all(plain)) {
                true => Repository::S3 { bucket: bucket.into(), prefix: prefix.into() },
                false => fault(
                    format!("repository \"{shown}\" is not a plain bucket and prefix"),
                    "write s3://BUCKET/PREFIX with letters, digits, - _ . and without a slash at the end",
                ),
            }
        }
        _ => fault(
            format!("repository \"{shown}\" is of an unsupported kind"),
            "use file:///PATH, a file system that all nodes mount, or s3://BUCKET/PREFIX",
        ),
    }
}

fn seconds(s: &Section, text: &str) -> u32 {
    let parsed = [("min", 60), ("s", 1)].into_iter().find_map(|(unit, factor)| {
        text.strip_suffix(unit)?.trim_end().parse::<u32>().ok()?.checked_mul(factor)
    });
    parsed.filter(|n| (10..=3600).contains(n)).unwrap_or_else(|| {
        let what = format!("archive_timeout = \"{}\" is not a time from 10s to 60min", printable(text));
        s.fault("archive_timeout", what, "write a whole number with s or min, such as \"60s\"");
        60
    })
}

/// The rules between the keys.
pub(super) fn check(backup: &Backup, reader: &Reader) {
    let s3 = matches!(backup.repository, Repository::S3 { .. });
    if reader.is_good("backup.repository") {
        if s3 && backup.endpoint.is_none() {
            let help = "set it to the host of the object storage, e.g. s3.eu-central-1.amazonaws.com";
            reader.fault("backup.endpoint", "endpoint is missing, which an s3:// repository needs", help);
        }
        let unused = [("endpoint", backup.endpoint.is_some()), ("ca_file", backup.ca_file.is_some())];
        for (key, _) in unused.into_iter().filter(|(_, set)| *set && !s3) {
            reader.fault(
                &format!("backup.{key}"),
                format!("{key} has no effect on this repository"),
                "remove it",
            );
        }
    }
    if let Some(endpoint) = &backup.endpoint
        && !rules::is_endpoint(endpoint)
    {
        let what = format!("endpoint \"{}\" is not a host name with an optional port", printable(endpoint));
        reader.fault("backup.endpoint", what, "write it without https://, e.g. minio.example.org:9000");
    }
    if let Some(path) = &backup.ca_file
        && !(path.starts_with('/') && path.chars().all(|c| c.is_ascii_alphanumeric() || "/._-".contains(c)))
    {
        let what = format!("ca_file \"{}\" is not a plain absolute path", printable(path));
        reader.fault("backup.ca_file", what, "name a file with PEM certificates on the nodes");
    }
    if !rules::is_plain_name(&backup.region, "-_") {
        let what = format!("region \"{}\" is not a valid region", printable(&backup.region));
        reader.fault("backup.region", what, "use the region of the bucket, e.g. eu-central-1");
    }
    let calendar = |c: char| c.is_ascii_alphanumeric() || " *-:,./~+_".contains(c);
    if backup.schedule.trim().is_empty()
        || backup.schedule.len() > 100
        || !backup.schedule.chars().all(calendar)
    {
        let what = format!("schedule \"{}\" is not a calendar event of systemd", printable(&backup.schedule));
        reader.fault(
            "backup.schedule",
            what,
            "write it like *-*-* 01:30:00 or Sat 03:00; see man systemd.time",
        );
    }
}
