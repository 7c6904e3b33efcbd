//! The whole gateway in this process, on loopback, with origins that the test makes up.
#![allow(
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "helpers of tests"
)]

mod answered;
mod connections;
mod detection;
mod names;
mod world;
