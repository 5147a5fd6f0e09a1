//! The parser of the spec on random input: it never panics, and each fault has a text and a line.

use hanode_core::spec::{Faults, STARTER, parse};
use proptest::prelude::*;

proptest! {
    #[test]
    fn garbage_never_panics(text in "\\PC*") {
        prop_assert!(parse(&text).is_err());
    }

    /// Lines of the starter, cut, repeated and damaged.
    #[test]
    fn a_damaged_starter_never_panics(
        order in prop::collection::vec((0usize..83, 0usize..40, "[\\PC\\n\"\\[\\]={}#,.0-9]{0,6}"), 0..120)
    ) {
        let lines: Vec<&str> = STARTER.lines().collect();
        let mut text = String::new();
        for (line, cut, insert) in order {
            let line = lines[line % lines.len()];
            let at = line.char_indices().map(|(i, _)| i).nth(cut).unwrap_or(line.len());
            text.push_str(&format!("{}{insert}{}\n", &line[..at], &line[at..]));
        }
        spec_or_faults(&text)?;
    }

    /// Well-formed TOML with any values under the known keys.
    #[test]
    fn any_value_is_accepted_or_reported(values in prop::collection::vec((key(), value()), 0..60)) {
        let mut text = String::from("schema = 1\n");
        let mut taken = std::collections::BTreeSet::new();
        for (key, value) in values {
            if taken.insert(key) {
                text.push_str(&format!("{key} = {value}\n"));
            }
        }
        spec_or_faults(&text)?;
    }
}

/// Either a spec, or faults that each have a text and a line of the file.
fn spec_or_faults(text: &str) -> Result<(), TestCaseError> {
    match parse(text) {
        Ok(spec) => prop_assert!(spec.nodes.len() % 2 == 1),
        Err(Faults(faults)) => {
            prop_assert!(!faults.is_empty());
            for fault in faults {
                prop_assert!(fault.line <= text.matches('\n').count() + 1);
                let message = fault.to_string();
                prop_assert!(!fault.what.is_empty() && !message.chars().any(char::is_control), "{message:?}");
            }
        }
    }
    Ok(())
}

fn key() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "name",
        "network.subnet",
        "network.clients",
        "network.vip",
        "network.vip_mode",
        "node",
        "postgres.tls",
        "postgres.port",
        "postgres.parameters.work_mem",
        "postgres.alt_names",
        "patroni.ttl",
        "patroni.loop_wait",
        "redis.min_replicas",
        "redis.initial_primary",
        "haproxy.extra.global",
        "pki.ca_days",
        "pki.crl_url",
        "storage.data",
        "keepalived.router_id",
        "nonsense",
    ])
}

fn value() -> impl Strategy<Value = String> {
    let basic = prop_oneof![
        any::<i64>().prop_map(|n| n.to_string()),
        any::<bool>().prop_map(|b| b.to_string()),
        any::<f64>().prop_map(|f| format!("{f:e}").replace("NaN", "nan")),
        any::<String>().prop_map(|s| toml::Value::String(s).to_string()),
        any::<std::net::Ipv4Addr>().prop_map(|a| format!("\"{a}\"")),
        (any::<std::net::Ipv6Addr>(), 0..200u8).prop_map(|(a, n)| format!("\"{a}/{n}\"")),
        Just("1979-05-27T07:32:00Z".to_string()),
    ];
    basic.prop_recursive(2, 12, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(|items| format!("[{}]", items.join(", "))),
            inner.prop_map(|value| format!("{{ name = {value}, address = {value} }}")),
        ]
    })
}
