//! The agent's life: killed, started again, reloaded, detached.

use std::{
    fs,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use anyhow::{Result, ensure};
use egress_tests::{
    agent::{self, Agent, Config},
    process,
    records::Record,
    scene::Scene,
    scratch,
    world::nowhere4,
};

const DATAGRAM: [&str; 3] = ["udp", "198.51.100.7:4000", "x"];

#[test]
fn killed_it_goes_on_enforcing() -> Result<()> {
    let scene = Scene::new()?;
    let mut agent = scene.enforce(&Config::default())?;
    agent.kill()?;
    scene.capture.clear();
    scene.pod.attack(&DATAGRAM)?;
    scene.pod.attack(&["tcp", "198.51.100.7:8443"])?;
    scene.pod.attack(&["ping", "198.51.100.7"])?;
    scene.expect_nothing(nowhere4(7))
}

#[test]
fn stopped_it_goes_on_enforcing() -> Result<()> {
    let scene = Scene::new()?;
    let mut agent = scene.enforce(&Config::default())?;
    let status = agent.stop()?;
    ensure!(status.success(), "{status}");
    scene.capture.clear();
    scene.pod.attack(&DATAGRAM)?;
    scene.expect_nothing(nowhere4(7))
}

/// Changes how long what is connected may go on.
fn drain_for(agent: &Agent<'_>, seconds: u8) -> Result<()> {
    let usual = fs::read_to_string(agent.config())?;
    let other = usual.replace("drainSeconds: 1\n", &format!("drainSeconds: {seconds}\n"));
    agent.reload_config(&other)
}

#[test]
fn told_to_end_it_lets_what_is_connected_go_on_and_takes_nothing_more() -> Result<()> {
    let scene = Scene::new()?;
    let mut agent = scene.enforce(&Config::default())?;
    drain_for(&agent, 30)?;
    let mut long = scene.half_way(&agent)?;
    agent.tell_to_end()?;
    agent.wait_for_log("ending: what is connected goes on")?;
    process::eventually("no more connections", || {
        let refused = scene.curl(&["https://allowed.test/"])?;
        Ok((!refused.status.success()).then_some(()))
    })?;
    process::signal(&long, libc::SIGCONT)?;
    let status = process::wait(&mut long, Duration::from_secs(30))?;
    ensure!(status.success(), "{status}");
    agent.expect_end()?;
    let closed = agent.records.matching(|r| r.kind() == "connection.close")?;
    let whole = |record: &Record| record.number("/bytes_received") > 32 << 20;
    ensure!(closed.iter().any(whole), "{closed:#?}");
    Ok(())
}

#[test]
fn told_to_end_it_ends_in_time_or_when_it_is_told_again() -> Result<()> {
    let scene = Scene::new()?;
    let mut agent = scene.enforce(&Config::default())?;
    let mut long = scene.half_way(&agent)?;
    agent.stop()?;
    agent.launch()?;
    drain_for(&agent, 60)?;
    long.kill()?;
    long.wait()?;
    let mut long = scene.half_way(&agent)?;
    agent.tell_to_end()?;
    agent.wait_for_log("goes on for up to 60s")?;
    agent.stop()?;
    long.kill()?;
    long.wait()?;
    Ok(())
}

#[test]
fn started_again_it_adopts_what_it_left() -> Result<()> {
    let scene = Scene::new()?;
    let mut agent = scene.enforce(&Config::default())?;
    scene.capture.clear();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let sender = scope.spawn(|| -> Result<()> {
            while !over.load(Ordering::Relaxed) {
                scene.pod.attack(&DATAGRAM)?;
            }
            Ok(())
        });
        let restarted = (|| {
            agent.kill()?;
            agent.launch()?;
            agent.stop()?;
            agent.launch()
        })();
        over.store(true, Ordering::Relaxed);
        let sent = sender
            .join()
            .unwrap_or_else(|_panic| anyhow::bail!("the sender panicked"));
        restarted.and(sent)
    })?;
    scene.expect_nothing(nowhere4(7))?;
    scene.curl(&["https://allowed.test/"])?.ok()?;
    Ok(())
}

