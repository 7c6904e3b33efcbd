//! What is near: the metadata service, the node, other pods, the gateway itself.

use crate::once;
use anyhow::{Context as _, Result, ensure};
use egress_tests::{
    agent::Config,
    scene::{self, Scene, holds, holds_in},
    world::{NODE4, NODE6},
};
use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    time::Duration,
};

#[test]
fn the_metadata_service() -> Result<()> {
    let metadata = IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254));
    holds(once(
        &["udp", "169.254.169.254:80", "x"],
        metadata,
        "metadata_service",
    ))
}

#[test]
fn the_metadata_service_by_ipv6() -> Result<()> {
    let scene = Scene::new()?;
    let internet = &scene.world.internet.namespace;
    internet.ip("route add local fd00:ec2::254/128 dev lo\n")?;
    let attack = ["udp", "[fd00:ec2::254]:80", "x"];
    let metadata = "fd00:ec2::254".parse()?;
    holds_in(&scene, once(&attack, metadata, "metadata_service"))
}

#[test]
fn the_metadata_service_by_tcp() -> Result<()> {
    let scene = Scene::new()?;
    let metadata = IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254));
    scene.curl(&["http://169.254.169.254/"])?.ok()?;
    let agent = scene.enforce(&Config::default())?;
    scene.capture.clear();
    let denied = scene.curl(&["http://169.254.169.254/"])?;
    ensure!(!denied.status.success(), "{}", denied.text());
    scene.expect_nothing(metadata)?;
    let report = agent
        .records
        .wait_for("a report", |r| r.kind() == "bypass" && r.is_to(metadata))?;
    scene::expect_report(&report, &scene, "metadata_service")?;
    ensure!(report.text("/process/command") == "curl", "{report:?}");
    Ok(())
}

#[test]
fn a_name_that_resolves_to_the_metadata_service() -> Result<()> {
    let scene = Scene::new()?;
    let config = Config {
        policy: Config::policy(&["metadata.test", "rebind.test"]),
        ..Config::default()
    };
    let _agent = scene.enforce(&config)?;
    for host in ["metadata.test", "rebind.test"] {
        let to = format!("{host}:443:203.0.113.10");
        let denied = scene.curl(&["--resolve", &to, &format!("https://{host}/")])?;
        ensure!(!denied.status.success(), "{}", denied.text());
    }
    scene.expect_nothing(Ipv4Addr::new(169, 254, 169, 254).into())?;
    scene.expect_nothing(Ipv4Addr::new(10, 9, 9, 9).into())
}

#[test]
fn a_service_of_the_node() -> Result<()> {
    let scene = Scene::new()?;
    let service = scene
        .world
        .node
        .enter(|| UdpSocket::bind((NODE4, 4000)))??;
    is_out_of_reach(&scene, &service, "node")
}

#[test]
fn the_nodes_side_of_the_link() -> Result<()> {
    let scene = Scene::new()?;
    let address = scene.pod.gateway4;
    let service = scene
        .world
        .node
        .enter(|| UdpSocket::bind((address, 4000)))??;
    is_out_of_reach(&scene, &service, "node")
}

#[test]
fn a_service_of_the_node_by_ipv6() -> Result<()> {
    let scene = Scene::new()?;
    let service = scene
        .world
        .node
        .enter(|| UdpSocket::bind((NODE6, 4000)))??;
    is_out_of_reach(&scene, &service, "node")
}

#[test]
fn the_nodes_side_of_the_link_by_ipv6() -> Result<()> {
    let scene = Scene::new()?;
    let address = scene.pod.gateway6;
    let service = scene
        .world
        .node
        .enter(|| UdpSocket::bind((address, 4000)))??;
    is_out_of_reach(&scene, &service, "node")
}

#[test]
fn another_pod() -> Result<()> {
    let scene = Scene::new()?;
    let other = scene.world.pod("shop/other")?;
    let service = other
        .namespace
        .enter(|| UdpSocket::bind((other.address4, 4000)))??;
    is_out_of_reach(&scene, &service, "cluster")
}

#[test]
fn another_pod_by_ipv6() -> Result<()> {
    let scene = Scene::new()?;
    let other = scene.world.pod("shop/other")?;
    let service = other
        .namespace
        .enter(|| UdpSocket::bind((other.address6, 4000)))??;
    is_out_of_reach(&scene, &service, "cluster")
}

#[test]
fn the_gateways_address_on_another_port() -> Result<()> {
    another_port_of_the_gateway("169.254.64.1".parse()?)
}

#[test]
fn the_gateways_ipv6_address_on_another_port() -> Result<()> {
    another_port_of_the_gateway("fd65:6772:6573::1".parse()?)
}

fn another_port_of_the_gateway(gateway: IpAddr) -> Result<()> {
    let scene = Scene::new()?;
    let mut agent = scene.enforce(&Config::default())?;
    let service = scene
        .world
        .node
        .enter(|| UdpSocket::bind((gateway, 443)))??;
    service.set_read_timeout(Some(Duration::from_millis(100)))?;
    let at = |port| SocketAddr::new(gateway, port).to_string();
    scene.pod.attack(&["udp", &at(443), "x"])?;
    scene.pod.attack(&["tcp", &at(22)])?;
    scene.pod.attack(&["ping", &gateway.to_string()])?;
    ensure!(service.recv(&mut [0; 16]).is_err(), "the datagram arrived");
    agent.stop()?;
    let reports = agent
        .records
        .matching(|r| r.kind() == "bypass" && r.is_to(gateway))?;
    ensure!(reports.len() == 3, "{reports:#?}");
    for report in &reports {
        scene::expect_report(report, &scene, "gateway_port")?;
    }
    Ok(())
}

/// That a service inside the cluster is reached while nobody enforces, and then not.
fn is_out_of_reach(scene: &Scene, service: &UdpSocket, reason: &str) -> Result<()> {
    service.set_read_timeout(Some(Duration::from_millis(200)))?;
    let to = service.local_addr()?;
    let attack = ["udp", &to.to_string(), "x"];
    scene.pod.attack(&attack)?.ok()?;
    service
        .recv(&mut [0; 16])
        .context("with nobody enforcing")?;

    let agent = scene.enforce(&Config::default())?;
    scene.pod.attack(&attack)?;
    ensure!(service.recv(&mut [0; 16]).is_err(), "the datagram arrived");
    let report = agent
        .records
        .wait_for("a report", |r| r.kind() == "bypass" && r.is_to(to.ip()))?;
    scene::expect_report(&report, scene, reason)
}
