//! The gateway is nobody's relay, and a neighbour's identity nobody else's.

use anyhow::{Result, ensure};
use egress_tests::{
    agent::Config,
    process::{self, PATIENCE},
    scene::Scene,
    world::nowhere4,
};
use std::{
    net::{IpAddr, SocketAddr, TcpStream},
    time::Duration,
};

#[test]
fn the_gateway_is_no_relay_for_a_host_of_the_lan() -> Result<()> {
    let scene = Scene::new()?;
    let agent = scene.enforce(&Config::default())?;
    let lan = scene.world.lan_host();
    lan.ip("route add 169.254.64.1/32 via 192.0.2.2\nroute add fd65:6772:6573::1/128 via 2001:db8::2\n")?;
    for gateway in [
        "169.254.64.1:15001",
        "[fd65:6772:6573::1]:15001",
        "169.254.64.1:15002",
        "169.254.64.1:15053",
    ] {
        let gateway: SocketAddr = gateway.parse()?;
        let reached =
            lan.enter(|| TcpStream::connect_timeout(&gateway, Duration::from_millis(1500)))?;
        ensure!(reached.is_err(), "a host of the LAN reached {gateway}");
    }
    let connections = agent
        .records
        .matching(|r| r.kind().starts_with("connection"))?;
    ensure!(connections.is_empty(), "{connections:#?}");
    Ok(())
}

#[test]
fn a_host_of_the_lan_does_not_get_in_by_ip_options() -> Result<()> {
    let scene = Scene::new()?;
    let agent = scene.enforce(&Config::default())?;
    let lan = scene.world.lan_host();
    lan.ip("route add 169.254.64.1/32 via 192.0.2.2\nroute add fd65:6772:6573::1/128 via 2001:db8::2\n")?;
    // IP_OPTIONS with three no-operations (RFC 791); IPV6_DSTOPTS with a PadN (RFC 8200).
    let script = "import socket\n\
                  for family, to, level, option, value in (\
                  (socket.AF_INET, '169.254.64.1', 0, 4, b'\\1\\1\\1\\0'), \
                  (socket.AF_INET6, 'fd65:6772:6573::1', 41, 59, b'\\0\\0\\1\\4\\0\\0\\0\\0')):\n\
                  \x20   s = socket.socket(family); s.settimeout(1.5)\n\
                  \x20   s.setsockopt(level, option, value)\n\
                  \x20   try: s.connect((to, 15001)); print('reached', to)\n\
                  \x20   except TimeoutError: print('dropped')";
    let made = process::finish(lan.command("python3").args(["-c", script]), PATIENCE)?.ok()?;
    ensure!(made == "dropped\ndropped\n", "{made}");
    for gateway in ["169.254.64.1", "fd65:6772:6573::1"] {
        let gateway: IpAddr = gateway.parse()?;
        let report = agent.records.wait_for("a report", |r| r.is_to(gateway))?;
        ensure!(report.reason() == "no_endpoint", "{report:?}");
    }
    Ok(())
}

#[test]
fn the_gateway_is_no_relay_for_a_process_outside_every_endpoint() -> Result<()> {
    let scene = Scene::new()?;
    let other = scene.world.pod("shop/other")?;
    let _agent = scene.enforce(&Config::default())?;
    let gateway: SocketAddr = "169.254.64.1:15001".parse()?;
    for namespace in [&scene.world.node, &other.namespace] {
        let reached = namespace
            .enter(|| TcpStream::connect_timeout(&gateway, Duration::from_millis(1500)))?;
        ensure!(
            reached.is_err(),
            "a process outside every endpoint reached the gateway"
        );
    }
    Ok(())
}

#[test]
fn a_neighbours_port_does_not_give_its_identity() -> Result<()> {
    let scene = Scene::new()?;
    let neighbour = scene.world.pod("shop/neighbour")?;
    let agent = egress_tests::agent::Agent::start(
        &scene.world,
        &Config::default(),
        &[&scene.pod, &neighbour],
    )?;
    // The forger, in the first pod, sends frames with the neighbour's address and a port that the
    // neighbour then connects from.
    let next_hop = scene.world.node.hardware_address(&scene.pod.interface)?;
    let forge = [
        "frame",
        "eth0",
        &next_hop,
        "10.1.2.5",
        "169.254.64.1",
        "15001",
    ];
    for _ in 0..20 {
        scene.pod.attack(&forge)?;
    }
    neighbour.attack(&["tcp-from", "40000", "198.51.100.7:8443"])?;
    let record = agent
        .records
        .wait_for("the neighbour's connection", |record| {
            record.kind() == "connection.open" && record.is_to(nowhere4(7))
        })?;
    ensure!(record.endpoint() == "shop/neighbour", "{record:?}");
    let report = agent.records.wait_for("a report of the forger", |r| {
        r.reason() == "spoofed_address"
    })?;
    ensure!(report.endpoint() == "shop/orders", "{report:?}");
    Ok(())
}
