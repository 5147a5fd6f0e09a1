//! The rules of Redis' users for applications, in the syntax of each release, and what differs in a running server.

use crate::spec::{REDIS_OWN_USERS, RedisAccess, RedisUser};
use anyhow::{Result, ensure};
use hanode_util::user_error::UserError;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};

/// Major and minor release.
pub type Version = (u32, u32);

/// Channels of the user `default`. Before 6.2 every user may use all of them, and there is no word for it.
pub(crate) fn all_channels(version: Version) -> &'static str {
    if version >= (6, 2) { " &*" } else { "" }
}

/// The commands of `access`. They include what Redis calls dangerous and is not, and exclude what administers.
pub(crate) fn commands(access: RedisAccess, version: Version) -> String {
    // Until 7.0 all of CLIENT counts as administration.
    let client = match version >= (7, 0) {
        true => "",
        false => " +client|id +client|setname +client|getname +client|reply +client|tracking +client|caching",
    };
    let sort = if version >= (7, 0) { " +sort_ro" } else { "" };
    match access {
        RedisAccess::All => format!(
            "+@all -@admin -@dangerous +info +role +keys +sort +restore +swapdb +flushdb +flushall{sort}{client}"
        ),
        RedisAccess::Read => format!(
            "+@read +@connection +@transaction +subscribe +psubscribe +unsubscribe +punsubscribe -@admin -@dangerous \
             +info +role +keys{sort}{client}"
        ),
    }
}

/// Withholds the commands that reach keys besides those of the user's patterns: they name none; a function runs with the
/// rights of its caller, whom another user's library would deceive; and before 7.0 `SORT … GET` reads every key.
fn commands_on_all_keys(version: Version) -> &'static str {
    if version >= (7, 0) {
        " -flushall -flushdb -swapdb -function"
    } else {
        " -flushall -flushdb -swapdb -sort"
    }
}

/// The right to publish, without the channels of the Sentinels, who take each other's word there. Before 7.0 a user has
/// one set of channels for all commands.
pub(crate) fn publish(channels: &[String], version: Version) -> String {
    if version < (7, 0) {
        return String::new();
    }
    let pattern = |channel: &String| if channel == "*" { " &[^_]*".into() } else { format!(" &{channel}") };
    format!(" -publish -spublish (+publish +spublish{})", channels.iter().map(pattern).collect::<String>())
}

/// The rules of a user, after its name and password.
pub(crate) fn rules(user: &RedisUser, version: Version) -> Result<String> {
    let all = user.channels == ["*"];
    ensure!(
        all || version >= (6, 2),
        UserError::with_help(
            format!("[[redis_user]] {}: Redis {}.{} cannot limit channels", user.name, version.0, version.1),
            "remove channels, or use a target with Redis 6.2 or later",
        )
    );
    let patterns = |sign: char, patterns: &[String]| {
        patterns.iter().map(|pattern| format!(" {sign}{pattern}")).collect::<String>()
    };
    let channels = match all {
        true => all_channels(version).into(),
        // Before 7.0 a new user has all channels.
        false => format!(" resetchannels{}", patterns('&', &user.channels)),
    };
    let whole = if user.keys == ["*"] { "" } else { commands_on_all_keys(version) };
    let publish = match user.access {
        RedisAccess::All => publish(&user.channels, version),
        RedisAccess::Read => String::new(),
    };
    let keys = patterns('~', &user.keys);
    Ok(format!("{}{channels} {}{whole}{publish}", keys.trim_start(), commands(user.access, version)))
}

/// Name to rules of the users in a rendered file.
pub fn parse(text: &str) -> BTreeMap<String, Vec<String>> {
    let user = |line: &str| {
        let mut words = line.strip_prefix("user ")?.split_whitespace().map(String::from);
        Some((words.next()?, words.collect()))
    };
    text.lines().filter_map(user).collect()
}

/// What of a user both a file and Redis write in the same way: Redis prints commands in its own words.
#[derive(Debug, PartialEq)]
struct Shown {
    is_on: bool,
    /// Hashes of passwords, and patterns of keys.
    parts: BTreeSet<String>,
}

