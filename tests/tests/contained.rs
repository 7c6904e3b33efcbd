//! A gateway that was taken over: whatever runs in its cgroup, as its user, reaches where policies may
//! lead, and nothing else; and each attempt is reported, as the gateway's own.

use std::{
    fs,
    io::{self, Write as _},
    net::{IpAddr, SocketAddr},
    os::unix::process::CommandExt as _,
    path::PathBuf,
};

use anyhow::{Context as _, Result, ensure};
use egress_tests::{
    agent::{self, Agent, Config},
    cgroup,
    echo::Echo,
    internet::{RESOLVER4, addresses},
    process::{self, Finished},
    records::Record,
    scene::Scene,
    tools,
    world::{NODE4, nowhere4},
};
use serde_json::Value;

/// The name that the gateway has in records.
const GATEWAY: &str = "egress-agent/gateway";

/// Whose attempt it is.
#[derive(Clone, Copy)]
enum As {
    /// Root, for what an unprivileged user could not even try.
    Root,
    /// The gateway's user.
    User,
}

/// The gateway's cgroup.
fn gateway(scene: &Scene) -> Result<PathBuf> {
    let instance = scene.world.name();
    Ok(cgroup::mount()?.join(format!("egress-agent/{instance}/gateway")))
}

/// Makes an attack in the node's network namespace and the gateway's cgroup.
fn attack_as(scene: &Scene, who: As, arguments: &[&str]) -> Result<Finished> {
    /// As `Config` has it.
    const USER: u32 = 62_951;
    let mut command = scene.world.node.command(tools::attack()?);
    let procs = gateway(scene)?.join("cgroup.procs");
    let mut procs = fs::OpenOptions::new().write(true).open(procs)?;
    // SAFETY: system calls alone, of numbers, a static and a descriptor that is open until the command
    // was started.
    unsafe {
        command.pre_exec(move || {
            procs.write_all(b"0")?;
            let is_changed = match who {
                As::Root => 0,
                // After what is root's to do.
                As::User => libc::setresgid(USER, USER, USER) | libc::setresuid(USER, USER, USER),
            };
            match is_changed {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            }
        });
    }
    process::finish(command.args(arguments), process::PATIENCE)
}

/// That an attack fails at once, nothing arrives, and it is reported with its reason.
fn is_held(
    scene: &Scene,
    agent: &Agent<'_>,
    who: As,
    attack: &[&str],
    to: IpAddr,
    reason: &str,
) -> Result<()> {
    scene.capture.clear();
    let made = attack_as(scene, who, attack)?;
    ensure!(
        !made.status.success() && made.text().contains("EPERM"),
        "{attack:?}: {}",
        made.text()
    );
    let arrived = scene.arrived(to)?;
    ensure!(arrived.is_empty(), "{attack:?}: {arrived:?}");
    let is_it = |record: &Record| {
        record.kind() == "bypass" && record.endpoint() == GATEWAY && record.is_to(to)
    };
    let report = agent.records.wait_for("a report", |record| {
        is_it(record) && record.reason() == reason
    })?;
    ensure!(report.verdict() == "deny", "{report:?}");
    ensure!(report.text("/process/command") == "attack", "{report:?}");
    Ok(())
}

/// That an attack arrives, whether or not somebody answers.
fn reaches(scene: &Scene, kind: &str, to: SocketAddr) -> Result<()> {
    scene.capture.clear();
    let text = to.to_string();
    let more: &[&str] = if kind == "udp" { &["x"] } else { &[] };
    let made = attack_as(scene, As::User, &[&[kind, &text], more].concat())?;
    let mut arrived = scene.arrived(to.ip())?;
    arrived.retain(|packet| packet.port == to.port());
    ensure!(!arrived.is_empty(), "{kind} {to}: {}", made.text());
    Ok(())
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("a test's address")
}

#[test]
fn it_reaches_what_policies_name() -> Result<()> {
    let scene = Scene::new()?;
    let agent = scene.enforce(&Config::default())?;
    for address in addresses("allowed.test") {
        reaches(&scene, "tcp", SocketAddr::new(address, 443))?;
    }
    let server = SocketAddr::new(RESOLVER4.into(), 53);
    reaches(&scene, "tcp", server)?;
    reaches(&scene, "udp", server)?;
    agent.records.expect_no_report()
}

