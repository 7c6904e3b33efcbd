//! The node itself, by loopback and its services; older sockets; other interfaces.

use crate::{enforce, host};
use anyhow::{Context as _, Result, ensure};
use egress_tests::{
    echo::{self, Echo},
    process::{self, PATIENCE},
    scene::Scene,
    world::{NODE4, NODE6, nowhere4},
};
use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, SocketAddr},
    process::Stdio,
};

#[test]
fn the_nodes_loopback_and_services_are_denied() -> Result<()> {
    let scene = Scene::new()?;
    let host = host(&scene)?;
    let services = scene.world.node.enter(|| {
        let any = |port| std::net::TcpListener::bind(("::", port));
        std::io::Result::Ok([any(10250)?, any(10251)?])
    })??;
    let agent = enforce(&scene, &host)?;
    for (to, reason) in [
        ("127.0.0.1:10250".to_owned(), "loopback"),
        ("[::1]:10250".to_owned(), "loopback"),
        ("0.0.0.0:10250".to_owned(), "loopback"),
        ("[::]:10251".to_owned(), "loopback"),
        (format!("{NODE4}:10250"), "node"),
        (format!("[{NODE6}]:10250"), "node"),
        (format!("[::ffff:{NODE4}]:10251"), "node"),
        ("10.1.1.1:10250".to_owned(), "node"),
        ("10.1.1.5:10250".to_owned(), "cluster"),
        ("169.254.169.254:80".to_owned(), "metadata_service"),
    ] {
        let made = host.attack(&["tcp", &to])?;
        ensure!(made.text().contains("EPERM"), "{to}: {}", made.text());
        let to: SocketAddr = to.parse()?;
        let report = agent.records.wait_for("a report", |r| {
            r.kind() == "bypass"
                && r.is_to(to.ip().to_canonical())
                && r.number("/port") == u64::from(to.port())
        })?;
        ensure!(report.reason() == reason, "{to}: {report:?}");
    }
    drop(services);
    Ok(())
}

#[test]
fn a_server_answers_the_node_and_the_cluster_and_nobody_else() -> Result<()> {
    let scene = Scene::new()?;
    let host = host(&scene)?;
    let other = scene.world.pod("shop/other")?;
    let mut agent = enforce(&scene, &host)?;
    let _server = Echo::start(host.command("python3")?)?;
    for to in ["127.0.0.1", "::1", "192.0.2.2", "2001:db8::2", "10.1.1.1"] {
        let to: IpAddr = to.parse()?;
        scene
            .world
            .node
            .enter(|| echo::speak(&mut echo::connect(to)?))?
            .with_context(|| format!("{to}"))?;
    }
    for to in [other.gateway4.into(), other.gateway6.into(), NODE4.into()] {
        other
            .namespace
            .enter(|| echo::speak(&mut echo::connect(to)?))?
            .with_context(|| format!("{to}"))?;
    }
    let bypasses = agent.records.bypasses()?;
    ensure!(bypasses.is_empty(), "{bypasses:#?}");
    let lan = scene.world.lan_host();
    let lan = lan.enter(|| echo::connect(NODE4.into()))?;
    ensure!(lan.is_err(), "a host of the LAN was answered");
    agent.stop()?;
    Ok(())
}

#[test]
fn a_socket_older_than_the_policy_is_held() -> Result<()> {
    let scene = Scene::new()?;
    let host = host(&scene)?;
    let script = "import socket, sys\n\
                  u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); u.connect(('198.51.100.7', 4000))\n\
                  t = socket.create_connection(('203.0.113.10', 8443), 3)\n\
                  n = socket.socket()\n\
                  print('open', flush=True); sys.stdin.readline()\n\
                  for what in (lambda: u.send(b'x'), lambda: t.sendall(b'x'), lambda: t.recv(1)):\n\
                  \x20   try: what()\n\
                  \x20   except OSError as e: print(e)\n\
                  n.connect(('198.51.100.7', 443)); print(n.getpeername())";
    let mut client = host
        .command("python3")?
        .args(["-c", script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut output = client.stdout.take().context("its output is a pipe")?;
    output.read_exact(&mut [0; 5])?;
    let agent = enforce(&scene, &host)?;
    scene.capture.clear();
    client
        .stdin
        .take()
        .context("its input is a pipe")?
        .write_all(b"\n")?;
    process::wait(&mut client, PATIENCE)?;
    let mut said = String::new();
    output.read_to_string(&mut said)?;
    ensure!(said.contains("('198.51.100.7', 443)"), "{said}");
    ensure!(said.contains("not permitted"), "{said}");
    for to in [nowhere4(7), "203.0.113.10".parse()?] {
        let arrived = scene.arrived(to)?;
        ensure!(arrived.is_empty(), "{arrived:?}");
    }
    agent
        .records
        .wait_for("a report", |r| r.reason() == "direct_udp")?;
    agent
        .records
        .wait_for("a report", |r| r.reason() == "no_flow")?;
    Ok(())
}

#[test]
fn the_gateways_address_is_no_way_out_by_another_interface() -> Result<()> {
    let scene = Scene::new()?;
    let host = host(&scene)?;
    let script = "import socket, struct\n\
                  def attempt(what):\n\
                  \x20   try: what()\n\
                  \x20   except OSError as e: print(e)\n\
                  index = socket.if_nametoindex('uplink')\n\
                  pktinfo = [(0, 8, struct.pack('I8x', index))]\n\
                  for family, to in ((socket.AF_INET, '169.254.64.1'), (socket.AF_INET6, 'fd65:6772:6573::1')):\n\
                  \x20   t = socket.socket(family); t.settimeout(1)\n\
                  \x20   u = socket.socket(family, socket.SOCK_DGRAM)\n\
                  \x20   for s in (t, u): s.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b'uplink')\n\
                  \x20   attempt(lambda: t.connect((to, 15001)))\n\
                  \x20   attempt(lambda: u.sendto(b'data', (to, 15053)))\n\
                  u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n\
                  attempt(lambda: u.sendmsg([b'data'], pktinfo, 0, ('169.254.64.1', 15053)))\n\
                  t = socket.socket(); t.settimeout(1)\n\
                  t.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b'uplink')\n\
                  attempt(lambda: t.connect(('198.51.100.7', 443)))";
    let _agent = enforce(&scene, &host)?;
    scene.capture.clear();
    let said = host.run(&["python3", "-c", script])?.text();
    for gateway in ["169.254.64.1", "fd65:6772:6573::1"] {
        let arrived = scene.arrived(gateway.parse()?)?;
        ensure!(arrived.is_empty(), "{arrived:?} {said}");
    }
    Ok(())
}
