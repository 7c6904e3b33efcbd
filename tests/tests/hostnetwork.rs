//! Endpoints without a link: processes of the node's own network namespace, as pods with
//! `hostNetwork` have them. The cgroup layer stands alone here.

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, SocketAddr},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use egress_tests::{
    agent::{Agent, Config},
    echo::{self, Echo},
    host_pod::HostPod,
    internet::{RESOLVER4, RESOLVER6},
    process::{self, Finished, PATIENCE},
    records::Record,
    scene::{Scene, expect_count},
    world::{NODE4, NODE6, nowhere4, nowhere6},
};

/// Attempts of one vector: one report must stand for all.
const ATTEMPTS: u64 = 3;

fn host<'a>(scene: &'a Scene) -> Result<HostPod<'a>> {
    scene.world.host_pod("shop/node-agent", "orders")
}

fn enforce<'a>(scene: &'a Scene, host: &HostPod<'_>) -> Result<Agent<'a>> {
    scene.enforce(&Config::default().and_host_pod(host))
}

fn curl(scene: &Scene, host: &HostPod<'_>, arguments: &[&str]) -> Result<Finished> {
    let authority = scene.world.internet.authority().display().to_string();
    let mut line = vec!["curl", "-sS", "--max-time", "10", "--cacert", &authority];
    line.extend(arguments);
    host.run(&line)
}

#[test]
fn an_allowed_name_is_reached_by_the_gateway() -> Result<()> {
    let scene = Scene::new()?;
    let host = host(&scene)?;
    let mut agent = enforce(&scene, &host)?;
    for family in ["-4", "-6"] {
        let page = curl(&scene, &host, &[family, "https://allowed.test/"])?.ok()?;
        ensure!(page.contains("name=allowed.test"), "{page}");
    }
    let closed = agent
        .records
        .wait_for("a close record", |r| r.kind() == "connection.close")?;
    ensure!(closed.endpoint() == "shop/node-agent", "{closed:?}");
    ensure!(closed.text("/process/command") == "curl", "{closed:?}");
    ensure!(closed.text("/server_name") == "allowed.test", "{closed:?}");
    ensure!(closed.text("/verdict") == "allow", "{closed:?}");
    agent.stop()?;
    agent.records.expect_no_report()
}

#[test]
fn a_denied_name_is_denied_with_its_own_name() -> Result<()> {
    let scene = Scene::new()?;
    let host = host(&scene)?;
    let agent = enforce(&scene, &host)?;
    scene.capture.clear();
    let to = "denied.test:443:198.51.100.7";
    let denied = curl(&scene, &host, &["--resolve", to, "https://denied.test/"])?;
    ensure!(denied.stderr.contains("alert"), "{}", denied.text());
    let arrived = scene.arrived(nowhere4(7))?;
    ensure!(arrived.is_empty(), "{arrived:?}");
    let record = agent
        .records
        .wait_for("a record", |r| r.kind() == "connection.open")?;
    ensure!(record.verdict() == "deny", "{record:?}");
    ensure!(record.is_to(nowhere4(7)), "{record:?}");
    ensure!(record.endpoint() == "shop/node-agent", "{record:?}");
    Ok(())
}

/// Asks by UDP, unconnected and connected, and by TCP, and prints who answered what.
const LOOK_UPS: &str = r#"
import socket, struct, sys
query = struct.pack("!HHHHHH", 7, 0x100, 1, 0, 0, 0)
for label in sys.argv[1].encode().split(b"."):
    query += bytes([len(label)]) + label
query += b"\0" + struct.pack("!HH", 1, 1)
for server in sys.argv[2:]:
    family = socket.AF_INET6 if ":" in server else socket.AF_INET
    u = socket.socket(family, socket.SOCK_DGRAM); u.settimeout(5)
    u.sendto(query, (server, 53)); answer, source = u.recvfrom(4096)
    assert source[:2] == (server, 53), source
    c = socket.socket(family, socket.SOCK_DGRAM); c.settimeout(5)
    c.connect((server, 53)); assert c.getpeername()[:2] == (server, 53), c.getpeername()
    c.send(query); again = c.recv(4096)
    t = socket.socket(family, socket.SOCK_STREAM); t.settimeout(5)
    t.connect((server, 53)); assert t.getpeername()[:2] == (server, 53), t.getpeername()
    t.sendall(struct.pack("!H", len(query)) + query)
    s = t.makefile("rb"); stream = s.read(struct.unpack("!H", s.read(2))[0])
    codes = {a[3] & 15 for a in (answer, again, stream)}
    counts = {struct.unpack("!H", a[6:8])[0] for a in (answer, again, stream)}
    print(server, "codes", codes, "answers", counts)
