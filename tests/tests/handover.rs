//! One agent takes over from another.

use std::{
    fs,
    os::unix::process::ExitStatusExt as _,
    process::Child,
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

/// That every attempt was told of once.
fn expect_all_told(agent: &Agent<'_>, tried: u64) -> Result<()> {
    let told = agent
        .records
        .matching(|record| record.kind().starts_with("bypass") && record.is_to(nowhere4(7)))?;
    let count: u64 = told.iter().map(Record::count).sum();
    ensure!(count == tried, "{tried} tried, {count} told: {told:#?}");
    Ok(())
}

/// The same, and that nothing was lost and nobody took the other for a tamperer.
fn expect_exact(agent: &Agent<'_>, tried: u64) -> Result<()> {
    expect_all_told(agent, tried)?;
    let wrong = agent.records.matching(|record| {
        record.kind() == "lost" || ["tampered", "kept"].contains(&record.text("/state"))
    })?;
    ensure!(wrong.is_empty(), "{wrong:#?}");
    Ok(())
}

/// Under traffic, `work` changes nothing that anybody but the two agents would notice.
fn goes_unnoticed(work: impl FnOnce(&mut Agent<'_>) -> Result<()>) -> Result<()> {
    let scene = Scene::new()?;
    let mut agent = scene.enforce(&Config::default())?;
    scene.capture.clear();
    let tried = under_traffic(&scene, &mut agent, work)?;
    agent.expect_left()?;
    scene.expect_nothing(nowhere4(7))?;
    agent.stop()?;
    expect_exact(&agent, tried)
}

#[test]
fn nothing_passes_nothing_fails_and_everything_is_told() -> Result<()> {
    goes_unnoticed(|agent| {
        let config = fs::read_to_string(agent.config())?;
        (0..3).try_for_each(|_| {
            agent.reload_config(&config)?;
            agent.take_over(&[])
        })
    })
}

#[test]
fn to_other_programs() -> Result<()> {
    // With other code in them: they say what they do.
    goes_unnoticed(|agent| agent.take_over(&[("RUST_LOG", "debug")]))
}

#[test]
fn what_is_connected_goes_on_until_it_ends() -> Result<()> {
    let scene = Scene::new()?;
    let mut agent = scene.enforce(&Config::default())?;
    let mut long = scene.half_way(&agent)?;
    agent.take_over(&[])?;
    scene.curl(&["https://allowed.test/"])?.ok()?;
    process::signal(&long, libc::SIGCONT)?;
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
fn what_is_connected_goes_on_until_its_time_is_over() -> Result<()> {
    let scene = Scene::new()?;
    let mut agent = scene.enforce(&Config::default())?;
    let usual = fs::read_to_string(agent.config())?;
    agent.reload_config(&format!("{usual}handOver: {{ drainSeconds: 1 }}\n"))?;
    let mut long = scene.half_way(&agent)?;
    agent.take_over(&[])?;
    agent.expect_left()?;
    long.kill()?;
    long.wait()?;
    Ok(())
}

#[test]
fn what_is_connected_goes_on_until_the_old_agent_is_told_to_end() -> Result<()> {
    let scene = Scene::new()?;
    let mut agent = scene.enforce(&Config::default())?;
    let mut long = scene.half_way(&agent)?;
    agent.take_over(&[])?;
    agent.end_those_before()?;
    agent.expect_left()?;
    scene.curl(&["https://allowed.test/"])?.ok()?;
    long.kill()?;
    long.wait()?;
    Ok(())
}

/// How long a successor may take, in tests in which it takes longer.
const DEADLINE: &str = "handOver: { deadlineSeconds: 2 }\n";

/// Waits until the agent has taken everything back, for the so-maniest time.
fn expect_kept(agent: &Agent<'_>, times: usize) -> Result<()> {
    process::eventually("the agent to go on", || {
        let kept = agent.records.matching(|it| it.text("/state") == "kept")?;
        ensure!(kept.len() <= times, "{kept:#?}");
        Ok((kept.len() == times).then_some(()))
    })
}

/// A successor from the moment on which the agent hands over.
fn successor_within(agent: &Agent<'_>) -> Result<Child> {
    let before = agent.log()?.matches("takes over").count();
    let successor = agent.successor()?;
    process::eventually("the agent to hand over", || {
        let begun = agent.log()?.matches("takes over").count();
        Ok((begun > before).then_some(()))
    })?;
    Ok(successor)
}

#[test]
fn a_successor_that_hangs_is_ended_and_changes_nothing() -> Result<()> {
    let scene = Scene::new()?;
    let mut agent = scene.enforce(&Config::default())?;
    let usual = fs::read_to_string(agent.config())?;
    agent.reload_config(&format!("{usual}{DEADLINE}"))?;
    scene.capture.clear();
    let tried = under_traffic(&scene, &mut agent, |agent| {
        let mut successor = successor_within(agent)?;
        process::signal(&successor, libc::SIGSTOP)?;
        expect_kept(agent, 1)?;
        let status = process::wait(&mut successor, process::PATIENCE)?;
        ensure!(status.signal() == Some(libc::SIGKILL), "{status}");
        // Another one is not harmed by that.
        agent.reload_config(&usual)?;
        agent.take_over(&[])
    })?;
    agent.expect_left()?;
    scene.expect_nothing(nowhere4(7))?;
    agent.stop()?;
    expect_all_told(&agent, tried)
}

/// Moments of a hand-over, counted from its beginning: before, within and after it.
const MOMENTS: [u64; 6] = [0, 15, 30, 45, 60, 250];

#[test]
fn whoever_is_killed_nothing_passes_and_the_other_serves() -> Result<()> {
    let scene = Scene::new()?;
    let mut agent = scene.enforce(&Config::default())?;
    scene.capture.clear();
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let sender = scope.spawn(|| -> Result<()> {
            while !over.load(Ordering::Relaxed) {
                scene.pod.attack(&DATAGRAM)?;
            }
            Ok(())
        });
        let killed = MOMENTS.into_iter().try_for_each(|moment| {
            let moment = Duration::from_millis(moment);
            killed_successor(&scene, &mut agent, moment).with_context(|| format!("{moment:?}"))?;
            killed_agent(&scene, &mut agent, moment).with_context(|| format!("{moment:?}"))
        });
        over.store(true, Ordering::Relaxed);
        let sent = sender
            .join()
            .unwrap_or_else(|_panic| anyhow::bail!("the sender panicked"));
        killed.and(sent)
    })?;
    scene.expect_nothing(nowhere4(7))
}

/// The new one is killed: the old one serves, unless it has left by then.
fn killed_successor(scene: &Scene, agent: &mut Agent<'_>, moment: Duration) -> Result<()> {
    let mut successor = successor_within(agent)?;
    thread::sleep(moment);
    successor.kill()?;
    successor.wait()?;
    let has_left = process::eventually("one of the two to go on", || {
        let log = agent.log()?;
        let kept = log.matches("this one goes on").count() == log.matches("takes over").count();
        Ok((kept || log.contains("handed over")).then_some(!kept))
    })?;
    if has_left {
        agent.expect_end()?;
        agent.launch()?;
    }
    scene.curl(&["https://allowed.test/"])?.ok()?;
    Ok(())
}

/// The old one is killed: the new one serves.
fn killed_agent(scene: &Scene, agent: &mut Agent<'_>, moment: Duration) -> Result<()> {
    let mut successor = successor_within(agent)?;
    thread::sleep(moment);
    agent.kill()?;
    let reached = process::eventually("the successor to serve", || {
        if let Some(status) = successor.try_wait()? {
            anyhow::bail!("it ended with {status}: {}", agent.successors_log()?);
        }
        let reached = scene.curl(&["https://allowed.test/"])?;
        Ok(reached.status.success().then_some(()))
    });
    successor.kill()?;
    successor.wait()?;
    reached?;
    agent.launch()
}

#[test]
fn one_that_nobody_waits_for_any_more_does_not_leave() -> Result<()> {
    let scene = Scene::new()?;
    let other = scene.world.pod("shop/orders-2")?;
    let next = scene.world.pod("shop/orders-3")?;
    let config = Config {
        policy: Config::policy(&["allowed.test"]).replace("{ serviceAccounts: [orders] }", "{}"),
        ..Config::default()
    };
    let mut agent = Agent::start(&scene.world, &config, &[&scene.pod, &other])?;
    // The next one has other endpoints, and puts all of them into force.
    let text = Agent::configuration(&scene.world, &config, &[&scene.pod, &next])?;
    fs::write(agent.config(), text)?;
    let mut successor = successor_within(&agent)?;
    agent.freeze()?;
    let status = process::wait(&mut successor, process::PATIENCE)?;
    ensure!(!status.success(), "it took over");
    agent.thaw()?;
    expect_kept(&agent, 1)?;
    scene.capture.clear();
    for pod in [&scene.pod, &other] {
        scene.curl_in(pod, &["https://allowed.test/"])?.ok()?;
        pod.attack(&DATAGRAM)?;
    }
    scene.expect_nothing(nowhere4(7))?;
    next.attack(&DATAGRAM)?.ok()?;
    ensure!(
        !scene.arrived(nowhere4(7))?.is_empty(),
        "who is no endpoint is held"
    );
    ensure!(agent.stop()?.success(), "it did not stop well");
    Ok(())
}

#[test]
fn what_cannot_be_taken_back_at_once_is_later() -> Result<()> {
    let scene = Scene::new()?;
    let mut agent = scene.enforce(&Config::default())?;
    let mut successor = successor_within(&agent)?;
    process::signal(&successor, libc::SIGSTOP)?;
    // No more descriptors, without which there are no buffers for what the kernel reports.
    let before = limit_descriptors(agent.pid()?, 16)?;
    successor.kill()?;
    successor.wait()?;
    process::eventually("the agent to say what it cannot", || {
        let said = agent.log()?.contains("not everything can be taken back");
        Ok(said.then_some(()))
    })?;
    limit_descriptors(agent.pid()?, before)?;
    expect_kept(&agent, 1)?;
    scene.pod.attack(&DATAGRAM)?;
    let is_told = |record: &Record| record.kind() == "bypass" && record.is_to(nowhere4(7));
    agent.records.wait_for("a report", is_told)?;
    scene.expect_nothing(nowhere4(7))?;
    ensure!(agent.stop()?.success(), "it did not stop well");
    Ok(())
}

/// Has a process open no descriptor with this number or a higher one; returns what it was before.
fn limit_descriptors(pid: u32, limit: u64) -> Result<u64> {
    let pid = i32::try_from(pid)?;
    let mut limits = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: getting and setting a limit with a structure that lives across the calls.
    let done = unsafe {
        let (get, set) = (std::ptr::null(), std::ptr::null_mut());
        let got = libc::prlimit(pid, libc::RLIMIT_NOFILE, get, &raw mut limits);
        let before = std::mem::replace(&mut limits.rlim_cur, limit);
        let done = got == 0 && libc::prlimit(pid, libc::RLIMIT_NOFILE, &raw const limits, set) == 0;
        done.then_some(before)
    };
    done.with_context(|| std::io::Error::last_os_error().to_string())
}

#[test]
fn a_successor_with_a_bad_configuration_changes_nothing() -> Result<()> {
    let scene = Scene::new()?;
    let mut agent = scene.enforce(&Config::default())?;
    let good = fs::read_to_string(agent.config())?;
    fs::write(agent.config(), format!("{good}nonsense: true\n"))?;
    ensure!(agent.take_over(&[]).is_err(), "it took over");
    fs::write(agent.config(), good)?;
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