#[test]
fn a_reload_changes_the_policy_and_nothing_passes_meanwhile() -> Result<()> {
    let scene = Scene::new()?;
    let agent = scene.enforce(&Config::default())?;
    let to = "denied.test:443:203.0.113.11";
    let url = ["--resolve", to, "https://denied.test/"];
    ensure!(
        !scene.curl(&url)?.status.success(),
        "denied.test is allowed already"
    );
    scene.capture.clear();
    agent.reload(&Config::policy(&["denied.test"]))?;
    for _ in 0..20 {
        scene.pod.attack(&DATAGRAM)?;
    }
    process::eventually("the new policy", || {
        Ok(scene.curl(&url)?.status.success().then_some(()))
    })?;
    let old = scene.curl(&[
        "--resolve",
        "allowed.test:443:203.0.113.10",
        "https://allowed.test/",
    ])?;
    ensure!(!old.status.success(), "allowed.test is allowed still");
    scene.expect_nothing(nowhere4(7))
}

#[test]
fn a_reload_of_a_bad_policy_changes_nothing() -> Result<()> {
    let scene = Scene::new()?;
    let agent = scene.enforce(&Config::default())?;
    agent.reload("kind: Nonsense\n")?;
    process::eventually("the policy to be refused", || {
        Ok(agent.log()?.contains("policy.yaml").then_some(()))
    })?;
    scene.curl(&["https://allowed.test/"])?.ok()?;
    Ok(())
}

#[test]
fn detach_removes_everything() -> Result<()> {
    let scene = Scene::new()?;
    let mut agent = scene.enforce(&Config::default())?;
    ensure!(!pins(&scene).is_empty(), "nothing is pinned");
    agent.stop()?;
    // As an agent of another ABI leaves it.
    let empty = "/sys/fs/bpf/egress-agent/v0";
    fs::create_dir_all(empty)?;
    agent.detach()?.ok()?;
    ensure!(pins(&scene).is_empty(), "left: {:?}", pins(&scene));
    ensure!(!fs::exists(empty)?, "an empty folder is left");
    scene.pod.attack(&DATAGRAM)?.ok()?;
    ensure!(
        !scene.arrived(nowhere4(7))?.is_empty(),
        "something drops still"
    );
    let left = scratch::left_by(scene.world.name())?;
    ensure!(left.is_empty(), "left: {left:?}");
    let addresses = process::finish(
        scene.world.node.command("ip").args(["-o", "address"]),
        process::PATIENCE,
    )?
    .ok()?;
    ensure!(!addresses.contains("169.254.64.1"), "{addresses}");
    ensure!(!addresses.contains("fd65:6772:6573::1"), "{addresses}");
    // Before Linux 6.6 there are filters on the link, and their qdisc.
    for what in ["qdisc", "filter"] {
        let left = on_the_link(&scene, what)?;
        ensure!(
            !left.contains("clsact") && !left.contains("egress"),
            "{left}"
        );
    }
    Ok(())
}

#[test]
fn detach_needs_a_yes() -> Result<()> {
    let scene = Scene::new()?;
    let agent = scene.enforce(&Config::default())?;
    let config = agent.config().display().to_string();
    let asked = agent::run(&scene.world, &["detach", "--config", &config])?;
    ensure!(
        !asked.status.success() && asked.stderr.contains("--yes"),
        "{}",
        asked.text()
    );
    ensure!(!pins(&scene).is_empty(), "it detached without a yes");
    Ok(())
}

#[test]
fn a_second_agent_of_the_same_instance_is_refused() -> Result<()> {
    let scene = Scene::new()?;
    let agent = scene.enforce(&Config::default())?;
    let config = agent.config().display().to_string();
    let second = agent::run(&scene.world, &["run", "--config", &config])?;
    ensure!(!second.status.success(), "two agents run");
    ensure!(second.stderr.lines().count() == 1, "{}", second.text());
    scene.curl(&["https://allowed.test/"])?.ok()?;
    Ok(())
}

