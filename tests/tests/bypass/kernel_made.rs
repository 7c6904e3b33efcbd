//! Packets that the pod's kernel makes by itself: data could go out in them all the same.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};

use anyhow::{Context as _, Result, ensure};
use egress_tests::{
    agent::Config,
    capture::Packet,
    process::{self, PATIENCE},
    scene::{self, Scene},
    world::{nowhere4, nowhere6},
};

#[test]
fn an_echo_reply() -> Result<()> {
    echo_reply(|scene| scene.pod.address4.into())
}

#[test]
fn an_icmpv6_echo_reply() -> Result<()> {
    echo_reply(|scene| scene.pod.address6.into())
}

fn echo_reply(address: impl Fn(&Scene) -> IpAddr) -> Result<()> {
    let scene = Scene::new()?;
    let ping = || {
        let mut ping = scene.world.node.command("ping");
        ping.args(["-c", "1", "-W", "1", &address(&scene).to_string()]);
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

#[test]
fn the_reset_of_a_closed_port() -> Result<()> {
    reset_of_a_closed_port(nowhere4(7))
}

#[test]
fn the_reset_of_a_closed_port_by_ipv6() -> Result<()> {
    reset_of_a_closed_port(nowhere6(7))
}

/// Somebody outside connects to a port where nobody listens.
fn reset_of_a_closed_port(from: IpAddr) -> Result<()> {
    let scene = Scene::new()?;
    let to = SocketAddr::new(scene.pod.address_like(from), 8081);
    kernel_speaks(&scene, from, "no_flow", || {
        let script = format!(
            "import socket\n\
             s = socket.socket(socket.AF_INET6 if ':' in '{from}' else socket.AF_INET)\n\
             s.settimeout(0.3); s.bind(('{from}', 0))\n\
             try: s.connect(('{}', {}))\n\
             except OSError: pass",
            to.ip(),
            to.port()
        );
        outside(&scene, &script)
    })
}

#[test]
fn what_a_closed_connection_answers() -> Result<()> {
    closed_connection(nowhere4(7))
}

#[test]
fn what_a_closed_connection_answers_by_ipv6() -> Result<()> {
    closed_connection(nowhere6(7))
}

/// The pod closed the connection before anybody enforced, and its kernel keeps it in TIME_WAIT: what
/// comes for it is acknowledged.
fn closed_connection(to: IpAddr) -> Result<()> {
    let scene = Scene::new()?;
    // Else only one in half a second is answered.
    let every = ("net/ipv4/tcp_invalid_ratelimit", "0");
    scene.pod.namespace.sysctl(every.0, every.1)?;
    let script = format!(
        "import socket, time\n\
         s = socket.socket(socket.AF_INET6 if ':' in '{to}' else socket.AF_INET)\n\
         s.settimeout(3); s.connect(('{to}', 8443)); print(s.getsockname()[1])\n\
         s.shutdown(socket.SHUT_WR); assert s.recv(1) == b''; s.close(); time.sleep(0.1)"
    );
    let port = scene.pod.run(&["python3", "-c", &script])?.ok()?;
    let (own, port) = (scene.pod.address_like(to), port.trim());
    kernel_speaks(&scene, to, "no_flow", || {
        let script = format!(
            "import socket, struct\n\
             v6 = ':' in '{to}'; family = socket.AF_INET6 if v6 else socket.AF_INET\n\
             a, b = (socket.inet_pton(family, it) for it in ('{to}', '{own}'))\n\
             tcp = lambda sum: struct.pack('!HHIIBBHHH', 8443, {port}, 7, 7, 0x50, 0x10, 9, sum, 0)\n\
             whole = a + b + struct.pack('!HH', 6, 20) + tcp(0)\n\
             n = sum(struct.unpack('!%dH' % (len(whole) // 2), whole))\n\
             n = (n & 0xffff) + (n >> 16); n = (n & 0xffff) + (n >> 16)\n\
             s = socket.socket(family, socket.SOCK_RAW, 6); s.bind(('{to}', 0))\n\
             s.sendto(tcp(~n & 0xffff), ('{own}', 0))"
        );
        outside(&scene, &script)
    })
}

fn outside(scene: &Scene, script: &str) -> Result<()> {
    let mut python = scene.world.internet.namespace.command("python3");
    process::finish(python.args(["-c", script]), PATIENCE)?.ok()?;
    Ok(())
}

/// The whole proof of what the kernel answers: it arrives while nobody enforces, and then nothing
/// does, and one report counts it.
fn kernel_speaks(
    scene: &Scene,
    to: IpAddr,
    reason: &str,
    provoke: impl Fn() -> Result<()>,
) -> Result<()> {
    let answers = |packet: &Packet| packet.source == Some(scene.pod.address_like(to));
    // More than once where need be: an address that is still asked for loses the first.
    process::eventually("what the kernel makes, with nobody enforcing", || {
        provoke()?;
        scene.arrived(to)?;
        Ok((!scene.capture.matching(answers).is_empty()).then_some(()))
    })?;
    let mut agent = scene.enforce(&Config::default())?;
    scene.arrived(to)?;
    scene.capture.clear();
    provoke()?;
    scene.expect_nothing(to)?;
    agent.stop()?;
    let report = agent.records.wait_for("a report", |r| r.is_to(to))?;
    scene::expect_report(&report, scene, reason)?;
    scene::expect_count(&agent, to, 1)
}

#[test]
fn an_error_about_a_closed_port_is_counted() -> Result<()> {
    // It quotes what it is about. Nobody in the pod did it, so there is no report.
    let scene = Scene::new()?;
    let outside = scene.world.lan_host();
    let ask = || -> Result<()> {
        let socket =
            outside.enter(|| UdpSocket::bind((Ipv4Addr::new(198, 51, 100, 7), 4000)))??;
        socket.send_to(b"anybody there?", (scene.pod.address4, 8081))?;
        Ok(())
    };
    ask()?;
    ensure!(
        !scene.arrived(nowhere4(7))?.is_empty(),
        "it does not even arrive"
    );
    let agent = scene.enforce(&Config::default())?;
    scene.capture.clear();
    for _ in 0..3 {
        ask()?;
    }
    scene.expect_nothing(nowhere4(7))?;
    agent.records.expect_no_report()?;
    ensure!(scene.denied("icmp_error")? == 3, "not counted");
    Ok(())
}
