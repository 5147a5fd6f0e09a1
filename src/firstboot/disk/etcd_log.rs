//! The member to which etcd's write-ahead log on this disk belongs; each of its files starts with the ids.

use super::Disk;
use anyhow::{Context, Result, ensure};
use hanode_core::peer::EtcdLogIds;
use std::io::Read;
use std::path::Path;

/// The ids are in the first few records.
const HEAD_BYTES: u64 = 512;
/// Type of the record with the ids of member and cluster.
const METADATA_TYPE: u64 = 1;

impl Disk {
    /// The ids in etcd's log; `None` without a log that can be read.
    pub(crate) fn etcd_log(&self) -> Option<EtcdLogIds> {
        read(&self.at(&self.paths.etcd)).unwrap_or_default()
    }
}

/// The ids in the newest file of the log; `None` without a log.
fn read(data: &Path) -> Result<Option<EtcdLogIds>> {
    let names = std::fs::read_dir(data.join("member/wal")).into_iter().flatten().flatten();
    let newest = names.map(|e| e.path()).filter(|p| p.extension().is_some_and(|e| e == "wal")).max();
    let Some(file) = newest else { return Ok(None) };
    let mut head = Vec::new();
    let read = std::fs::File::open(&file).and_then(|f| f.take(HEAD_BYTES).read_to_end(&mut head));
    read.with_context(|| format!("reading {}", file.display()))?;
    ids(&head).with_context(|| format!("{} is not a write-ahead log of etcd", file.display())).map(Some)
}

fn ids(head: &[u8]) -> Result<EtcdLogIds> {
    let mut rest = head;
    loop {
        let (frame, after) = rest.split_at_checked(8).context("it ends in the middle of a record")?;
        let frame = u64::from_le_bytes(frame.try_into()?);
        // The upper byte has the padding of the record, if it has any.
        let padding = if frame >> 63 == 1 { (frame >> 56 & 7) as usize } else { 0 };
        let length = usize::try_from(frame & 0x00ff_ffff_ffff_ffff)?;
        let (record, after) = after.split_at_checked(length).context("it ends in the middle of a record")?;
        if field(record, 1)?.number()? == METADATA_TYPE {
            let data = field(record, 3)?.bytes()?;
            let id = |number| Ok::<_, anyhow::Error>(field(data, number)?.number()?.to_string());
            return Ok(EtcdLogIds { member: id(1)?, cluster: id(2)? });
        }
        rest = after.get(padding..).context("it ends in the middle of a record")?;
    }
}

/// A value of protobuf's wire format.
enum WireValue<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

impl<'a> WireValue<'a> {
    fn number(&self) -> Result<u64> {
        match self {
            WireValue::Number(number) => Ok(*number),
            WireValue::Bytes(_) => anyhow::bail!("bytes where a number should be"),
        }
    }

    fn bytes(&self) -> Result<&'a [u8]> {
        match self {
            WireValue::Bytes(bytes) => Ok(bytes),
            WireValue::Number(_) => anyhow::bail!("a number where bytes should be"),
        }
    }
}

/// The first field with this number.
fn field(mut message: &[u8], wanted: u64) -> Result<WireValue<'_>> {
    loop {
        let key = varint(&mut message)?;
        let value = match key & 7 {
            0 => WireValue::Number(varint(&mut message)?),
            2 => {
                let length = usize::try_from(varint(&mut message)?)?;
                let (bytes, after) =
                    message.split_at_checked(length).context("it ends in the middle of a record")?;
                message = after;
                WireValue::Bytes(bytes)
            }
            other => anyhow::bail!("a field of wire type {other}"),
        };
        if key >> 3 == wanted {
            return Ok(value);
        }
    }
}

fn varint(message: &mut &[u8]) -> Result<u64> {
    let mut number = 0u64;
    for shift in (0..).step_by(7) {
        let (byte, after) = message.split_first().context("it ends in the middle of a record")?;
        *message = after;
        ensure!(shift < 64, "a number of more than 64 bits");
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            break;
        }
    }
    Ok(number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The head of a log written by etcd 3.5.16 as member 52d20c3e2774bf8f of cluster 3621212df6d0d068.
    const LOG: [u8; 56] = [
        0x04, 0, 0, 0, 0, 0, 0, 0x84, 0x08, 0x04, 0x10, 0, 0, 0, 0, 0, 0x1e, 0, 0, 0, 0, 0, 0, 0x82, 0x08,
        0x01, 0x10, 0xb9, 0xbf, 0xfe, 0xab, 0x08, 0x1a, 0x14, 0x08, 0x8f, 0xff, 0xd2, 0xbb, 0xe2, 0x87, 0x83,
        0xe9, 0x52, 0x10, 0xe8, 0xa0, 0xc3, 0xb6, 0xdf, 0xa5, 0xc8, 0x90, 0x36, 0, 0,
    ];

    #[test]
    fn the_ids_are_read_from_the_newest_file() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(dir.path()).unwrap(), None);
        let wal = dir.path().join("member/wal");
        std::fs::create_dir_all(&wal).unwrap();
        std::fs::write(wal.join("0000000000000000-0000000000000000.wal"), LOG).unwrap();
        std::fs::write(wal.join("0.tmp"), "incomplete").unwrap();
        let found = read(dir.path()).unwrap().unwrap();
        assert_eq!(found.member, 0x52d2_0c3e_2774_bf8f_u64.to_string());
        assert_eq!(found.cluster, 0x3621_212d_f6d0_d068_u64.to_string());
        std::fs::write(wal.join("0000000000000001-0000000000000009.wal"), "").unwrap();
        assert!(read(dir.path()).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_give_ids_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..128)) {
            let _ = ids(&bytes);
        }
    }
}
