//! What somebody detaches, replaces or changes is noticed, repaired and said.

use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use egress_common::{
    address::Address,
    direct::{Bucket as _, Bucket4, HEAD, Key},
};
use egress_tests::{
    agent::{Agent, Config},
    bpf, process,
    records::Record,
    scene::Scene,
    scratch,
    world::nowhere4,
};

const DATAGRAM: [&str; 3] = ["udp", "198.51.100.7:4000", "x"];

/// Within which it must be noticed and repaired.
const PATIENCE: Duration = Duration::from_secs(3);

fn pins(scene: &Scene) -> Result<PathBuf> {
    let pins = scratch::pins(|name| name == scene.world.name());
    pins.into_iter().next().context("nothing is pinned")
}

fn link(scene: &Scene, program: &str) -> Result<PathBuf> {
    Ok(pins(scene)?.join(format!("links/shop+orders--{program}")))
}

/// Waits for the alert and the repair, then that the endpoint can send nothing.
fn expect_repair(scene: &Scene, agent: &Agent<'_>, words: &str) -> Result<()> {
    let begun = Instant::now();
    let said = |state: &str| {
        agent.records.wait_for(state, |record: &Record| {
            record.text("/state") == state && record.text("/detail/what").contains(words)
        })
    };
    let log = || format!("the agent's log is:\n{}", agent.log().unwrap_or_default());
    let alert = said("tampered").with_context(log)?;
    ensure!(alert.kind() == "posture", "{alert:?}");
    said("repaired")?;
    ensure!(
        begun.elapsed() < process::here(PATIENCE),
        "after {:?}",
        begun.elapsed()
    );
    expect_enforced(scene)?;
    // Once mended it stays so.
    let before = agent.records.matching(|r| r.text("/state") == "tampered")?;
    std::thread::sleep(Duration::from_millis(2200));
    let after = agent.records.matching(|r| r.text("/state") == "tampered")?;
    ensure!(before.len() == after.len(), "again: {after:?}");
    Ok(())
}

fn expect_enforced(scene: &Scene) -> Result<()> {
    scene.capture.clear();
    scene.pod.attack(&DATAGRAM)?;
    let next_hop = scene.world.node.hardware_address(&scene.pod.interface)?;
    scene.pod.attack(&[
        "frame",
        "eth0",
        &next_hop,
        "10.1.1.5",
        "198.51.100.7",
        "4000",
    ])?;
    scene.expect_nothing(nowhere4(7))
}

#[test]
fn nothing_is_reported_where_nobody_tampers() -> Result<()> {
    let scene = Scene::new()?;
    let agent = scene.enforce(&Config::default())?;
    std::thread::sleep(Duration::from_millis(2500));
    scene.curl(&["https://allowed.test/"])?.ok()?;
    let said = agent
        .records
        .matching(|record| record.kind() == "posture" && record.text("/state") != "ready")?;
    ensure!(said.is_empty(), "{said:?}");
    Ok(())
}

#[test]
fn a_cgroup_link_that_was_detached_is_attached_again() -> Result<()> {
    let scene = Scene::new()?;
    let agent = scene.enforce(&Config::default())?;
    for program in ["egress_skb_egress", "egress_sendmsg4"] {
        bpf::detach(&link(&scene, program)?)?;
    }
    expect_repair(&scene, &agent, "egress_skb_egress: it was detached")
}

#[test]
fn an_interfaces_link_that_was_detached_is_attached_again() -> Result<()> {
    let scene = Scene::new()?;
    let agent = scene.enforce(&Config::default())?;
    let link = link(&scene, "egress_link_out")?;
    if link.exists() {
        bpf::detach(&link)?;
    } else {
        // Before Linux 6.6 it is a filter, which goes with its qdisc.
        let mut tc = scene.world.node.command("tc");
        tc.args(["qdisc", "del", "dev", &scene.pod.interface, "clsact"]);
        process::finish(&mut tc, process::PATIENCE)?.ok()?;
    }
    expect_repair(&scene, &agent, "egress_link_out: it was detached")
}

#[test]
fn pins_that_were_removed_are_made_again_and_nothing_passes_meanwhile() -> Result<()> {
    let scene = Scene::new()?;
    let mut agent = scene.enforce(&Config::default())?;
    scene.capture.clear();
    let pins = pins(&scene)?;
    let mut removed = Vec::new();
    for folder in ["links", "maps"] {
        for entry in fs::read_dir(pins.join(folder))? {
            let path = entry?.path();
            fs::remove_file(&path)?;
            removed.push(path);
        }
    }
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(1500) {
        scene.pod.attack(&DATAGRAM)?;
    }
    scene.expect_nothing(nowhere4(7))?;
    expect_repair(&scene, &agent, "pin")?;
    for path in &removed {
        ensure!(path.exists(), "{} is gone still", path.display());
    }
    // They are the same as before, and hold without the agent.
    agent.kill()?;
    expect_enforced(&scene)
}

