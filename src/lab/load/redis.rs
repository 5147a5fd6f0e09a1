//! The Redis writers: each appends one number at a time to a list.

use super::Client;
use anyhow::{Result, bail, ensure};
use hanode_cluster::client::redis::{RedisClient, Value};
use std::collections::BTreeSet;

/// Less than the client's own timeout.
const WAIT_MS: &str = "1000";
/// Items per `LRANGE`, within the limit of [`RedisClient`] replies.
const PAGE: i64 = 1000;

pub(super) const PLAIN: &str = "plain";
pub(super) const WAIT: &str = "wait";

pub(super) fn key(run: &str, kind: &str) -> String {
    format!("hanode-load:{run}:{kind}")
}

pub(super) fn push(redis: &mut RedisClient, client: &Client, number: u64) -> Result<bool> {
    redis.query(&["RPUSH", &key(&client.run, PLAIN), &number.to_string()]).map(|_| true)
}

pub(super) fn push_and_wait(redis: &mut RedisClient, client: &Client, number: u64) -> Result<bool> {
    redis.query(&["RPUSH", &key(&client.run, WAIT), &number.to_string()])?;
    match redis.query(&["WAIT", &client.confirming.to_string(), WAIT_MS])? {
        Value::Number(replicas) => Ok(replicas >= client.confirming),
        other => bail!("WAIT answered {other:?}"),
    }
}

pub(super) fn numbers(redis: &mut RedisClient, key: &str) -> Result<BTreeSet<u64>> {
    let mut numbers = BTreeSet::new();
    for page in 0.. {
        let (first, last) = (page * PAGE, (page + 1) * PAGE - 1);
        let Value::List(items) = redis.query(&["LRANGE", key, &first.to_string(), &last.to_string()])? else {
            bail!("LRANGE did not answer with a list");
        };
        for item in &items {
            let Value::Text(text) = item else { bail!("LRANGE answered {item:?}") };
            numbers.insert(text.parse()?);
        }
        if items.len() < PAGE as usize {
            break;
        }
    }
    Ok(numbers)
}

pub(super) fn delete_keys(redis: &mut RedisClient, run: &str) -> Result<()> {
    let deleted = redis.query(&["DEL", &key(run, PLAIN), &key(run, WAIT)])?;
    ensure!(matches!(deleted, Value::Number(_)), "DEL answered {deleted:?}");
    Ok(())
}
