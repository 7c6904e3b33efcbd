//! A storm of packets while the policy changes, and while nobody reads the events.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use egress_tests::{
    agent::{Agent, Config},
    pod::Pod,
    process::{self, PATIENCE},
    records::Record,
    scene::Scene,
    tools,
    world::nowhere4,
};

/// What no policy allows.
const FORBIDDEN: &str = "198.51.100.7:4000";

/// What one of the two policies allows, beside the gateway.
const SOMETIMES: &str = "198.51.100.8:4000";

/// How long each flood is.
const TIME: &str = "9000";

/// The default policy, and a way beside the gateway to [`SOMETIMES`].
fn with_direct() -> Config {
    Config::default().and_policy(
        "---\n\
         apiVersion: egress-agent.dev/v1alpha1\n\
         kind: ClusterEgressPolicy\n\
         metadata: { name: direct }\n\
         spec:\n\
         \x20 selector: { namespaces: [shop] }\n\
         \x20 direct:\n\
         \x20   - cidrs: [\"198.51.100.8/32\"]\n\
         \x20     protocols: [UDP]\n\
         \x20     ports: [4000]\n",
    )
}

/// Has the agent take a policy up, to the end.
fn change(scene: &Scene, agent: &Agent<'_>, config: &Config) -> Result<()> {
    agent.reload_config(&Agent::configuration(&scene.world, config, &[&scene.pod])?)
}

/// How many datagrams an attack of many says that it tried.
fn tried(pod: &Pod, line: &[&str]) -> Result<u64> {
    let text = pod.run_for(PATIENCE * 2, line)?.ok()?;
    let sent = text.split_whitespace().nth(1);
    Ok(sent.context("no number of datagrams")?.parse()?)
}

fn joined<T>(thread: thread::ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    let result = thread.join();
    result.unwrap_or_else(|_panic| bail!("a flood panicked"))
}

/// Of a pod's reports, how many attempts they stand for.
fn told(agent: &Agent<'_>, pod: &Pod, wanted: impl Fn(&Record) -> bool) -> Result<u64> {
    let records = agent.records.matching(|record| {
        record.kind().starts_with("bypass") && record.endpoint() == pod.name && wanted(record)
    })?;
    Ok(records.iter().map(Record::count).sum())
}

fn expect_no_panic(agent: &Agent<'_>) -> Result<()> {
    let log = agent.log()?;
    ensure!(!log.contains("panicked"), "{log}");
    Ok(())
}

#[test]
fn policies_that_change_in_a_storm_let_through_what_they_allow_and_no_more() -> Result<()> {
    let scene = Scene::new()?;
    let mut agent = scene.enforce(&Config::default())?;
    scene.capture.clear();
    let attack = tools::attack()?.display().to_string();
    let next_hop = scene.world.node.hardware_address(&scene.pod.interface)?;
    let own = scene.pod.address4.to_string();
    let over = AtomicBool::new(false);
    let sent = thread::scope(|scope| {
        // One socket each, whose verdicts are remembered with it; and frames that have none.
        let forbidden = scope.spawn(|| tried(&scene.pod, &[&attack, "udp-flood", FORBIDDEN, TIME]));
        let sometimes = scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                tried(&scene.pod, &[&attack, "udp-flood", SOMETIMES, "500"])?;
            }
            Ok(())
        });
        let frames = scope.spawn(|| {
            let frame = ["frame", "eth0", &next_hop, &own, "198.51.100.9", "4000"];
            while !over.load(Ordering::Relaxed) {
                scene.pod.attack(&frame)?;
            }
            Ok(())
        });
        let changed = (|| {
            let mut rounds = 0;
            while !forbidden.is_finished() {
                change(&scene, &agent, &with_direct())?;
                process::eventually("what is allowed to arrive", || {
                    Ok((!scene.capture.to(nowhere4(8)).is_empty()).then_some(()))
                })?;
                change(&scene, &agent, &Config::default())?;
                // What was on its way.
                thread::sleep(process::here(Duration::from_millis(50)));
                for forbidden in [nowhere4(7), nowhere4(9)] {
                    let arrived = scene.arrived(forbidden)?;
                    ensure!(arrived.is_empty(), "{arrived:?}");
                }
                scene.capture.clear();
                thread::sleep(Duration::from_millis(100));
                scene.expect_nothing(nowhere4(8))?;
                rounds += 1;
            }
            Ok(rounds)
        })();
        over.store(true, Ordering::Relaxed);
        let sent = joined(forbidden);
        joined(sometimes)?;
        joined(frames)?;
        let rounds: u32 = changed?;
        ensure!(rounds > 2, "{rounds} rounds are no storm");
        sent
    })?;
    agent.stop()?;
    scene.expect_nothing(nowhere4(7))?;
    scene.expect_nothing(nowhere4(9))?;
    let told = told(&agent, &scene.pod, |record| record.is_to(nowhere4(7)))?;
    ensure!(told == sent, "{sent} tried, {told} told");
    expect_no_panic(&agent)
}

/// Pods that fill the buffer of one CPU: each has 256 windows, and so many events.
const PODS: usize = 12;

#[test]
fn a_full_buffer_of_events_loses_no_attempt_and_lets_nothing_through() -> Result<()> {
    let scene = Scene::new()?;
    let names = (0..PODS).map(|number| format!("shop/filler{number}"));
    let pods: Vec<_> = names
        .map(|name| scene.world.pod(&name))
        .collect::<Result<_>>()?;
    let all: Vec<_> = pods.iter().chain([&scene.pod]).collect();
    let mut agent = Agent::start(&scene.world, &Config::default(), &all)?;
    scene.capture.clear();
    let attack = tools::attack()?.display().to_string();
    let sweep = |pod: &Pod, count: &str| {
        let cpu = ["taskset", "-c", "0"];
        let sweep = [&attack, "udp-sweep", "198.51.100.7", count];
        tried(pod, &[&cpu[..], &sweep].concat())
    };
    // Nobody reads.
    agent.freeze()?;
    let sent: Vec<u64> = pods
        .iter()
        .map(|pod| sweep(pod, "250"))
        .collect::<Result<_>>()?;
    agent.thaw()?;
    // The kernel says that something found no room with the next event that does, which is the first
    // datagram to another port from a pod that has windows left.
    let (mut last, mut ports) = (0, 0);
    let full = process::eventually("the buffer's events to be read", || {
        ports += 1;
        last += sweep(&scene.pod, &ports.to_string())?;
        let lost = agent.records.matching(|record| record.kind() == "lost")?;
        Ok(lost.into_iter().next())
    });
    full.context("the buffer was never full")?;
    agent.stop()?;
    for (pod, sent) in all.into_iter().zip(sent.into_iter().chain([last])) {
        let told = told(&agent, pod, |_| true)?;
        ensure!(told == sent, "{}: {sent} tried, {told} told", pod.name);
    }
    let arrived = scene.arrived(nowhere4(7))?;
    ensure!(arrived.is_empty(), "{arrived:?}");
    expect_no_panic(&agent)
}