"#;

#[test]
fn look_ups_go_to_the_gateways_resolver() -> Result<()> {
    let scene = Scene::new()?;
    let host = host(&scene)?;
    let mut agent = enforce(&scene, &host)?;
    scene.capture.clear();
    let servers: [IpAddr; 5] = [
        RESOLVER4.into(),
        RESOLVER6.into(),
        "198.51.100.53".parse()?,
        "127.0.0.53".parse()?,
        "::1".parse()?,
    ];
    let servers = servers.map(|server| server.to_string());
    let mut line = vec!["python3", "-c", LOOK_UPS, "allowed.test"];
    line.extend(servers.iter().map(String::as_str));
    let answers = host.run(&line)?.ok()?;
    for server in &servers {
        let want = format!("{server} codes {{0}} answers {{1}}");
        ensure!(answers.contains(&want), "{answers}");
    }
    ensure!(scene.arrived("198.51.100.53".parse()?)?.is_empty());
    line[3] = "secret.attacker.test";
    // REFUSED (RFC 1035 section 4.1.1).
    let answers = host.run(&line)?.ok()?;
    ensure!(
        answers.matches("codes {5} answers {0}").count() == 5,
        "{answers}"
    );
    let asked = scene.world.internet.dns.queries()?;
    ensure!(
        !asked.iter().any(|query| query.contains("attacker")),
        "{asked:?}"
    );
    let record = agent.records.wait_for("a record", |r| r.kind() == "dns")?;
    ensure!(record.endpoint() == "shop/node-agent", "{record:?}");
    agent.stop()?;
    let bypasses = agent.records.bypasses()?;
    ensure!(bypasses.is_empty(), "{bypasses:?}");
    Ok(())
}

#[test]
fn the_application_sees_whom_it_dialled() -> Result<()> {
    let scene = Scene::new()?;
    let host = host(&scene)?;
    let _agent = enforce(&scene, &host)?;
    let script = "import socket\n\
                  for family, to in ((socket.AF_INET, '203.0.113.10'), \
                  (socket.AF_INET6, '2001:db8:113::a'), (socket.AF_INET6, '::ffff:203.0.113.10')):\n\
                  \x20   s = socket.socket(family); s.connect((to, 443)); print(s.getpeername()[0])";
    let peers = host.run(&["python3", "-c", script])?.ok()?;
    let want = "203.0.113.10\n2001:db8:113::a\n::ffff:203.0.113.10\n";
    ensure!(peers == want, "{peers}");
    Ok(())
}

/// The whole proof of one vector: it arrives while nobody enforces; then the call fails, nothing
/// arrives, and one report stands for every attempt.
fn holds(attack: &[&str], to: IpAddr, reason: &str, times: u64) -> Result<()> {
    let scene = Scene::new()?;
    scene
        .world
        .node
        .sysctl("net/ipv4/ping_group_range", "0 2147483647")?;
    let host = host(&scene)?;
    host.attack(attack)?.ok().context("with nobody enforcing")?;
    ensure!(
        !scene.arrived(to)?.is_empty(),
        "{attack:?} does not even arrive"
    );
    let mut agent = enforce(&scene, &host)?;
    scene.capture.clear();
    for _ in 0..ATTEMPTS {
        let made = host.attack(attack)?;
        ensure!(
            !made.status.success(),
            "{attack:?} succeeded: {}",
            made.text()
        );
        ensure!(
            made.took < process::here(Duration::from_secs(1)),
            "{}",
            made.text()
        );
    }
    let arrived = scene.arrived(to)?;
    ensure!(arrived.is_empty(), "{arrived:?}");
    agent.stop()?;
    one_report(&agent, reason, ATTEMPTS * times)
}

