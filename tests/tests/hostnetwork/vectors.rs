//! Ways around the gateway, one test each.

use crate::{ATTEMPTS, enforce, host};
use anyhow::{Context as _, Result, ensure};
use egress_tests::{
    agent::Agent,
    process,
    records::Record,
    scene::Scene,
    world::{nowhere4, nowhere6},
};
use std::{net::IpAddr, time::Duration};

/// The whole proof of one vector: it arrives while nobody enforces; then the call fails, nothing
/// arrives, and one report stands for every attempt.
fn holds(attack: &[&str], to: IpAddr, reason: &str, times: u64) -> Result<()> {
    let scene = Scene::new()?;
    scene
        .world
        .node
        .sysctl("net/ipv4/ping_group_range", "0 2147483647")?;
    let host = host(&scene)?;
    host.attack(attack)?.ok().context("with nobody enforcing")?;
    ensure!(
        !scene.arrived(to)?.is_empty(),
        "{attack:?} does not even arrive"
    );
    let mut agent = enforce(&scene, &host)?;
    scene.capture.clear();
    for _ in 0..ATTEMPTS {
        let made = host.attack(attack)?;
        ensure!(
            !made.status.success(),
            "{attack:?} succeeded: {}",
            made.text()
        );
        ensure!(
            made.took < process::here(Duration::from_secs(1)),
            "{}",
            made.text()
        );
    }
    let arrived = scene.arrived(to)?;
    ensure!(arrived.is_empty(), "{arrived:?}");
    agent.stop()?;
    one_report(&agent, reason, ATTEMPTS * times)
}

/// That all reports there are of this endpoint are one, with its repeats.
fn one_report(agent: &Agent<'_>, reason: &str, count: u64) -> Result<()> {
    let reports = agent.records.matching(|r| r.kind().starts_with("bypass"))?;
    let first = reports.iter().filter(|r| r.kind() == "bypass").count();
    let counted: u64 = reports.iter().map(Record::count).sum();
    ensure!(
        first == 1 && counted == count,
        "{first} reports of {counted} instead of 1 of {count}: {reports:#?}"
    );
    ensure!(reports[0].reason() == reason, "{reports:#?}");
    ensure!(reports[0].endpoint() == "shop/node-agent", "{reports:#?}");
    ensure!(
        reports[0].text("/process/command") == "attack",
        "{reports:#?}"
    );
    Ok(())
}

#[test]
fn udp_by_ipv4() -> Result<()> {
    holds(
        &["udp", "198.51.100.7:4000", "x"],
        nowhere4(7),
        "direct_udp",
        1,
    )
}

#[test]
fn udp_by_ipv6() -> Result<()> {
    holds(
        &["udp", "[2001:db8:100::7]:4000", "x"],
        nowhere6(7),
        "direct_udp",
        1,
    )
}

#[test]
fn udp_to_a_mapped_address() -> Result<()> {
    holds(
        &["udp", "[::ffff:198.51.100.7]:443", "x"],
        nowhere4(7),
        "quic",
        1,
    )
}

#[test]
fn connected_udp() -> Result<()> {
    holds(
        &["udp-connected", "198.51.100.7:4000", "x"],
        nowhere4(7),
        "direct_udp",
        1,
    )
}

#[test]
fn connected_udp_then_elsewhere() -> Result<()> {
    let attack = ["udp-elsewhere", "203.0.113.10:4000", "198.51.100.7:4000"];
    holds(&attack, nowhere4(7), "direct_udp", 1)
}

#[test]
fn a_ping_socket() -> Result<()> {
    holds(&["ping", "198.51.100.7"], nowhere4(7), "raw_socket", 1)
}

#[test]
fn a_raw_socket() -> Result<()> {
    holds(
        &["ping-raw", "2001:db8:100::7"],
        nowhere6(7),
        "raw_socket",
        1,
    )
}

#[test]
fn a_header_of_ones_own() -> Result<()> {
    let attack = ["raw-header", "192.0.2.2", "198.51.100.7", "4000"];
    holds(&attack, nowhere4(7), "raw_socket", 1)
}

#[test]
fn connected_udp_by_ipv6() -> Result<()> {
    holds(
        &["udp-connected", "[2001:db8:100::7]:4000", "x"],
        nowhere6(7),
        "direct_udp",
        1,
    )
}

#[test]
fn quic() -> Result<()> {
    holds(&["udp", "198.51.100.7:443", "x"], nowhere4(7), "quic", 1)
}

#[test]
fn quic_by_ipv6() -> Result<()> {
    holds(
        &["udp", "[2001:db8:100::7]:443", "x"],
        nowhere6(7),
        "quic",
        1,
    )
}

#[test]
fn dns_over_quic() -> Result<()> {
    holds(
        &["udp", "198.51.100.7:853", "x"],
        nowhere4(7),
        "encrypted_dns",
        1,
    )
}

#[test]
fn many_datagrams_by_one_call() -> Result<()> {
    holds(
        &["udp-many", "198.51.100.7:4000", "5"],
        nowhere4(7),
        "direct_udp",
        1,
    )
}

