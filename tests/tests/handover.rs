//! One agent takes over from another.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use egress_tests::{
    agent::{Agent, Config},
    process,
    records::Record,
    scene::Scene,
    world::nowhere4,
};

const DATAGRAM: [&str; 3] = ["udp", "198.51.100.7:4000", "x"];

/// While `work` goes on, forbidden datagrams are sent and allowed connections made, none of which
/// may fail. Returns how many datagrams were tried.
fn under_traffic<'a>(
    scene: &Scene,
    agent: &mut Agent<'a>,
    work: impl FnOnce(&mut Agent<'a>) -> Result<()>,
) -> Result<u64> {
    let (over, tried) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        let sender = scope.spawn(|| -> Result<()> {
            while !over.load(Ordering::Relaxed) {
                scene.pod.attack(&DATAGRAM)?;
                tried.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        });
        let client = scope.spawn(|| -> Result<u64> {
            let mut connections = 0;
            while !over.load(Ordering::Relaxed) {
                let reached = scene.curl(&["https://allowed.test/"])?.ok();
                reached.with_context(|| format!("connection {connections}"))?;
                connections += 1;
            }
            Ok(connections)
        });
        let worked = work(agent);
        over.store(true, Ordering::Relaxed);
        let join = |_panic| anyhow::bail!("a thread panicked");
        sender.join().unwrap_or_else(join)?;
        let connections = client
            .join()
            .unwrap_or_else(|_panic| anyhow::bail!("panicked"))?;
        ensure!(connections > 0, "no connection was made");
        worked
    })?;
    Ok(tried.load(Ordering::Relaxed))
}

/// That every attempt was told of once, nothing was lost, and nobody took the other for a tamperer.
fn expect_exact(agent: &Agent<'_>, tried: u64) -> Result<()> {
    let told = agent
        .records
        .matching(|record| record.kind().starts_with("bypass") && record.is_to(nowhere4(7)))?;
    let count: u64 = told.iter().map(Record::count).sum();
    ensure!(count == tried, "{tried} tried, {count} told: {told:#?}");
    let wrong = agent.records.matching(|record| {
        record.kind() == "lost" || ["tampered", "kept"].contains(&record.text("/state"))
    })?;
    ensure!(wrong.is_empty(), "{wrong:#?}");
    Ok(())
}

#[test]
fn nothing_passes_nothing_fails_and_everything_is_told() -> Result<()> {
    let scene = Scene::new()?;
    let mut agent = scene.enforce(&Config::default())?;
    scene.capture.clear();
    let tried = under_traffic(&scene, &mut agent, |agent| {
        for _ in 0..3 {
            agent.take_over(&[])?;
        }
        Ok(())
    })?;
    agent.expect_left()?;
    scene.expect_nothing(nowhere4(7))?;
    agent.stop()?;
    expect_exact(&agent, tried)
}

#[test]
fn to_other_programs() -> Result<()> {
    let scene = Scene::new()?;
    let mut agent = scene.enforce(&Config::default())?;
    scene.capture.clear();
    // With other code in them: they say what they do.
    let tried = under_traffic(&scene, &mut agent, |agent| {
        agent.take_over(&[("RUST_LOG", "debug")])
    })?;
    agent.expect_left()?;
    scene.expect_nothing(nowhere4(7))?;
    agent.stop()?;
    expect_exact(&agent, tried)
}

