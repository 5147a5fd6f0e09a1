//! The passwords of a new cluster.

use hanode_core::secrets::Secrets;
use rand::distr::{Alphanumeric, SampleString};

pub fn generate() -> Secrets {
    Secrets::generate(random)
}

/// Letters and digits, 256 random bits per password: no configuration syntax requires quoting them.
pub(super) fn random(length: usize) -> String {
    Alphanumeric.sample_string(&mut rand::rng(), length)
}
