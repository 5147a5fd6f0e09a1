//! The two CAs in the cluster directory: they issue certificates and revocation lists.

pub(crate) mod authority;
pub mod store;
