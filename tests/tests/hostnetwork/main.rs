//! Endpoints without a link: processes of the node's own network namespace, as pods with
//! `hostNetwork` have them. The cgroup layer stands alone here.

mod audit;
mod gateway;
mod identity;
mod inside;
mod moved;
mod vectors;

use anyhow::Result;
use egress_tests::{
    agent::{Agent, Config},
    host_pod::HostPod,
    process::Finished,
    scene::Scene,
};

/// Attempts of one vector: one report must stand for all.
pub(crate) const ATTEMPTS: u64 = 3;

pub(crate) fn host<'a>(scene: &'a Scene) -> Result<HostPod<'a>> {
    scene.world.host_pod("shop/node-agent", "orders")
}

pub(crate) fn enforce<'a>(scene: &'a Scene, host: &HostPod<'_>) -> Result<Agent<'a>> {
    scene.enforce(&Config::default().and_host_pod(host))
}

pub(crate) fn curl(scene: &Scene, host: &HostPod<'_>, arguments: &[&str]) -> Result<Finished> {
    let authority = scene.world.internet.authority().display().to_string();
    let mut line = vec!["curl", "-sS", "--max-time", "10", "--cacert", &authority];
    line.extend(arguments);
    host.run(&line)
}
