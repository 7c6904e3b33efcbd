//! A pod on a bridge, and behind another port of that bridge somebody who sees every frame, whether
//! or not a router would take it.

use anyhow::{Context as _, Result, ensure};

use crate::{
    agent::{Agent, Config},
    capture::Capture,
    frame::{self, MARK, Mac},
    namespace::Namespace,
    process,
    records::Record,
    scene::Scene,
};

/// Attempts of one vector while the enforcer is on: one report must stand for all.
const ATTEMPTS: u64 = 3;

/// What a frame is made of.
#[derive(Debug, Clone, Copy)]
pub struct Macs {
    /// The pod's.
    pub own: Mac,
    /// The next hop's: the bridge.
    pub next_hop: Mac,
    /// Whoever sees everything.
    pub far: Mac,
}

/// The bridge and all around it.
#[derive(Debug)]
pub struct Wire {
    /// The pod, which is on the bridge, and its world.
    pub scene: Scene,
    /// The hardware addresses.
    pub macs: Macs,
    capture: Capture,
    _far: Namespace,
}

impl Wire {
    /// Makes it.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn new() -> Result<Self> {
        let scene = Scene::new()?;
        let far = Namespace::new("far")?;
        let node = &scene.world.node;
        node.ip(&format!(
            "link add bridge0 type bridge mcast_snooping 0\n\
             link set bridge0 up\n\
             link set {} master bridge0\n\
             link add wire0 type veth peer name wire1 netns {}\n\
             link set wire0 master bridge0\n\
             link set wire0 up\n",
            scene.pod.interface,
            far.path()
        ))?;
        // Else the bridge looks into IP packets and drops what is malformed.
        for family in ["iptables", "ip6tables", "arptables"] {
            node.sysctl_if_any(&format!("net/bridge/bridge-nf-call-{family}"), "0")?;
        }
        far.ip("link set wire1 up promisc on\n")?;
        let macs = Macs {
            own: frame::mac(&scene.pod.namespace.hardware_address("eth0")?)?,
            next_hop: frame::mac(&node.hardware_address("bridge0")?)?,
            far: frame::mac(&far.hardware_address("wire1")?)?,
        };
        let capture = Capture::start(&far)?;
        let wire = Self {
            scene,
            macs,
            capture,
            _far: far,
        };
        // A port forwards once the bridge has seen its link come up.
        process::eventually("the bridge to forward", || Ok(wire.canary().ok()))?;
        Ok(wire)
    }

    /// That a frame of the node's is seen on the far side.
    fn canary(&self) -> Result<()> {
        let text = b"egress-tests canary";
        let frame = frame::ethernet(self.macs.far, self.macs.next_hop, 0x88b5, text);
        let sends = crate::tools::attack()?;
        let mut attack = self.scene.world.node.command(sends);
        attack.args(["frame-bytes", "bridge0", &frame::hex(&frame)]);
        process::finish(&mut attack, process::PATIENCE)?.ok()?;
        let seen = || !self.capture.matching(|it| it.contains(text)).is_empty();
        let patience = std::time::Duration::from_millis(200);
        process::within(patience, "the canary", || Ok(seen().then_some(())))
    }

    fn seen(&self) -> usize {
        self.capture.matching(|packet| packet.contains(MARK)).len()
    }
}

/// The whole proof of one frame: it is seen on the far side while nobody enforces; then nothing of
/// it is, a canary is, and one report stands for every attempt, with an exact count.
///
/// # Errors
/// With what differs.
pub fn holds(make: impl FnOnce(&Scene, &Macs) -> Vec<u8>, reason: &str) -> Result<()> {
    let wire = Wire::new()?;
    let agent = attempt(&wire, make)?;
    let reports = agent
        .records
        .matching(|it| it.kind().starts_with("bypass"))?;
    expect_one_report(&reports, &wire.scene.pod, reason)
}

