//! What the fuzz targets do with their bytes.
//!
//! The code under test is compiled from its own sources rather than as a dependency: it imports no
//! aya, kube or tokio, and that it compiles here shows it. The naive decision, the generators and
//! the packets of the seeds are those of the tests.
#![allow(clippy::unwrap_used, reason = "a panic is how a target says no")]

pub mod client_hello;
mod cuts;
pub mod dns;
pub mod http;
pub mod packet;
pub mod request_line;
pub mod seeds;

#[path = "../../src/policy"]
#[allow(dead_code, reason = "what decides, beside what is read")]
mod policy {
    pub(crate) mod compile;
    mod ech;
    pub(crate) mod evaluate;
    pub(crate) mod host;
    pub(crate) mod http;
    pub(crate) mod path;
    pub(crate) mod port;
    pub(crate) mod rule;
}

#[path = "../../src/gateway/http"]
#[allow(dead_code, reason = "what the gateway does with it")]
mod http1 {
    pub(crate) mod bad;
    pub(crate) mod fields;
    pub(crate) mod framing;
    pub(crate) mod head;
    mod target;
}

#[path = "../../src/gateway/detect"]
#[allow(dead_code, reason = "what the records need of it")]
mod detect {
    pub(crate) mod client_hello;
    pub(crate) mod detector;
    pub(crate) mod http1;
    mod work;
}

#[path = "../../src/gateway/dns"]
mod names {
    pub(crate) mod query;
}

#[path = "../../../egress-common/tests/proof"]
mod proof {
    pub(crate) mod agreement;
    pub(crate) mod choices;
    pub(crate) mod generate;
    pub(crate) mod invariants;
    pub(crate) mod naive;
    pub(crate) mod subject;
    pub(crate) mod world;
}

#[path = "../../tests/packets"]
#[allow(dead_code, reason = "what runs them in the kernel")]
mod packets {
    pub(crate) mod frame;
    pub(crate) mod scene;
    pub(crate) mod table;
}
use packets::{frame, scene};
