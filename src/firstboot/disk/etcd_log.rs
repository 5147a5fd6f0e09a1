//! Whose log etcd's write-ahead log on this disk is: each of its files says so at its head.

use anyhow::{Context, Result, ensure};
use hanode_core::peer::EtcdLogIds;
use std::io::Read;
use std::path::Path;

/// Its ids lie within the first few records.
const HEAD: u64 = 512;
/// The record that holds the ids of member and cluster.
const METADATA: u64 = 1;

/// What the log says of itself; `None` where there is none.
pub(crate) fn read(data: &Path) -> Result<Option<EtcdLogIds>> {
    let names = std::fs::read_dir(data.join("member/wal")).into_iter().flatten().flatten();
    let newest = names.map(|e| e.path()).filter(|p| p.extension().is_some_and(|e| e == "wal")).max();
    let Some(file) = newest else { return Ok(None) };
    let mut head = Vec::new();
    let read = std::fs::File::open(&file).and_then(|f| f.take(HEAD).read_to_end(&mut head));
    read.with_context(|| format!("reading {}", file.display()))?;
    ids(&head).with_context(|| format!("{} is no log of etcd's", file.display())).map(Some)
}

fn ids(head: &[u8]) -> Result<EtcdLogIds> {
    let mut rest = head;
    loop {
        let (frame, after) = rest.split_at_checked(8).context("it ends early")?;
        let frame = u64::from_le_bytes(frame.try_into()?);
        // The upper byte says how far the record is padded, where it is.
        let padding = if frame >> 63 == 1 { (frame >> 56 & 7) as usize } else { 0 };
        let length = usize::try_from(frame & 0x00ff_ffff_ffff_ffff)?;
        let (record, after) = after.split_at_checked(length).context("it ends early")?;
        if field(record, 1)?.number()? == METADATA {
            let data = field(record, 3)?.bytes()?;
            let id = |number| Ok::<_, anyhow::Error>(field(data, number)?.number()?.to_string());
            return Ok(EtcdLogIds { member: id(1)?, cluster: id(2)? });
        }
        rest = after.get(padding..).context("it ends early")?;
    }
}

/// A value of protobuf's wire format.
enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

impl<'a> Value<'a> {
    fn number(&self) -> Result<u64> {
        match self {
            Value::Number(number) => Ok(*number),
            Value::Bytes(_) => anyhow::bail!("bytes where a number should be"),
        }
    }

    fn bytes(&self) -> Result<&'a [u8]> {
        match self {
            Value::Bytes(bytes) => Ok(bytes),
            Value::Number(_) => anyhow::bail!("a number where bytes should be"),
        }
    }
}

/// The first field of this number.
fn field(mut message: &[u8], wanted: u64) -> Result<Value<'_>> {
    loop {
        let key = varint(&mut message)?;
        let value = match key & 7 {
            0 => Value::Number(varint(&mut message)?),
            2 => {
                let length = usize::try_from(varint(&mut message)?)?;
                let (bytes, after) = message.split_at_checked(length).context("it ends early")?;
                message = after;
                Value::Bytes(bytes)
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
        let (byte, after) = message.split_first().context("it ends early")?;
        *message = after;
        ensure!(shift < 64, "a number that is too long");
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

    /// The head of a log that etcd 3.5.16 wrote as member 52d20c3e2774bf8f of cluster 3621212df6d0d068.
    const LOG: [u8; 56] = [
        0x04, 0, 0, 0, 0, 0, 0, 0x84, 0x08, 0x04, 0x10, 0, 0, 0, 0, 0, 0x1e, 0, 0, 0, 0, 0, 0, 0x82, 0x08,
        0x01, 0x10, 0xb9, 0xbf, 0xfe, 0xab, 0x08, 0x1a, 0x14, 0x08, 0x8f, 0xff, 0xd2, 0xbb, 0xe2, 0x87, 0x83,
        0xe9, 0x52, 0x10, 0xe8, 0xa0, 0xc3, 0xb6, 0xdf, 0xa5, 0xc8, 0x90, 0x36, 0, 0,
    ];

    #[test]
    fn a_log_names_its_member() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(dir.path()).unwrap(), None);
        let wal = dir.path().join("member/wal");
        std::fs::create_dir_all(&wal).unwrap();
        std::fs::write(wal.join("0000000000000000-0000000000000000.wal"), LOG).unwrap();
        std::fs::write(wal.join("0.tmp"), "being written").unwrap();
        let found = read(dir.path()).unwrap().unwrap();
        assert_eq!(found.member, 0x52d2_0c3e_2774_bf8f_u64.to_string());
        assert_eq!(found.cluster, 0x3621_212d_f6d0_d068_u64.to_string());
        std::fs::write(wal.join("0000000000000001-0000000000000009.wal"), "").unwrap();
        assert!(read(dir.path()).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_end_in_an_id_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..128)) {
            let _ = ids(&bytes);
        }
    }
}
