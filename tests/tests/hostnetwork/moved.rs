//! A process that leaves its cgroup keeps its sockets, and they their endpoint.

use std::net::IpAddr;

use anyhow::{Result, ensure};
use egress_tests::{
    scene::{Scene, expect_count},
    world::{nowhere4, nowhere6},
};

use crate::{ATTEMPTS, enforce, host};

const LEAVES: &str = r#"
import os, socket, sys
to, cgroup = sys.argv[1:]
s = socket.socket(socket.AF_INET6 if ":" in to else socket.AF_INET, socket.SOCK_DGRAM)
open(cgroup + "/cgroup.procs", "w").write("0")
try: s.sendto(b"moved", (to, 4000))
except PermissionError: pass
"#;

#[test]
fn a_process_that_leaves_its_cgroup() -> Result<()> {
    leaves(nowhere4(7))
}

#[test]
fn a_process_that_leaves_its_cgroup_by_ipv6() -> Result<()> {
    leaves(nowhere6(7))
}

fn leaves(to: IpAddr) -> Result<()> {
    let scene = Scene::new()?;
    let host = host(&scene)?;
    let elsewhere = scene.world.cgroup().child("elsewhere")?;
    let (address, path) = (to.to_string(), elsewhere.display().to_string());
    let leave = || host.run(&["python3", "-c", LEAVES, &address, &path])?.ok();
    leave()?;
    ensure!(!scene.arrived(to)?.is_empty(), "it does not even arrive");
    let mut agent = enforce(&scene, &host)?;
    scene.capture.clear();
    for _ in 0..ATTEMPTS {
        leave()?;
    }
    let arrived = scene.arrived(to)?;
    ensure!(arrived.is_empty(), "{arrived:?}");
    agent.stop()?;
    let report = agent.records.wait_for("a report", |r| r.is_to(to))?;
    ensure!(report.endpoint() == "shop/node-agent", "{report:?}");
    ensure!(report.reason() == "direct_udp", "{report:?}");
    expect_count(&agent, to, ATTEMPTS)
}