/// That all reports there are of this endpoint are one, with its repeats.
fn one_report(agent: &Agent<'_>, reason: &str, count: u64) -> Result<()> {
    let reports = agent.records.matching(|r| r.kind().starts_with("bypass"))?;
    let first = reports.iter().filter(|r| r.kind() == "bypass").count();
    let counted: u64 = reports.iter().map(Record::count).sum();
    ensure!(
        first == 1 && counted == count,
        "{first} reports of {counted} instead of 1 of {count}: {reports:#?}"
    );
    ensure!(reports[0].reason() == reason, "{reports:#?}");
    ensure!(reports[0].endpoint() == "shop/node-agent", "{reports:#?}");
    ensure!(
        reports[0].text("/process/command") == "attack",
        "{reports:#?}"
    );
    Ok(())
}

#[test]
fn udp_by_ipv4() -> Result<()> {
    holds(
        &["udp", "198.51.100.7:4000", "x"],
        nowhere4(7),
        "direct_udp",
        1,
    )
}

#[test]
fn udp_by_ipv6() -> Result<()> {
    holds(
        &["udp", "[2001:db8:100::7]:4000", "x"],
        nowhere6(7),
        "direct_udp",
        1,
    )
}

#[test]
fn udp_to_a_mapped_address() -> Result<()> {
    holds(
        &["udp", "[::ffff:198.51.100.7]:443", "x"],
        nowhere4(7),
        "quic",
        1,
    )
}

#[test]
fn connected_udp() -> Result<()> {
    holds(
        &["udp-connected", "198.51.100.7:4000", "x"],
        nowhere4(7),
        "direct_udp",
        1,
    )
}

#[test]
fn connected_udp_then_elsewhere() -> Result<()> {
    let attack = ["udp-elsewhere", "203.0.113.10:4000", "198.51.100.7:4000"];
    holds(&attack, nowhere4(7), "direct_udp", 1)
}

#[test]
fn a_ping_socket() -> Result<()> {
    holds(&["ping", "198.51.100.7"], nowhere4(7), "raw_socket", 1)
}

#[test]
fn a_raw_socket() -> Result<()> {
    holds(
        &["ping-raw", "2001:db8:100::7"],
        nowhere6(7),
        "raw_socket",
        1,
    )
}

#[test]
fn a_header_of_ones_own() -> Result<()> {
    let attack = ["raw-header", "192.0.2.2", "198.51.100.7", "4000"];
    holds(&attack, nowhere4(7), "raw_socket", 1)
}

#[test]
fn tcp_ends_at_the_gateway() -> Result<()> {
    let scene = Scene::new()?;
    let host = host(&scene)?;
    let agent = enforce(&scene, &host)?;
    scene.capture.clear();
    for (to, address) in [
        ("198.51.100.7:8443", nowhere4(7)),
        ("[2001:db8:100::7]:8443", nowhere6(7)),
    ] {
        for attack in ["tcp", "tcp-fastopen"] {
            host.attack(&[attack, to])?;
        }
        ensure!(scene.arrived(address)?.is_empty(), "{to}");
        let record = agent.records.wait_for("a record", |record| {
            record.kind() == "connection.open" && record.is_to(address)
        })?;
        ensure!(record.verdict() == "deny", "{record:?}");
        ensure!(record.endpoint() == "shop/node-agent", "{record:?}");
        ensure!(record.text("/process/command") == "attack", "{record:?}");
    }
    Ok(())
}

