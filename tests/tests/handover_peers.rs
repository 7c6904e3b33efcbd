//! What an agent says to whoever asks it to hand over, and what it makes of what it is told.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    os::unix::{
        fs::PermissionsExt as _,
        net::{UnixListener, UnixStream},
    },
    path::PathBuf,
    process::Command,
    thread,
};

use anyhow::{Context as _, Result, ensure};
use egress_tests::{
    agent::{Agent, Config},
    process,
    scene::Scene,
    scratch,
    world::nowhere4,
};
use serde_json::{Value, json};

/// One side of a hand-over, by hand.
struct Peer(BufReader<UnixStream>);

impl Peer {
    fn of(scene: &Scene) -> Result<Self> {
        let stream = UnixStream::connect(socket(scene)).context("nobody can be asked")?;
        Self::new(stream)
    }

    fn new(stream: UnixStream) -> Result<Self> {
        stream.set_read_timeout(Some(process::here(process::PATIENCE)))?;
        Ok(Self(BufReader::new(stream)))
    }

    fn say(&mut self, message: &Value) -> Result<()> {
        let line = format!("{message}\n");
        let said = self.0.get_mut().write_all(line.as_bytes());
        said.context("nobody listens")
    }

    /// The next message; null at the end.
    fn hear(&mut self) -> Result<Value> {
        let mut line = String::new();
        self.0.read_line(&mut line).context("nothing is said")?;
        let message = match line.is_empty() {
            true => Ok(Value::Null),
            false => serde_json::from_str(&line),
        };
        message.with_context(|| line)
    }
}

fn socket(scene: &Scene) -> PathBuf {
    PathBuf::from(format!("/run/egress-agent/{}.sock", scene.world.name()))
}

/// The ABI of what the running agent has pinned.
fn abi(scene: &Scene) -> Result<u32> {
    let pins = scratch::pins(|name| name == scene.world.name());
    let version = pins.iter().find_map(|pins| {
        let version = pins.parent()?.file_name()?.to_str()?;
        version.strip_prefix('v')?.parse().ok()
    });
    version.context("nothing is pinned")
}

fn kept(agent: &Agent<'_>) -> Result<usize> {
    let kept = agent.records.matching(|it| it.text("/state") == "kept")?;
    Ok(kept.len())
}

#[test]
fn it_works_as_ever_while_its_successor_gets_ready() -> Result<()> {
    let scene = Scene::new()?;
    let agent = scene.enforce(&Config::default())?;
    let mut peer = Peer::of(&scene)?;
    peer.say(&json!({"asks": {"abi": abi(&scene)?}}))?;
    ensure!(peer.hear()? == json!("agrees"), "it does not agree");
    agent.reload_config(&fs::read_to_string(agent.config())?)?;
    drop(peer);
    scene.curl(&["https://allowed.test/"])?.ok()?;
    ensure!(!agent.log()?.contains("takes over"), "{}", agent.log()?);
    ensure!(kept(&agent)? == 0, "there was nothing to be kept");
    Ok(())
}

#[test]
fn it_goes_on_when_its_successor_hangs_up() -> Result<()> {
    let scene = Scene::new()?;
    let mut agent = scene.enforce(&Config::default())?;
    for times in 1..=3 {
        let mut peer = Peer::of(&scene)?;
        peer.say(&json!({"asks": {"abi": abi(&scene)?}}))?;
        ensure!(peer.hear()? == json!("agrees"), "it does not agree");
        peer.say(&json!("takesOver"))?;
        let handed = peer.hear()?;
        ensure!(handed.pointer("/handsOver/gateway").is_some(), "{handed}");
        drop(peer);
        process::eventually("the agent to go on", || {
            Ok((kept(&agent)? == times).then_some(()))
        })?;
    }
    scene.pod.attack(&["udp", "198.51.100.7:4000", "x"])?;
    scene.expect_nothing(nowhere4(7))?;
    scene.curl(&["https://allowed.test/"])?.ok()?;
    ensure!(agent.stop()?.success(), "it did not stop well");
    Ok(())
}

#[test]
fn it_refuses_one_of_another_abi() -> Result<()> {
    let scene = Scene::new()?;
    let mut agent = scene.enforce(&Config::default())?;
    let own = abi(&scene)?;
    let mut peer = Peer::of(&scene)?;
    peer.say(&json!({"asks": {"abi": own + 1}}))?;
    let answer = peer.hear()?;
    ensure!(answer == json!({"refuses": {"abi": own}}), "{answer}");
    ensure!(peer.hear()?.is_null(), "it says more");
    scene.curl(&["https://allowed.test/"])?.ok()?;
    ensure!(agent.stop()?.success(), "it did not stop well");
    Ok(())
}

