//! Bad input: one clear line, a non-zero exit, and nothing left half done.

use anyhow::{Result, ensure};
use egress_tests::{
    agent::{self, Agent, Config},
    scene::Scene,
    scratch,
};

/// Runs the agent with a configuration that was changed, and expects one line with these words.
fn refused(from: &str, to: &str, words: &[&str]) -> Result<()> {
    let scene = Scene::new()?;
    let (config, _) = files(&scene)?;
    ensure!(
        config.contains(from),
        "the configuration has no {from}:\n{config}"
    );
    let path = scene
        .world
        .scratch()
        .write("config.yaml", config.replacen(from, to, 1))?;
    expect(
        &scene,
        &["run", "--config", &path.display().to_string()],
        words,
    )
}

/// The same with the policy.
fn policy_refused(from: &str, to: &str, words: &[&str]) -> Result<()> {
    let scene = Scene::new()?;
    let (config, policy) = files(&scene)?;
    ensure!(policy.contains(from), "the policy has no {from}:\n{policy}");
    scene
        .world
        .scratch()
        .write("policy.yaml", policy.replacen(from, to, 1))?;
    let path = scene.world.scratch().write("config.yaml", config)?;
    expect(
        &scene,
        &["run", "--config", &path.display().to_string()],
        words,
    )
}

fn files(scene: &Scene) -> Result<(String, String)> {
    let config = Config::default();
    let text = Agent::configuration(&scene.world, &config, &[&scene.pod])?;
    Ok((text, config.policy))
}

fn expect(scene: &Scene, arguments: &[&str], words: &[&str]) -> Result<()> {
    let done = agent::run(&scene.world, arguments)?;
    ensure!(!done.status.success(), "it was taken: {}", done.text());
    let lines: Vec<&str> = done
        .stderr
        .lines()
        .filter(|line| !line.is_empty())
        .collect();
    ensure!(lines.len() == 1, "not one line: {}", done.stderr);
    for word in words {
        ensure!(
            done.stderr.contains(word),
            "no {word:?} in: {}",
            done.stderr
        );
    }
    let left = scratch::left_by(scene.world.name())?;
    ensure!(left.is_empty(), "left half done: {left:?}");
    Ok(())
}

#[test]
fn an_unknown_field() -> Result<()> {
    refused(
        "clusterNetworks",
        "clusterNetwork",
        &["config.yaml:", "clusterNetwork", "clusterNetworks"],
    )
}

#[test]
fn an_unknown_field_of_an_endpoint() -> Result<()> {
    refused(
        "    interface:",
        "    device:",
        &["config.yaml:", "device", "interface"],
    )
}

#[test]
fn an_address_that_is_none() -> Result<()> {
    refused("10.1.1.5", "10.1.1.555", &["config.yaml:"])
}

#[test]
fn a_network_that_is_none() -> Result<()> {
    refused("10.0.0.0/8", "10.0.0.0/40", &["config.yaml:"])
}

#[test]
fn an_unknown_mode() -> Result<()> {
    refused(
        "mode: Enforce",
        "mode: Enforced",
        &["config.yaml:", "Enforced", "Enforce", "Audit"],
    )
}

#[test]
fn a_cgroup_that_is_not_there() -> Result<()> {
    refused(
        "kubepods/burstable",
        "kubepods/nowhere",
        &["kubepods/nowhere"],
    )
}

#[test]
fn an_interface_that_is_not_there() -> Result<()> {
    refused("interface: pod1", "interface: pod9", &["pod9"])
}

#[test]
fn a_policy_file_that_is_not_there() -> Result<()> {
    refused("[policy.yaml]", "[missing.yaml]", &["missing.yaml"])
}

#[test]
fn a_gateway_that_would_be_root() -> Result<()> {
    refused("user: 62951", "user: 0", &["gateway.user", "root"])
}

#[test]
fn no_configuration_file() -> Result<()> {
    let scene = Scene::new()?;
    expect(
        &scene,
        &["run", "--config", "/nowhere/config.yaml"],
        &["/nowhere/config.yaml"],
    )
}

#[test]
fn a_port_in_use() -> Result<()> {
    let scene = Scene::new()?;
    let (config, _) = files(&scene)?;
    let path = scene.world.scratch().write("config.yaml", config)?;
    let _taken = scene
        .world
        .node
        .enter(|| std::net::TcpListener::bind("0.0.0.0:15001"))??;
    expect(
        &scene,
        &["run", "--config", &path.display().to_string()],
        &["15001"],
    )
}

#[test]
fn a_bare_star() -> Result<()> {
    policy_refused("allowed.test", "*", &["policy.yaml:", "*"])
}

#[test]
fn an_unknown_kind() -> Result<()> {
    policy_refused(
        "kind: EgressPolicy",
        "kind: EgresPolicy",
        &["policy.yaml:", "EgressPolicy"],
    )
}

#[test]
fn an_unknown_field_of_a_rule() -> Result<()> {
    policy_refused("- hosts", "- host", &["policy.yaml:", "host", "hosts"])
}

#[test]
fn a_path_that_no_request_has() -> Result<()> {
    policy_refused(
        "- hosts: [\"allowed.test\", \"repo.test\", \"*.cdn.test\"]",
        "- http: { hosts: [\"status.test\"], paths: [\"/v1//x\"] }",
        &["write \"/v1/x\""],
    )
}

#[test]
fn authorities_that_are_not_there() -> Result<()> {
    refused(
        "permittedAnswers: []\n  roots: ",
        "permittedAnswers: []\n  roots: /nonexistent",
        &["gateway.roots", "check the path"],
    )
}
