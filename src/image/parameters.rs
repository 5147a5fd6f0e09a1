//! The names under `[postgres.parameters]`, held against the PostgreSQL that is installed: a wrong one is found where the
//! image is made, not where it boots. Values are for the node, whose PostgreSQL reads them before it starts.

use anyhow::{Result, bail};
use hanode_core::spec::{Spec, nearest};
use hanode_core::target::Target;
use hanode_util::command::{self, in_isolated_chroot};
use std::path::Path;

/// Every parameter that the tree's PostgreSQL knows.
pub(crate) fn known(root: &Path, target: &Target) -> Result<Vec<String>> {
    let server = format!("{}/postgres", target.path("postgres_bin")?);
    let said = command::run(in_isolated_chroot(root, &server).arg("--describe-config"))?;
    let name = |line: &str| line.split('\t').next().map(|name| name.trim().to_ascii_lowercase());
    Ok(said.text()?.lines().filter_map(name).filter(|name| !name.is_empty()).collect())
}

/// All unknown names at once. One with a dot is an extension's, and taken as it is.
pub(crate) fn check(spec: &Spec, known: &[String], version: &str) -> Result<()> {
    let known: Vec<&str> = known.iter().map(String::as_str).collect();
    let unknown = |name: &&String| {
        !name.contains('.') && !known.iter().any(|k| k.eq_ignore_ascii_case(name)) && !known.is_empty()
    };
    let said = |name: &String| match nearest(&name.to_ascii_lowercase(), &known) {
        Some(near) => format!("{name} (did you mean {near}?)"),
        None => name.clone(),
    };
    let names: Vec<_> = spec.postgres.parameters.keys().filter(unknown).map(said).collect();
    if names.is_empty() {
        return Ok(());
    }
    bail!(
        "cluster.toml: [postgres.parameters]: PostgreSQL {version} of this target knows no {}; correct or remove it",
        names.join(", no ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_unknown_names_are_told_at_once_with_the_nearest_ones() {
        let mut spec =
            hanode_core::spec::parse(hanode_core::spec::STARTER).unwrap_or_else(|faults| panic!("{faults}"));
        let known = ["work_mem", "log_statement"].map(String::from);
        let mut given = |name: &str| {
            spec.postgres.parameters.insert(name.into(), "1".into());
            check(&spec, &known, "17.5").map_err(|error| error.to_string())
        };
        assert_eq!(given("WORK_MEM"), Ok(()));
        assert_eq!(given("auto_explain.log_min_duration"), Ok(()));
        let told = given("wrok_mem").unwrap_err();
        assert!(
            told.contains("PostgreSQL 17.5 of this target knows no wrok_mem (did you mean work_mem?);"),
            "{told}"
        );
        assert!(given("zzz").unwrap_err().contains("(did you mean work_mem?), no zzz;"));
    }
}
