//! UDP, by whatever call.

use crate::once;
use anyhow::Result;
use egress_tests::{
    scene::holds,
    world::{nowhere4, nowhere6},
};

#[test]
fn udp_by_ipv4() -> Result<()> {
    holds(once(
        &["udp", "198.51.100.7:4000", "x"],
        nowhere4(7),
        "direct_udp",
    ))
}

#[test]
fn udp_by_ipv6() -> Result<()> {
    holds(once(
        &["udp", "[2001:db8:100::7]:4000", "x"],
        nowhere6(7),
        "direct_udp",
    ))
}

#[test]
fn udp_to_a_mapped_address() -> Result<()> {
    holds(once(
        &["udp", "[::ffff:198.51.100.7]:4000", "x"],
        nowhere4(7),
        "direct_udp",
    ))
}

#[test]
fn connected_udp() -> Result<()> {
    holds(once(
        &["udp-connected", "198.51.100.7:4000", "x"],
        nowhere4(7),
        "direct_udp",
    ))
}

#[test]
fn connected_udp_then_elsewhere() -> Result<()> {
    holds(once(
        &["udp-elsewhere", "198.51.100.8:4000", "198.51.100.7:4000"],
        nowhere4(7),
        "direct_udp",
    ))
}

#[test]
fn many_datagrams_by_one_call() -> Result<()> {
    // sendmmsg stops at the first that is refused.
    holds(once(
        &["udp-many", "198.51.100.7:4000", "5"],
        nowhere4(7),
        "direct_udp",
    ))
}

#[test]
fn quic() -> Result<()> {
    holds(once(&["udp", "198.51.100.7:443", "x"], nowhere4(7), "quic"))
}

#[test]
fn dns_over_quic() -> Result<()> {
    holds(once(
        &["udp", "198.51.100.7:853", "x"],
        nowhere4(7),
        "encrypted_dns",
    ))
}

#[test]
fn connected_udp_by_ipv6() -> Result<()> {
    holds(once(
        &["udp-connected", "[2001:db8:100::7]:4000", "x"],
        nowhere6(7),
        "direct_udp",
    ))
}

#[test]
fn connected_udp_then_elsewhere_by_ipv6() -> Result<()> {
    holds(once(
        &[
            "udp-elsewhere",
            "[2001:db8:100::8]:4000",
            "[2001:db8:100::7]:4000",
        ],
        nowhere6(7),
        "direct_udp",
    ))
}

#[test]
fn many_datagrams_by_one_call_by_ipv6() -> Result<()> {
    holds(once(
        &["udp-many", "[2001:db8:100::7]:4000", "5"],
        nowhere6(7),
        "direct_udp",
    ))
}

#[test]
fn quic_by_ipv6() -> Result<()> {
    holds(once(
        &["udp", "[2001:db8:100::7]:443", "x"],
        nowhere6(7),
        "quic",
    ))
}

#[test]
fn dns_over_quic_by_ipv6() -> Result<()> {
    holds(once(
        &["udp", "[2001:db8:100::7]:853", "x"],
        nowhere6(7),
        "encrypted_dns",
    ))
}