#[test]
fn it_reaches_nothing_else() -> Result<()> {
    let scene = Scene::new()?;
    let _server = Echo::start(scene.pod.command("python3")?)?;
    let config = Config::default()
        .and_policy("    - cidrs: [\"10.9.0.0/16\", \"192.168.7.0/24\"]\n      ports: [8080]\n");
    let agent = scene.enforce(&config)?;
    let pod = scene.pod.address4;
    let outside = addresses("allowed.test")[0];
    for (attack, to, reason) in [
        (
            "169.254.169.254:443",
            ip("169.254.169.254"),
            "metadata_service",
        ),
        ("169.254.1.1:443", ip("169.254.1.1"), "link_local"),
        ("127.0.0.1:443", ip("127.0.0.1"), "loopback"),
        ("[::1]:443", ip("::1"), "loopback"),
        (&format!("{NODE4}:443"), NODE4.into(), "node"),
        (&format!("{pod}:8080"), pod.into(), "cluster"),
        // Of the cluster, whatever a policy's networks are.
        ("10.9.0.1:8080", ip("10.9.0.1"), "cluster"),
        ("192.168.9.1:443", ip("192.168.9.1"), "refused_network"),
        ("[fc00:7::1]:443", ip("fc00:7::1"), "refused_network"),
        ("169.254.64.1:15001", ip("169.254.64.1"), "gateway_port"),
        (&format!("{outside}:8443"), outside, "port_not_named"),
        (&format!("{outside}:53"), outside, "foreign_dns"),
        (
            &format!("{RESOLVER4}:853"),
            RESOLVER4.into(),
            "encrypted_dns",
        ),
    ] {
        is_held(&scene, &agent, As::User, &["tcp", attack], to, reason)?;
    }
    for (attack, to, reason) in [
        (format!("{outside}:443"), outside, "quic"),
        (format!("{outside}:4000"), outside, "direct_udp"),
        (format!("{outside}:53"), outside, "foreign_dns"),
        (format!("{pod}:8080"), pod.into(), "cluster"),
    ] {
        is_held(&scene, &agent, As::User, &["udp", &attack, "x"], to, reason)?;
    }
    // By a socket that the calls before do not see: its packets are judged.
    let to = format!("{outside}:4001");
    let connected = ["udp-connected", &to, "x"];
    is_held(&scene, &agent, As::User, &connected, outside, "direct_udp")?;
    let ring = format!("{outside}:8444");
    is_held(
        &scene,
        &agent,
        As::User,
        &["tcp-ring", &ring],
        outside,
        "port_not_named",
    )?;
    let fast = format!("{outside}:8445");
    is_held(
        &scene,
        &agent,
        As::User,
        &["tcp-fastopen", &fast],
        outside,
        "port_not_named",
    )?;
    // What it may, it still may.
    attack_as(&scene, As::User, &["tcp", "192.168.7.1:8080"])?;
    ensure!(
        !scene.arrived(ip("192.168.7.1"))?.is_empty(),
        "a policy's network"
    );
    scene.curl(&["https://allowed.test/"])?.ok()?;
    Ok(())
}

#[test]
fn raw_sockets_are_refused_to_it() -> Result<()> {
    let scene = Scene::new()?;
    let agent = scene.enforce(&Config::default())?;
    let to = nowhere4(7);
    for attack in [["raw", "198.51.100.7", "253"], ["raw", "198.51.100.7", "6"]] {
        let made = attack_as(&scene, As::Root, &attack)?;
        ensure!(made.text().contains("EPERM"), "{}", made.text());
    }
    ensure!(scene.arrived(to)?.is_empty(), "it arrived");
    agent.records.wait_for("a report", |record| {
        record.kind() == "bypass" && record.endpoint() == GATEWAY && record.reason() == "raw_socket"
    })?;
    Ok(())
}

/// What is reported is counted, and `status` says so.
#[test]
fn it_is_counted_and_told() -> Result<()> {
    let scene = Scene::new()?;
    let _agent = scene.enforce(&Config::default())?;
    for _ in 0..3 {
        attack_as(&scene, As::User, &["tcp", "169.254.169.254:443"])?;
    }
    let told = agent::run(&scene.world, &["status", "--instance", scene.world.name()])?;
    let status: Value = serde_json::from_str(&told.stdout).with_context(|| told.text())?;
    let held = &status["gatewayContained"];
    ensure!(held["denied"]["metadata_service"] == 3, "{status:#}");
    ensure!(held["seccomp"] == true, "{status:#}");
    ensure!(held["reach"] == "policy", "{status:#}");
    ensure!(held["landlock"]["state"].is_string(), "{status:#}");
    Ok(())
}

/// What an endpoint in Audit dials, the gateway dials for it; the posture says that it can.
#[test]
fn in_audit_it_is_held_less() -> Result<()> {
    let scene = Scene::new()?;
    let agent = scene.enforce(&Config::default().audit())?;
    let ready = agent
        .records
        .wait_for("a posture", |record| record.kind() == "posture")?;
    ensure!(ready.text("/detail/gateway/reach") == "wide", "{ready:?}");
    attack_as(&scene, As::User, &["tcp", "198.51.100.7:8443"])?.ok()?;
    // But for datagrams, which it relays for nobody.
    let outside = nowhere4(7);
    let attack = ["udp", "198.51.100.7:4000", "x"];
    is_held(&scene, &agent, As::User, &attack, outside, "direct_udp")
}

/// A port that a policy names is reached from then on, and one that none names any more is not.
#[test]
fn it_follows_the_policy() -> Result<()> {
    let scene = Scene::new()?;
    let agent = scene.enforce(&Config::default())?;
    let outside = addresses("allowed.test")[0];
    let to = format!("{outside}:8443");
    is_held(
        &scene,
        &agent,
        As::User,
        &["tcp", &to],
        outside,
        "port_not_named",
    )?;
    let more = "    - hosts: [\"db.vendor.test\"]\n      ports: [8443]\n    \
        - cidrs: [\"192.168.7.0/24\"]\n      ports: [8443]\n";
    agent.reload(&Config::default().and_policy(more).policy)?;
    reloaded(&agent, 1)?;
    attack_as(&scene, As::User, &["tcp", &to])?.ok()?;
    let private = ip("192.168.7.1");
    reaches(&scene, "tcp", SocketAddr::new(private, 8443))?;

    agent.reload(&Config::default().policy)?;
    reloaded(&agent, 2)?;
    for (to, reason) in [(outside, "port_not_named"), (private, "refused_network")] {
        let text = SocketAddr::new(to, 8443).to_string();
        is_held(&scene, &agent, As::User, &["tcp", &text], to, reason)?;
    }
    Ok(())
}

/// Waits until the agent has read its policy that many times again.
fn reloaded(agent: &Agent<'_>, times: usize) -> Result<()> {
    process::eventually("a reload", || {
        let told = |record: &Record| record.text("/state") == "reloaded";
        Ok((agent.records.matching(told)?.len() == times).then_some(()))
    })
}
