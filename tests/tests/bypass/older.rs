//! Sockets that are older than the policy.

use anyhow::{Context as _, Result, ensure};
use egress_tests::{
    agent::Config,
    process::{self, PATIENCE},
    scene::Scene,
    world::{nowhere4, nowhere6},
};
use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, SocketAddr},
    process::Stdio,
};

#[test]
fn a_datagram_socket_older_than_the_policy() -> Result<()> {
    older_than_the_policy("udp-held", nowhere4(7), 4000)
}

#[test]
fn a_connection_older_than_the_policy() -> Result<()> {
    older_than_the_policy("tcp-held", nowhere4(7), 8443)
}

#[test]
fn a_datagram_socket_older_than_the_policy_by_ipv6() -> Result<()> {
    older_than_the_policy("udp-held", nowhere6(7), 4000)
}

#[test]
fn a_connection_older_than_the_policy_by_ipv6() -> Result<()> {
    older_than_the_policy("tcp-held", nowhere6(7), 8443)
}

/// Opens, enforces, then speaks: in vain.
fn older_than_the_policy(attack: &str, to: IpAddr, port: u16) -> Result<()> {
    let scene = Scene::new()?;
    let mut held = scene
        .pod
        .command(egress_tests::tools::attack()?)?
        .args([attack, &SocketAddr::new(to, port).to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    // It says so when it is open.
    let mut open = [0; 5];
    let mut output = held.stdout.take().context("its output is a pipe")?;
    output.read_exact(&mut open)?;
    if attack.starts_with("tcp") {
        ensure!(
            !scene.arrived(to)?.is_empty(),
            "the connection was not opened"
        );
    }
    let agent = scene.enforce(&Config::default())?;
    scene.capture.clear();
    let mut input = held.stdin.take().context("its input is a pipe")?;
    input.write_all(b"go\n")?;
    let status = process::wait(&mut held, PATIENCE)?;
    ensure!(!status.success(), "it was answered");
    scene.expect_nothing(to)?;
    agent.records.wait_for("a report", |record| {
        record.kind() == "bypass" && record.is_to(to)
    })?;
    Ok(())
}
