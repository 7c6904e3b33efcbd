//! The end of a command and its agent, however it comes: nothing gets out, and nothing stays.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Result, ensure};
use egress_tests::{
    exec::{Exec, is_of_exec},
    process::{self, PATIENCE},
    scratch, tools,
    world::{World, nowhere4},
};

/// What a killed agent leaves the next one clears, whoever's test that is: one at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Pins, cgroups, locks and interfaces of commands.
fn left(world: &World) -> Result<Vec<PathBuf>> {
    let mut left = scratch::left_by_all(is_of_exec)?;
    let links = world.node.command("ip").args(["-o", "link"]).output()?;
    let links = String::from_utf8_lossy(&links.stdout).into_owned();
    left.extend(
        links
            .lines()
            .filter(|line| line.contains("egress-"))
            .map(|line| Path::new("interface").join(line)),
    );
    Ok(left)
}

fn expect_nothing_left(world: &World) -> Result<()> {
    let left = left(world)?;
    ensure!(left.is_empty(), "left: {left:#?}");
    Ok(())
}

/// A command that sends datagrams without end, after it has said so in a file.
fn sender(world: &World, flags: &[&str]) -> Result<Child> {
    let attack = tools::attack()?.display().to_string();
    let marker = world.scratch().file("sends");
    let script = format!(
        "while :; do {attack} udp 198.51.100.7:4000 x; touch {}; done",
        marker.display()
    );
    let child = Exec::new(world, flags)
        .command(&["sh", "-c", &script])?
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    process::within(PATIENCE, "the command", || {
        Ok(marker.exists().then_some(()))
    })?;
    Ok(child)
}

/// That the command has ended: it touches its file no more.
fn expect_no_sender(world: &World) -> Result<()> {
    let marker = world.scratch().file("sends");
    std::thread::sleep(Duration::from_millis(200));
    fs::remove_file(&marker)?;
    std::thread::sleep(Duration::from_millis(500));
    ensure!(!marker.exists(), "the command lives on");
    Ok(())
}

#[test]
fn after_any_end_nothing_is_left() -> Result<()> {
    let _alone = alone();
    let world = World::new()?;
    expect_nothing_left(&world)?;
    for flags in [&[][..], &["--audit"]] {
        let exec = Exec::new(&world, flags);
        for line in [&["true"][..], &["false"], &["no-such-command"]] {
            exec.run(line)?;
            expect_nothing_left(&world)?;
        }
        let mut child = sender(&world, flags)?;
        // SAFETY: a signal to a child of ours that was not waited for.
        unsafe { libc::kill(child.id() as i32, libc::SIGTERM) };
        let status = process::wait(&mut child, PATIENCE)?;
        ensure!(status.code() == Some(143), "{status}");
        expect_no_sender(&world)?;
        expect_nothing_left(&world)?;
    }
    Ok(())
}

#[test]
fn killed_it_takes_the_command_along_and_the_next_one_clears() -> Result<()> {
    let _alone = alone();
    let world = World::new()?;
    for _ in 0..5 {
        let capture = world.capture()?;
        let mut child = sender(&world, &[])?;
        child.kill()?;
        child.wait()?;
        expect_no_sender(&world)?;
        capture.fence(&world.node)?;
        let arrived = capture.to(nowhere4(7));
        ensure!(arrived.is_empty(), "{arrived:?}");
        ensure!(!left(&world)?.is_empty(), "who removed the pins?");
        let next = Exec::new(&world, &[]).run(&["true"])?;
        ensure!(
            next.stderr.contains("cleared what a killed run left"),
            "{}",
            next.text()
        );
        expect_nothing_left(&world)?;
        let after = Exec::new(&world, &[]).run(&["true"])?;
        ensure!(!after.stderr.contains("cleared"), "{}", after.text());
    }
    Ok(())
}

#[test]
fn interrupted_before_it_runs_it_never_does() -> Result<()> {
    let _alone = alone();
    let world = World::new()?;
    let marker = world.scratch().file("ran");
    let mut child = Exec::new(&world, &[])
        .command(&["touch", &marker.display().to_string()])?
        .stderr(Stdio::null())
        .spawn()?;
    process::within(PATIENCE, "the start", || {
        Ok((!left(&world)?.is_empty()).then_some(()))
    })?;
    // SAFETY: a signal to a child of ours that was not waited for.
    unsafe { libc::kill(child.id() as i32, libc::SIGINT) };
    let status = process::wait(&mut child, PATIENCE)?;
    ensure!(status.code() == Some(130), "{status}");
    ensure!(!marker.exists(), "it ran");
    expect_nothing_left(&world)
}

#[test]
fn without_its_gateway_the_command_is_cut_off() -> Result<()> {
    let _alone = alone();
    let world = World::new()?;
    let exec = Exec::new(&world, &["--allow", "allowed.test"]);
    let (up, go) = (world.scratch().file("up"), world.scratch().file("go"));
    let script = format!(
        "curl -sS https://allowed.test/ && touch {}; while ! test -e {}; do sleep 0.02; done; \
         curl -sS --max-time 5 https://allowed.test/ || echo cut off",
        up.display(),
        go.display()
    );
    let child = exec
        .command(&["sh", "-c", &script])?
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    process::within(PATIENCE, "the command", || Ok(up.exists().then_some(())))?;
    let gateway = gateway_of(child.id())?;
    // SAFETY: a signal to the child of our child.
    unsafe { libc::kill(gateway, libc::SIGKILL) };
    std::thread::sleep(Duration::from_millis(200));
    fs::write(&go, "")?;
    let output = child.wait_with_output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    ensure!(text.contains("cut off"), "{text}");
    ensure!(text.contains("the gateway ended"), "{text}");
    expect_nothing_left(&world)
}

/// The child of the agent that runs as the gateway's user.
fn gateway_of(agent: u32) -> Result<i32> {
    for entry in fs::read_dir("/proc")?.flatten() {
        let status = fs::read_to_string(entry.path().join("status")).unwrap_or_default();
        if status.contains(&format!("\nPPid:\t{agent}\n")) && status.contains("\nUid:\t62951\t") {
            return Ok(entry.file_name().to_string_lossy().parse()?);
        }
    }
    anyhow::bail!("the agent {agent} has no gateway")
}
