//! Generates the target's locales in a tree. A package that has a locale, as on EL, leaves nothing to do.

use anyhow::{Context, Result};
use hanode_core::target::Target;
use hanode_util::command::{in_chroot, run};
use std::path::Path;

pub(crate) fn generate(root: &Path, target: &Target) -> Result<()> {
    let output = run(in_chroot(root, "locale").arg("-a"))?;
    let existing: Vec<String> = output.text()?.lines().map(normalized).collect();
    for name in target.base.locales.iter().filter(|name| !existing.contains(&normalized(name))) {
        let (language, charset) =
            name.split_once('.').with_context(|| format!("the locale {name} has no character set"))?;
        run(in_chroot(root, "localedef").args(["-i", language, "-f", charset, name]))
            .with_context(|| format!("generating the locale {name}"))?;
    }
    Ok(())
}

/// glibc lists `en_US.UTF-8` as `en_US.utf8`.
fn normalized(name: &str) -> String {
    name.trim().to_ascii_lowercase().replace('-', "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_spellings_of_a_locale_are_the_same() {
        assert_eq!(normalized("en_US.UTF-8"), normalized("en_US.utf8"));
        assert_ne!(normalized("en_US.UTF-8"), normalized("en_US"));
    }
}