/// The same of what kernels send by themselves, too: it is counted, and there is no report.
///
/// # Errors
/// With what differs.
pub fn holds_quietly(make: impl FnOnce(&Scene, &Macs) -> Vec<u8>, reason: &str) -> Result<()> {
    let wire = Wire::new()?;
    let agent = attempt(&wire, make)?;
    agent.records.expect_no_report()?;
    let counted = wire.scene.denied(reason)?;
    ensure!(counted >= ATTEMPTS, "{counted} counted as {reason}");
    Ok(())
}

/// Has the pod send the frame, first while nobody enforces.
fn attempt<'a>(wire: &'a Wire, make: impl FnOnce(&Scene, &Macs) -> Vec<u8>) -> Result<Agent<'a>> {
    let pod = &wire.scene.pod;
    let mut bytes = make(&wire.scene, &wire.macs);
    if !bytes.ends_with(MARK) {
        bytes.extend(MARK);
    }
    let hex = frame::hex(&bytes);
    let line = ["frame-bytes", "eth0", &hex];
    pod.attack(&line)?.ok().context("with nobody enforcing")?;
    process::eventually("the frame to be seen with nobody enforcing", || {
        Ok((wire.seen() > 0).then_some(()))
    })?;
    let mut agent = wire.scene.enforce(&Config::default())?;
    wire.capture.clear();
    for _ in 0..ATTEMPTS {
        pod.attack(&line)?;
    }
    process::eventually("the canary to be seen", || Ok(wire.canary().ok()))?;
    ensure!(wire.seen() == 0, "{} frames passed", wire.seen());
    agent.stop()?;
    Ok(agent)
}

/// What routed vectors share with these: the frame is sent to the next hop, which would take it to
/// the internet.
///
/// # Errors
/// With what differs.
pub fn holds_routed(make: impl FnOnce(&Scene, Mac, Mac) -> Vec<u8>, reason: &str) -> Result<()> {
    let scene = Scene::new()?;
    let own = frame::mac(&scene.pod.namespace.hardware_address("eth0")?)?;
    let next_hop = frame::mac(&scene.world.node.hardware_address(&scene.pod.interface)?)?;
    let mut bytes = make(&scene, own, next_hop);
    if !bytes.ends_with(MARK) {
        bytes.extend(MARK);
    }
    let seen = || -> Result<usize> {
        scene.capture.fence(&scene.world.node)?;
        Ok(scene.capture.matching(|packet| packet.contains(MARK)).len())
    };
    let hex = frame::hex(&bytes);
    let line = ["frame-bytes", "eth0", &hex];
    scene
        .pod
        .attack(&line)?
        .ok()
        .context("with nobody enforcing")?;
    ensure!(seen()? > 0, "it does not even arrive without the agent");
    let mut agent = scene.enforce(&Config::default())?;
    scene.capture.clear();
    for _ in 0..ATTEMPTS {
        scene.pod.attack(&line)?;
    }
    ensure!(seen()? == 0, "{} frames passed", seen()?);
    agent.stop()?;
    let reports = agent
        .records
        .matching(|it| it.kind().starts_with("bypass"))?;
    expect_one_report(&reports, &scene.pod, reason)
}

fn expect_one_report(all: &[Record], pod: &crate::pod::Pod, reason: &str) -> Result<()> {
    let (of, others): (Vec<_>, Vec<_>) = all.iter().partition(|it| it.reason() == reason);
    ensure!(others.is_empty(), "other reports: {others:#?}");
    let first = of.iter().filter(|it| it.kind() == "bypass").count();
    let counted: u64 = of.iter().map(|it| it.count()).sum();
    ensure!(
        first == 1 && counted == ATTEMPTS,
        "{first} reports for {counted} attempts instead of 1 for {ATTEMPTS}: {of:#?}"
    );
    ensure!(
        of[0].endpoint() == pod.name && of[0].text("/layer") == "link",
        "{:?}",
        of[0]
    );
    Ok(())
}
