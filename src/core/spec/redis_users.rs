//! `[[redis_user]]`: users of Redis for applications, besides `default`.

use super::Spec;
use super::reader::{Reader, Section};
use super::suggest::printable;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// A user of Redis. Its password is in `secrets.toml`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RedisUser {
    pub name: String,
    pub access: RedisAccess,
    /// Patterns of keys.
    pub keys: Vec<String>,
    /// Patterns of channels.
    pub channels: Vec<String>,
}

/// Which commands a user may call; none administers Redis.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RedisAccess {
    /// Those of the user `default`.
    All,
    /// Those that only read, and those that receive messages.
    Read,
}

/// The users that every cluster has, in `redis.conf`.
pub(crate) const REDIS_OWN_USERS: [&str; 4] = ["default", "hanode", "replica", "sentinel"];

pub(super) fn read(top: &Section) -> Vec<RedisUser> {
    let access = [("all", RedisAccess::All), ("read", RedisAccess::Read)];
    let all = || vec!["*".to_string()];
    let read = |s: Section| {
        let user = RedisUser {
            name: s.required("name", s.text("name"), String::new(), "give this user a name"),
            access: s.choice("access", &access).unwrap_or(RedisAccess::All),
            keys: s.texts("keys").unwrap_or_else(all),
            channels: s.texts("channels").unwrap_or_else(all),
        };
        s.finish();
        user
    };
    top.sections("redis_user").into_iter().map(read).collect()
}

pub(super) fn check(spec: &Spec, reader: &Reader) {
    let mut seen = BTreeSet::new();
    for (i, user) in spec.redis_users.iter().enumerate() {
        let path = |key: &str| format!("redis_user.{i}.{key}");
        let name = &user.name;
        if !is_name(name) {
            let what = format!("\"{}\" is not a valid name for a user of Redis", printable(name));
            reader.fault(
                &path("name"),
                what,
                "use up to 40 letters, digits, - and _, starting with a letter",
            );
        } else if REDIS_OWN_USERS.contains(&name.as_str()) {
            reader.fault(&path("name"), format!("{name} is a user of hanode"), "use another name");
        } else if !seen.insert(name) {
            reader.fault(
                &path("name"),
                format!("two users of Redis are named {name}"),
                "use different names",
            );
        }
        for (key, patterns) in [("keys", &user.keys), ("channels", &user.channels)] {
            if patterns.len() > 1 && patterns.iter().any(|pattern| pattern == "*") {
                let what = "\"*\" includes the other patterns, which Redis refuses then";
                reader.fault(&path(key), what, "remove \"*\", or the others");
            }
        }
        for (n, keys) in user.keys.iter().enumerate().filter(|(_, keys)| !is_pattern(keys)) {
            let what = format!("\"{}\" is not a valid pattern of keys", printable(keys));
            let help = "use letters, digits and any of : . _ - / @ { } * ? [ ] ^, e.g. \"shop:*\"";
            reader.fault(&path(&format!("keys.{n}")), what, help);
        }
        for (n, channel) in user.channels.iter().enumerate().filter(|(_, channel)| !is_channel(channel)) {
            let what = format!("\"{}\" is not a valid pattern of channels", printable(channel));
            let help = "start it with a letter or digit, e.g. \"news:*\", or use \"*\": the Sentinels use channels \
                        that start with _";
            reader.fault(&path(&format!("channels.{n}")), what, help);
        }
    }
}

fn is_name(name: &str) -> bool {
    (1..=40).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c))
}

/// Without characters that a line of a configuration file gives a meaning.
fn is_pattern(pattern: &str) -> bool {
    (1..=200).contains(&pattern.len())
        && pattern.chars().all(|c| c.is_ascii_alphanumeric() || ":._-/@{}*?[]^".contains(c))
}

fn is_channel(pattern: &str) -> bool {
    is_pattern(pattern) && (pattern == "*" || pattern.starts_with(|c: char| c.is_ascii_alphanumeric()))
}
