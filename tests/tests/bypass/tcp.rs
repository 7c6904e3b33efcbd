//! TCP, by whatever call: it ends at the gateway.

use anyhow::{Result, ensure};
use egress_tests::{
    agent::Config,
    process,
    scene::{self, Scene, ends_at_the_gateway},
    world::{nowhere4, nowhere6},
};
use std::{net::SocketAddr, time::Duration};

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
