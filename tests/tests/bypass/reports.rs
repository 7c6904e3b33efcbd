//! What is told of an attempt, and how fast it fails.

use anyhow::{Result, ensure};
use egress_tests::{
    agent::Config,
    process,
    scene::{self, Scene},
    world::{self, nowhere4},
};
use std::time::Duration;

#[test]
fn a_denied_datagram_fails_at_once() -> Result<()> {
    let scene = Scene::new()?;
    let agent = scene.enforce(&Config::default())?;
    let attempt = scene.pod.attack(&["udp", "198.51.100.7:4000", "x"])?;
    ensure!(attempt.stdout.starts_with("EPERM"), "{}", attempt.text());
    ensure!(
        attempt.took < process::here(Duration::from_secs(1)),
        "it took {:?}",
        attempt.took
    );
    let report = agent
        .records
        .wait_for("a report", |r| r.kind() == "bypass")?;
    ensure!(report.text("/process/command") == "attack", "{report:?}");
    Ok(())
}

#[test]
fn a_report_names_the_executable_of_who_is_still_there() -> Result<()> {
    let scene = Scene::new()?;
    let agent = scene.enforce(&Config::default())?;
    let script = "import socket, time\n\
                  s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n\
                  try: s.sendto(b'x', ('198.51.100.7', 4000))\n\
                  except PermissionError: time.sleep(1)";
    scene.pod.run(&["python3", "-c", script])?.ok()?;
    let report = agent
        .records
        .wait_for("a report", |r| r.kind() == "bypass")?;
    let executable = report.text("/process/executable");
    ensure!(
        executable.starts_with('/') && executable.contains("python"),
        "{report:?}"
    );
    Ok(())
}

#[test]
fn one_report_counts_what_different_layers_drop() -> Result<()> {
    let scene = Scene::new()?;
    let next_hop = scene.world.node.hardware_address(&scene.pod.interface)?;
    let mut agent = scene.enforce(&Config::default())?;
    let frame = [
        "frame",
        "eth0",
        &next_hop,
        "10.1.1.5",
        "198.51.100.7",
        "4000",
    ];
    let attacks: [&[&str]; 3] = [
        &["udp", "198.51.100.7:4000", "x"],
        &["udp-connected", "198.51.100.7:4000", "x"],
        &frame,
    ];
    for attack in attacks.iter().cycle().take(9) {
        scene.pod.attack(attack)?;
    }
    scene.expect_nothing(nowhere4(7))?;
    agent.stop()?;
    scene::expect_count(&agent, nowhere4(7), 9)
}

#[test]
fn in_audit_everything_passes_and_is_reported() -> Result<()> {
    let scene = Scene::new()?;
    let agent = scene.enforce(&Config::default().audit())?;
    scene.pod.attack(&["udp", "198.51.100.7:4000", "x"])?.ok()?;
    scene.pod.attack(&["tcp", "198.51.100.8:8443"])?.ok()?;
    ensure!(
        !scene.arrived(nowhere4(7))?.is_empty(),
        "the datagram was dropped"
    );
    for to in [7, 8] {
        let record = agent
            .records
            .wait_for("a record", |record| record.is_to(world::nowhere4(to)))?;
        ensure!(record.verdict() == "audit", "{record:?}");
    }
    Ok(())
}
