//! Whose a connection is, whatever somebody makes of addresses and namespaces.

use crate::{enforce, host};
use anyhow::{Context as _, Result, ensure};
use egress_tests::{
    agent::{Agent, Config},
    process::{self, PATIENCE},
    scene::Scene,
    world::nowhere4,
};
use std::{
    io::{Read as _, Write as _},
    net::IpAddr,
    process::Stdio,
};

/// In a namespace of its own, with a pod's address and the gateway's: opens connections from the
/// pod's ports for as long as its input is open.
const FORGER: &str = r#"
import ctypes, os, select, socket, subprocess, sys
assert ctypes.CDLL(None).unshare(0x40000000) == 0
subprocess.run("ip link set lo up; ip address add 10.1.1.5/32 dev lo; "
               "ip address add 169.254.64.1/32 dev lo", shell=True, check=True)
print("ready", flush=True)
while not select.select([sys.stdin], [], [], 0)[0]:
    for port in range(40000, 40004):
        s = socket.socket(); s.setblocking(False)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try: s.bind(("10.1.1.5", port)); s.connect(("169.254.64.1", 15001))
        except OSError: pass
        s.close()
"#;

/// In the pod: connects from the same ports for two seconds.
const VICTIM: &str = r#"
import os, socket, struct, time
end = time.time() + 2 * int(os.environ.get("EGRESS_TESTS_PATIENCE", "1"))
while time.time() < end:
    for port in range(40000, 40004):
        s = socket.socket(); s.settimeout(2)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        try: s.bind(("10.1.1.5", port)); s.connect(("203.0.113.10", 8443)); s.sendall(b"x"); s.recv(1)
        except OSError: pass
        s.close()
"#;

#[test]
fn a_namespace_of_ones_own_takes_no_neighbours_identity() -> Result<()> {
    let scene = Scene::new()?;
    let forger = scene.world.host_pod("shop/forger", "forger")?;
    let mut agent = scene.enforce(&Config::default().and_host_pod(&forger))?;
    let mut forging = forger
        .command("python3")?
        .args(["-c", FORGER])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut ready = [0; 6];
    let output = forging.stdout.as_mut().context("its output is a pipe")?;
    output.read_exact(&mut ready)?;
    scene.pod.run(&["python3", "-c", VICTIM])?.ok()?;
    drop(forging.stdin.take());
    process::wait(&mut forging, PATIENCE)?;
    agent.stop()?;
    let opened = agent.records.matching(|r| r.kind() == "connection.open")?;
    ensure!(opened.len() > 100, "only {} connections", opened.len());
    let taken = opened.iter().find(|r| r.endpoint() != "shop/orders");
    ensure!(taken.is_none(), "{taken:?}");
    let report = agent
        .records
        .wait_for("a report", |r| r.kind() == "bypass")?;
    ensure!(report.reason() == "spoofed_address", "{report:?}");
    ensure!(report.endpoint() == "shop/forger", "{report:?}");
    Ok(())
}

#[test]
fn a_socket_stays_its_endpoints_whatever_the_next_agent_numbers_them() -> Result<()> {
    let scene = Scene::new()?;
    let host = host(&scene)?;
    let other = scene.world.host_pod("shop/other", "other")?;
    let audited = Config::default().audit();
    let mut agent = scene.enforce(&audited.and_host_pod(&other).and_host_pod(&host))?;
    let script = "import socket, sys\n\
                  u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); t = socket.socket()\n\
                  print('open', flush=True); sys.stdin.readline()\n\
                  t.connect(('198.51.100.7', 8443)); t.sendall(b'x')\n\
                  try: u.sendto(b'x', ('198.51.100.7', 4000))\n\
                  except PermissionError: print('refused')";
    let mut client = host
        .command("python3")?
        .args(["-c", script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut output = client.stdout.take().context("its output is a pipe")?;
    output.read_exact(&mut [0; 5])?;
    agent.stop()?;
    // Without the pod, the other way round, and in Enforce.
    let config = Config::default().and_host_pod(&host).and_host_pod(&other);
    let text = Agent::configuration(&scene.world, &config, &[])?;
    std::fs::write(agent.config(), text)?;
    agent.launch()?;
    scene.capture.clear();
    let mut input = client.stdin.take().context("its input is a pipe")?;
    input.write_all(b"\n")?;
    process::wait(&mut client, PATIENCE)?;
    let mut said = String::new();
    output.read_to_string(&mut said)?;
    ensure!(said == "refused\n", "{said}");
    let arrived = scene.arrived(nowhere4(7))?;
    ensure!(arrived.is_empty(), "{arrived:?}");
    for kind in ["bypass", "connection.open"] {
        let record = agent.records.wait_for("a record", |r| r.kind() == kind)?;
        ensure!(record.endpoint() == "shop/node-agent", "{record:?}");
        ensure!(record.verdict() == "deny", "{record:?}");
    }
    Ok(())
}

#[test]
fn an_address_that_is_not_the_nodes_takes_no_neighbours_identity() -> Result<()> {
    let scene = Scene::new()?;
    let host = host(&scene)?;
    let agent = enforce(&scene, &host)?;
    // IP_TRANSPARENT, which CAP_NET_RAW allows; IPV6_FREEBIND, which anybody may.
    let script = "import socket\n\
                  for family, level, option, own, to in (\
                  (socket.AF_INET, 0, 19, '10.1.1.5', '169.254.64.1'), \
                  (socket.AF_INET6, 41, 78, 'fd00:1:1::5', 'fd65:6772:6573::1')):\n\
                  \x20   s = socket.socket(family); s.settimeout(1); s.setsockopt(level, option, 1)\n\
                  \x20   s.bind((own, 40000))\n\
                  \x20   try: s.connect((to, 15001))\n\
                  \x20   except OSError as e: print(e)";
    host.run(&["python3", "-c", script])?.ok()?;
    for gateway in ["169.254.64.1", "fd65:6772:6573::1"] {
        let gateway: IpAddr = gateway.parse()?;
        let report = agent.records.wait_for("a report", |r| r.is_to(gateway))?;
        ensure!(report.reason() == "spoofed_address", "{report:?}");
        ensure!(report.endpoint() == "shop/node-agent", "{report:?}");
    }
    Ok(())
}
