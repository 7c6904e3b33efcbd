//! A reload that cannot be changes nothing: neither in the gateway nor in the kernel.

use std::{fs, net::Ipv4Addr};

use anyhow::{Context as _, Result, ensure};
use egress_tests::{
    agent::{Agent, Config},
    process,
    scene::Scene,
    scratch,
    world::nowhere4,
};

const DATAGRAM: [&str; 3] = ["udp", "198.51.100.7:4000", "x"];

/// A policy that allows another host, and a packet beside the gateway.
fn another_policy(direct: &str) -> String {
    Config::policy(&["denied.test"])
        + &format!(
            "---\n\
             apiVersion: egress-agent.dev/v1alpha1\n\
             kind: ClusterEgressPolicy\n\
             metadata: {{ name: direct }}\n\
             spec:\n\
             \x20 selector: {{ namespaces: [shop] }}\n\
             \x20 direct:\n{direct}"
        )
}

/// Waits until the reload is refused; and the old policy is in force, the new one is not.
fn expect_refused(scene: &Scene, agent: &Agent<'_>, words: &str) -> Result<()> {
    process::eventually("the reload to be refused", || {
        Ok(agent.log()?.contains("refused").then_some(()))
    })?;
    let log = agent.log()?;
    ensure!(log.contains("the policy stays as it was"), "{log}");
    ensure!(log.contains(words), "not {words:?}: {log}");
    scene.curl(&["https://allowed.test/"])?.ok()?;
    let to = "denied.test:443:203.0.113.11";
    let new = scene.curl(&["--resolve", to, "https://denied.test/"])?;
    ensure!(!new.status.success(), "the new policy is in force");
    scene.capture.clear();
    scene.pod.attack(&DATAGRAM)?;
    scene.expect_nothing(nowhere4(7))
}

/// A policy that is refused, with the table's size among the words.
fn policy_is_refused(policy: &str, words: &str) -> Result<()> {
    let scene = Scene::new()?;
    let agent = scene.enforce(&Config::default())?;
    agent.reload(policy)?;
    expect_refused(&scene, &agent, words)
}

/// A configuration that is refused, made from the one in force.
fn configuration_is_refused(change: impl Fn(&str) -> String, words: &str) -> Result<()> {
    let scene = Scene::new()?;
    let agent = scene.enforce(&Config::default())?;
    let text = fs::read_to_string(agent.config())?;
    let changed = change(&text);
    ensure!(changed != text, "nothing was changed in {text}");
    // Its policy is another one, too, which is not to come in force.
    scene
        .world
        .scratch()
        .write("policy.yaml", another_policy(ONE))?;
    fs::write(agent.config(), changed)?;
    agent.hang_up()?;
    expect_refused(&scene, &agent, words)
}

/// A direct entry for [`DATAGRAM`].
const ONE: &str =
    "\x20   - cidrs: [\"198.51.100.7/32\"]\n\x20     protocols: [UDP]\n\x20     ports: [4000]\n";

/// So many networks, each of two addresses of 172.16.0.0/12 or of one.
fn networks(count: u32, length: u8) -> Vec<String> {
    let first = u32::from(Ipv4Addr::new(172, 16, 0, 0));
    let network = |n| format!("{}/{length}", Ipv4Addr::from(first + 2 * n));
    (0..count).map(network).collect()
}

/// 2,100 networks of 1,000 ports each: more than 2,097,152.
fn very_many() -> String {
    let cidrs = networks(2_100, 31);
    format!(
        "{ONE}\x20   - cidrs: {cidrs:?}\n\x20     protocols: [UDP]\n\x20     ports: [\"5000-5999\"]\n"
    )
}

#[test]
fn more_direct_entries_than_there_is_room_for_change_nothing() -> Result<()> {
    policy_is_refused(&another_policy(&very_many()), "there is room for 2097152")
}

#[test]
fn more_entries_of_replies_than_a_map_holds_change_nothing() -> Result<()> {
    let from = networks(70, 31);
    let replies =
        format!("{ONE}\x20 replies:\n\x20   - from: {from:?}\n\x20     ports: [\"5000-5999\"]\n");
    policy_is_refused(&another_policy(&replies), "there is room for 65536")
}

#[test]
fn more_cluster_networks_than_a_map_holds_change_nothing() -> Result<()> {
    let more = networks(4_200, 31).join("\", \"");
    let more = format!("clusterNetworks: [\"{more}\", ");
    let change = |text: &str| text.replace("clusterNetworks: [", &more);
    configuration_is_refused(change, "there is room for 4096")
}

