//! What the kernel side and user space of egress-agent share: addresses, endpoints, origins,
//! events, verdicts and their reasons, map names and sizes, and the decision itself.
//!
//! `no_std`, so that `egress-ebpf` builds from the very same source. The feature `user` adds
//! what only user space needs: aya's `Pod`.
#![no_std]

pub mod address;
pub mod attempt;
pub mod contain;
pub mod decide;
pub mod direct;
pub mod endpoint;
pub mod event;
pub mod frame;
pub mod maps;
pub mod origin;
pub mod packet;
#[cfg(feature = "user")]
mod pod;
pub mod process;
pub mod socket;
pub mod verdict;

/// Raised whenever a shared type or the meaning of a map changes; part of the pin path, so that
/// two versions never share a map.
pub const ABI_VERSION: u32 = 7;
