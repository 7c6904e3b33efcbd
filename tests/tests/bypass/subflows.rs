//! A further path of an MPTCP connection (RFC 8684), which the kernel opens by itself.

use std::{
    io::Read as _,
    net::IpAddr,
    process::{Child, Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use egress_tests::{
    agent::Config,
    capture::Packet,
    process::{self, PATIENCE},
    scene::{self, Scene},
    world::{nowhere4, nowhere6},
};

/// IPPROTO_MPTCP is 262.
const SERVER: &str = r#"
import socket, sys
s = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET, socket.SOCK_STREAM, 262)
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind((sys.argv[1], 9443)); s.listen(); print("open", flush=True)
c = s.accept()[0]; c.recv(1); c.sendall(b"x"); c.recv(1)
"#;

const CLIENT: &str = r#"
import socket, sys
s = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET, socket.SOCK_STREAM, 262)
s.settimeout(5); s.connect((sys.argv[1], 9443)); s.sendall(b"x"); s.recv(1)
print("open", flush=True); sys.stdin.read()
"#;

#[test]
fn a_further_path() -> Result<()> {
    further_path(nowhere4(7), ["10.1.1.6", "10.1.1.7"])
}

#[test]
fn a_further_path_by_ipv6() -> Result<()> {
    further_path(nowhere6(7), ["fd00:1:1::6", "fd00:1:1::7"])
}

/// The connection is older than the policy; each path is from one more address of the pod's.
fn further_path(to: IpAddr, addresses: [&str; 2]) -> Result<()> {
    let scene = Scene::new()?;
    let pod = &scene.pod.namespace;
    for namespace in [pod, &scene.world.internet.namespace] {
        run(namespace
            .command("ip")
            .args(["mptcp", "limits", "set", "subflows", "4"]))?;
    }
    let mut server = start(
        &mut scene.world.internet.namespace.command("python3"),
        SERVER,
        to,
    )?;
    let mut client = start(&mut scene.pod.command("python3")?, CLIENT, to)?;
    let [first, second] = addresses;
    let open = |address: &str| -> Result<()> {
        let length = if to.is_ipv4() { 24 } else { 64 };
        let nodad = if to.is_ipv4() { "" } else { " nodad" };
        pod.ip(&format!("address add {address}/{length} dev eth0{nodad}\n"))?;
        let line = [
            "mptcp", "endpoint", "add", address, "dev", "eth0", "subflow",
        ];
        run(pod.command("ip").args(line))
    };
    let arrived = |from: &str| -> Result<Vec<Packet>> {
        let from: IpAddr = from.parse()?;
        scene.arrived(to)?;
        Ok(scene.capture.from(from))
    };
    open(first)?;
    process::eventually("the path with nobody enforcing", || {
        Ok((!arrived(first)?.is_empty()).then_some(()))
    })?;
    let agent = scene.enforce(&Config::default())?;
    open(second)?;
    let report = agent
        .records
        .wait_for("a report", |r| r.is_to(to) && r.reason() == "direct_tcp")?;
    scene::expect_report(&report, &scene, "direct_tcp")?;
    let arrived = arrived(second)?;
    ensure!(arrived.is_empty(), "{arrived:?}");
    for child in [&mut client, &mut server] {
        child.kill()?;
        child.wait()?;
    }
    Ok(())
}

fn run(command: &mut Command) -> Result<()> {
    process::finish(command, PATIENCE)?.ok().map(drop)
}

/// Starts a script, and waits until it says that it is open.
fn start(python: &mut Command, script: &str, to: IpAddr) -> Result<Child> {
    let mut child = python
        .args(["-c", script, &to.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let output = child.stdout.as_mut().context("its output is a pipe")?;
    output.read_exact(&mut [0; 5])?;
    Ok(child)
}
