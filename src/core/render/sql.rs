//! SQL text: quoted identifiers and literals, and passwords as the verifiers that PostgreSQL stores.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};

/// PostgreSQL's default.
const ITERATIONS: u32 = 4096;
const BLOCK: usize = 64;

/// A name that stands for itself, whatever it contains.
pub(super) fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('\0', "").replace('"', "\"\""))
}

/// A string constant. With a backslash in it, it is written such that `standard_conforming_strings` does not matter.
pub(super) fn literal(text: &str) -> String {
    let quoted = text.replace('\0', "").replace('\'', "''");
    match quoted.contains('\\') {
        true => format!(" E'{}'", quoted.replace('\\', "\\\\")),
        false => format!("'{quoted}'"),
    }
}

/// The SCRAM-SHA-256 verifier of a password, so that no statement, and no extension that records statements, has the
/// password. The salt follows from the password: the verifier is the same on each node and in each rendering.
pub(super) fn scram_verifier(cluster: &str, role: &str, password: &str) -> String {
    let salt = hmac(password.as_bytes(), format!("hanode salt\0{cluster}\0{role}").as_bytes());
    let salt = &salt[..16];
    let salted = salted_password(password.as_bytes(), salt);
    let stored: [u8; 32] = Sha256::digest(hmac(&salted, b"Client Key")).into();
    let server = hmac(&salted, b"Server Key");
    let [salt, stored, server] = [salt, &stored, &server].map(|bytes| STANDARD.encode(bytes));
    format!("SCRAM-SHA-256${ITERATIONS}:{salt}${stored}:{server}")
}

/// The first block of PBKDF2.
fn salted_password(password: &[u8], salt: &[u8]) -> [u8; 32] {
    let mut last = hmac(password, &[salt, &[0, 0, 0, 1]].concat());
    let mut result = last;
    for _ in 1..ITERATIONS {
        last = hmac(password, &last);
        result.iter_mut().zip(last).for_each(|(byte, other)| *byte ^= other);
    }
    result
}

fn hmac(key: &[u8], message: &[u8]) -> [u8; 32] {
    let mut block = [0; BLOCK];
    match key.len() > BLOCK {
        true => block[..32].copy_from_slice(&Sha256::digest(key)),
        false => block[..key.len()].copy_from_slice(key),
    }
    let inner = Sha256::new().chain_update(block.map(|b| b ^ 0x36)).chain_update(message).finalize();
    Sha256::new().chain_update(block.map(|b| b ^ 0x5c)).chain_update(inner).finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Reads the first token of `sql` as PostgreSQL's scanner does; returns it and the rest.
    fn scan(sql: &str) -> Option<(String, &str)> {
        let sql = sql.trim_start();
        let (sql, escapes) = match sql.strip_prefix('E') {
            Some(rest) => (rest, true),
            None => (sql, false),
        };
        let quote = sql.chars().next()?;
        let (mut text, mut rest) = (String::new(), sql[1..].chars());
        while let Some(c) = rest.next() {
            match c {
                '\\' if escapes => text.push(rest.next()?),
                c if c == quote => match rest.clone().next() {
                    Some(next) if next == quote => text.push(rest.next()?),
                    _ => return Some((text, rest.as_str())),
                },
                c => text.push(c),
            }
        }
        None
    }

    proptest! {
        #[test]
        fn quoted_text_is_one_token_and_means_itself(text in any::<String>(), rest in "[ ;)].*") {
            let plain = text.replace('\0', "");
            for quoted in [identifier(&text), literal(&text)] {
                let sql = format!("{quoted}{rest}");
                prop_assert_eq!(scan(&sql), Some((plain.clone(), rest.as_str())), "{}", sql);
            }
        }
    }

    #[test]
    fn quotes_cannot_end_a_token() {
        assert_eq!(identifier("a\"; DROP"), "\"a\"\"; DROP\"");
        assert_eq!(literal("it's"), "'it''s'");
        assert_eq!(literal("\\'; DROP"), " E'\\\\''; DROP'");
    }

    /// RFC 4231 test case 2, and the SCRAM exchange of RFC 7677.
    #[test]
    fn verifiers_are_those_of_the_standard() {
        assert_eq!(
            hex::encode(hmac(b"Jefe", b"what do ya want for nothing?")),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
        let salt = STANDARD.decode("W22ZaJ0SNY7soEsUEjb6gQ==").expect("base64");
        let salted = salted_password(b"pencil", &salt);
        let auth = b"n=user,r=rOprNGfwEbeRWgbNEkqO,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
            s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096,c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
        let server = hmac(&hmac(&salted, b"Server Key"), auth);
        assert_eq!(STANDARD.encode(server), "6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
        let verifier = scram_verifier("hspas", "app", "a password");
        assert!(verifier.starts_with("SCRAM-SHA-256$4096:") && verifier.len() == 133, "{verifier}");
        assert_ne!(verifier, scram_verifier("hspas", "other", "a password"));
    }
}