impl Shown {
    fn of<'a>(rules: impl Iterator<Item = &'a str>) -> Shown {
        let mut shown = Shown { is_on: false, parts: BTreeSet::new() };
        // Rules in parentheses, the last ones, are of a selector.
        for rule in rules.take_while(|rule| !rule.starts_with('(')) {
            match rule.split_at_checked(1) {
                Some((">", password)) => {
                    shown.parts.insert(format!("#{}", hex::encode(Sha256::digest(password))));
                }
                Some(("#" | "~", _)) => {
                    shown.parts.insert(rule.into());
                }
                _ => shown.is_on |= rule == "on",
            }
        }
        shown
    }
}

/// The users that are missing in a running server, that have another password or other keys there, or that only it has;
/// `running` is its reply to `ACL LIST`. Commands and channels are not compared.
pub fn differences(file: &BTreeMap<String, Vec<String>>, running: &[String]) -> Vec<String> {
    let name_and_rules = |line: &String| {
        let mut words = line.strip_prefix("user ")?.split(' ');
        Some((words.next()?.to_string(), Shown::of(words)))
    };
    let running: BTreeMap<String, Shown> = running.iter().filter_map(name_and_rules).collect();
    let mut found = Vec::new();
    for (name, rules) in file {
        match running.get(name) {
            None => found.push(format!("user {name} is missing")),
            Some(shown) if *shown != Shown::of(rules.iter().map(String::as_str)) => {
                found.push(format!("user {name} was changed"));
            }
            Some(_) => {}
        }
    }
    found.extend(undeclared(file, running.keys()).map(|name| format!("user {name} is not in cluster.toml")));
    found
}

/// The users that neither hanode creates nor the file has.
pub fn undeclared<'a>(
    file: &'a BTreeMap<String, Vec<String>>,
    running: impl Iterator<Item = &'a String>,
) -> impl Iterator<Item = &'a String> {
    running.filter(|name| !file.contains_key(*name) && !REDIS_OWN_USERS.contains(&name.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(access: RedisAccess, keys: &[&str], channels: &[&str]) -> RedisUser {
        let texts = |texts: &[&str]| texts.iter().map(|text| text.to_string()).collect();
        RedisUser { name: "reports".into(), access, keys: texts(keys), channels: texts(channels) }
    }

    #[test]
    fn channels_are_limited_where_redis_can() {
        let reports = user(RedisAccess::All, &["shop:*"], &["news:*"]);
        let rules_8 = rules(&reports, (8, 0)).expect("rules");
        assert!(rules_8.starts_with("~shop:* resetchannels &news:* +@all -@admin -@dangerous "), "{rules_8}");
        assert!(rules_8.contains(" -flushall -flushdb -swapdb -function "), "{rules_8}");
        assert!(rules_8.ends_with(" -publish -spublish (+publish +spublish &news:*)"), "{rules_8}");
        assert!(rules(&reports, (6, 2)).expect("rules").starts_with("~shop:* resetchannels &news:* +@all"));
        let refused = format!("{:#}", rules(&reports, (6, 0)).expect_err("channels"));
        assert!(refused.contains("Redis 6.0 cannot limit channels"), "{refused}");
        let whole = rules(&user(RedisAccess::All, &["*"], &["*"]), (8, 0)).expect("rules");
        assert!(whole.contains("+flushall") && !whole.contains("-flushall"), "{whole}");
        let all = rules(&user(RedisAccess::Read, &["a*", "b*"], &["*"]), (6, 0)).expect("rules");
        assert!(all.starts_with("~a* ~b* +@read ") && !all.contains('&'), "{all}");
    }

    #[test]
    fn differences_of_a_running_server_are_named() {
        let file = parse(
            "# written by hanode\n\
             user reports reset on >long-password ~shop:* &* +@all -publish (+publish &[^_]*)\n\
             user lost reset on >long-password ~* +@all\n\
             user other reset on >long-password ~* +@all\n",
        );
        assert_eq!(file["reports"][..3], ["reset", "on", ">long-password"]);
        let hash = hex::encode(Sha256::digest("long-password"));
        let running = [
            format!("user default on #{hash} ~* &* +@all"),
            format!(
                "user reports on sanitize-payload #{hash} ~shop:* &* +@all -publish (~* resetchannels &[^_]* -@all +publish)"
            ),
            format!("user other off #{hash} ~* +@all"),
            "user eve on nopass ~* &* +@all".to_string(),
        ];
        assert_eq!(
            differences(&file, &running),
            ["user lost is missing", "user other was changed", "user eve is not in cluster.toml"]
        );
    }
}
