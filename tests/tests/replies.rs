//! Whom a workload that serves may answer.

use std::net::IpAddr;

use anyhow::{Result, ensure};
use egress_tests::{
    agent::{Agent, Config},
    echo::{self, Echo},
    process,
    scene::Scene,
};

/// A policy whose workloads answer whom `from` names, by these protocols.
fn policy(from: &str, protocols: &str) -> String {
    let base = Config::default().policy;
    format!(
        "{base}---\n\
         apiVersion: egress-agent.dev/v1alpha1\n\
         kind: ClusterEgressPolicy\n\
         metadata: {{ name: replies }}\n\
         spec:\n\
         \x20 replies:\n\
         \x20   - {{ from: [{from}], ports: [8080], protocols: [{protocols}] }}\n"
    )
}

/// A scene with a server in its pod.
fn served() -> Result<(Scene, Echo)> {
    let scene = Scene::new()?;
    let server = Echo::start(scene.pod.command("python3")?)?;
    Ok((scene, server))
}

/// Whether the pod answers datagrams from the node, at each of its addresses.
fn expect_answers(scene: &Scene, agent: &mut Agent<'_>) -> Result<()> {
    for address in scene.pod.addresses() {
        scene.world.node.enter(|| echo::ask(address))??;
    }
    agent.stop()?;
    agent.records.expect_no_report()
}

#[test]
fn datagrams_are_answered_where_the_policy_says_so() -> Result<()> {
    let (scene, _server) = served()?;
    let mut agent = scene.enforce(&Config {
        policy: policy("\"10.0.0.0/8\", \"fd00::/16\"", "UDP"),
        ..Config::default()
    })?;
    expect_answers(&scene, &mut agent)
}

#[test]
fn a_node_without_a_link_of_its_own_answers_as_well() -> Result<()> {
    let scene = Scene::new()?;
    let host = scene.world.host_pod("shop/dns", "orders")?;
    let other = scene.world.pod("shop/other")?;
    let _server = Echo::start(host.command("python3")?)?;
    let config = Config {
        policy: policy("\"10.0.0.0/8\", \"fd00::/16\"", "UDP"),
        ..Config::default()
    };
    let mut agent = scene.enforce(&config.and_host_pod(&host))?;
    for to in [IpAddr::from(other.gateway4), other.gateway6.into()] {
        other.namespace.enter(|| echo::ask(to))??;
    }
    agent.stop()?;
    agent.records.expect_no_report()
}

#[test]
fn no_datagram_is_answered_without_a_rule() -> Result<()> {
    let (scene, _server) = served()?;
    let agent = scene.enforce(&Config::default())?;
    let [address, _] = scene.pod.addresses();
    let answered = scene.world.node.enter(|| echo::ask(address))?;
    ensure!(answered.is_err(), "answered");
    let report = agent
        .records
        .wait_for("a report", |record| record.kind() == "bypass")?;
    ensure!(report.reason() == "node", "{report:?}");
    ensure!(report.text("/process/command") == "python3", "{report:?}");
    Ok(())
}

#[test]
fn somebody_outside_is_answered_by_tcp_where_the_policy_says_so() -> Result<()> {
    let (scene, _server) = served()?;
    let mut agent = scene.enforce(&Config {
        policy: policy("192.0.2.1, \"2001:db8::/64\"", "TCP, UDP"),
        ..Config::default()
    })?;
    for address in scene.pod.addresses() {
        let outside = scene.world.lan_host();
        outside.enter(|| echo::speak(&mut echo::connect(address)?))??;
        outside.enter(|| echo::ask(address))??;
    }
    agent.stop()?;
    agent.records.expect_no_report()
}

#[test]
fn nobody_outside_is_answered_without_a_rule() -> Result<()> {
    let (scene, _server) = served()?;
    let agent = scene.enforce(&Config {
        policy: policy("198.51.100.0/24", "TCP, UDP"),
        ..Config::default()
    })?;
    scene.capture.clear();
    for address in scene.pod.addresses() {
        let outside = scene.world.lan_host();
        ensure!(outside.enter(|| echo::connect(address))?.is_err(), "TCP");
        ensure!(outside.enter(|| echo::ask(address))?.is_err(), "UDP");
        let from = scene.capture.from(address);
        ensure!(from.is_empty(), "arrived from the pod: {from:?}");
    }
    agent
        .records
        .wait_for("a report of the handshake", |record| {
            record.kind() == "bypass" && record.reason() == "no_flow"
        })?;
    Ok(())
}

#[test]
fn another_port_is_not_served() -> Result<()> {
    let (scene, _server) = served()?;
    let other = policy("192.0.2.1", "TCP").replace("8080", "8081");
    let _agent = scene.enforce(&Config {
        policy: other,
        ..Config::default()
    })?;
    let [address, _] = scene.pod.addresses();
    let connected = scene.world.lan_host().enter(|| echo::connect(address))?;
    ensure!(connected.is_err(), "answered");
    Ok(())
}

#[test]
fn what_a_removed_rule_had_opened_is_closed_and_the_rest_goes_on() -> Result<()> {
    let (scene, _server) = served()?;
    let both = policy("192.0.2.1", "TCP, UDP");
    let agent = scene.enforce(&Config {
        policy: both,
        ..Config::default()
    })?;
    let [address, _] = scene.pod.addresses();
    let (node, outside) = (&scene.world.node, scene.world.lan_host());
    let mut theirs = outside.enter(|| echo::connect(address))??;
    let mut ours = node.enter(|| echo::connect(address))??;
    echo::speak(&mut theirs)?;
    echo::speak(&mut ours)?;
    agent.reload(&Config::default().policy)?;
    process::eventually("the connection to be cut", || {
        Ok(echo::speak(&mut theirs).is_err().then_some(()))
    })?;
    echo::speak(&mut ours)
}
