//! Whether a snapshot of Redis is complete and unchanged, by the checksum at its end.

use anyhow::{Result, bail, ensure};
use std::io::{self, Write};

/// The polynomial of Redis' CRC-64, with its bits reversed.
const POLYNOMIAL: u64 = 0x95ac_9329_ac4b_c9b5;
const TABLE: [u64; 256] = table();
const MAGIC: &[u8] = b"REDIS";
const CHECKSUM: usize = 8;

/// Takes a snapshot as it is read, and keeps its end only.
#[derive(Debug, Default)]
pub struct RdbCheck {
    start: Vec<u8>,
    /// The last bytes, which may be the checksum of those before them.
    end: Vec<u8>,
    crc: u64,
    bytes: u64,
}

impl RdbCheck {
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Fails unless the checksum is that of all bytes before it.
    pub fn finish(&self) -> Result<()> {
        ensure!(self.start == MAGIC, "it is not a snapshot of Redis");
        let Ok(checksum) = <[u8; CHECKSUM]>::try_from(self.end.as_slice()) else { bail!("it is truncated") };
        ensure!(u64::from_le_bytes(checksum) == self.crc, "its checksum is wrong");
        Ok(())
    }
}

impl Write for RdbCheck {
    fn write(&mut self, new: &[u8]) -> io::Result<usize> {
        let missing = MAGIC.len() - self.start.len();
        self.start.extend(new.iter().take(missing));
        self.bytes += new.len() as u64;
        self.end.extend(new);
        let covered = self.end.len().saturating_sub(CHECKSUM);
        for byte in self.end.drain(..covered) {
            self.crc = TABLE[usize::from(self.crc as u8 ^ byte)] ^ (self.crc >> 8);
        }
        Ok(new.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

const fn table() -> [u64; 256] {
    let mut table = [0; 256];
    let mut at = 0;
    while at < table.len() {
        let mut crc = at as u64;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ POLYNOMIAL } else { crc >> 1 };
            bit += 1;
        }
        table[at] = crc;
        at += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Written by Redis 8.0.2 for a database without a key.
    const EMPTY: &[u8] =
        b"REDIS0012\xfa\x09redis-ver\x058.0.2\xfa\x0aredis-bits\xc0\x40\xfa\x05ctime\xc2\x2d\xdc\x03\x6b\
        \xfa\x08used-mem\xc2\xf0\x3c\x0a\x00\xfa\x08aof-base\xc0\x01\xff\x1e\x97\xfa\xe5\x7d\x80\x1c\x85";

    fn checked(text: &[u8], chunk: usize) -> Result<u64> {
        let mut check = RdbCheck::default();
        text.chunks(chunk).try_for_each(|part| check.write_all(part))?;
        check.finish()?;
        Ok(check.bytes())
    }

    #[test]
    fn a_snapshot_of_redis_passes_in_parts_of_any_size() {
        for chunk in 1..=EMPTY.len() {
            assert_eq!(checked(EMPTY, chunk).unwrap(), EMPTY.len() as u64, "{chunk}");
        }
    }

    #[test]
    fn every_changed_byte_and_every_lost_end_is_found() {
        for at in 0..EMPTY.len() {
            let mut changed = EMPTY.to_vec();
            changed[at] ^= 4;
            assert!(checked(&changed, 7).is_err(), "{at}");
            assert!(checked(&EMPTY[..at], 7).is_err(), "{at}");
        }
    }
}
