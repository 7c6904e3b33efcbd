//! Headers that a socket's options add to what it sends: an ordinary user may set them, and with a
//! route in them the destination that `connect` was asked for is not the first one.

use std::net::IpAddr;

use anyhow::{Result, ensure};
use egress_tests::{
    agent::Config,
    process::Finished,
    scene::{self, Scene, expect_count, holds_by},
    world::{nowhere4, nowhere6},
};

use crate::once;

/// Sets one of these options, and sends to the second address by way of the first. IP_OPTIONS with a
/// loose source route (RFC 791); IPV6_RTHDR with segment routing (RFC 8754) or, of what needs no
/// route, IPV6_DSTOPTS and IPV6_HOPOPTS with padding.
const SCRIPT: &str = r#"
import socket, sys
kind, option, via, to = sys.argv[1:]
v6 = ":" in to; family = socket.AF_INET6 if v6 else socket.AF_INET
address = lambda it: socket.inet_pton(family, it)
s = socket.socket(family, socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM)
s.settimeout(0.3)
level, name, value = {
    "route": (0, 4, b"\x83\x07\x04" + address(via)[:4] + b"\x01"),
    "segments": (41, 57, b"\0\x04\x04\x01\x01\0\0\0" + address(to) + address(via)),
    "destination": (41, 59, b"\0\0\1\4\0\0\0\0"),
    "hops": (41, 54, b"\0\0\1\4\0\0\0\0"),
}[option]
s.setsockopt(level, name, value)
try:
    s.connect((to, 8443)); s.send(b"by options")
except (TimeoutError, PermissionError): pass
"#;

fn send(scene: &Scene, kind: &str, option: &str, via: IpAddr, to: IpAddr) -> Result<Finished> {
    let (via, to) = (via.to_string(), to.to_string());
    scene
        .pod
        .run(&["python3", "-c", SCRIPT, kind, option, &via, &to])
}

/// A scene whose node forwards by source routes, too.
fn scene() -> Result<Scene> {
    let scene = Scene::new()?;
    for device in ["all", &scene.pod.interface] {
        let key = format!("net/ipv4/conf/{device}/accept_source_route");
        scene.world.node.sysctl(&key, "1")?;
    }
    Ok(scene)
}

/// A connected datagram, which no call is asked about.
fn datagram(option: &str, via: IpAddr, to: IpAddr, reason: &str) -> Result<()> {
    let scene = scene()?;
    let vector = once(&["options"], via, reason);
    holds_by(&scene, vector, || send(&scene, "udp", option, via, to))
}

#[test]
fn a_datagram_by_a_source_route() -> Result<()> {
    datagram("route", nowhere4(8), nowhere4(7), "ip_options")
}

#[test]
fn a_datagram_by_segments() -> Result<()> {
    datagram("segments", nowhere6(8), nowhere6(7), "extension_header")
}

#[test]
fn a_datagram_with_destination_options() -> Result<()> {
    datagram("destination", nowhere6(7), nowhere6(7), "extension_header")
}

/// A connection: its SYN is for the gateway, but goes elsewhere first.
fn connection(option: &str, via: IpAddr, to: IpAddr, reason: &str) -> Result<()> {
    let scene = scene()?;
    send(&scene, "tcp", option, via, to)?.ok()?;
    ensure!(!scene.arrived(via)?.is_empty(), "it does not even arrive");
    let mut agent = scene.enforce(&Config::default())?;
    scene.capture.clear();
    send(&scene, "tcp", option, via, to)?;
    scene.expect_nothing(via)?;
    agent.stop()?;
    let report = agent.records.wait_for("a report", |r| r.is_to(via))?;
    scene::expect_report(&report, &scene, reason)?;
    expect_count(&agent, via, 1)
}

#[test]
fn a_connection_by_a_source_route() -> Result<()> {
    connection("route", nowhere4(8), nowhere4(7), "ip_options")
}

#[test]
fn a_connection_by_segments() -> Result<()> {
    connection("segments", nowhere6(8), nowhere6(7), "extension_header")
}
