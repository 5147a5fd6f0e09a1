//! Issuing certificates and revocation lists, and keeping the two CAs in the cluster directory.

pub mod authority;
pub mod store;
