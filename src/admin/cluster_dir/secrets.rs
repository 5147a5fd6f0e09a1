//! The passwords of a new cluster.

use hanode_core::secrets::Secrets;
use rand::distr::{Alphanumeric, SampleString};

/// 256 random bits each, in letters and digits: no component's syntax gives those a meaning.
pub fn generate() -> Secrets {
    Secrets::generate(|length| Alphanumeric.sample_string(&mut rand::rng(), length))
}
