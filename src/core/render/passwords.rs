//! The requirements of rendering for passwords, and placeholders for output on a screen.

use crate::secrets::Secrets;
use anyhow::{Result, ensure};

fn fields(secrets: &mut Secrets) -> Vec<(&'static str, &mut String)> {
    let optional = [
        ("postgres_app", &mut secrets.postgres_app),
        ("redis_admin", &mut secrets.redis_admin),
        ("redis_replica", &mut secrets.redis_replica),
        ("redis_sentinel", &mut secrets.redis_sentinel),
        ("backup_key", &mut secrets.backup_key),
        ("s3_key", &mut secrets.s3_key),
        ("s3_secret", &mut secrets.s3_secret),
    ];
    let set = optional.into_iter().filter_map(|(name, value)| Some((name, value.as_mut()?)));
    let mut fields = vec![
        ("postgres_admin", &mut secrets.postgres_admin),
        ("postgres_dbadmin", &mut secrets.postgres_dbadmin),
        ("replicator", &mut secrets.replicator),
        ("rewind", &mut secrets.rewind),
        ("redis", &mut secrets.redis),
        ("sentinel", &mut secrets.sentinel),
        ("stats", &mut secrets.stats),
        ("patroni_rest", &mut secrets.patroni_rest),
        ("vrrp", &mut secrets.vrrp),
    ];
    fields.extend(set);
    fields.extend(secrets.roles.values_mut().map(|password| ("roles", password)));
    fields.extend(secrets.redis_users.values_mut().map(|password| ("redis_users", password)));
    fields
}

/// The secrets with a placeholder for each password (`--redact`).
pub fn redacted(secrets: &Secrets) -> Secrets {
    let mut secrets = secrets.clone();
    for (name, value) in fields(&mut secrets) {
        *value = format!("REDACTED-{name}");
    }
    secrets
}

/// Fails if a password needs quoting: it goes into files of several syntaxes, which have no common way to quote.
pub(super) fn check(secrets: &Secrets) -> Result<()> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.~+/=".contains(c);
    for (name, value) in fields(&mut secrets.clone()) {
        ensure!(
            value.len() >= 8 || name == "s3_key",
            "secrets.toml: {name}: it is shorter than 8 characters; use a generated password"
        );
        ensure!(
            value.chars().all(plain),
            "secrets.toml: {name}: it contains a character that some configuration files cannot contain; \
             use letters, digits and - _ . ~ + / ="
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secrets(redis: &str) -> Secrets {
        let other = || "aB3-_.~+/=".to_string();
        Secrets {
            postgres_admin: other(),
            postgres_dbadmin: other(),
            postgres_app: Some(other()),
            replicator: other(),
            rewind: other(),
            redis: redis.into(),
            redis_admin: Some(other()),
            redis_replica: Some(other()),
            redis_sentinel: Some(other()),
            sentinel: other(),
            stats: other(),
            patroni_rest: other(),
            vrrp: other(),
            backup_key: Some(other()),
            s3_key: Some("AKIA1".into()),
            s3_secret: Some(other()),
            roles: [("reports".into(), other())].into(),
            redis_users: [("cache".into(), other())].into(),
        }
    }

    #[test]
    fn an_error_names_the_role_and_hides_the_password() {
        assert!(check(&secrets("long-enough")).is_ok());
        for bad in ["2short!", "with space", "quote\"here", "new\nline!!", "dollar$HOME"] {
            let error = check(&secrets(bad)).expect_err(bad).to_string();
            assert!(error.contains("redis") && !error.contains(bad), "{error}");
        }
    }

    #[test]
    fn redacted_secrets_contain_no_password() {
        let shown = serde_json::to_string(&redacted(&secrets("visible-secret"))).expect("serialises");
        assert!(!shown.contains("visible-secret") && !shown.contains("aB3"), "{shown}");
        assert!(check(&redacted(&secrets("visible-secret"))).is_ok());
    }
}
