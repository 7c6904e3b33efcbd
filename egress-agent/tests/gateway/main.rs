//! The whole gateway in this process, on loopback, with origins that the test makes up.
#![allow(
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "helpers of tests"
)]

mod answered;
mod bodies;
mod connections;
mod detection;
mod http;
mod limits;
mod names;
mod origination;
mod proxy;
mod server;
mod smuggling;
mod upstreams;
mod world;