#[test]
fn a_program_that_was_replaced_is_put_back() -> Result<()> {
    let scene = Scene::new()?;
    let agent = scene.enforce(&Config::default())?;
    let harmless = bpf::Program::cgroup_skb_egress()?;
    bpf::update(&link(&scene, "egress_skb_egress")?, &harmless)?;
    expect_repair(&scene, &agent, "another program was in its place")
}

#[test]
fn a_program_ahead_of_ours_is_put_behind() -> Result<()> {
    let scene = Scene::new()?;
    let agent = scene.enforce(&Config::default())?;
    if !link(&scene, "egress_link_out")?.exists() {
        // Before Linux 6.6 the order of filters is not looked at: ARCHITECTURE.md, known limits.
        return Ok(());
    }
    let passes = bpf::Program::classifier_that_passes()?;
    let interface = &scene.pod.interface;
    let index = scene.world.node.enter(|| index(interface))??;
    let ahead = scene
        .world
        .node
        .enter(|| bpf::attach_ahead(&passes, index))??;
    // It is there, and does what it shall: frames pass that ours would drop.
    scene.capture.clear();
    let next_hop = scene.world.node.hardware_address(interface)?;
    let frame = [
        "frame",
        "eth0",
        &next_hop,
        "10.1.1.5",
        "198.51.100.7",
        "4000",
    ];
    scene.pod.attack(&frame)?;
    if scene.arrived(nowhere4(7))?.is_empty() {
        // Unless it was repaired already.
        let repaired = agent.records.matching(|r| r.text("/state") == "repaired")?;
        ensure!(!repaired.is_empty(), "the program ahead passes nothing");
    }
    expect_repair(&scene, &agent, "another program was ahead of it")?;
    drop(ahead);
    expect_enforced(&scene)?;
    scene.curl(&["https://allowed.test/"])?.ok()?;
    // What was changed goes on without the agent, and with the next one.
    let mut agent = agent;
    agent.kill()?;
    expect_enforced(&scene)?;
    agent.launch()?;
    expect_enforced(&scene)
}

#[test]
fn map_entries_that_were_changed_are_written_again() -> Result<()> {
    let scene = Scene::new()?;
    let agent = scene.enforce(&Config::default())?;
    let maps = pins(&scene)?.join("maps");
    // The mode of endpoint 1: Audit.
    let endpoints = bpf::Map::open(&maps.join("ENDPOINTS"))?;
    let key = 1_u32.to_ne_bytes();
    let mut endpoint = endpoints.get(&key)?.context("there is no endpoint 1")?;
    let mode = 8;
    ensure!(endpoint[mode] == 0, "the mode is elsewhere: {endpoint:?}");
    endpoint[mode] = 1;
    endpoints.set(&key, &mut endpoint)?;
    expect_repair(&scene, &agent, "ENDPOINTS: 1 entries were changed")?;
    ensure!(endpoints.get(&key)?.context("endpoint 1")?[mode] == 0);

    // Its cgroup is nobody's, nor is the gateway's.
    let cgroups = bpf::Map::open(&maps.join("CGROUPS"))?;
    cgroups.delete_all()?;
    expect_repair(
        &scene,
        &agent,
        "CGROUPS: 0 entries were changed, 2 were missing",
    )?;

    // A way beside the gateway, at any place: 198.51.100.7, UDP, every port.
    let direct = bpf::Map::open(&maps.join("DIRECT4-1"))?;
    let key = Key {
        address: Address::from(nowhere4(7)),
        bits: 128,
        protocol: 17,
        port: 0,
    };
    let bucket = HEAD.to_ne_bytes();
    let before = direct.get(&bucket)?.context("a bucket")?;
    let mut after = [&Bucket4::word(&key).to_ne_bytes(), &before[8..]].concat();
    direct.set(&bucket, &mut after)?;
    expect_repair(&scene, &agent, "DIRECT4-1: 1 entries were changed")?;
    ensure!(
        direct.get(&bucket)? == Some(before),
        "the entry is there still"
    );

    // The set is nobody's, so that nothing goes beside the gateway.
    bpf::Map::open(&maps.join("DIRECT4"))?.delete(&1_u32.to_ne_bytes())?;
    expect_repair(&scene, &agent, "DIRECT4-1: it was gone or another")?;
    Ok(())
}

fn index(name: &str) -> Result<u32> {
    let name = std::ffi::CString::new(name)?;
    // SAFETY: a C string that outlives the call.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => Err(std::io::Error::last_os_error().into()),
        index => Ok(index),
    }
}