#[test]
fn more_endpoints_than_a_map_holds_change_nothing() -> Result<()> {
    let endpoint =
        |n| format!("\x20 - name: shop/more{n}\n\x20   cgroup: /sys/fs/cgroup/more{n}\n");
    let more: String = (0..1_030).map(endpoint).collect();
    configuration_is_refused(|text| format!("{text}{more}"), "there is room for 1022")
}

#[test]
fn more_addresses_of_endpoints_than_a_map_holds_change_nothing() -> Result<()> {
    let more = networks(17_000, 32).join("\", \"").replace("/32", "");
    let more = format!("addresses: [\"{more}\", ");
    let change = |text: &str| text.replace("addresses: [", &more);
    configuration_is_refused(change, "there is room for 16384")
}

#[test]
fn a_reload_that_fails_half_way_is_undone() -> Result<()> {
    let scene = Scene::new()?;
    let new = scene.world.host_pod("shop/new", "orders")?;
    let agent = scene.enforce(&Config::default())?;
    // Where a program of the new endpoint's is to be pinned, something is in the way; others are
    // attached before it.
    let pins = scratch::pins(|name| name == scene.world.name());
    let links = pins.first().context("no pins")?.join("links");
    let in_the_way = links.join("shop+new--egress_getpeername4~");
    fs::create_dir(&in_the_way)?;

    let config = Config {
        policy: another_policy(ONE),
        ..Config::default()
    };
    let text = Agent::configuration(&scene.world, &config.and_host_pod(&new), &[&scene.pod])?;
    fs::write(agent.config(), text)?;
    agent.hang_up()?;
    expect_refused(&scene, &agent, "egress_getpeername4")?;
    for entry in fs::read_dir(&links)? {
        let name = entry?.file_name();
        let left = name.to_string_lossy().starts_with("shop+new--");
        ensure!(
            !left || links.join(&name) == in_the_way,
            "{name:?} is attached still"
        );
    }
    ensure!(
        new.attack(&DATAGRAM)?.status.success(),
        "the new endpoint is enforced in part"
    );

    // Without it, the same is taken up.
    fs::remove_dir(&in_the_way)?;
    let text = fs::read_to_string(agent.config())?;
    agent.reload_config_again(&text)?;
    let to = "denied.test:443:203.0.113.11";
    scene
        .curl(&["--resolve", to, "https://denied.test/"])?
        .ok()?;
    Ok(())
}

#[test]
fn no_name_leads_to_the_node_or_the_cluster_however_public() -> Result<()> {
    let scene = Scene::new()?;
    let config = Config {
        policy: Config::policy(&["allowed.test", "node.test", "repo.test"]),
        ..Config::default()
    };
    let agent = scene.enforce(&config)?;
    let address4 = egress_tests::internet::address4("repo.test");
    let address6 = egress_tests::internet::address6("repo.test");
    let networks = format!("\"{address4}/32\", \"{address6}/128\"");
    let text = fs::read_to_string(agent.config())?;
    let cluster = format!("clusterNetworks: [{networks}, ");
    agent.reload_config(&text.replace("clusterNetworks: [", &cluster))?;
    for (name, reason) in [
        ("node.test", "answer_node"),
        ("repo.test", "answer_cluster"),
    ] {
        // To an address elsewhere, so that the connection gets as far as the gateway.
        let to = format!("{name}:443:203.0.113.10");
        let url = format!("https://{name}/");
        let reached = scene.curl(&["--resolve", &to, "-4", &url])?;
        ensure!(!reached.status.success(), "{name}: {}", reached.text());
        agent.records.wait_for("the refusal", |record| {
            record.text("/server_name") == name
                && (record.reason() == reason || record.text("/close_reason") == reason)
        })?;
    }
    scene.curl(&["-4", "https://allowed.test/"])?.ok()?;

    // What the operator permits wins.
    let text = fs::read_to_string(agent.config())?;
    let permitted = format!("permittedAnswers: [{networks}]");
    let mut agent = agent;
    agent.stop()?;
    fs::write(
        agent.config(),
        text.replace("permittedAnswers: []", &permitted),
    )?;
    agent.launch()?;
    let to = "repo.test:443:203.0.113.10";
    scene
        .curl(&["--resolve", to, "-4", "https://repo.test/"])?
        .ok()?;
    Ok(())
}
