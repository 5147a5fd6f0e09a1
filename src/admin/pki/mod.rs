//! Issuing certificates and revocation lists, and keeping the two CAs in the cluster directory.

pub(crate) mod authority;
pub mod store;
