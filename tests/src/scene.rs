//! A world with one pod, a capture, and the agent when asked for: what most tests start from.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    process::Child,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::{
    agent::{self, Agent, Config},
    capture::{Capture, Packet},
    pod::Pod,
    process::{self, Finished},
    records::Record,
    world::World,
};

/// Attempts of one vector while the enforcer is on: one report must stand for all.
const ATTEMPTS: u64 = 3;

/// A pod `shop/orders` and a capture on the far side.
#[derive(Debug)]
pub struct Scene {
    /// The pod.
    pub pod: Pod,
    /// Of everything that reaches the internet.
    pub capture: Capture,
    /// Around it.
    pub world: World,
}

/// One way around the gateway.
#[derive(Debug, Clone, Copy)]
pub struct Vector<'a> {
    /// The attack's arguments.
    pub attack: &'a [&'a str],
    /// Where it goes.
    pub to: IpAddr,
    /// The reason that the report must give.
    pub reason: &'a str,
    /// Attempts that one run of the attack is.
    pub times: u64,
}

impl Scene {
    /// Makes it.
    ///
    /// # Errors
    /// As [`World::new`].
    pub fn new() -> Result<Self> {
        let world = World::new()?;
        Ok(Self {
            pod: world.pod("shop/orders")?,
            capture: world.capture()?,
            world,
        })
    }

    /// Starts the agent with the pod as its endpoint.
    ///
    /// # Errors
    /// As [`Agent::start`].
    pub fn enforce(&self, config: &Config) -> Result<Agent<'_>> {
        Agent::start(&self.world, config, &[&self.pod])
    }

    /// A download in the pod that is stopped with SIGSTOP half-way, with more to come than there is
    /// room for on the way; the agent has told of its connection.
    ///
    /// # Errors
    /// Where it does not begin.
    pub fn half_way(&self, agent: &Agent<'_>) -> Result<Child> {
        let large = self.world.internet.files().join("large");
        fs::write(large, vec![7; 32 << 20])?;
        let authority = self.world.internet.authority().display().to_string();
        let mut long = self.pod.command("curl")?;
        long.args(["-sS", "--max-time", "60", "-o", "/dev/null"]);
        long.args(["--cacert", &authority, "https://allowed.test/large"]);
        let long = long.spawn().context("could not start curl")?;
        agent.records.wait_for("its connection", |record| {
            record.kind() == "connection.open"
        })?;
        process::signal(&long, libc::SIGSTOP)?;
        Ok(long)
    }

    /// What has arrived for an address by now, from anybody.
    ///
    /// # Errors
    /// Where the capture does not see.
    pub fn arrived(&self, to: IpAddr) -> Result<Vec<Packet>> {
        self.capture.fence(&self.world.node)?;
        Ok(self.capture.to(to))
    }

    /// That nothing has arrived for an address, from anybody, and nothing from the pod itself.
    ///
    /// # Errors
    /// With what has.
    pub fn expect_nothing(&self, to: IpAddr) -> Result<()> {
        let arrived = self.arrived(to)?;
        ensure!(arrived.is_empty(), "arrived at {to}: {arrived:?}");
        for address in self.pod.addresses() {
            let from = self.capture.from(address);
            ensure!(from.is_empty(), "arrived from the pod: {from:?}");
        }
        Ok(())
    }

    /// How many packets of the pod's the kernel has counted under this reason.
    ///
    /// # Errors
    /// Where there is nothing pinned.
    pub fn denied(&self, reason: &str) -> Result<u64> {
        let line = ["status", "--instance", self.world.name()];
        let told = agent::run(&self.world, &line)?;
        let status: Value = serde_json::from_str(&told.stdout).with_context(|| told.text())?;
        let count = status.pointer(&format!("/endpoints/0/denied/{reason}"));
        Ok(count.and_then(Value::as_u64).unwrap_or_default())
    }

    /// curl in the pod, trusting the internet's authority.
    ///
    /// # Errors
    /// Where it cannot be started.
    pub fn curl(&self, arguments: &[&str]) -> Result<Finished> {
        self.curl_in(&self.pod, arguments)
    }

    /// The same in another pod.
    ///
    /// # Errors
    /// Where it cannot be started.
    pub fn curl_in(&self, pod: &Pod, arguments: &[&str]) -> Result<Finished> {
        let authority = self.world.internet.authority().display().to_string();
        let mut line = vec!["curl", "-sS", "--max-time", "10", "--cacert", &authority];
        line.extend(arguments);
        pod.run(&line)
    }
}

