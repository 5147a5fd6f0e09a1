//! Patroni's limit of the lag at which a standby is promoted: none for the synchronous standby, else the one of the spec.

use crate::cases::Case;
use hanode_core::spec::{self, STARTER};
use hanode_util::file_tree::EntryKind;
use serde_json::Value;

/// Patroni's dynamic configuration of the starter spec with one edit, for one target.
fn dynamic_config(target: &str, edit: (&str, &str)) -> Value {
    assert!(STARTER.contains(edit.0), "the starter spec has no {:?}", edit.0);
    let mut case = Case::of(3).on(target);
    case.spec = spec::parse(&STARTER.replace(edit.0, edit.1)).unwrap_or_else(|faults| panic!("{faults}"));
    let path = case.target.path("patroni_dynamic").expect("path of patroni_dynamic").to_string();
    let entry = case
        .render("node1")
        .into_iter()
        .find(|e| e.path == path)
        .expect("an entry for the dynamic configuration");
    let EntryKind::File(content) = entry.kind else { panic!("{path} is not a file") };
    serde_json::from_slice(&content).expect("parse the dynamic configuration")
}

/// It has every acknowledged commit, even if it has not received all WAL of the leader.
#[test]
fn the_synchronous_standby_is_promoted_whatever_its_lag() {
    for target in ["debian-13", "ubuntu-20.04", "ubuntu-22.04", "centos-8"] {
        let settings = dynamic_config(target, ("schema = 1", "schema = 1"));
        assert_eq!(settings["synchronous_mode"], true, "{target}");
        let limit = settings["maximum_lag_on_failover"].as_u64().expect("a number of bytes");
        assert!(limit >= 1 << 50, "{target}: {limit} prevents the promotion of the synchronous standby");
    }
}

#[test]
fn without_synchronous_mode_the_limit_of_the_spec_applies() {
    let off = "synchronous = false ";
    let settings = dynamic_config("debian-13", ("synchronous = true ", off));
    assert_eq!(settings["maximum_lag_on_failover"], 1_048_576, "Patroni's default");
    let own = format!("maximum_lag_on_failover = \"16MB\"\n{off}");
    let settings = dynamic_config("debian-13", ("synchronous = true ", &own));
    assert_eq!(settings["maximum_lag_on_failover"], 16 << 20);
}

#[test]
fn a_limit_that_is_not_a_size_is_a_fault_and_one_without_effect_a_warning() {
    let with = |line: &str| STARTER.replace("[postgres]\n", &format!("[postgres]\n{line}\n"));
    let faults = spec::parse(&with("maximum_lag_on_failover = \"16 megabytes\""))
        .expect_err("a limit that is not a size");
    assert_eq!(faults.0.len(), 1, "{faults}");
    assert!(faults.to_string().contains("is not a size"), "{faults}");
    let spec = spec::parse(&with("maximum_lag_on_failover = \"16MB\"")).expect("parse a spec with a limit");
    let warnings = spec::warnings(&spec);
    assert!(
        warnings.iter().any(|w| w.what.contains("has no effect with synchronous = true")),
        "{warnings:?}"
    );
}