#[test]
fn many_datagrams_by_one_call_by_ipv6() -> Result<()> {
    holds(
        &["udp-many", "[2001:db8:100::7]:4000", "5"],
        nowhere6(7),
        "direct_udp",
        1,
    )
}

#[test]
fn io_uring() -> Result<()> {
    holds(
        &["udp-ring", "198.51.100.7:4000"],
        nowhere4(7),
        "direct_udp",
        1,
    )
}

#[test]
fn io_uring_by_ipv6() -> Result<()> {
    holds(
        &["udp-ring", "[2001:db8:100::7]:4000"],
        nowhere6(7),
        "direct_udp",
        1,
    )
}

#[test]
fn datagrams_that_the_device_cuts() -> Result<()> {
    holds(
        &["udp-segments", "198.51.100.7:4000"],
        nowhere4(7),
        "direct_udp",
        1,
    )
}

#[test]
fn datagrams_that_the_device_cuts_by_ipv6() -> Result<()> {
    holds(
        &["udp-segments", "[2001:db8:100::7]:4000"],
        nowhere6(7),
        "direct_udp",
        1,
    )
}

#[test]
fn a_datagram_without_a_copy() -> Result<()> {
    holds(
        &["udp-zerocopy", "198.51.100.7:4000"],
        nowhere4(7),
        "direct_udp",
        1,
    )
}

#[test]
fn a_datagram_without_a_copy_by_ipv6() -> Result<()> {
    holds(
        &["udp-zerocopy", "[2001:db8:100::7]:4000"],
        nowhere6(7),
        "direct_udp",
        1,
    )
}

#[test]
fn a_datagram_from_a_file() -> Result<()> {
    holds(
        &["udp-sendfile", "198.51.100.7:4000"],
        nowhere4(7),
        "direct_udp",
        1,
    )
}

#[test]
fn a_datagram_from_a_file_by_ipv6() -> Result<()> {
    holds(
        &["udp-sendfile", "[2001:db8:100::7]:4000"],
        nowhere6(7),
        "direct_udp",
        1,
    )
}

#[test]
fn a_datagram_from_a_pipe() -> Result<()> {
    holds(
        &["udp-splice", "198.51.100.7:4000"],
        nowhere4(7),
        "direct_udp",
        1,
    )
}

#[test]
fn a_datagram_from_a_pipe_by_ipv6() -> Result<()> {
    holds(
        &["udp-splice", "[2001:db8:100::7]:4000"],
        nowhere6(7),
        "direct_udp",
        1,
    )
}

#[test]
fn a_connected_datagram_from_nobodys_address() -> Result<()> {
    holds(
        &["udp-transparent", "10.1.77.5", "198.51.100.7:4000"],
        nowhere4(7),
        "direct_udp",
        1,
    )
}

#[test]
fn a_connected_datagram_from_nobodys_ipv6_address() -> Result<()> {
    holds(
        &["udp-transparent", "fd00:1:77::5", "[2001:db8:100::7]:4000"],
        nowhere6(7),
        "direct_udp",
        1,
    )
}

#[test]
fn udp_lite() -> Result<()> {
    holds(
        &["udp-lite", "198.51.100.7:4000"],
        nowhere4(7),
        "raw_socket",
        1,
    )
}

#[test]
fn udp_lite_by_ipv6() -> Result<()> {
    holds(
        &["udp-lite", "[2001:db8:100::7]:4000"],
        nowhere6(7),
        "raw_socket",
        1,
    )
}

#[test]
fn a_ping_socket_by_ipv6() -> Result<()> {
    holds(&["ping", "2001:db8:100::7"], nowhere6(7), "raw_socket", 1)
}

#[test]
fn a_raw_socket_by_ipv4() -> Result<()> {
    holds(&["ping-raw", "198.51.100.7"], nowhere4(7), "raw_socket", 1)
}

#[test]
fn an_ipv6_header_of_ones_own() -> Result<()> {
    holds(
        &["raw-header", "2001:db8::2", "2001:db8:100::7", "4000"],
        nowhere6(7),
        "raw_socket",
        1,
    )
}

#[test]
fn a_tunnel_by_raw_ip() -> Result<()> {
    holds(&["raw", "198.51.100.7", "47"], nowhere4(7), "raw_socket", 1)
}

#[test]
fn tcp_ends_at_the_gateway() -> Result<()> {
    let scene = Scene::new()?;
    let host = host(&scene)?;
    let agent = enforce(&scene, &host)?;
    scene.capture.clear();
    for (to, address) in [
        ("198.51.100.7:8443", nowhere4(7)),
        ("[2001:db8:100::7]:8443", nowhere6(7)),
    ] {
        for attack in ["tcp", "tcp-fastopen", "tcp-multipath", "tcp-ring"] {
            host.attack(&[attack, to])?;
        }
        ensure!(scene.arrived(address)?.is_empty(), "{to}");
        let record = agent.records.wait_for("a record", |record| {
            record.kind() == "connection.open" && record.is_to(address)
        })?;
        ensure!(record.verdict() == "deny", "{record:?}");
        ensure!(record.endpoint() == "shop/node-agent", "{record:?}");
        ensure!(record.text("/process/command") == "attack", "{record:?}");
    }
    Ok(())
}
