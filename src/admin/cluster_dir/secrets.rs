//! The passwords of a new cluster.

use hanode_core::secrets::Secrets;
use rand::distr::{Alphanumeric, SampleString};

/// Letters and digits, 256 random bits per password: no configuration syntax requires quoting them.
pub fn generate() -> Secrets {
    Secrets::generate(|length| Alphanumeric.sample_string(&mut rand::rng(), length))
}