/// The whole proof of one vector that is no TCP connection: it arrives while nobody enforces;
/// then nothing arrives, and one report stands for every attempt, with an exact count.
///
/// # Errors
/// With what differs.
pub fn holds(vector: Vector<'_>) -> Result<()> {
    let scene = Scene::new()?;
    holds_in(&scene, vector)
}

/// The same in a scene that was prepared.
///
/// # Errors
/// With what differs.
pub fn holds_in(scene: &Scene, vector: Vector<'_>) -> Result<()> {
    holds_by(scene, vector, || scene.pod.attack(vector.attack))
}

/// The same of whatever does it.
///
/// # Errors
/// With what differs, or as `run`.
pub fn holds_by(
    scene: &Scene,
    vector: Vector<'_>,
    run: impl Fn() -> Result<Finished>,
) -> Result<()> {
    let Vector {
        attack,
        to,
        reason,
        times,
    } = vector;
    run()?.ok().context("with nobody enforcing")?;
    let arrived = scene.arrived(to)?;
    ensure!(
        !arrived.is_empty(),
        "{attack:?} does not even arrive without the agent"
    );

    let mut agent = scene.enforce(&Config::default())?;
    scene.capture.clear();
    for _ in 0..ATTEMPTS {
        // Some fail with EPERM, others seem to succeed: what counts is what arrives.
        run()?;
    }
    scene.expect_nothing(to)?;
    let report = agent.records.wait_for("a report", |record| {
        record.kind() == "bypass" && record.is_to(to)
    })?;
    expect_report(&report, scene, reason)?;
    agent.stop()?;
    expect_count(&agent, to, ATTEMPTS * times)
}

/// The whole proof of a vector that is a TCP connection to nowhere in particular: it arrives while
/// nobody enforces; then it ends at the gateway, which denies and records it, and nothing arrives.
///
/// # Errors
/// With what differs.
pub fn ends_at_the_gateway(attack: &[&str], to: SocketAddr) -> Result<()> {
    let scene = Scene::new()?;
    scene
        .pod
        .attack(attack)?
        .ok()
        .context("with nobody enforcing")?;
    ensure!(
        !scene.arrived(to.ip())?.is_empty(),
        "{attack:?} does not even arrive"
    );

    let agent = scene.enforce(&Config::default())?;
    scene.capture.clear();
    scene.pod.attack(attack)?;
    scene.expect_nothing(to.ip())?;
    let record = agent
        .records
        .wait_for("a record of the connection", |record| {
            record.kind() == "connection.open" && record.is_to(to.ip())
        })?;
    ensure!(record.verdict() == "deny", "{record:?}");
    ensure!(record.number("/port") == u64::from(to.port()), "{record:?}");
    ensure!(record.endpoint() == scene.pod.name, "{record:?}");
    ensure!(record.text("/process/command") == "attack", "{record:?}");
    Ok(())
}

/// That a report names the endpoint and the reason.
///
/// # Errors
/// With the report.
pub fn expect_report(report: &Record, scene: &Scene, reason: &str) -> Result<()> {
    ensure!(
        report.reason() == reason,
        "the reason is not {reason}: {report:?}"
    );
    ensure!(report.endpoint() == scene.pod.name, "{report:?}");
    ensure!(report.verdict() == "deny", "{report:?}");
    Ok(())
}

/// That exactly one report and its repeats stand for `count` attempts.
///
/// # Errors
/// With the reports.
pub fn expect_count(agent: &Agent<'_>, to: IpAddr, count: u64) -> Result<()> {
    let reports = agent
        .records
        .matching(|record| record.kind().starts_with("bypass") && record.is_to(to))?;
    let first = reports
        .iter()
        .filter(|record| record.kind() == "bypass")
        .count();
    let counted: u64 = reports.iter().map(Record::count).sum();
    ensure!(
        first == 1 && counted == count,
        "{first} reports for {counted} attempts instead of 1 for {count}: {reports:#?}"
    );
    Ok(())
}

/// Has a pod do what is legitimate, under the default policy, and looks that nothing was reported.
///
/// # Errors
/// As `use_it`, or with what was reported.
pub fn unreported(use_it: impl FnOnce(&Scene, &Agent<'_>) -> Result<()>) -> Result<()> {
    unreported_with(&Config::default(), use_it)
}

/// The same under another policy.
///
/// # Errors
/// As [`unreported`].
pub fn unreported_with(
    config: &Config,
    use_it: impl FnOnce(&Scene, &Agent<'_>) -> Result<()>,
) -> Result<()> {
    let scene = Scene::new()?;
    let mut agent = scene.enforce(config)?;
    use_it(&scene, &agent)?;
    // What is reported late is reported at the end.
    agent.stop()?;
    agent.records.expect_no_report()
}
