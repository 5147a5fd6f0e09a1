//! `[haproxy.extra]`: a directive that hanode sets is a fault, since HAProxy would use only one of the two.

use crate::cases::Case;
use hanode_core::spec::{self, STARTER};
use hanode_util::file_tree::EntryKind;

/// Parses the starter spec with extra lines for one section of HAProxy.
fn parse_with(section: &str, lines: &[&str]) -> Result<spec::Spec, spec::Faults> {
    let quoted: Vec<String> = lines.iter().map(|line| format!("'{line}'")).collect();
    spec::parse(&format!("{STARTER}\n{section} = [\n{}\n]\n", quoted.join(",\n")))
}

/// The lines of a section of haproxy.cfg, without comments.
fn section(name: &str, target: &str) -> Vec<String> {
    let entries = Case::of(3).on(target).render("node1");
    let entry =
        entries.into_iter().find(|e| e.path.ends_with("/haproxy.cfg")).expect("an entry for haproxy.cfg");
    let EntryKind::File(content) = entry.kind else { panic!("haproxy.cfg is not a file") };
    let text = String::from_utf8(content).expect("haproxy.cfg in UTF-8");
    let lines = text.lines().skip_while(|line| *line != name).skip(1).take_while(|line| !line.is_empty());
    lines.map(|l| l.trim().to_string()).filter(|l| !l.starts_with('#')).collect()
}

/// Checks every line of the rendered sections. Several `log` lines add up.
#[test]
fn a_directive_that_hanode_sets_is_a_fault() {
    for target in ["debian-13", "centos-8"] {
        for name in ["global", "defaults"] {
            let lines = section(name, target);
            assert!(lines.len() > 10, "{lines:?}");
            for line in lines.iter().filter(|l| !l.starts_with("log ")) {
                let faults = parse_with(name, &[line]).expect_err(line);
                assert_eq!(faults.0.len(), 1, "{faults}");
            }
        }
    }
}

#[test]
fn the_fault_names_the_line_and_the_remedy() {
    let faults =
        parse_with("global", &["nbthread 2", "maxconn 8000"]).expect_err("maxconn in [haproxy.extra]");
    let [fault] = &faults.0[..] else { panic!("{faults}") };
    let expected = STARTER.lines().count() + 4;
    assert_eq!(fault.line, expected, "{fault}");
    assert!(fault.what.contains("maxconn") && fault.help.contains("max_connections"), "{fault}");
    for (name, line, remedy) in [
        ("defaults", "timeout  client 1h", "idle_timeout"),
        ("defaults", "timeout server 1h", "idle_timeout"),
        ("defaults", "timeout tunnel 2h", "idle_timeout"),
        ("defaults", "no option clitcpka", "remove it"),
        ("defaults", "option tcpka", "remove it"),
        ("global", "\"maxconn\" 9", "remove it"),
        ("global", "stats socket ipv4@0.0.0.0:9999 level admin", "remove it"),
        ("global", "daemon", "remove it"),
        ("global", "\\x73tats socket ipv4@0.0.0.0:9999 level admin", "write it without"),
        ("global", "stats s\\x6fcket ipv4@0.0.0.0:9999 level admin", "write it without"),
        ("global", "no \"${HOME}stats\" socket ipv4@0.0.0.0:9999", "write it without"),
        ("global", ".if 0", "write it without"),
        ("defaults", "stats enable", "remove it"),
    ] {
        let faults = parse_with(name, &[line]).expect_err(line);
        assert!(faults.to_string().contains(remedy), "{line}: {faults}");
    }
}

#[test]
fn other_directives_are_accepted() {
    for (name, line) in [
        ("global", "nbthread 2"),
        ("global", "log 192.168.18.5:514 local0"),
        ("global", "setenv PLACE \"hall 1\""),
        ("global", "# a comment \"quoted\""),
        ("defaults", "timeout queue 2h"),
        ("defaults", "timeout queue 10s"),
        ("defaults", "option tcp-smart-accept"),
    ] {
        parse_with(name, &[line]).unwrap_or_else(|faults| panic!("{line}: {faults}"));
    }
}

#[test]
fn the_commented_example_of_the_starter_spec_is_accepted() {
    let text = STARTER.replace("# global = [", "global = [").replace("# defaults = [", "defaults = [");
    let spec = spec::parse(&text).unwrap_or_else(|faults| panic!("{faults}"));
    assert_eq!(spec.haproxy.extra.len(), 2);
}
