//! Interfaces and cgroups that come, go and come again while the agent runs.

use std::{
    fs,
    io::Read as _,
    process::{Child, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use egress_tests::{
    agent::{Agent, Config},
    namespace::Namespace,
    pod::Pod,
    process,
    scene::Scene,
    world::nowhere4,
};

const DATAGRAM: [&str; 3] = ["udp", "198.51.100.7:4000", "x"];

/// The host side's hardware address of a pod's link, where the test makes it.
const NEXT_HOP: &str = "02:00:00:00:77:01";

/// Sends frames, from the moment that there is an interface to send them by.
const FLOOD: &str = r#"
import socket, struct, sys
def checksum(data):
    total = sum(struct.unpack("!%dH" % (len(data) // 2), data))
    while total >> 16: total = (total & 0xffff) + (total >> 16)
    return ~total & 0xffff
source, mac = sys.argv[1], bytes.fromhex(sys.argv[2].replace(":", ""))
print("open", flush=True)
while True:
    try:
        s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        s.bind(("eth0", 0))
        own = s.getsockname()[4]
        udp = struct.pack("!HHHH", 4000, 4000, 9, 0) + b"x"
        head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0,
            socket.inet_aton(source), socket.inet_aton("198.51.100.7"))
        head = head[:10] + struct.pack("!H", checksum(head)) + head[12:]
        frame = mac + own + b"\x08\x00" + head + udp
        while True:
            s.send(frame)
    except OSError:
        pass
"#;

/// Waits for a posture of an endpoint beyond `seen` of them.
fn posture(agent: &Agent<'_>, name: &str, state: &str, seen: usize) -> Result<()> {
    let what = format!("posture {state} of {name}");
    process::eventually(&what, || {
        Ok((count(agent, name, state)? > seen).then_some(()))
    })
    .with_context(|| format!("{:#?}", agent.records.matching(|r| r.kind() == "posture")))
}

fn count(agent: &Agent<'_>, name: &str, state: &str) -> Result<usize> {
    let found = agent.records.matching(|record| {
        record.kind() == "posture" && record.endpoint() == name && record.text("/state") == state
    })?;
    Ok(found.len())
}

/// The configuration with one more pod, and with all pods of the node as an endpoint: what a node
/// needs to have pods covered from their first packet.
fn with_all_pods(scene: &Scene, pod: &Pod) -> Result<String> {
    let text = Agent::configuration(&scene.world, &Config::default(), &[&scene.pod, pod])?;
    let pods = scene.world.cgroup().path().join("kubepods");
    Ok(text
        + &format!(
            "\x20 - name: node/pods\n\x20   cgroup: {}\n",
            pods.display()
        ))
}

#[test]
fn three_hundred_new_pods_send_nothing() -> Result<()> {
    let scene = Scene::new()?;
    let agent = scene.enforce(&Config::default())?;
    let pod = scene.world.pod("shop/new")?;
    let (number, text) = (pod.number, with_all_pods(&scene, &pod)?);
    pod.end(&scene.world)?;
    // What is not there is no error: it waits.
    agent.reload_config(&text)?;
    scene.capture.clear();
    for round in 0..300 {
        let pod = scene.world.pod_again("shop/new", number)?;
        let sent = pod.attack(&DATAGRAM)?;
        ensure!(!sent.status.success(), "round {round}: {}", sent.text());
        if round % 75 == 0 {
            posture(&agent, "shop/new", "enforced", 0)?;
            let seen = agent
                .records
                .matching(|r| r.text("/state") == "enforced")?
                .into_iter()
                .filter_map(|r| r.0.pointer("/detail/attachedAfterMicroseconds").cloned());
            println!("attached after {:?} µs", seen.collect::<Vec<_>>());
        }
        let arrived = scene.capture.to(nowhere4(7));
        ensure!(arrived.is_empty(), "round {round}: {arrived:?}");
        pod.end(&scene.world)?;
    }
    scene.expect_nothing(nowhere4(7))
}

#[test]
fn a_pod_that_comes_later_has_its_own_policy() -> Result<()> {
    let scene = Scene::new()?;
    let agent = scene.enforce(&Config::default())?;
    let pod = scene.world.pod("shop/orders2")?;
    let number = pod.number;
    let text = Agent::configuration(&scene.world, &Config::default(), &[&scene.pod, &pod])?;
    let text = text.replace("serviceAccount: orders2", "serviceAccount: orders");
    pod.end(&scene.world)?;
    agent.reload_config(&text)?;
    let reloaded = agent
        .records
        .wait_for("reloaded", |record| record.text("/state") == "reloaded")?;
    let waits = reloaded.0.pointer("/detail/endpoints/1/waitsFor");
    let waits = waits.and_then(|waits| waits.as_array()).map(Vec::len);
    ensure!(waits == Some(2), "{reloaded:?}");

    let pod = scene.world.pod_again("shop/orders2", number)?;
    posture(&agent, "shop/orders2", "enforced", 0)?;
    let authority = scene.world.internet.authority().display().to_string();
    let url = "https://allowed.test/";
    process::eventually("the pod to reach what it may", || {
        let reached = pod.run(&["curl", "-sS", "--cacert", &authority, url])?;
        Ok(reached.status.success().then_some(()))
    })?;
    scene.capture.clear();
    pod.attack(&DATAGRAM)?;
    frame(&scene, &pod)?;
    scene.expect_nothing(nowhere4(7))?;
    agent.records.wait_for("its report", |record| {
        record.kind() == "bypass" && record.endpoint() == "shop/orders2"
    })?;
    Ok(())
}

#[test]
fn an_interface_made_again_is_enforced_at_once() -> Result<()> {
    let scene = Scene::new()?;
    let agent = scene.enforce(&Config::default())?;
    let name = scene.pod.name.as_str();
    for round in 0..5 {
        let interface = &scene.pod.interface;
        scene.world.node.ip(&format!("link del {interface}\n"))?;
        posture(&agent, name, "waiting", round)?;
        scene.capture.clear();
        scene.pod.connect(&scene.world.node)?;
        scene.pod.attack(&DATAGRAM)?;
        posture(&agent, name, "enforced", round)?;
        frame(&scene, &scene.pod)?;
        scene.expect_nothing(nowhere4(7))?;
    }
    // The next hop's addresses came after the interface: they were followed, too.
    process::eventually("the pod to reach what it may", || {
        let reached = scene.curl(&["https://allowed.test/"])?;
        Ok(reached.status.success().then_some(()))
    })
}

#[test]
fn a_cgroup_made_again_is_enforced_again() -> Result<()> {
    let scene = Scene::new()?;
    let host = scene.world.host_pod("shop/node-agent", "orders")?;
    let agent = scene.enforce(&Config::default().and_host_pod(&host))?;
    fs::remove_dir(host.container())?;
    fs::remove_dir(&host.cgroup)?;
    posture(&agent, &host.name, "waiting", 0)?;
    let seen = count(&agent, &host.name, "enforced")?;
    fs::create_dir_all(host.container())?;
    posture(&agent, &host.name, "enforced", seen)?;
    scene.capture.clear();
    ensure!(
        !host.attack(&DATAGRAM)?.status.success(),
        "it is not enforced"
    );
    scene.expect_nothing(nowhere4(7))
}

#[test]
fn frames_are_dropped_from_when_the_link_is_attached() -> Result<()> {
    let scene = Scene::new()?;
    let agent = scene.enforce(&Config::default())?;
    let pod = scene.world.pod("shop/new")?;
    let text = Agent::configuration(&scene.world, &Config::default(), &[&scene.pod, &pod])?;
    let (interface, address, gateway) = (pod.interface.clone(), pod.address4, pod.gateway4);
    pod.end(&scene.world)?;
    agent.reload_config(&text)?;
    let namespace = Namespace::new("flooding")?;
    let mut flood = Flood::start(&namespace, &address.to_string())?;
    scene.capture.clear();
    for round in 0..10 {
        scene.world.node.ip(&format!(
            "link add {interface} address {NEXT_HOP} type veth peer name eth0 netns {}\n",
            namespace.path()
        ))?;
        namespace.ip("link set eth0 up\n")?;
        scene.world.node.ip(&format!(
            "address add {gateway}/24 dev {interface}\nlink set {interface} up\n"
        ))?;
        posture_of_link(&agent, round)?;
        let before = scene.arrived(nowhere4(7))?.len();
        println!("round {round}: {before} frames passed before the link was attached");
        scene.capture.clear();
        std::thread::sleep(Duration::from_millis(200));
        scene.expect_nothing(nowhere4(7))?;
        flood.expect_running()?;
        scene.world.node.ip(&format!("link del {interface}\n"))?;
        scene.capture.clear();
    }
    Ok(())
}

/// Waits until the pod's interface was attached to so many times. It waits for its cgroup still.
fn posture_of_link(agent: &Agent<'_>, rounds: usize) -> Result<()> {
    process::eventually("the link to be attached", || {
        let attached = agent.records.matching(|record| {
            let link = record.0.pointer("/detail/endpoint/link");
            record.endpoint() == "shop/new" && link.and_then(|link| link.as_bool()) == Some(true)
        })?;
        Ok((attached.len() > rounds).then_some(()))
    })
}

fn frame(scene: &Scene, pod: &Pod) -> Result<()> {
    let next_hop = scene.world.node.hardware_address(&pod.interface)?;
    let from = pod.address4.to_string();
    pod.attack(&["frame", "eth0", &next_hop, &from, "198.51.100.7", "4000"])?;
    Ok(())
}

/// A process that sends frames as fast as it can.
struct Flood(Child);

impl Flood {
    fn start(namespace: &Namespace, from: &str) -> Result<Self> {
        let mut child = namespace
            .command("python3")
            .args(["-c", FLOOD, from, NEXT_HOP])
            .stdout(Stdio::piped())
            .spawn()
            .context("could not start the flood")?;
        let mut open = [0; 5];
        let stdout = child.stdout.as_mut().context("it has an output")?;
        stdout.read_exact(&mut open).context("it does not flood")?;
        Ok(Self(child))
    }

    fn expect_running(&mut self) -> Result<()> {
        ensure!(self.0.try_wait()?.is_none(), "the flood has ended");
        Ok(())
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        // It may have ended already.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}