#[test]
fn the_nodes_loopback_and_services_are_denied() -> Result<()> {
    let scene = Scene::new()?;
    let host = host(&scene)?;
    let services = scene.world.node.enter(|| {
        let any = |port| std::net::TcpListener::bind(("::", port));
        std::io::Result::Ok([any(10250)?, any(10251)?])
    })??;
    let agent = enforce(&scene, &host)?;
    for (to, reason) in [
        ("127.0.0.1:10250".to_owned(), "loopback"),
        ("[::1]:10250".to_owned(), "loopback"),
        ("0.0.0.0:10250".to_owned(), "loopback"),
        ("[::]:10251".to_owned(), "loopback"),
        (format!("{NODE4}:10250"), "node"),
        (format!("[{NODE6}]:10250"), "node"),
        (format!("[::ffff:{NODE4}]:10251"), "node"),
        ("10.1.1.1:10250".to_owned(), "node"),
        ("10.1.1.5:10250".to_owned(), "cluster"),
        ("169.254.169.254:80".to_owned(), "metadata_service"),
    ] {
        let made = host.attack(&["tcp", &to])?;
        ensure!(made.text().contains("EPERM"), "{to}: {}", made.text());
        let to: SocketAddr = to.parse()?;
        let report = agent.records.wait_for("a report", |r| {
            r.kind() == "bypass"
                && r.is_to(to.ip().to_canonical())
                && r.number("/port") == u64::from(to.port())
        })?;
        ensure!(report.reason() == reason, "{to}: {report:?}");
    }
    drop(services);
    Ok(())
}

#[test]
fn a_server_answers_the_node_and_the_cluster_and_nobody_else() -> Result<()> {
    let scene = Scene::new()?;
    let host = host(&scene)?;
    let other = scene.world.pod("shop/other")?;
    let mut agent = enforce(&scene, &host)?;
    let _server = Echo::start(host.command("python3")?)?;
    for to in ["127.0.0.1", "::1", "192.0.2.2", "2001:db8::2", "10.1.1.1"] {
        let to: IpAddr = to.parse()?;
        scene
            .world
            .node
            .enter(|| echo::speak(&mut echo::connect(to)?))?
            .with_context(|| format!("{to}"))?;
    }
    for to in [other.gateway4.into(), other.gateway6.into(), NODE4.into()] {
        other
            .namespace
            .enter(|| echo::speak(&mut echo::connect(to)?))?
            .with_context(|| format!("{to}"))?;
    }
    let bypasses = agent.records.bypasses()?;
    ensure!(bypasses.is_empty(), "{bypasses:#?}");
    let lan = scene.world.lan_host();
    let lan = lan.enter(|| echo::connect(NODE4.into()))?;
    ensure!(lan.is_err(), "a host of the LAN was answered");
    agent.stop()?;
    Ok(())
}

#[test]
fn in_audit_everything_passes_and_is_reported_once() -> Result<()> {
    for (attack, to, reason) in [
        (
            &["udp", "198.51.100.7:4000", "x"][..],
            nowhere4(7),
            "direct_udp",
        ),
        (&["udp", "[2001:db8:100::7]:443", "x"], nowhere6(7), "quic"),
        (
            &["udp-connected", "198.51.100.8:4000", "x"],
            nowhere4(8),
            "direct_udp",
        ),
        (&["tcp", "198.51.100.9:853"], nowhere4(9), "encrypted_dns"),
    ] {
        let scene = Scene::new()?;
        let host = host(&scene)?;
        let config = Config::default().audit().and_host_pod(&host);
        let mut agent = scene.enforce(&config)?;
        scene.capture.clear();
        for _ in 0..ATTEMPTS {
            let made = host.attack(attack)?;
            // Nobody listens on port 853, and says so.
            ensure!(
                made.status.success() || attack[0] == "tcp",
                "{}",
                made.text()
            );
        }
        ensure!(!scene.arrived(to)?.is_empty(), "{attack:?} did not pass");
        agent.stop()?;
        let reports = agent.records.matching(|r| r.kind() == "bypass")?;
        ensure!(reports.len() == 1, "{reports:#?}");
        ensure!(reports[0].verdict() == "audit", "{reports:#?}");
        ensure!(reports[0].reason() == reason, "{reports:#?}");
        ensure!(reports[0].endpoint() == "shop/node-agent", "{reports:#?}");
        expect_count(&agent, to, ATTEMPTS)?;
    }
    Ok(())
}

