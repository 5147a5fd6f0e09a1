//! The WAL in a part of the repository: which timeline it ends on, and whether a segment is missing.

use super::request::position_of;
use std::collections::BTreeMap;

/// PostgreSQL's default, with which hanode initializes its data.
const SEGMENT_BYTES: u64 = 16 << 20;
const SEGMENTS_PER_LOG: u64 = (1 << 32) / SEGMENT_BYTES;

/// A segment by its timeline and its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct WalPosition {
    pub timeline: u32,
    pub segment: u64,
}

impl WalPosition {
    /// From the name of the segment's file.
    pub fn parse(name: &str) -> Option<WalPosition> {
        let hex = name.len() == 24 && name.bytes().all(|b| b.is_ascii_hexdigit() && !b.is_ascii_lowercase());
        let part = |from: usize| u64::from_str_radix(name.get(from..from + 8)?, 16).ok();
        let (timeline, log, low) = (part(0)?, part(8)?, part(16)?);
        let valid = hex && low < SEGMENTS_PER_LOG;
        valid.then_some(WalPosition { timeline: timeline as u32, segment: log * SEGMENTS_PER_LOG + low })
    }

    pub fn name(self) -> String {
        let (log, low) = (self.segment / SEGMENTS_PER_LOG, self.segment % SEGMENTS_PER_LOG);
        format!("{:08X}{log:08X}{low:08X}", self.timeline)
    }

    /// The number of the segment with this position.
    fn containing(lsn: u64) -> u64 {
        lsn / SEGMENT_BYTES
    }

    /// Whether the WAL up to this position is in this segment or before it.
    pub(super) fn ends_after(self, lsn: u64) -> bool {
        WalPosition::containing(lsn) <= self.segment
    }
}

/// The files that pgBackRest lists for one archive id.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ArchivedWal {
    /// When each segment was archived, in seconds since 1970.
    segments: BTreeMap<WalPosition, i64>,
    /// The newest timeline with a history file.
    newest_history: Option<u32>,
    /// The timelines before the newest one, each with the position at which the next one branched off.
    history: Vec<(u32, u64)>,
}

/// How far the WAL goes without a gap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reach {
    pub last: WalPosition,
    /// When the last segment was archived.
    pub at: i64,
    /// The first segment that is missing, if there are later ones.
    pub missing: Option<WalPosition>,
}

impl ArchivedWal {
    /// From the paths of the files and their times.
    pub fn new<'a>(files: impl Iterator<Item = (&'a str, i64)>) -> ArchivedWal {
        let mut wal = ArchivedWal::default();
        for (path, at) in files {
            let name = path.rsplit('/').next().unwrap_or_default();
            if let Some(timeline) = name.strip_suffix(".history") {
                let timeline = u32::from_str_radix(timeline, 16).ok();
                wal.newest_history = wal.newest_history.max(timeline);
            } else if let Some(position) = name.split_once('-').and_then(|(name, _)| WalPosition::parse(name))
            {
                wal.segments.insert(position, at);
            }
        }
        wal
    }

    /// The name of the file whose content [`ArchivedWal::with_history`] needs.
    pub fn history_file(&self) -> Option<String> {
        self.newest_history.map(|timeline| format!("{timeline:08X}.history"))
    }

    /// Adds the timelines in the newest history file.
    pub fn with_history(self, text: &str) -> ArchivedWal {
        let line = |line: &str| {
            let mut words = line.split_whitespace();
            Some((words.next()?.parse().ok()?, position_of(words.next()?)?))
        };
        ArchivedWal { history: text.lines().filter_map(line).collect(), ..self }
    }

    /// The timeline on which the archive ends.
    pub fn newest_timeline(&self) -> u32 {
        let segments = self.segments.keys().map(|position| position.timeline).max();
        self.newest_history.or(segments).unwrap_or(1)
    }

    /// The timeline of a segment on the way to the newest timeline.
    fn timeline_of(&self, segment: u64) -> u32 {
        let before = self.history.iter().find(|(_, end)| segment < WalPosition::containing(*end));
        before.map_or(self.newest_timeline(), |(timeline, _)| *timeline)
    }

    /// Whether a recovery from here comes to the newest timeline. Otherwise this segment is of an old leader that wrote on
    /// after another one had been promoted.
    pub(super) fn is_followed(&self, from: WalPosition) -> bool {
        let ends_here = |(timeline, end): &(u32, u64)| {
            *timeline == from.timeline && from.segment <= WalPosition::containing(*end)
        };
        from.timeline == self.newest_timeline() || self.history.iter().any(ends_here)
    }

    /// Whether the next timeline branched off from this one at this position or later.
    pub(super) fn has_not_branched(&self, timeline: u32, lsn: u64) -> bool {
        timeline == self.newest_timeline()
            || self.history.iter().any(|(id, end)| *id == timeline && lsn <= *end)
    }

    /// The segments from here on without a gap, on the way to the newest timeline, each with the time when it was archived.
    fn path(&self, from: WalPosition) -> impl Iterator<Item = (WalPosition, i64)> {
        let at = |segment: u64| WalPosition { timeline: self.timeline_of(segment), segment };
        // The timeline may have changed in the middle of the first segment.
        let first = if self.segments.contains_key(&from) { from } else { at(from.segment) };
        let following = move |position: &WalPosition| Some(at(position.segment + 1));
        let positions = std::iter::successors(Some(first), following);
        positions.map_while(|position| Some((position, *self.segments.get(&position)?)))
    }

    /// The segments that a restore reads from here on: up to the first one that was archived at or after `moment`, given as
    /// seconds since 1970.
    pub fn needed(&self, from: WalPosition, moment: i64) -> Vec<WalPosition> {
        let path: Vec<_> = self.path(from).collect();
        let end = path.iter().position(|(_, at)| *at >= moment).map_or(path.len(), |at| at + 1);
        path[..end].iter().map(|(position, _)| *position).collect()
    }

    /// How far the WAL goes from here on the way to the newest timeline; `None` if it does not start there.
    pub(super) fn reach(&self, from: WalPosition) -> Option<Reach> {
        if !self.is_followed(from) {
            return None;
        }
        let (last, time) = self.path(from).last()?;
        let at = |segment: u64| WalPosition { timeline: self.timeline_of(segment), segment };
        let next = at(last.segment + 1);
        let later =
            self.segments.keys().any(|found| found.segment > last.segment && *found == at(found.segment));
        Some(Reach { last, at: time, missing: later.then_some(next) })
    }
}
