//! The gateway and its resolver, as such a pod has them.

use crate::{curl, enforce, host};
use anyhow::{Result, ensure};
use egress_tests::{
    internet::{RESOLVER4, RESOLVER6},
    scene::Scene,
    world::nowhere4,
};
use std::net::IpAddr;

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