#[test]
fn what_is_connected_goes_on_until_it_ends() -> Result<()> {
    let scene = Scene::new()?;
    let large = scene.world.internet.files().join("large");
    std::fs::write(large, vec![7; 300_000])?;
    let mut agent = scene.enforce(&Config::default())?;
    let line = [
        "curl",
        "-sS",
        "--max-time",
        "20",
        "--limit-rate",
        "40K",
        "-o",
        "/dev/null",
    ];
    let authority = scene.world.internet.authority().display().to_string();
    let mut long = scene.pod.command(line[0])?;
    long.args(&line[1..]);
    long.args(["--cacert", &authority, "https://allowed.test/large"]);
    let mut long = long.spawn().context("could not start curl")?;
    agent.records.wait_for("its connection", |record| {
        record.kind() == "connection.open"
    })?;
    agent.take_over(&[])?;
    let ended = long.try_wait()?;
    ensure!(ended.is_none(), "it ended already: {ended:?}");
    scene.curl(&["https://allowed.test/"])?.ok()?;
    let status = process::wait(&mut long, Duration::from_secs(30))?;
    ensure!(status.success(), "{status}");
    agent.expect_left()?;
    // The old gateway has told of it.
    let closed = agent
        .records
        .matching(|record| record.kind() == "connection.close")?;
    ensure!(closed.len() == 2, "{closed:#?}");
    Ok(())
}

#[test]
fn a_successor_that_is_killed_changes_nothing() -> Result<()> {
    let scene = Scene::new()?;
    let mut agent = scene.enforce(&Config::default())?;
    scene.capture.clear();
    let tried = under_traffic(&scene, &mut agent, |agent| {
        for wait in [50, 300, 600] {
            let mut successor = agent.successor()?;
            thread::sleep(Duration::from_millis(wait));
            if successor.try_wait()?.is_some() || agent.pid().is_err() {
                anyhow::bail!("it ended by itself");
            }
            successor.kill()?;
            successor.wait()?;
            process::eventually("the agent to go on", || {
                let left = agent.log()?.contains("handed over");
                ensure!(!left, "it was fast: {}", agent.log()?);
                let kept = agent.records.matching(|it| it.text("/state") == "kept")?;
                Ok((wait < 100 || !kept.is_empty()).then_some(()))
            })?;
        }
        Ok(())
    })?;
    scene.expect_nothing(nowhere4(7))?;
    let scene_works = scene.curl(&["https://allowed.test/"])?;
    scene_works.ok()?;
    agent.stop()?;
    let told = agent
        .records
        .matching(|record| record.kind().starts_with("bypass") && record.is_to(nowhere4(7)))?;
    let count: u64 = told.iter().map(Record::count).sum();
    ensure!(count == tried, "{tried} tried, {count} told: {told:#?}");
    Ok(())
}

#[test]
fn a_successor_with_a_bad_configuration_changes_nothing() -> Result<()> {
    let scene = Scene::new()?;
    let mut agent = scene.enforce(&Config::default())?;
    let good = std::fs::read_to_string(agent.config())?;
    std::fs::write(agent.config(), format!("{good}nonsense: true\n"))?;
    ensure!(agent.take_over(&[]).is_err(), "it took over");
    std::fs::write(agent.config(), good)?;
    scene.curl(&["https://allowed.test/"])?.ok()?;
    scene.pod.attack(&DATAGRAM)?;
    scene.expect_nothing(nowhere4(7))?;
    ensure!(agent.stop()?.success(), "it did not stop well");
    Ok(())
}

#[test]
fn where_nobody_runs_it_starts() -> Result<()> {
    let scene = Scene::new()?;
    let mut agent = scene.enforce(&Config::default())?;
    agent.kill()?;
    let mut successor = agent.successor()?;
    let reached = process::eventually("the successor to serve", || {
        let reached = scene.curl(&["https://allowed.test/"])?;
        Ok(reached.status.success().then_some(()))
    });
    successor.kill()?;
    successor.wait()?;
    reached
}

#[test]
fn only_root_may_ask() -> Result<()> {
    let scene = Scene::new()?;
    let _agent = scene.enforce(&Config::default())?;
    let socket = format!("/run/egress-agent/{}.sock", scene.world.name());
    ensure!(std::fs::exists(&socket)?, "there is no socket");
    let script = format!(
        "import os, socket; os.setgid(65534); os.setuid(65534)\n\
         socket.socket(socket.AF_UNIX).connect({socket:?})"
    );
    let mut python = scene.world.node.command("python3");
    python.args(["-c", &script]);
    let asked = process::finish(&mut python, process::PATIENCE)?;
    ensure!(asked.text().contains("PermissionError"), "{asked:?}");
    Ok(())
}
