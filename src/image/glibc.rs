//! Checks that hanode-firstboot starts in a tree: its glibc must not be older than the one the program was linked with.

use anyhow::{Result, bail};
use hanode_util::user_error::UserError;
use std::collections::BTreeMap;

/// Precedes the version in a program's dynamic symbols.
const SYMBOL_PREFIX: &[u8] = b"GLIBC_";

/// The packages of glibc in the Debian and EL families.
const PACKAGES: [&str; 2] = ["libc6", "glibc"];

type Version = (u32, u32);

/// Fails if the glibc of the tree is too old for the program.
pub(crate) fn check(program: &[u8], packages: &BTreeMap<String, String>) -> Result<()> {
    let installed = PACKAGES.iter().find_map(|name| parse(packages.get(*name)?.as_bytes()));
    let (Some(needed), Some(installed)) = (needed(program), installed) else { return Ok(()) };
    if needed > installed {
        bail!(UserError::with_help(
            format!(
                "hanode-firstboot needs glibc {}.{}, the target has {}.{}",
                needed.0, needed.1, installed.0, installed.1
            ),
            "run `make dist` and build the image with dist/hanode"
        ));
    }
    Ok(())
}

/// The newest version among the symbols.
fn needed(program: &[u8]) -> Option<Version> {
    let found =
        program.windows(SYMBOL_PREFIX.len()).enumerate().filter(|(_, window)| *window == SYMBOL_PREFIX);
    found.filter_map(|(at, _)| parse(&program[at + SYMBOL_PREFIX.len()..])).max()
}

/// `2.31-0ubuntu9.17` is 2.31, and so is `2.31` before a NUL.
fn parse(text: &[u8]) -> Option<Version> {
    let mut numbers = text.splitn(2, |b| *b == b'.').map(|part| {
        let digits = part.iter().take_while(|b| b.is_ascii_digit()).count();
        std::str::from_utf8(&part[..digits]).ok()?.parse().ok()
    });
    let major = text.first().filter(|b| b.is_ascii_digit()).and_then(|_| numbers.next()?)?;
    Some((major, numbers.next()??))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(program: &[u8], package: &str, version: &str) -> Option<String> {
        let packages = BTreeMap::from([(package.to_string(), version.to_string())]);
        check(program, &packages).err().map(|e| hanode_util::user_error::report(&e))
    }

    #[test]
    fn a_tree_with_an_older_glibc_is_refused() {
        let program = b"\x7fELF\0GLIBC_2.2.5\0GLIBC_2.34\0GLIBC_PRIVATE\0GLIBC_2.9\0";
        assert_eq!(refusal(program, "libc6", "2.36-9+deb12u10"), None);
        assert_eq!(refusal(program, "glibc", "2.34-100.el9"), None);
        for (package, version) in [("libc6", "2.31-0ubuntu9.17"), ("glibc", "2.28-164.el8")] {
            let error = refusal(program, package, version).unwrap();
            assert!(error.contains("needs glibc 2.34") && error.contains("make dist"), "{error}");
        }
        assert_eq!(refusal(b"no program at all", "libc6", "2.31-1"), None);
    }
}
