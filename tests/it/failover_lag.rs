//! Patroni's limit on the lag of a standby that is promoted: none for the synchronous standby, the operator's otherwise.

use crate::cases::Case;
use hanode_core::spec::{self, STARTER};
use hanode_util::file_tree::Kind;
use serde_json::Value;

/// What etcd gets as Patroni's settings, of the starter with this edit, on one target.
fn dynamic(target: &str, edit: (&str, &str)) -> Value {
    assert!(STARTER.contains(edit.0), "the starter has no {:?}", edit.0);
    let mut case = Case::of(3).on(target);
    case.spec = spec::parse(&STARTER.replace(edit.0, edit.1)).unwrap_or_else(|faults| panic!("{faults}"));
    let path = case.target.path("patroni_dynamic").expect("a path").to_string();
    let entry = case.render("node1").into_iter().find(|e| e.path == path).expect("the file");
    let Kind::File(content) = entry.kind else { panic!("{path} is no file") };
    serde_json::from_slice(&content).expect("JSON")
}

/// It may have all the WAL of a lost link to catch up on, and has every acknowledged commit all the same.
#[test]
fn the_synchronous_standby_is_promoted_whatever_its_lag() {
    for target in ["debian-13", "ubuntu-20.04", "ubuntu-22.04", "centos-8"] {
        let settings = dynamic(target, ("schema = 1", "schema = 1"));
        assert_eq!(settings["synchronous_mode"], true, "{target}");
        let limit = settings["maximum_lag_on_failover"].as_u64().expect("a number");
        assert!(limit >= 1 << 50, "{target}: {limit} keeps the synchronous standby from promotion");
    }
}

#[test]
fn without_synchronous_the_limit_is_the_operators() {
    let off = "synchronous = false ";
    let settings = dynamic("debian-13", ("synchronous = true ", off));
    assert_eq!(settings["maximum_lag_on_failover"], 1_048_576, "Patroni's default");
    let own = format!("maximum_lag_on_failover = \"16MB\"\n{off}");
    let settings = dynamic("debian-13", ("synchronous = true ", &own));
    assert_eq!(settings["maximum_lag_on_failover"], 16 << 20);
}

#[test]
fn a_limit_that_is_no_size_or_has_no_effect_is_told() {
    let with = |line: &str| STARTER.replace("[postgres]\n", &format!("[postgres]\n{line}\n"));
    let faults = spec::parse(&with("maximum_lag_on_failover = \"16 megabytes\"")).expect_err("a fault");
    assert_eq!(faults.0.len(), 1, "{faults}");
    assert!(faults.to_string().contains("is not a size"), "{faults}");
    let spec = spec::parse(&with("maximum_lag_on_failover = \"16MB\"")).expect("a spec");
    let warned = spec::warnings(&spec);
    assert!(warned.iter().any(|w| w.what.contains("has no effect with synchronous = true")), "{warned:?}");
}
