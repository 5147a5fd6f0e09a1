//! The result of `pgbackrest verify --output=text --verbose --log-level-stderr=info`, whose exit code does not show it.

/// Upper bound on what is listed of a repository with much damage.
const MAX_FAULTS: usize = 50;

/// What is damaged or missing: the files that the messages name, else the lines of the result. Only a result
/// with `status: ok` has no damage.
pub fn damage(result: &str, messages: &str) -> Vec<String> {
    let lines = || result.lines().map(str::trim).filter(|line| !line.is_empty());
    if lines().any(|line| line == "status: ok") {
        return Vec::new();
    }
    let named = messages.lines().filter_map(|line| line.trim().strip_prefix("INFO: "));
    let named =
        named.filter(|line| ["invalid ", "missing ", "unable "].iter().any(|word| line.starts_with(word)));
    let mut faults: Vec<String> = named.take(MAX_FAULTS).map(String::from).collect();
    if faults.is_empty() {
        let shown = lines().filter(|line| !line.starts_with("stanza: ") && *line != "status: error");
        faults.extend(shown.take(MAX_FAULTS).map(String::from));
    }
    if faults.is_empty() {
        faults.push("pgBackRest has reported no result".into());
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::damage;

    #[test]
    fn only_a_result_that_is_ok_has_no_damage() {
        let intact = "stanza: t\nstatus: ok\n  archiveId: 15-1, total WAL checked: 7, total valid WAL: 7\n";
        assert!(damage(intact, "INFO: verify command begin 2.45\n").is_empty());
        assert_eq!(damage("", ""), ["pgBackRest has reported no result"]);
    }

    /// As pgBackRest 2.45 prints them.
    #[test]
    fn the_damaged_files_are_named() {
        let result = "stanza: t\nstatus: error\n  backup: 20261130-204519F, status: invalid, total files checked: 964\n";
        let messages = "INFO: verify command begin 2.45\nINFO: invalid checksum '20261130-204519F/pg_data/PG_VERSION.lz4'\n\
            INFO: stanza: t\n      status: error\n";
        assert_eq!(damage(result, messages), ["invalid checksum '20261130-204519F/pg_data/PG_VERSION.lz4'"]);
        let unreadable =
            "stanza: t\nstatus: error\n  No usable backup.info file\n  No usable archive.info file\n";
        assert_eq!(damage(unreadable, ""), ["No usable backup.info file", "No usable archive.info file"]);
    }
}
