//! Datagrams by other calls, options and protocols than those of every day.

use anyhow::Result;
use egress_tests::{
    scene::holds,
    world::{nowhere4, nowhere6},
};

use crate::once;

/// The attack of this name to an IPv4 address.
fn by4(attack: &str, reason: &str) -> Result<()> {
    let line = [attack, "198.51.100.7:4000"];
    holds(once(&line, nowhere4(7), reason))
}

/// The same to an IPv6 address.
fn by6(attack: &str, reason: &str) -> Result<()> {
    let line = [attack, "[2001:db8:100::7]:4000"];
    holds(once(&line, nowhere6(7), reason))
}

#[test]
fn udp_lite() -> Result<()> {
    by4("udp-lite", "other_protocol")
}

#[test]
fn udp_lite_by_ipv6() -> Result<()> {
    by6("udp-lite", "other_protocol")
}

#[test]
fn connected_udp_lite() -> Result<()> {
    by4("udp-lite-connected", "other_protocol")
}

#[test]
fn connected_udp_lite_by_ipv6() -> Result<()> {
    by6("udp-lite-connected", "other_protocol")
}

#[test]
fn io_uring() -> Result<()> {
    by4("udp-ring", "direct_udp")
}

#[test]
fn io_uring_by_ipv6() -> Result<()> {
    by6("udp-ring", "direct_udp")
}

#[test]
fn datagrams_that_the_device_cuts() -> Result<()> {
    by4("udp-segments", "direct_udp")
}

#[test]
fn datagrams_that_the_device_cuts_by_ipv6() -> Result<()> {
    by6("udp-segments", "direct_udp")
}

#[test]
fn a_datagram_without_a_copy() -> Result<()> {
    by4("udp-zerocopy", "direct_udp")
}

#[test]
fn a_datagram_without_a_copy_by_ipv6() -> Result<()> {
    by6("udp-zerocopy", "direct_udp")
}

#[test]
fn a_datagram_from_a_file() -> Result<()> {
    by4("udp-sendfile", "direct_udp")
}

#[test]
fn a_datagram_from_a_file_by_ipv6() -> Result<()> {
    by6("udp-sendfile", "direct_udp")
}

#[test]
fn a_datagram_from_a_pipe() -> Result<()> {
    by4("udp-splice", "direct_udp")
}

#[test]
fn a_datagram_from_a_pipe_by_ipv6() -> Result<()> {
    by6("udp-splice", "direct_udp")
}

#[test]
fn a_connected_datagram_from_nobodys_address() -> Result<()> {
    let line = ["udp-transparent", "10.1.77.5", "198.51.100.7:4000"];
    holds(once(&line, nowhere4(7), "direct_udp"))
}

#[test]
fn a_connected_datagram_from_nobodys_ipv6_address() -> Result<()> {
    let line = ["udp-transparent", "fd00:1:77::5", "[2001:db8:100::7]:4000"];
    holds(once(&line, nowhere6(7), "direct_udp"))
}
