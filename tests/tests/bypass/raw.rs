//! Raw sockets and ping sockets.

use crate::once;
use anyhow::Result;
use egress_tests::{
    scene::holds,
    world::{nowhere4, nowhere6},
};

#[test]
fn icmp_by_a_raw_socket() -> Result<()> {
    holds(once(&["ping-raw", "198.51.100.7"], nowhere4(7), "icmp"))
}

#[test]
fn icmpv6_by_a_raw_socket() -> Result<()> {
    holds(once(&["ping-raw", "2001:db8:100::7"], nowhere6(7), "icmp"))
}

#[test]
fn icmp_errors_that_quote_data() -> Result<()> {
    holds(once(
        &["icmp-error", "198.51.100.7"],
        nowhere4(7),
        "icmp_error",
    ))
}

#[test]
fn icmpv6_errors_that_quote_data() -> Result<()> {
    holds(once(
        &["icmp-error", "2001:db8:100::7"],
        nowhere6(7),
        "icmp_error",
    ))
}

#[test]
fn icmp_by_a_ping_socket() -> Result<()> {
    holds(once(&["ping", "198.51.100.7"], nowhere4(7), "icmp"))
}

#[test]
fn icmpv6_by_a_ping_socket() -> Result<()> {
    holds(once(&["ping", "2001:db8:100::7"], nowhere6(7), "icmp"))
}

#[test]
fn raw_ip_of_another_protocol() -> Result<()> {
    holds(once(
        &["raw", "198.51.100.7", "253"],
        nowhere4(7),
        "other_protocol",
    ))
}

#[test]
fn a_tunnel_by_raw_ip() -> Result<()> {
    holds(once(&["raw", "198.51.100.7", "47"], nowhere4(7), "tunnel"))
}

#[test]
fn a_tunnel_by_raw_ipv6() -> Result<()> {
    holds(once(
        &["raw", "2001:db8:100::7", "47"],
        nowhere6(7),
        "tunnel",
    ))
}

#[test]
fn a_header_of_ones_own() -> Result<()> {
    holds(once(
        &["raw-header", "10.1.1.5", "198.51.100.7", "4000"],
        nowhere4(7),
        "direct_udp",
    ))
}

#[test]
fn an_ipv6_header_of_ones_own() -> Result<()> {
    holds(once(
        &["raw-header", "fd00:1:1::5", "2001:db8:100::7", "4000"],
        nowhere6(7),
        "direct_udp",
    ))
}

#[test]
fn raw_ipv6_of_another_protocol() -> Result<()> {
    holds(once(
        &["raw", "2001:db8:100::7", "252"],
        nowhere6(7),
        "other_protocol",
    ))
}

#[test]
fn a_membership_report_that_carries_data() -> Result<()> {
    holds(once(
        &["raw", "198.51.100.7", "2"],
        nowhere4(7),
        "group_management",
    ))
}

#[test]
fn sctp_by_a_raw_socket() -> Result<()> {
    holds(once(
        &["raw", "198.51.100.7", "132"],
        nowhere4(7),
        "other_protocol",
    ))
}
