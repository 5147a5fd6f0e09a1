//! Files of SSH public keys.

use anyhow::{Result, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use hanode_util::user_error::{UserError, unreadable};
use std::path::Path;

/// The keys in a file, one per line; empty lines and comments are skipped.
pub fn public_keys(file: &Path) -> Result<String> {
    let place = file.display();
    let text = std::fs::read_to_string(file).map_err(|error| unreadable(file, error))?;
    ensure!(
        !text.contains("PRIVATE KEY"),
        UserError::with_help(format!("{place} is a private key"), format!("use the public key, {place}.pub"))
    );
    let mut keys = String::new();
    for (number, line) in text.lines().map(str::trim).enumerate() {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        ensure!(
            is_public_key(line),
            UserError::with_help(
                format!("{place}:{}: not a public key", number + 1),
                "use lines in the format of ~/.ssh/id_ed25519.pub"
            )
        );
        keys += line;
        keys.push('\n');
    }
    ensure!(!keys.is_empty(), "{place} has no public key");
    Ok(keys)
}

/// The key type, the key in base64, which starts with the type again, and optionally a comment.
fn is_public_key(line: &str) -> bool {
    let mut fields = line.split_whitespace();
    let (Some(kind), Some(key)) = (fields.next(), fields.next()) else { return false };
    let header = [&(kind.len() as u32).to_be_bytes()[..], kind.as_bytes()].concat();
    BASE64.decode(key).is_ok_and(|key| key.len() > header.len() && key.starts_with(&header))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIL6seqcPITKiYIqHsNODfdWhvkhlwMkN8kq5F1HBItzF admin@example.org";

    fn read(text: &str) -> Result<String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        public_keys(file.path())
    }

    #[test]
    fn files_with_one_or_several_keys_are_read() {
        assert_eq!(read(KEY).unwrap(), format!("{KEY}\n"));
        let several = read(&format!("# mine\n{KEY}\r\n\n  {KEY}\n")).unwrap();
        assert_eq!(several, format!("{KEY}\n{KEY}\n"));
    }

    #[test]
    fn other_content_is_refused_and_not_repeated() {
        for (text, why) in [
            ("", "has no public key"),
            ("# nothing\n", "has no public key"),
            ("-----BEGIN OPENSSH PRIVATE KEY-----\nhush\n", "is a private key"),
            ("hush hush", ":1: not a public key"),
            ("ssh-ed25519", ":1: not a public key"),
            (
                "ssh-rsa AAAAC3NzaC1lZDI1NTE5AAAAIL6seqcPITKiYIqHsNODfdWhvkhlwMkN8kq5F1HBItzF",
                ":1: not a public key",
            ),
        ] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains(why) && !error.contains("hush"), "{text:?}: {error}");
        }
    }
}
