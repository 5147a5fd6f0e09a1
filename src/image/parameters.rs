//! Checks `[postgres.parameters]` against the installed PostgreSQL when the image is built: the names, and the libraries
//! to preload. PostgreSQL checks the values on the node.

use anyhow::{Context, Result, bail};
use hanode_core::spec::{Library, Spec, nearest};
use hanode_core::target::Target;
use hanode_util::command::{self, in_isolated_chroot};
use hanode_util::file_tree::below;
use hanode_util::user_error::UserError;
use std::path::Path;

/// The names of all parameters that the tree's PostgreSQL knows.
pub(crate) fn known(root: &Path, target: &Target) -> Result<Vec<String>> {
    let server = format!("{}/postgres", target.path("postgres_bin")?);
    let output = command::run(in_isolated_chroot(root, &server).arg("--describe-config"))?;
    let name = |line: &str| line.split('\t').next().map(|name| name.trim().to_ascii_lowercase());
    Ok(output.text()?.lines().filter_map(name).filter(|name| !name.is_empty()).collect())
}

/// The files in the library directory of the tree's PostgreSQL and in its `plugins`, relative to that directory.
pub(crate) fn libraries(root: &Path, target: &Target) -> Result<Vec<String>> {
    let dir = below(root, &target.postgres_libraries()?);
    let files = |dir: &Path, prefix: &str| -> Result<Vec<String>> {
        let names = std::fs::read_dir(dir).with_context(|| format!("reading {}", dir.display()))?;
        let name = |entry: std::io::Result<std::fs::DirEntry>| {
            Ok(format!("{prefix}{}", entry?.file_name().to_string_lossy()))
        };
        names.map(name).collect()
    };
    let mut all = files(&dir, "")?;
    if all.iter().any(|name| name == "plugins") {
        all.extend(files(&dir.join("plugins"), "plugins/")?);
    }
    all.sort();
    Ok(all)
}

/// Fails with all libraries to preload that are not installed. Absolute paths are checked on the node.
pub(crate) fn check_libraries(spec: &Spec, installed: &[String]) -> Result<()> {
    let exists = |path: &str| path.starts_with('/') || installed.iter().any(|file| file == path);
    let missing = |library: &Library| (!library.is_found(exists)).then(|| library.to_string());
    let missing: Vec<String> = spec.preloaded_libraries().iter().filter_map(missing).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let what = format!("PostgreSQL of this target has no library {}", missing.join(", "));
    bail!(UserError::new(what, "cluster.toml: [postgres.parameters]", "correct or remove it"))
}

/// Fails with all unknown names. A name with a dot belongs to an extension and is not checked.
pub(crate) fn check(spec: &Spec, known: &[String], version: &str) -> Result<()> {
    let known: Vec<&str> = known.iter().map(String::as_str).collect();
    let unknown = |name: &&String| {
        !name.contains('.') && !known.iter().any(|k| k.eq_ignore_ascii_case(name)) && !known.is_empty()
    };
    let suggestion = |name: &String| match nearest(&name.to_ascii_lowercase(), &known) {
        Some(near) => format!("{name} (did you mean {near}?)"),
        None => name.clone(),
    };
    let names: Vec<_> = spec.postgres.parameters.keys().filter(unknown).map(suggestion).collect();
    if names.is_empty() {
        return Ok(());
    }
    let what = format!("PostgreSQL {version} of this target has no parameter {}", names.join(", "));
    bail!(UserError::new(what, "cluster.toml: [postgres.parameters]", "correct or remove it"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_unknown_names_are_reported_with_suggestions() {
        let mut spec =
            hanode_core::spec::parse(hanode_core::spec::STARTER).unwrap_or_else(|faults| panic!("{faults}"));
        let known = ["work_mem", "log_statement"].map(String::from);
        let mut check_with = |name: &str| {
            spec.postgres.parameters.insert(name.into(), "1".into());
            check(&spec, &known, "17.5").map_err(|error| error.to_string())
        };
        assert_eq!(check_with("WORK_MEM"), Ok(()));
        assert_eq!(check_with("auto_explain.log_min_duration"), Ok(()));
        let error = check_with("wrok_mem").unwrap_err();
        assert!(
            error.ends_with(
                "PostgreSQL 17.5 of this target has no parameter wrok_mem (did you mean work_mem?)"
            ),
            "{error}"
        );
        assert!(check_with("zzz").unwrap_err().ends_with("(did you mean work_mem?), zzz"));
    }

    #[test]
    fn all_missing_libraries_are_reported() {
        let mut spec =
            hanode_core::spec::parse(hanode_core::spec::STARTER).unwrap_or_else(|faults| panic!("{faults}"));
        let installed = ["pg_stat_statements.so", "plugins", "plugins/hook.so"].map(String::from);
        let mut check_with = |value: &str| {
            spec.postgres.parameters.insert("shared_preload_libraries".into(), value.into());
            check_libraries(&spec, &installed).map_err(|error| error.to_string())
        };
        assert_eq!(check_with("pg_stat_statements,/opt/own"), Ok(()));
        let error = check_with("pg_stat_statements,timescaledb,pg_cron").unwrap_err();
        assert!(
            error.ends_with(
                "PostgreSQL of this target has no library timescaledb (shared_preload_libraries), pg_cron (shared_preload_libraries)"
            ),
            "{error}"
        );
    }
}
