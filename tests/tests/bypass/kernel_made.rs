//! Packets that the pod's kernel makes by itself: data could go out in them all the same.

use anyhow::{Context as _, Result, ensure};
use egress_tests::{
    agent::Config,
    process::{self, PATIENCE},
    scene::{self, Scene},
};

#[test]
fn an_echo_reply() -> Result<()> {
    // Made by the pod's kernel; data could go out in it all the same.
    let scene = Scene::new()?;
    let ping = || {
        let mut ping = scene.world.node.command("ping");
        ping.args(["-c", "1", "-W", "1", &scene.pod.address4.to_string()]);
        process::finish(&mut ping, PATIENCE)
    };
    ping()?.ok().context("with nobody enforcing")?;
    let agent = scene.enforce(&Config::default())?;
    ensure!(!ping()?.status.success(), "the reply arrived");
    let report = agent
        .records
        .wait_for("a report", |r| r.kind() == "bypass")?;
    scene::expect_report(&report, &scene, "icmp")
}
