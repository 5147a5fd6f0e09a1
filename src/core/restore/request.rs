//! The value of the metadata key `hanode_restore`: `[PART-or-CLUSTER/]MOMENT`.

use crate::backup::time;
use crate::spec::is_cluster_name;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// As in the metadata, with the time in UTC. Two requests are equal if they mean the same, whatever their time zones.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RestoreRequest {
    pub part: PartOf,
    pub moment: Moment,
}

/// Which part of the repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PartOf {
    /// The newest one of this cluster that began before the moment.
    ThisCluster,
    /// The newest one of another cluster that began before the moment.
    Cluster(String),
    /// This one.
    Part(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Moment {
    /// The end of the archive.
    Latest,
    /// In microseconds since 1970.
    Time(i64),
    Lsn(u64),
    /// A restore point that was created with `pg_create_restore_point`.
    Name(String),
}

const SYNTAX: &str = "write [PART/]MOMENT, with a MOMENT of latest, a time such as 2026-11-30T14:05:00+01:00, lsn:0/3000060 or \
     name:POINT";
/// PostgreSQL's limit for the name of a restore point.
const MAX_POINT: usize = 63;
/// The time at the end of a part's name.
const STAMP: usize = "-20261130T123012Z".len();
/// Years with four digits.
const MAX_TIME: i64 = 253_402_300_799;

impl FromStr for RestoreRequest {
    type Err = String;

    fn from_str(text: &str) -> Result<RestoreRequest, String> {
        // The moment may have a slash, too, but only after a colon.
        let (part, moment) = match text.split_once('/').filter(|(before, _)| !before.contains(':')) {
            Some((part, moment)) => (Some(part), moment),
            None => (None, text),
        };
        let part = match part {
            None => PartOf::ThisCluster,
            Some(name) if is_part(name) => PartOf::Part(name.into()),
            Some(name) if is_cluster_name(name) => PartOf::Cluster(name.into()),
            Some(name) => {
                return Err(format!("{name:?} is neither a part of the repository nor a cluster; {SYNTAX}"));
            }
        };
        Ok(RestoreRequest { part, moment: moment_of(moment)? })
    }
}

/// Whether this is the name of a part, such as `hspas-20261130T123012Z`.
fn is_part(name: &str) -> bool {
    let split = name.len().checked_sub(STAMP).and_then(|at| name.split_at_checked(at));
    split.is_some_and(|(cluster, stamp)| {
        is_cluster_name(cluster) && stamp.starts_with('-') && part_time(stamp).is_some()
    })
}

/// The time at which a part began, from its name.
pub(super) fn part_time(part: &str) -> Option<i64> {
    let stamp = part.rsplit_once('-')?.1;
    let digits = |from: usize, to: usize| number(stamp.get(from..to)?);
    let framed = stamp.len() + 1 == STAMP && stamp.as_bytes()[8] == b'T' && stamp.ends_with('Z');
    let date = [digits(0, 4)?, digits(4, 6)?, digits(6, 8)?];
    framed.then(|| time::seconds(date, [digits(9, 11)?, digits(11, 13)?, digits(13, 15)?])).flatten()
}

fn moment_of(text: &str) -> Result<Moment, String> {
    let invalid = |what: &str| format!("{text:?} is {what}; {SYNTAX}");
    if text == "latest" {
        return Ok(Moment::Latest);
    }
    if let Some(position) = text.strip_prefix("lsn:") {
        let lsn = position_of(position).ok_or_else(|| invalid("no position in the WAL"))?;
        return Ok(Moment::Lsn(lsn));
    }
    if let Some(name) = text.strip_prefix("name:") {
        let plain = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
        let valid = !name.is_empty() && name.len() <= MAX_POINT && name.chars().all(plain);
        return if valid {
            Ok(Moment::Name(name.into()))
        } else {
            Err(invalid("no name of letters, digits, - _ ."))
        };
    }
    time_of(text).map(Moment::Time).ok_or_else(|| invalid("no moment (a time needs its time zone)"))
}

/// `0/3000060` as a number.
pub fn position_of(text: &str) -> Option<u64> {
    let (high, low) = text.split_once('/')?;
    let part = |digits: &str| {
        let valid = (1..=8).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_hexdigit());
        valid.then(|| u64::from_str_radix(digits, 16).ok()).flatten()
    };
    Some(part(high)? << 32 | part(low)?)
}

fn number(digits: &str) -> Option<i64> {
    digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok()).flatten()
}

/// A time of RFC 3339 in microseconds since 1970.
fn time_of(text: &str) -> Option<i64> {
    let at = |from: usize, to: usize| number(text.get(from..to)?);
    let bytes = text.as_bytes();
    let separators = [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':')];
    if separators.iter().any(|(at, byte)| bytes.get(*at) != Some(byte)) {
        return None;
    }
    let seconds = time::seconds([at(0, 4)?, at(5, 7)?, at(8, 10)?], [at(11, 13)?, at(14, 16)?, at(17, 19)?])?;
    let rest = text.get(19..)?;
    let (micros, zone) = match rest.strip_prefix('.') {
        None => (0, rest),
        Some(rest) => {
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            let fraction = rest.get(..digits).filter(|_| (1..=6).contains(&digits))?;
            (number(&format!("{fraction:0<6}"))?, rest.get(digits..)?)
        }
    };
    let utc = seconds - offset(zone)?;
    (0..=MAX_TIME).contains(&utc).then_some(utc * 1_000_000 + micros)
}

/// The seconds by which the clock of a time zone is ahead of UTC.
fn offset(zone: &str) -> Option<i64> {
    let sign = match zone.as_bytes() {
        b"Z" => return Some(0),
        [b'+', _, _, b':', _, _] => 1,
        [b'-', _, _, b':', _, _] => -1,
        _ => return None,
    };
    let (hours, minutes) = (number(zone.get(1..3)?)?, number(zone.get(4..6)?)?);
    (hours < 24 && minutes < 60).then_some(sign * (hours * 3600 + minutes * 60))
}

impl TryFrom<String> for RestoreRequest {
    type Error = String;

    fn try_from(text: String) -> Result<RestoreRequest, String> {
        text.parse()
    }
}

impl From<RestoreRequest> for String {
    fn from(request: RestoreRequest) -> String {
        request.to_string()
    }
}

impl fmt::Display for RestoreRequest {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match &self.part {
            PartOf::ThisCluster => write!(f, "{}", self.moment),
            PartOf::Cluster(name) | PartOf::Part(name) => write!(f, "{name}/{}", self.moment),
        }
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Moment::Latest => f.write_str("latest"),
            Moment::Time(micros) => {
                let (seconds, micros) = (micros.div_euclid(1_000_000), micros.rem_euclid(1_000_000));
                let (year, month, day, hour, minute, second) = time::utc(seconds);
                write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}")?;
                let fraction = format!("{micros:06}");
                match fraction.trim_end_matches('0') {
                    "" => f.write_str("Z"),
                    fraction => write!(f, ".{fraction}Z"),
                }
            }
            Moment::Lsn(lsn) => write!(f, "lsn:{:X}/{:X}", lsn >> 32, lsn & 0xffff_ffff),
            Moment::Name(name) => write!(f, "name:{name}"),
        }
    }
}