#[test]
fn a_pod_is_covered_from_its_first_packet() -> Result<()> {
    // A container that starts later, in a cgroup that is made later, below the endpoint's.
    let scene = Scene::new()?;
    let _agent: Agent<'_> = scene.enforce(&Config::default())?;
    scene.capture.clear();
    fs::create_dir(scene.pod.cgroup.join("another"))?;
    let script = format!(
        "echo 0 > {}/another/cgroup.procs; exec {} udp 198.51.100.7:4000 x",
        scene.pod.cgroup.display(),
        egress_tests::tools::attack()?.display(),
    );
    scene.pod.run(&["sh", "-c", &script])?;
    scene.expect_nothing(nowhere4(7))
}

#[test]
fn an_endpoint_made_again_is_enforced_while_the_old_one_is_still_there() -> Result<()> {
    let scene = Scene::new()?;
    let new = scene.world.pod("shop/orders")?;
    let host = scene.world.host_pod("shop/node-agent", "orders")?;
    let new_host = scene.world.host_pod("shop/node-agent", "orders")?;
    let agent = scene.enforce(&Config::default().and_host_pod(&host))?;
    let config = Config::default().and_host_pod(&new_host);
    agent.reload_config(&Agent::configuration(&scene.world, &config, &[&new])?)?;
    scene.capture.clear();
    let next_hop = scene.world.node.hardware_address(&new.interface)?;
    new.attack(&DATAGRAM)?;
    new.attack(&[
        "frame",
        "eth0",
        &next_hop,
        "10.1.2.5",
        "198.51.100.7",
        "4000",
    ])?;
    new_host.attack(&DATAGRAM)?;
    scene.expect_nothing(nowhere4(7))?;
    // The old ones are not in the file any more.
    for freed in [scene.pod.attack(&DATAGRAM)?, host.attack(&DATAGRAM)?] {
        ensure!(freed.status.success(), "{}", freed.text());
    }
    Ok(())
}

#[test]
fn from_its_first_connection_an_endpoint_is_known_to_the_gateway() -> Result<()> {
    let scene = Scene::new()?;
    // A policy that takes a while to be taken up.
    let hosts: Vec<_> = (0..20_000).map(|n| format!("h{n}.allowed.test")).collect();
    let hosts: Vec<_> = hosts.iter().map(String::as_str).collect();
    let config = Config {
        policy: Config::policy(&hosts),
        ..Config::default()
    };
    let over = AtomicBool::new(false);
    let opened = |record: &Record| record.kind() == "connection.open";
    let agent = std::thread::scope(|scope| {
        let connects = scope.spawn(|| -> Result<()> {
            while !over.load(Ordering::Relaxed) {
                scene.pod.attack(&["tcp", "198.51.100.7:8443"])?;
            }
            Ok(())
        });
        let agent = scene.enforce(&config).and_then(|agent| {
            agent.records.wait_for("a connection", opened)?;
            Ok(agent)
        });
        over.store(true, Ordering::Relaxed);
        let connected = connects
            .join()
            .unwrap_or_else(|_panic| anyhow::bail!("the connections panicked"));
        connected.and(agent)
    })?;
    let opened = agent.records.matching(opened)?;
    let unknown = opened.iter().find(|r| r.reason() == "unknown_endpoint");
    ensure!(unknown.is_none(), "{unknown:?}");
    Ok(())
}

/// What `tc` shows of the node's side of the pod's link.
fn on_the_link(scene: &Scene, what: &str) -> Result<String> {
    let mut tc = scene.world.node.command("tc");
    tc.args([what, "show", "dev", &scene.pod.interface]);
    if what == "filter" {
        tc.arg("ingress");
    }
    process::finish(&mut tc, process::PATIENCE)?.ok()
}

fn pins(scene: &Scene) -> Vec<std::path::PathBuf> {
    scratch::pins(|name| name == scene.world.name())
}
