//! Sockets and processes that move: who made a socket, who has it and which cgroup either is in
//! change nothing.

use std::{fs, net::IpAddr, path::Path, process::Command};

use anyhow::Result;
use egress_tests::{
    process::{self, Finished, PATIENCE},
    scene::{Scene, holds_by},
    world::{nowhere4, nowhere6},
};

use crate::once;

/// Moves itself into a cgroup, and sends by a socket that it had before. What it cannot send it
/// keeps for itself.
const MOVES: &str = r#"
import os, socket, sys
to, cgroup = sys.argv[1:]
s = socket.socket(socket.AF_INET6 if ":" in to else socket.AF_INET, socket.SOCK_DGRAM)
os.makedirs(cgroup, exist_ok=True)
open(cgroup + "/cgroup.procs", "w").write("0")
try: s.sendto(b"moved", (to, 4000))
except PermissionError: pass
"#;

fn moves(mut python: Command, to: IpAddr, cgroup: &Path) -> Result<Finished> {
    python.args(["-c", MOVES, &to.to_string()]).arg(cgroup);
    process::finish(&mut python, PATIENCE)
}

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
    let elsewhere = scene.world.cgroup().child("elsewhere")?;
    holds_by(&scene, once(&["leaves"], to, "direct_udp"), || {
        moves(scene.pod.command("python3")?, to, &elsewhere)
    })
}

#[test]
fn a_process_that_joins_with_its_socket() -> Result<()> {
    joins(nowhere4(7))
}

#[test]
fn a_process_that_joins_with_its_socket_by_ipv6() -> Result<()> {
    joins(nowhere6(7))
}

/// No cgroup hook sees a socket that was made outside the pod's cgroup.
fn joins(to: IpAddr) -> Result<()> {
    let scene = Scene::new()?;
    let container = scene.pod.cgroup.join("container");
    holds_by(&scene, once(&["joins"], to, "direct_udp"), || {
        moves(scene.pod.namespace.command("python3"), to, &container)
    })
}

#[test]
fn a_cgroup_of_the_pods_own_making() -> Result<()> {
    let scene = Scene::new()?;
    let inner = scene.pod.cgroup.join("container/of/its/own");
    holds_by(&scene, once(&["inner"], nowhere4(7), "direct_udp"), || {
        moves(scene.pod.command("python3")?, nowhere4(7), &inner)
    })
}

/// Makes a socket and hands it on (SCM_RIGHTS).
const GIVES: &str = r#"
import socket, sys
to, path = sys.argv[1:]
s = socket.socket(socket.AF_INET6 if ":" in to else socket.AF_INET, socket.SOCK_DGRAM)
u = socket.socket(socket.AF_UNIX); u.bind(path); u.listen(); u.settimeout(10)
socket.send_fds(u.accept()[0], [b"x"], [s.fileno()])
"#;

/// Takes a socket and sends by it.
const TAKES: &str = r#"
import os, socket, sys, time
to, path = sys.argv[1:]
u = socket.socket(socket.AF_UNIX)
while True:
    try: u.connect(path); break
    except OSError: time.sleep(0.01)
s = socket.socket(fileno=socket.recv_fds(u, 1, 1)[1][0])
try: s.sendto(b"handed on", (to, 4000))
except PermissionError: pass
"#;

/// One gives, the other takes.
fn hands_on(mut gives: Command, mut takes: Command, to: IpAddr, path: &Path) -> Result<Finished> {
    fs::remove_file(path).ok();
    let mut giver = gives
        .args(["-c", GIVES, &to.to_string()])
        .arg(path)
        .spawn()?;
    takes.args(["-c", TAKES, &to.to_string()]).arg(path);
    let taken = process::finish(&mut takes, PATIENCE);
    giver.kill().ok();
    giver.wait()?;
    taken
}

#[test]
fn a_socket_that_is_handed_in() -> Result<()> {
    handed_in(nowhere4(7))
}

#[test]
fn a_socket_that_is_handed_in_by_ipv6() -> Result<()> {
    handed_in(nowhere6(7))
}

fn handed_in(to: IpAddr) -> Result<()> {
    let scene = Scene::new()?;
    let path = scene.world.scratch().file("handed");
    holds_by(&scene, once(&["handed in"], to, "direct_udp"), || {
        let outside = scene.pod.namespace.command("python3");
        hands_on(outside, scene.pod.command("python3")?, to, &path)
    })
}

#[test]
fn a_socket_that_is_handed_out() -> Result<()> {
    handed_out(nowhere4(7))
}

#[test]
fn a_socket_that_is_handed_out_by_ipv6() -> Result<()> {
    handed_out(nowhere6(7))
}

/// Whoever sends by it is on the node, in no endpoint's cgroup.
fn handed_out(to: IpAddr) -> Result<()> {
    let scene = Scene::new()?;
    let path = scene.world.scratch().file("handed");
    holds_by(&scene, once(&["handed out"], to, "direct_udp"), || {
        let outside = scene.world.node.command("python3");
        hands_on(scene.pod.command("python3")?, outside, to, &path)
    })
}
