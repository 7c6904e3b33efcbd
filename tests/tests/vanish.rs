//! Interfaces and cgroups that vanish while the agent is about to attach to them, and come again.

use std::{fs, thread, time::Duration};

use anyhow::{Context as _, Result, ensure};
use egress_tests::{
    agent::{Agent, Config},
    process,
    scene::Scene,
    scratch,
    world::nowhere4,
};

const DATAGRAM: [&str; 3] = ["udp", "198.51.100.7:4000", "x"];

/// Between what goes and what comes, in microseconds: before, amid and after what the agent does.
const PAUSES: [u64; 8] = [0, 200, 500, 1_000, 2_000, 5_000, 10_000, 30_000];

/// How often each.
const ROUNDS: usize = 4;

fn pauses() -> impl Iterator<Item = Duration> {
    let all = PAUSES.repeat(ROUNDS).into_iter();
    all.map(Duration::from_micros)
}

/// The last posture of an endpoint is that it is enforced, and stays so.
fn settled(agent: &Agent<'_>, name: &str) -> Result<()> {
    process::eventually("the endpoint to be enforced", || {
        let postures = agent
            .records
            .matching(|record| record.kind() == "posture" && record.endpoint() == name)?;
        let last = postures.last();
        Ok(last
            .filter(|last| last.text("/state") == "enforced")
            .map(|_| ()))
    })
    .with_context(|| agent.log().unwrap_or_default())
}

/// The names of the links and maps that are pinned.
fn pinned(scene: &Scene) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for pins in scratch::pins(|name| name == scene.world.name()) {
        for folder in ["links", "maps"] {
            for entry in fs::read_dir(pins.join(folder))? {
                names.push(entry?.file_name().to_string_lossy().into_owned());
            }
        }
    }
    names.sort();
    Ok(names)
}

/// Nothing passes, nothing is left of what vanished, and the agent is well.
fn expect_well(scene: &Scene, agent: &Agent<'_>, before: &[String]) -> Result<()> {
    process::eventually("the pins to be those of before", || {
        Ok((pinned(scene)? == before).then_some(()))
    })
    .with_context(|| format!("{before:#?}, now {:#?}", pinned(scene)))?;
    let log = agent.log()?;
    ensure!(!log.contains("panicked"), "{log}");
    scene.curl(&["https://allowed.test/"])?.ok()?;
    scene.capture.clear();
    scene.pod.attack(&DATAGRAM)?;
    let next_hop = scene.world.node.hardware_address(&scene.pod.interface)?;
    let own = scene.pod.address4.to_string();
    scene
        .pod
        .attack(&["frame", "eth0", &next_hop, &own, "198.51.100.7", "4000"])?;
    scene.expect_nothing(nowhere4(7))
}

#[test]
fn an_interface_that_vanishes_while_it_is_attached_to() -> Result<()> {
    let scene = Scene::new()?;
    let agent = scene.enforce(&Config::default())?;
    let before = pinned(&scene)?;
    let node = &scene.world.node;
    let interface = &scene.pod.interface;
    for pause in pauses() {
        node.ip(&format!("link del {interface}\n"))?;
        thread::sleep(pause);
        node.ip(&format!(
            "link add {interface} type veth peer name eth0 netns {}\nlink set {interface} up\n",
            scene.pod.namespace.path()
        ))?;
        thread::sleep(pause);
    }
    node.ip(&format!("link del {interface}\n"))?;
    scene.pod.connect(node)?;
    thread::sleep(process::here(Duration::from_millis(500)));
    settled(&agent, &scene.pod.name)?;
    expect_well(&scene, &agent, &before)
}

#[test]
fn a_cgroup_that_vanishes_while_it_is_attached_to() -> Result<()> {
    let scene = Scene::new()?;
    let host = scene.world.host_pod("shop/node-agent", "orders")?;
    let agent = scene.enforce(&Config::default().and_host_pod(&host))?;
    let before = pinned(&scene)?;
    for pause in pauses() {
        fs::remove_dir(host.container())?;
        fs::remove_dir(&host.cgroup)?;
        thread::sleep(pause);
        fs::create_dir_all(host.container())?;
        thread::sleep(pause);
    }
    thread::sleep(process::here(Duration::from_millis(1_500)));
    settled(&agent, &host.name)?;
    ensure!(
        !host.attack(&DATAGRAM)?.status.success(),
        "the cgroup that came again is not enforced"
    );
    expect_well(&scene, &agent, &before)
}
