use super::*;

fn normal(name: &str, value: &str) -> Result<String, String> {
    parameter(name).expect("a known parameter").normalized(value)
}

#[test]
fn every_default_is_a_value_as_redis_prints_it() {
    for parameter in PARAMETERS.iter().filter(|p| p.name != "maxmemory") {
        assert_eq!(
            parameter.normalized(parameter.default).as_deref(),
            Ok(parameter.default),
            "{}",
            parameter.name
        );
        assert_eq!(reserved_by(parameter.name), None, "{}", parameter.name);
    }
    assert!(names().is_sorted());
}

#[test]
fn values_are_normalized_or_refused() {
    for (name, value, expected) in [
        ("hz", "50", "50"),
        ("activerehashing", "off", "no"),
        ("maxmemory", "100mb", "104857600"),
        ("maxmemory", "2G", "2000000000"),
        ("maxmemory-policy", "allkeys-lfu", "allkeys-lfu"),
        ("notify-keyspace-events", "KEA", "KEA"),
        ("client-output-buffer-limit", "replica 1gb 0 0", "slave 1073741824 0 0"),
    ] {
        assert_eq!(normal(name, value).as_deref(), Ok(expected), "{name} {value}");
    }
    for (name, value) in [
        ("hz", "1000"),
        ("hz", "ten"),
        ("activerehashing", "maybe"),
        ("maxmemory", "0"),
        ("maxmemory", "1tb"),
        ("maxmemory-policy", "lru"),
        ("appendfsync", "no"),
        ("notify-keyspace-events", "KEq"),
        ("client-output-buffer-limit", "replica 1gb 0"),
        ("client-output-buffer-limit", "other 1 1 1"),
        ("client-output-buffer-limit", ""),
    ] {
        assert!(normal(name, value).is_err(), "{name} {value}");
    }
}

#[test]
fn the_file_and_the_running_server_are_compared_by_meaning() {
    let map = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
    };
    let set = map(&[("hz", "20"), ("notify-keyspace-events", "KEA"), (OUTPUT_BUFFERS, "pubsub 1mb 0 0")]);
    let hanodes = map(&[(OUTPUT_BUFFERS, "replica 512mb 0 0"), ("maxmemory", "1gb")]);
    let values = values("6.0.9", &[&hanodes, &set]).expect("values");
    assert!(values.iter().all(|(parameter, _)| parameter.name != "latency-tracking"), "it is newer");
    let newer = super::values("6.0.9", &[&map(&[("latency-tracking", "no")])]).expect_err("an error");
    assert_eq!(newer, "latency-tracking needs Redis 7.0, the version is 6.0.9");
    let text: Vec<String> = values.iter().flat_map(|(p, value)| lines(p.name, value)).collect();
    let text = format!("# a comment\n{}\n", text.join("\n"));
    assert!(text.contains("\nclient-output-buffer-limit slave 536870912 0 0\n"), "{text}");
    let file = parse(&text);
    let mut running = file.clone();
    assert_eq!(running[OUTPUT_BUFFERS], "normal 0 0 0 slave 536870912 0 0 pubsub 1048576 0 0");
    running.insert("notify-keyspace-events".into(), "AKE".into());
    assert_eq!(differences(&file, &running), []);
    running.insert("hz".into(), "10".into());
    let names: Vec<String> = differences(&file, &running).into_iter().map(|d| d.name).collect();
    assert_eq!(names, ["hz"]);
}
