//! Whether the image's program starts in a tree: a program asks for the glibc it was linked with, or a newer one.

use anyhow::{Result, bail};
use std::collections::BTreeMap;

/// How a program's dynamic symbols name the version they need.
const MARK: &[u8] = b"GLIBC_";

/// The packages that bring glibc: of the Debian family, of the EL family.
const PACKAGES: [&str; 2] = ["libc6", "glibc"];

type Version = (u32, u32);

/// Refuses a program for a tree whose glibc is too old for it.
pub(crate) fn check(program: &[u8], packages: &BTreeMap<String, String>) -> Result<()> {
    let there = PACKAGES.iter().find_map(|name| parse(packages.get(*name)?.as_bytes()));
    let (Some(needed), Some(there)) = (needed(program), there) else { return Ok(()) };
    if needed > there {
        bail!(
            "the image's program needs glibc {}.{}, and the target has {}.{}: run `make dist`, and build the image with dist/hanode",
            needed.0,
            needed.1,
            there.0,
            there.1
        );
    }
    Ok(())
}

/// The newest version that any symbol needs.
fn needed(program: &[u8]) -> Option<Version> {
    let found = program.windows(MARK.len()).enumerate().filter(|(_, window)| *window == MARK);
    found.filter_map(|(at, _)| parse(&program[at + MARK.len()..])).max()
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

    fn told(program: &[u8], package: &str, version: &str) -> Option<String> {
        let packages = BTreeMap::from([(package.to_string(), version.to_string())]);
        check(program, &packages).err().map(|e| e.to_string())
    }

    #[test]
    fn a_program_goes_where_its_newest_symbol_is_known() {
        let program = b"\x7fELF\0GLIBC_2.2.5\0GLIBC_2.34\0GLIBC_PRIVATE\0GLIBC_2.9\0";
        assert_eq!(told(program, "libc6", "2.36-9+deb12u10"), None);
        assert_eq!(told(program, "glibc", "2.34-100.el9"), None);
        for (package, version) in [("libc6", "2.31-0ubuntu9.17"), ("glibc", "2.28-164.el8")] {
            let told = told(program, package, version).unwrap();
            assert!(told.contains("needs glibc 2.34") && told.contains("make dist"), "{told}");
        }
        assert_eq!(told(b"no program at all", "libc6", "2.31-1"), None);
    }
}
