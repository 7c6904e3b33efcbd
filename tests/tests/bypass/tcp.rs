//! TCP, by whatever call: it ends at the gateway.

use anyhow::{Context as _, Result, ensure};
use egress_tests::{
    agent::Config,
    process,
    scene::{self, Scene, ends_at_the_gateway},
    world::{nowhere4, nowhere6},
};
use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

#[test]
fn tcp_by_ipv4() -> Result<()> {
    ends_at_the_gateway(
        &["tcp", "198.51.100.7:8443"],
        SocketAddr::new(nowhere4(7), 8443),
    )
}

#[test]
fn tcp_by_ipv6() -> Result<()> {
    ends_at_the_gateway(
        &["tcp", "[2001:db8:100::7]:8443"],
        SocketAddr::new(nowhere6(7), 8443),
    )
}

#[test]
fn tcp_to_a_mapped_address() -> Result<()> {
    ends_at_the_gateway(
        &["tcp", "[::ffff:198.51.100.7]:8443"],
        SocketAddr::new(nowhere4(7), 8443),
    )
}

#[test]
fn tcp_fast_open() -> Result<()> {
    ends_at_the_gateway(
        &["tcp-fastopen", "198.51.100.7:8443"],
        SocketAddr::new(nowhere4(7), 8443),
    )
}

#[test]
fn tcp_fast_open_by_ipv6() -> Result<()> {
    ends_at_the_gateway(
        &["tcp-fastopen", "[2001:db8:100::7]:8443"],
        SocketAddr::new(nowhere6(7), 8443),
    )
}

#[test]
fn multipath_tcp() -> Result<()> {
    ends_at_the_gateway(
        &["tcp-multipath", "198.51.100.7:8443"],
        SocketAddr::new(nowhere4(7), 8443),
    )
}

#[test]
fn multipath_tcp_to_an_ipv6_address() -> Result<()> {
    ends_at_the_gateway(
        &["tcp-multipath", "[2001:db8:100::7]:8443"],
        SocketAddr::new(nowhere6(7), 8443),
    )
}

#[test]
fn tcp_by_io_uring() -> Result<()> {
    ends_at_the_gateway(
        &["tcp-ring", "198.51.100.7:8443"],
        SocketAddr::new(nowhere4(7), 8443),
    )
}

#[test]
fn tcp_by_io_uring_to_an_ipv6_address() -> Result<()> {
    ends_at_the_gateway(
        &["tcp-ring", "[2001:db8:100::7]:8443"],
        SocketAddr::new(nowhere6(7), 8443),
    )
}

#[test]
fn a_connection_without_a_handshake() -> Result<()> {
    nothing_arrives(&["tcp-repair", "198.51.100.7:8443"], nowhere4(7))
}

#[test]
fn a_connection_without_a_handshake_by_ipv6() -> Result<()> {
    nothing_arrives(&["tcp-repair", "[2001:db8:100::7]:8443"], nowhere6(7))
}

/// It is redirected as any connection is. At the gateway it has no other end, and is reset: there is
/// nothing to tell.
fn nothing_arrives(attack: &[&str], to: IpAddr) -> Result<()> {
    let scene = Scene::new()?;
    scene
        .pod
        .attack(attack)?
        .ok()
        .context("with nobody enforcing")?;
    ensure!(
        !scene.arrived(to)?.is_empty(),
        "{attack:?} does not even arrive"
    );
    let _agent = scene.enforce(&Config::default())?;
    scene.capture.clear();
    scene.pod.attack(attack)?;
    scene.expect_nothing(to)
}

#[test]
fn a_connection_from_nobodys_address() -> Result<()> {
    from_nobodys_address(
        "10.1.77.5",
        "198.51.100.7:8443",
        nowhere4(7),
        "169.254.64.1",
    )
}

#[test]
fn a_connection_from_nobodys_ipv6_address() -> Result<()> {
    let to = "[2001:db8:100::7]:8443";
    from_nobodys_address("fd00:1:77::5", to, nowhere6(7), "fd65:6772:6573::1")
}

/// It is sent to the gateway, which must not take it for anybody's.
fn from_nobodys_address(from: &str, to: &str, address: IpAddr, gateway: &str) -> Result<()> {
    let scene = Scene::new()?;
    let attack = ["tcp-transparent", from, to];
    // Nobody could answer it.
    scene.pod.attack(&attack)?;
    ensure!(
        !scene.arrived(address)?.is_empty(),
        "it does not even arrive"
    );
    let mut agent = scene.enforce(&Config::default())?;
    scene.capture.clear();
    scene.pod.attack(&attack)?;
    scene.expect_nothing(address)?;
    agent.stop()?;
    let gateway: IpAddr = gateway.parse()?;
    let report = agent.records.wait_for("a report", |r| r.is_to(gateway))?;
    scene::expect_report(&report, &scene, "spoofed_address")
}

#[test]
fn encrypted_dns() -> Result<()> {
    let scene = Scene::new()?;
    let agent = scene.enforce(&Config::default())?;
    let attempt = scene.pod.attack(&["tcp", "198.51.100.7:853"])?;
    ensure!(attempt.stdout.starts_with("EPERM"), "{}", attempt.text());
    ensure!(
        attempt.took < process::here(Duration::from_secs(1)),
        "it took {:?}",
        attempt.took
    );
    scene.expect_nothing(nowhere4(7))?;
    let report = agent
        .records
        .wait_for("a report", |r| r.kind() == "bypass" && r.is_to(nowhere4(7)))?;
    scene::expect_report(&report, &scene, "encrypted_dns")
}
