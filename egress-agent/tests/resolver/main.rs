//! The gateway's own look-ups, against name servers that lie, hang and flood.
#![allow(
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "helpers of tests"
)]

mod bounds;
mod families;
mod hostile;
mod server;
mod tls;