#[test]
fn in_audit_raw_sockets_connections_and_names_pass() -> Result<()> {
    let scene = Scene::new()?;
    let host = host(&scene)?;
    let agent = scene.enforce(&Config::default().audit().and_host_pod(&host))?;
    scene.capture.clear();
    host.attack(&["ping-raw", "198.51.100.7"])?.ok()?;
    ensure!(
        !scene.arrived(nowhere4(7))?.is_empty(),
        "the ping did not pass"
    );
    let page = curl(&scene, &host, &["https://denied.test/"])?.ok()?;
    ensure!(page.contains("name=denied.test"), "{page}");
    let record = agent.records.wait_for("a record", |r| {
        r.kind() == "connection.open" && r.text("/server_name") == "denied.test"
    })?;
    ensure!(record.verdict() == "audit", "{record:?}");
    ensure!(record.endpoint() == "shop/node-agent", "{record:?}");
    Ok(())
}

#[test]
fn a_socket_older_than_the_policy_is_held() -> Result<()> {
    let scene = Scene::new()?;
    let host = host(&scene)?;
    let script = "import socket, sys\n\
                  u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); u.connect(('198.51.100.7', 4000))\n\
                  t = socket.create_connection(('203.0.113.10', 8443), 3)\n\
                  n = socket.socket()\n\
                  print('open', flush=True); sys.stdin.readline()\n\
                  for what in (lambda: u.send(b'x'), lambda: t.sendall(b'x'), lambda: t.recv(1)):\n\
                  \x20   try: what()\n\
                  \x20   except OSError as e: print(e)\n\
                  n.connect(('198.51.100.7', 443)); print(n.getpeername())";
    let mut client = host
        .command("python3")?
        .args(["-c", script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut output = client.stdout.take().context("its output is a pipe")?;
    output.read_exact(&mut [0; 5])?;
    let agent = enforce(&scene, &host)?;
    scene.capture.clear();
    client
        .stdin
        .take()
        .context("its input is a pipe")?
        .write_all(b"\n")?;
    process::wait(&mut client, PATIENCE)?;
    let mut said = String::new();
    output.read_to_string(&mut said)?;
    ensure!(said.contains("('198.51.100.7', 443)"), "{said}");
    ensure!(said.contains("not permitted"), "{said}");
    for to in [nowhere4(7), "203.0.113.10".parse()?] {
        let arrived = scene.arrived(to)?;
        ensure!(arrived.is_empty(), "{arrived:?}");
    }
    agent
        .records
        .wait_for("a report", |r| r.reason() == "direct_udp")?;
    agent
        .records
        .wait_for("a report", |r| r.reason() == "no_flow")?;
    Ok(())
}

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
fn the_gateways_address_is_no_way_out_by_another_interface() -> Result<()> {
    let scene = Scene::new()?;
    let host = host(&scene)?;
    let script = "import socket, struct\n\
                  def attempt(what):\n\
                  \x20   try: what()\n\
                  \x20   except OSError as e: print(e)\n\
                  index = socket.if_nametoindex('uplink')\n\
                  pktinfo = [(0, 8, struct.pack('I8x', index))]\n\
                  for family, to in ((socket.AF_INET, '169.254.64.1'), (socket.AF_INET6, 'fd65:6772:6573::1')):\n\
                  \x20   t = socket.socket(family); t.settimeout(1)\n\
                  \x20   u = socket.socket(family, socket.SOCK_DGRAM)\n\
                  \x20   for s in (t, u): s.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b'uplink')\n\
                  \x20   attempt(lambda: t.connect((to, 15001)))\n\
                  \x20   attempt(lambda: u.sendto(b'data', (to, 15053)))\n\
                  u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n\
                  attempt(lambda: u.sendmsg([b'data'], pktinfo, 0, ('169.254.64.1', 15053)))\n\
                  t = socket.socket(); t.settimeout(1)\n\
                  t.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b'uplink')\n\
                  attempt(lambda: t.connect(('198.51.100.7', 443)))";
    let _agent = enforce(&scene, &host)?;
    scene.capture.clear();
    let said = host.run(&["python3", "-c", script])?.text();
    for gateway in ["169.254.64.1", "fd65:6772:6573::1"] {
        let arrived = scene.arrived(gateway.parse()?)?;
        ensure!(arrived.is_empty(), "{arrived:?} {said}");
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
