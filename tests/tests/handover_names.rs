//! Look-ups while one agent takes over from another: each is answered, and each refusal told of.

use std::{
    path::Path,
    process::{Child, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use egress_tests::{
    agent::{Agent, Config},
    internet::RESOLVER4,
    pod::Pod,
    process,
    records::Record,
    scene::Scene,
};

/// Asks for a name of its own again and again, by both transports, from a port that nobody had
/// before, and once each; then for one that is refused. Begins when there is a file, and ends when
/// there is another, with the number of refusals, or with the first that is not answered as it
/// should be.
const ASK: &str = r#"
import os, random, socket, struct, sys, time
server, name, codes, begin, over = sys.argv[1:]
def ask(name, tcp, codes):
    query = struct.pack("!HHHHHH", random.randrange(65536), 0x100, 1, 0, 0, 0)
    for label in name.encode().split(b"."):
        query += bytes([len(label)]) + label
    query += b"\0" + struct.pack("!HH", 1, 1)
    s = socket.socket(socket.AF_INET, socket.SOCK_STREAM if tcp else socket.SOCK_DGRAM)
    s.settimeout(8)
    s.connect((server, 53))
    if tcp:
        s.sendall(struct.pack("!H", len(query)) + query)
        stream = s.makefile("rb")
        answer = stream.read(struct.unpack("!H", stream.read(2))[0])
    else:
        s.send(query)
        answer = s.recv(4096)
    s.close()
    assert answer[:2] == query[:2] and str(answer[3] & 15) in codes, (name, tcp, answer)
refused = 0
while not os.path.exists(begin):
    time.sleep(0.001)
while True:
    ask(name, False, codes)
    ask(name, True, codes)
    ask("secret.attacker.test", False, "5")
    refused += 1
    if os.path.exists(over):
        break
print(refused)
"#;

/// Starts asking; `codes` are the digits of those that an answer may have.
fn asks(pod: &Pod, name: &str, codes: &str, begin: &Path, over: &Path) -> Result<Child> {
    let mut python = pod.command("python3")?;
    python
        .args(["-c", ASK, &RESOLVER4.to_string(), name, codes])
        .args([begin, over]);
    python.stdin(Stdio::null()).stdout(Stdio::piped());
    python.stderr(Stdio::piped());
    python.spawn().context("could not start python3")
}

/// The number of refusals that it had.
fn ended(mut asking: Child) -> Result<u64> {
    process::wait(&mut asking, process::PATIENCE)?;
    let printed = asking.wait_with_output().context("could not read")?;
    ensure!(printed.status.success(), "{printed:?}");
    let printed = String::from_utf8_lossy(&printed.stdout).trim().parse();
    printed.context("no number")
}

#[test]
fn of_two_endpoints() -> Result<()> {
    let scene = Scene::new()?;
    let other = scene.world.pod("shop/billing")?;
    let both = "apiVersion: egress-agent.dev/v1alpha1\n\
         kind: EgressPolicy\n\
         metadata: { name: both, namespace: shop }\n\
         spec: { selector: {}, egress: [{ hosts: [allowed.test, repo.test] }] }\n";
    let config = Config {
        policy: both.to_owned(),
        ..Config::default()
    };
    let mut agent = Agent::start(&scene.world, &config, &[&scene.pod, &other])?;
    let begin = scene.world.scratch().write("begin", "")?;
    let over = scene.world.scratch().file("over");
    let asking = [
        asks(&scene.pod, "allowed.test", "0", &begin, &over)?,
        asks(&other, "repo.test", "0", &begin, &over)?,
    ];
    let taken_over = (0..4).try_for_each(|_| agent.take_over(&[]));
    scene.world.scratch().write("over", "")?;
    let ended = asking.map(ended);
    taken_over?;
    agent.expect_left()?;
    // What is refused again and again is told of when its window is over.
    let all = Duration::from_secs(15);
    for (pod, refused) in [&scene.pod, &other].into_iter().zip(ended) {
        let refused = refused?;
        let is_its = |it: &Record| it.kind() == "dns" && it.endpoint() == pod.name;
        let mut told = 0;
        let exact = process::within(all, "all refusals to be told", || {
            let records = agent.records.matching(is_its)?;
            told = records.iter().map(Record::count).sum();
            Ok((told == refused).then_some(()))
        });
        exact.with_context(|| format!("{}: {refused} refused, {told} told", pod.name))?;
    }
    Ok(())
}

#[test]
fn that_take_longer_than_it() -> Result<()> {
    let scene = Scene::new()?;
    let mut agent = scene.enforce(&Config::default())?;
    let scratch = scene.world.scratch();
    let over = scratch.write("over", "")?;
    let begin = scratch.file("begin");
    // On a slow machine the gateway's own patience is at an end first: SERVFAIL.
    let asking = asks(&scene.pod, "allowed.test", "02", &begin, &over)?;
    // It has started by then.
    thread::sleep(Duration::from_millis(500));
    scene.world.internet.dns.freeze()?;
    let mut successor = agent.successor()?;
    let handed_over = agent.wait_for_log("takes over").and_then(|()| {
        scratch.write("begin", "")?;
        agent.wait_for_log("handed over")
    });
    // The old gateway has told by now that nothing is left, if it does not see what there is.
    thread::sleep(Duration::from_millis(1_500));
    scene.world.internet.dns.thaw()?;
    let ended = ended(asking);
    let left = handed_over.and_then(|()| agent.expect_end());
    successor.kill()?;
    successor.wait()?;
    ended?;
    left
}
