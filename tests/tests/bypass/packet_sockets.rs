//! Frames by packet sockets and the like, which no cgroup hook sees.

use crate::once;
use anyhow::Result;
use egress_tests::{
    scene::{Scene, holds_in},
    world::{nowhere4, nowhere6},
};
use std::net::IpAddr;

#[test]
fn a_whole_frame() -> Result<()> {
    frame("frame", "10.1.1.5", nowhere4(7), "direct_udp")
}

#[test]
fn a_whole_ipv6_frame() -> Result<()> {
    frame("frame", "fd00:1:1::5", nowhere6(7), "direct_udp")
}

#[test]
fn a_cooked_frame() -> Result<()> {
    frame("frame-cooked", "10.1.1.5", nowhere4(7), "direct_udp")
}

#[test]
fn a_cooked_ipv6_frame() -> Result<()> {
    frame("frame-cooked", "fd00:1:1::5", nowhere6(7), "direct_udp")
}

#[test]
fn a_frame_past_the_queue() -> Result<()> {
    frame("frame-unqueued", "10.1.1.5", nowhere4(7), "direct_udp")
}

#[test]
fn an_ipv6_frame_past_the_queue() -> Result<()> {
    frame("frame-unqueued", "fd00:1:1::5", nowhere6(7), "direct_udp")
}

#[test]
fn a_frame_from_shared_memory() -> Result<()> {
    frame("frame-ring", "10.1.1.5", nowhere4(7), "direct_udp")
}

#[test]
fn an_ipv6_frame_from_shared_memory() -> Result<()> {
    frame("frame-ring", "fd00:1:1::5", nowhere6(7), "direct_udp")
}

#[test]
fn a_frame_by_af_xdp() -> Result<()> {
    frame("frame-xdp", "10.1.1.5", nowhere4(7), "direct_udp")
}

#[test]
fn an_ipv6_frame_by_af_xdp() -> Result<()> {
    frame("frame-xdp", "fd00:1:1::5", nowhere6(7), "direct_udp")
}

#[test]
fn a_frame_that_is_cut_into_datagrams() -> Result<()> {
    frame("frame-segments", "10.1.1.5", nowhere4(7), "direct_udp")
}

#[test]
fn an_ipv6_frame_that_is_cut_into_datagrams() -> Result<()> {
    frame("frame-segments", "fd00:1:1::5", nowhere6(7), "direct_udp")
}

#[test]
fn a_frame_with_a_neighbours_address() -> Result<()> {
    frame("frame", "10.1.2.5", nowhere4(7), "spoofed_address")
}

#[test]
fn an_ipv6_frame_with_a_neighbours_address() -> Result<()> {
    frame("frame", "fd00:1:2::5", nowhere6(7), "spoofed_address")
}

/// A frame of a packet socket, which no cgroup hook sees.
fn frame(kind: &str, from: &str, to: IpAddr, reason: &str) -> Result<()> {
    let scene = Scene::new()?;
    let next_hop = scene.world.node.hardware_address(&scene.pod.interface)?;
    let to_text = to.to_string();
    let attack = [kind, "eth0", &next_hop, from, &to_text, "4000"];
    holds_in(&scene, once(&attack, to, reason))
}