#[test]
fn one_of_another_abi_is_not_taken_over_from() -> Result<()> {
    let scene = Scene::new()?;
    let mut agent = scene.enforce(&Config::default())?;
    let another = abi(&scene)? + 1;
    agent.stop()?;
    agent.detach()?.ok()?;
    fs::create_dir_all("/run/egress-agent")?;
    let listener = UnixListener::bind(socket(&scene))?;
    let other = thread::spawn(move || -> Result<Value> {
        let mut peer = Peer::new(listener.accept()?.0)?;
        let asked = peer.hear()?;
        peer.say(&json!({"refuses": {"abi": another}}))?;
        Ok(asked)
    });
    let mut successor = agent.successor()?;
    let status = process::wait(&mut successor, process::PATIENCE)?;
    let asked = other
        .join()
        .unwrap_or_else(|_panic| anyhow::bail!("panicked"))?;
    ensure!(asked.pointer("/asks/abi").is_some(), "{asked}");
    fs::remove_file(socket(&scene))?;
    let log = agent.successors_log()?;
    ensure!(!status.success(), "it started");
    ensure!(log.contains(&format!("has ABI {another}")), "{log}");
    let left = scratch::left_by(scene.world.name())?;
    ensure!(left.is_empty(), "left: {left:?}");
    Ok(())
}

#[test]
fn one_that_dies_half_way_with_its_gateway_is_followed() -> Result<()> {
    let scene = Scene::new()?;
    let mut agent = scene.enforce(&Config::default())?;
    agent.kill()?;
    fs::remove_file(socket(&scene))?;
    let listener = UnixListener::bind(socket(&scene))?;
    let mut gateway = Command::new("true").spawn()?;
    gateway.wait()?;
    let other = thread::spawn(move || -> Result<()> {
        let mut peer = Peer::new(listener.accept()?.0)?;
        peer.hear()?;
        peer.say(&json!("agrees"))?;
        peer.hear()?;
        let handed = json!({"generation": 7, "gateway": gateway.id(), "told": []});
        peer.say(&json!({"handsOver": handed}))
    });
    scene.capture.clear();
    let mut successor = agent.successor()?;
    let reached = process::eventually("the successor to serve", || {
        scene.pod.attack(&["udp", "198.51.100.7:4000", "x"])?;
        if let Some(status) = successor.try_wait()? {
            anyhow::bail!("it ended with {status}: {}", agent.successors_log()?);
        }
        let reached = scene.curl(&["https://allowed.test/"])?;
        Ok(reached.status.success().then_some(()))
    });
    successor.kill()?;
    successor.wait()?;
    other
        .join()
        .unwrap_or_else(|_panic| anyhow::bail!("panicked"))?;
    reached?;
    scene.expect_nothing(nowhere4(7))
}

#[test]
fn only_root_may_reach_it() -> Result<()> {
    let scene = Scene::new()?;
    let _agent = scene.enforce(&Config::default())?;
    ensure!(socket(&scene).exists(), "there is no socket");
    let asked = as_nobody(&scene, "")?;
    ensure!(asked.contains("PermissionError"), "{asked}");
    Ok(())
}

#[test]
fn only_root_is_answered() -> Result<()> {
    let scene = Scene::new()?;
    let agent = scene.enforce(&Config::default())?;
    // Were it ever within reach.
    fs::set_permissions(socket(&scene), fs::Permissions::from_mode(0o666))?;
    let abi = abi(&scene)?;
    let ask = format!("s.sendall(b'{{\"asks\": {{\"abi\": {abi}}}}}\\n')");
    let asked = as_nobody(&scene, &ask)?;
    ensure!(asked.contains("heard b''"), "{asked}");
    let mut peer = Peer::of(&scene)?;
    peer.say(&json!({"asks": {"abi": abi}}))?;
    ensure!(peer.hear()? == json!("agrees"), "nobody is answered");
    ensure!(!agent.log()?.contains("takes over"), "{}", agent.log()?);
    Ok(())
}

/// What becomes of somebody who is not root, connects, does something, and listens.
fn as_nobody(scene: &Scene, then: &str) -> Result<String> {
    let socket = socket(scene);
    let script = format!(
        "import os, socket; os.setgid(65534); os.setuid(65534)\n\
         s = socket.socket(socket.AF_UNIX); s.connect({socket:?})\n\
         try:\n    {then}\n    heard = s.recv(4096)\n\
         except ConnectionError: heard = b''\n\
         print('heard', heard)"
    );
    let mut python = scene.world.node.command("python3");
    python.args(["-c", &script]);
    Ok(process::finish(&mut python, process::PATIENCE)?.text())
}
