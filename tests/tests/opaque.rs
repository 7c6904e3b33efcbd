//! Protocols that are not TLS from their first byte, by the name that the pod was told their
//! address for.

use std::{
    net::IpAddr,
    process::Stdio,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use egress_tests::{
    agent::{Agent, Config},
    exec::Exec,
    internet::{DATABASE, MAIL, address4, addresses},
    process,
    records::Record,
    scene::{Scene, unreported_with},
    world::World,
};

const VENDOR: &str = "db.vendor.test";

/// shop/orders may reach db.vendor.test on these two ports, beside what it may by default.
fn vendor() -> Config {
    Config::default().and_policy(&format!(
        "    - hosts: [{VENDOR}]\n      ports: [{DATABASE}, {MAIL}]\n"
    ))
}

/// The server speaks first, the client after it.
const MAILS: &str = r#"
import smtplib, sys, time
start = time.monotonic()
with smtplib.SMTP(timeout=10) as mail:
    code, greeting = mail.connect(sys.argv[1], int(sys.argv[2]))
    print("greeted", code, greeting.decode(), "in", time.monotonic() - start)
    mail.ehlo("pod.test")
    print(mail.docmd("NOOP", "some words"))
"#;

/// The client speaks first, by IPv4 or IPv6.
const ASKS: &str = r#"
import socket, sys
family = {"4": socket.AF_INET, "6": socket.AF_INET6}[sys.argv[3]]
address = socket.getaddrinfo(sys.argv[1], int(sys.argv[2]), family, socket.SOCK_STREAM)[0][4]
s = socket.socket(family)
s.settimeout(10)
s.connect(address)
s.sendall(b"\0\0\0\x08\x04\xd2\x16\x2f")
assert s.recv(8) == b"\0\0\0\x08\x04\xd2\x16\x2f", "no echo"
"#;

fn mails(scene: &Scene, to: &str) -> Result<process::Finished> {
    let port = MAIL.to_string();
    scene.pod.run(&["python3", "-c", MAILS, to, &port])
}

fn asks(scene: &Scene, to: &str, family: &str) -> Result<process::Finished> {
    let port = DATABASE.to_string();
    scene.pod.run(&["python3", "-c", ASKS, to, &port, family])
}

fn opened(record: &Record, to: IpAddr, port: u16) -> bool {
    record.kind() == "connection.open"
        && record.is_to(to)
        && record.number("/port") == u64::from(port)
}

fn is_by_name(record: &Record, to: IpAddr) -> Result<()> {
    ensure!(record.verdict() == "allow", "{record:?}");
    ensure!(record.text("/answered_name") == VENDOR, "{record:?}");
    ensure!(record.text("/rule").ends_with("egress[1]"), "{record:?}");
    ensure!(
        record
            .text("/upstream")
            .trim_start_matches('[')
            .starts_with(&to.to_string()),
        "{record:?}"
    );
    Ok(())
}

#[test]
fn a_server_that_speaks_first_is_reached_by_its_name() -> Result<()> {
    unreported_with(&vendor(), |scene, agent| {
        let said = mails(scene, VENDOR)?.ok()?;
        ensure!(said.contains("greeted 220"), "{said}");
        ensure!(said.contains("(250, b'NOOP some words')"), "{said}");
        let took: f64 = said
            .split(" in ")
            .nth(1)
            .and_then(|rest| rest.split_whitespace().next()?.parse().ok())
            .with_context(|| format!("no time in {said}"))?;
        let patience = process::here(Duration::from_millis(2_500));
        ensure!(took < patience.as_secs_f64(), "greeted after {took} s");
        let [v4, v6] = addresses(VENDOR);
        let record = agent.records.wait_for("its record", |record| {
            opened(record, v4, MAIL) || opened(record, v6, MAIL)
        })?;
        let to: IpAddr = record.text("/destination").parse()?;
        is_by_name(&record, to)
    })
}

#[test]
fn a_client_that_speaks_first_reaches_it_by_either_family() -> Result<()> {
    unreported_with(&vendor(), |scene, agent| {
        for (family, to) in ["4", "6"].into_iter().zip(addresses(VENDOR)) {
            asks(scene, VENDOR, family)?.ok()?;
            let record = agent
                .records
                .wait_for("its record", |record| opened(record, to, DATABASE))?;
            is_by_name(&record, to)?;
        }
        Ok(())
    })
}

/// It is reset, its reason is recorded, and nothing arrives.
fn is_denied(
    scene: &Scene,
    agent: &Agent<'_>,
    denied: process::Finished,
    to: IpAddr,
) -> Result<()> {
    ensure!(!denied.status.success(), "{}", denied.text());
    ensure!(denied.text().contains("reset"), "{}", denied.text());
    let record = agent.records.wait_for("its record", |record| {
        record.verdict() == "deny" && record.is_to(to)
    })?;
    ensure!(record.reason() == "address_not_answered", "{record:?}");
    ensure!(record.endpoint() == scene.pod.name, "{record:?}");
    scene.expect_nothing(to)
}

#[test]
fn an_address_that_was_not_asked_for_is_denied() -> Result<()> {
    for by_mail in [true, false] {
        let scene = Scene::new()?;
        let agent = scene.enforce(&vendor())?;
        scene.capture.clear();
        let to = address4(VENDOR);
        let denied = match by_mail {
            true => scene.pod.run_for(
                process::PATIENCE * 2,
                &[
                    "python3",
                    "-c",
                    &MAILS.replace("timeout=10", "timeout=30"),
                    &to.to_string(),
                    "25",
                ],
            )?,
            false => asks(&scene, &to.to_string(), "4")?,
        };
        is_denied(&scene, &agent, denied, to.into())?;
    }
    Ok(())
}

#[test]
fn what_a_neighbour_was_told_is_not_ours() -> Result<()> {
    let scene = Scene::new()?;
    let other = scene.world.pod("shop/billing")?;
    let policy = format!(
        "apiVersion: egress-agent.dev/v1alpha1\n\
         kind: EgressPolicy\n\
         metadata: {{ name: both, namespace: shop }}\n\
         spec: {{ selector: {{}}, egress: [{{ hosts: [{VENDOR}], ports: [{DATABASE}] }}] }}\n"
    );
    let config = Config {
        policy,
        ..Config::default()
    };
    let agent = Agent::start(&scene.world, &config, &[&scene.pod, &other])?;
    scene.capture.clear();
    let port = DATABASE.to_string();
    other
        .run(&["python3", "-c", ASKS, VENDOR, &port, "4"])?
        .ok()?;
    let to = address4(VENDOR);
    let denied = asks(&scene, &to.to_string(), "4")?;
    ensure!(!denied.status.success(), "{}", denied.text());
    let record = agent.records.wait_for("its record", |record| {
        record.verdict() == "deny" && record.is_to(to.into())
    })?;
    ensure!(record.reason() == "address_not_answered", "{record:?}");
    ensure!(record.endpoint() == "shop/orders", "{record:?}");
    Ok(())
}

#[test]
fn another_name_on_the_same_connection_is_not_let_through() -> Result<()> {
    let scene = Scene::new()?;
    let agent = scene.enforce(&vendor())?;
    scene.capture.clear();
    asks(&scene, VENDOR, "4")?.ok()?;
    // Asked for, and then TLS with another name to its address.
    let to = format!("denied.test:{DATABASE}:{}", address4(VENDOR));
    let url = format!("https://denied.test:{DATABASE}/");
    let denied = scene.curl(&["--resolve", &to, &url])?;
    ensure!(!denied.status.success(), "{}", denied.text());
    let record = agent.records.wait_for("its record", |record| {
        record.text("/server_name") == "denied.test"
    })?;
    ensure!(record.reason() == "host_not_allowed", "{record:?}");
    Ok(())
}

#[test]
fn an_answer_is_good_for_its_time_to_live() -> Result<()> {
    let scene = Scene::new()?;
    let config = Config {
        gateway: "\x20 cache: { ttlMinSeconds: 1, ttlMaxSeconds: 1 }\n".into(),
        ..vendor()
    };
    let agent = scene.enforce(&config)?;
    asks(&scene, VENDOR, "4")?.ok()?;
    let told = Instant::now();
    let to = address4(VENDOR);
    // A second, and five more for who connects at the last moment.
    while told.elapsed() < Duration::from_secs(7) {
        thread::sleep(Duration::from_millis(100));
    }
    scene.capture.fence(&scene.world.node)?;
    scene.capture.clear();
    let denied = asks(&scene, &to.to_string(), "4")?;
    is_denied(&scene, &agent, denied, to.into())?;
    asks(&scene, VENDOR, "4")?.ok()?;
    Ok(())
}

#[test]
fn a_command_reaches_it_as_well_and_its_summary_says_the_name() -> Result<()> {
    let world = World::new()?;
    let exec = Exec::new(&world, &["--allow", &format!("{VENDOR}:{MAIL}")]);
    let done = exec.run(&["python3", "-c", MAILS, VENDOR, &MAIL.to_string()])?;
    ensure!(done.status.success(), "{}", done.text());
    let line = format!("{VENDOR}:{MAIL}");
    ensure!(done.stderr.contains(&line), "{}", done.stderr);
    exec.records().expect_no_report()?;
    let script = MAILS.replace("timeout=10", "timeout=15");
    let to = address4(VENDOR).to_string();
    let denied = exec.run(&["python3", "-c", &script, &to, &MAIL.to_string()])?;
    ensure!(!denied.status.success(), "{}", denied.text());
    ensure!(
        denied.stderr.contains("address_not_answered"),
        "{}",
        denied.stderr
    );
    Ok(())
}

/// Connected, it waits for a line on its standard input, then sends again.
const HOLDS: &str = r#"
import socket, sys
s = socket.create_connection((sys.argv[1], int(sys.argv[2])), 10)
def asks():
    s.sendall(b"opaque"); assert s.recv(6) == b"opaque", "no echo"
asks()
print("connected", flush=True)
sys.stdin.readline()
asks()
"#;

#[test]
fn after_a_hand_over_it_is_asked_for_again() -> Result<()> {
    let scene = Scene::new()?;
    let mut agent = scene.enforce(&vendor())?;
    let port = DATABASE.to_string();
    let mut holds = scene.pod.command("python3")?;
    holds.args(["-c", HOLDS, VENDOR, &port]);
    holds.stdin(Stdio::piped()).stdout(Stdio::null());
    let mut holds = holds.spawn().context("could not start python3")?;
    agent.records.wait_for("its record", |record| {
        record.kind() == "connection.open" && record.text("/answered_name") == VENDOR
    })?;
    agent.take_over(&[])?;
    // The new gateway knows nothing of what the old one answered.
    let to = address4(VENDOR);
    let denied = asks(&scene, &to.to_string(), "4")?;
    ensure!(!denied.status.success(), "{}", denied.text());
    agent.records.wait_for("its record", |record| {
        record.reason() == "address_not_answered" && record.is_to(to.into())
    })?;
    asks(&scene, VENDOR, "4")?.ok()?;
    // What is connected goes on with the old one.
    drop(holds.stdin.take());
    let status = process::wait(&mut holds, process::PATIENCE)?;
    ensure!(status.success(), "{status}");
    agent.expect_left()
}

#[test]
fn a_rule_that_goes_closes_what_it_allowed() -> Result<()> {
    let scene = Scene::new()?;
    let agent = scene.enforce(&vendor())?;
    let port = DATABASE.to_string();
    let mut holds = scene.pod.command("python3")?;
    holds.args(["-c", HOLDS, VENDOR, &port]);
    holds
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut holds = holds.spawn().context("could not start python3")?;
    agent.records.wait_for("its record", |record| {
        record.kind() == "connection.open" && record.text("/answered_name") == VENDOR
    })?;
    agent.reload(&Config::default().policy)?;
    let closed = agent
        .records
        .wait_for("its end", |record| record.kind() == "connection.close")?;
    ensure!(
        closed.text("/close_reason") == "policy_changed",
        "{closed:?}"
    );
    drop(holds.stdin.take());
    let status = process::wait(&mut holds, process::PATIENCE)?;
    ensure!(!status.success(), "it went on");
    Ok(())
}
