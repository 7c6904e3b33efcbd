//! Ways around the gateway, one test each. Each proves that the vector arrives while nobody
//! enforces, that nothing arrives when somebody does, and that one report counts every attempt.

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use egress_tests::{
    agent::Config,
    process::{self, PATIENCE},
    scene::{self, Scene, Vector, ends_at_the_gateway, holds, holds_in},
    world::{self, NODE4, nowhere4, nowhere6},
};

/// A datagram vector that each of its runs makes once.
fn once<'a>(attack: &'a [&'a str], to: IpAddr, reason: &'a str) -> Vector<'a> {
    Vector {
        attack,
        to,
        reason,
        times: 1,
    }
}

#[test]
fn tcp_by_ipv4() -> Result<()> {
    ends_at_the_gateway(
        &["tcp", "198.51.100.7:8443"],
        SocketAddr::new(nowhere4(7), 8443),
    )
}

#[test]
fn tcp_by_ipv6() -> Result<()> {
    ends_at_the_gateway(
        &["tcp", "[2001:db8:100::7]:8443"],
        SocketAddr::new(nowhere6(7), 8443),
    )
}

#[test]
fn tcp_to_a_mapped_address() -> Result<()> {
    ends_at_the_gateway(
        &["tcp", "[::ffff:198.51.100.7]:8443"],
        SocketAddr::new(nowhere4(7), 8443),
    )
}

#[test]
fn tcp_fast_open() -> Result<()> {
    ends_at_the_gateway(
        &["tcp-fastopen", "198.51.100.7:8443"],
        SocketAddr::new(nowhere4(7), 8443),
    )
}

#[test]
fn udp_by_ipv4() -> Result<()> {
    holds(once(
        &["udp", "198.51.100.7:4000", "x"],
        nowhere4(7),
        "direct_udp",
    ))
}

#[test]
fn udp_by_ipv6() -> Result<()> {
    holds(once(
        &["udp", "[2001:db8:100::7]:4000", "x"],
        nowhere6(7),
        "direct_udp",
    ))
}

#[test]
fn udp_to_a_mapped_address() -> Result<()> {
    holds(once(
        &["udp", "[::ffff:198.51.100.7]:4000", "x"],
        nowhere4(7),
        "direct_udp",
    ))
}

#[test]
fn connected_udp() -> Result<()> {
    holds(once(
        &["udp-connected", "198.51.100.7:4000", "x"],
        nowhere4(7),
        "direct_udp",
    ))
}

#[test]
fn connected_udp_then_elsewhere() -> Result<()> {
    holds(once(
        &["udp-elsewhere", "198.51.100.8:4000", "198.51.100.7:4000"],
        nowhere4(7),
        "direct_udp",
    ))
}

#[test]
fn many_datagrams_by_one_call() -> Result<()> {
    // sendmmsg stops at the first that is refused.
    holds(once(
        &["udp-many", "198.51.100.7:4000", "5"],
        nowhere4(7),
        "direct_udp",
    ))
}

#[test]
fn quic() -> Result<()> {
    holds(once(&["udp", "198.51.100.7:443", "x"], nowhere4(7), "quic"))
}

#[test]
fn dns_over_quic() -> Result<()> {
    holds(once(
        &["udp", "198.51.100.7:853", "x"],
        nowhere4(7),
        "encrypted_dns",
    ))
}

#[test]
fn icmp_by_a_raw_socket() -> Result<()> {
    holds(once(&["ping-raw", "198.51.100.7"], nowhere4(7), "icmp"))
}

#[test]
fn icmpv6_by_a_raw_socket() -> Result<()> {
    holds(once(&["ping-raw", "2001:db8:100::7"], nowhere6(7), "icmp"))
}

#[test]
fn icmp_errors_that_quote_data() -> Result<()> {
    holds(once(
        &["icmp-error", "198.51.100.7"],
        nowhere4(7),
        "icmp_error",
    ))
}

#[test]
fn icmpv6_errors_that_quote_data() -> Result<()> {
    holds(once(
        &["icmp-error", "2001:db8:100::7"],
        nowhere6(7),
        "icmp_error",
    ))
}

#[test]
fn icmp_by_a_ping_socket() -> Result<()> {
    holds(once(&["ping", "198.51.100.7"], nowhere4(7), "icmp"))
}

#[test]
fn icmpv6_by_a_ping_socket() -> Result<()> {
    holds(once(&["ping", "2001:db8:100::7"], nowhere6(7), "icmp"))
}

#[test]
fn raw_ip_of_another_protocol() -> Result<()> {
    holds(once(
        &["raw", "198.51.100.7", "253"],
        nowhere4(7),
        "other_protocol",
    ))
}

#[test]
fn a_tunnel_by_raw_ip() -> Result<()> {
    holds(once(&["raw", "198.51.100.7", "47"], nowhere4(7), "tunnel"))
}

#[test]
fn a_tunnel_by_raw_ipv6() -> Result<()> {
    holds(once(
        &["raw", "2001:db8:100::7", "47"],
        nowhere6(7),
        "tunnel",
    ))
}

#[test]
fn a_header_of_ones_own() -> Result<()> {
    holds(once(
        &["raw-header", "10.1.1.5", "198.51.100.7", "4000"],
        nowhere4(7),
        "direct_udp",
    ))
}

#[test]
fn an_ipv6_header_of_ones_own() -> Result<()> {
    holds(once(
        &["raw-header", "fd00:1:1::5", "2001:db8:100::7", "4000"],
        nowhere6(7),
        "direct_udp",
    ))
}

#[test]
fn a_whole_frame() -> Result<()> {
    frame("frame", "10.1.1.5", nowhere4(7), "direct_udp")
}

#[test]
fn a_whole_ipv6_frame() -> Result<()> {
    frame("frame", "fd00:1:1::5", nowhere6(7), "direct_udp")
}

#[test]
fn a_cooked_frame() -> Result<()> {
    frame("frame-cooked", "10.1.1.5", nowhere4(7), "direct_udp")
}

#[test]
fn a_frame_with_a_neighbours_address() -> Result<()> {
    frame("frame", "10.1.2.5", nowhere4(7), "spoofed_address")
}

#[test]
fn an_ipv6_frame_with_a_neighbours_address() -> Result<()> {
    frame("frame", "fd00:1:2::5", nowhere6(7), "spoofed_address")
}

/// A frame of a packet socket, which no cgroup hook sees.
fn frame(kind: &str, from: &str, to: IpAddr, reason: &str) -> Result<()> {
    let scene = Scene::new()?;
    let next_hop = scene.world.node.hardware_address(&scene.pod.interface)?;
    let to_text = to.to_string();
    let attack = [kind, "eth0", &next_hop, from, &to_text, "4000"];
    holds_in(&scene, once(&attack, to, reason))
}

#[test]
fn a_datagram_socket_older_than_the_policy() -> Result<()> {
    older_than_the_policy("udp-held", nowhere4(7), 4000)
}

#[test]
fn a_connection_older_than_the_policy() -> Result<()> {
    older_than_the_policy("tcp-held", nowhere4(7), 8443)
}

/// Opens, enforces, then speaks: in vain.
fn older_than_the_policy(attack: &str, to: IpAddr, port: u16) -> Result<()> {
    let scene = Scene::new()?;
    let mut held = scene
        .pod
        .command(egress_tests::tools::attack()?)?
        .args([attack, &SocketAddr::new(to, port).to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    // It says so when it is open.
    let mut open = [0; 5];
    let mut output = held.stdout.take().context("its output is a pipe")?;
    output.read_exact(&mut open)?;
    if attack.starts_with("tcp") {
        ensure!(
            !scene.arrived(to)?.is_empty(),
            "the connection was not opened"
        );
    }
    let agent = scene.enforce(&Config::default())?;
    scene.capture.clear();
    let mut input = held.stdin.take().context("its input is a pipe")?;
    input.write_all(b"go\n")?;
    let status = process::wait(&mut held, PATIENCE)?;
    ensure!(!status.success(), "it was answered");
    scene.expect_nothing(to)?;
    agent.records.wait_for("a report", |record| {
        record.kind() == "bypass" && record.is_to(to)
    })?;
    Ok(())
}

#[test]
fn the_metadata_service() -> Result<()> {
    let metadata = IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254));
    holds(once(
        &["udp", "169.254.169.254:80", "x"],
        metadata,
        "metadata_service",
    ))
}

#[test]
fn the_metadata_service_by_tcp() -> Result<()> {
    let scene = Scene::new()?;
    let metadata = IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254));
    scene.curl(&["http://169.254.169.254/"])?.ok()?;
    let agent = scene.enforce(&Config::default())?;
    scene.capture.clear();
    let denied = scene.curl(&["http://169.254.169.254/"])?;
    ensure!(!denied.status.success(), "{}", denied.text());
    scene.expect_nothing(metadata)?;
    let report = agent
        .records
        .wait_for("a report", |r| r.kind() == "bypass" && r.is_to(metadata))?;
    scene::expect_report(&report, &scene, "metadata_service")?;
    ensure!(report.text("/process/command") == "curl", "{report:?}");
    Ok(())
}

#[test]
fn a_name_that_resolves_to_the_metadata_service() -> Result<()> {
    let scene = Scene::new()?;
    let config = Config {
        policy: Config::policy(&["metadata.test", "rebind.test"]),
        ..Config::default()
    };
    let _agent = scene.enforce(&config)?;
    for host in ["metadata.test", "rebind.test"] {
        let to = format!("{host}:443:203.0.113.10");
        let denied = scene.curl(&["--resolve", &to, &format!("https://{host}/")])?;
        ensure!(!denied.status.success(), "{}", denied.text());
    }
    scene.expect_nothing(Ipv4Addr::new(169, 254, 169, 254).into())?;
    scene.expect_nothing(Ipv4Addr::new(10, 9, 9, 9).into())
}

#[test]
fn a_service_of_the_node() -> Result<()> {
    let scene = Scene::new()?;
    let service = scene
        .world
        .node
        .enter(|| UdpSocket::bind((NODE4, 4000)))??;
    is_out_of_reach(&scene, &service, "node")
}

#[test]
fn the_nodes_side_of_the_link() -> Result<()> {
    let scene = Scene::new()?;
    let address = scene.pod.gateway4;
    let service = scene
        .world
        .node
        .enter(|| UdpSocket::bind((address, 4000)))??;
    is_out_of_reach(&scene, &service, "node")
}

#[test]
fn another_pod() -> Result<()> {
    let scene = Scene::new()?;
    let other = scene.world.pod("shop/other")?;
    let service = other
        .namespace
        .enter(|| UdpSocket::bind((other.address4, 4000)))??;
    is_out_of_reach(&scene, &service, "cluster")
}

#[test]
fn another_pod_by_ipv6() -> Result<()> {
    let scene = Scene::new()?;
    let other = scene.world.pod("shop/other")?;
    let service = other
        .namespace
        .enter(|| UdpSocket::bind((other.address6, 4000)))??;
    is_out_of_reach(&scene, &service, "cluster")
}

#[test]
fn the_gateways_address_on_another_port() -> Result<()> {
    let scene = Scene::new()?;
    let gateway = Ipv4Addr::new(169, 254, 64, 1);
    let mut agent = scene.enforce(&Config::default())?;
    let service = scene
        .world
        .node
        .enter(|| UdpSocket::bind((gateway, 443)))??;
    service.set_read_timeout(Some(Duration::from_millis(100)))?;
    scene.pod.attack(&["udp", "169.254.64.1:443", "x"])?;
    scene.pod.attack(&["tcp", "169.254.64.1:22"])?;
    scene.pod.attack(&["ping", "169.254.64.1"])?;
    ensure!(service.recv(&mut [0; 16]).is_err(), "the datagram arrived");
    agent.stop()?;
    let reports = agent
        .records
        .matching(|r| r.kind() == "bypass" && r.is_to(gateway.into()))?;
    ensure!(reports.len() == 3, "{reports:#?}");
    for report in &reports {
        scene::expect_report(report, &scene, "gateway_port")?;
    }
    Ok(())
}

/// That a service inside the cluster is reached while nobody enforces, and then not.
fn is_out_of_reach(scene: &Scene, service: &UdpSocket, reason: &str) -> Result<()> {
    service.set_read_timeout(Some(Duration::from_millis(200)))?;
    let to = service.local_addr()?;
    let attack = ["udp", &to.to_string(), "x"];
    scene.pod.attack(&attack)?.ok()?;
    service
        .recv(&mut [0; 16])
        .context("with nobody enforcing")?;

    let agent = scene.enforce(&Config::default())?;
    scene.pod.attack(&attack)?;
    ensure!(service.recv(&mut [0; 16]).is_err(), "the datagram arrived");
    let report = agent
        .records
        .wait_for("a report", |r| r.kind() == "bypass" && r.is_to(to.ip()))?;
    scene::expect_report(&report, scene, reason)
}

#[test]
fn encrypted_dns() -> Result<()> {
    let scene = Scene::new()?;
    let agent = scene.enforce(&Config::default())?;
    let attempt = scene.pod.attack(&["tcp", "198.51.100.7:853"])?;
    ensure!(attempt.stdout.starts_with("EPERM"), "{}", attempt.text());
    ensure!(
        attempt.took < process::here(Duration::from_secs(1)),
        "it took {:?}",
        attempt.took
    );
    scene.expect_nothing(nowhere4(7))?;
    let report = agent
        .records
        .wait_for("a report", |r| r.kind() == "bypass" && r.is_to(nowhere4(7)))?;
    scene::expect_report(&report, &scene, "encrypted_dns")
}

#[test]
fn a_denied_datagram_fails_at_once() -> Result<()> {
    let scene = Scene::new()?;
    let agent = scene.enforce(&Config::default())?;
    let attempt = scene.pod.attack(&["udp", "198.51.100.7:4000", "x"])?;
    ensure!(attempt.stdout.starts_with("EPERM"), "{}", attempt.text());
    ensure!(
        attempt.took < process::here(Duration::from_secs(1)),
        "it took {:?}",
        attempt.took
    );
    let report = agent
        .records
        .wait_for("a report", |r| r.kind() == "bypass")?;
    ensure!(report.text("/process/command") == "attack", "{report:?}");
    Ok(())
}

#[test]
fn an_echo_reply() -> Result<()> {
    // Made by the pod's kernel; data could go out in it all the same.
    let scene = Scene::new()?;
    let ping = || {
        let mut ping = scene.world.node.command("ping");
        ping.args(["-c", "1", "-W", "1", &scene.pod.address4.to_string()]);
        process::finish(&mut ping, PATIENCE)
    };
    ping()?.ok().context("with nobody enforcing")?;
    let agent = scene.enforce(&Config::default())?;
    ensure!(!ping()?.status.success(), "the reply arrived");
    let report = agent
        .records
        .wait_for("a report", |r| r.kind() == "bypass")?;
    scene::expect_report(&report, &scene, "icmp")
}

#[test]
fn a_report_names_the_executable_of_who_is_still_there() -> Result<()> {
    let scene = Scene::new()?;
    let agent = scene.enforce(&Config::default())?;
    let script = "import socket, time\n\
                  s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n\
                  try: s.sendto(b'x', ('198.51.100.7', 4000))\n\
                  except PermissionError: time.sleep(1)";
    scene.pod.run(&["python3", "-c", script])?.ok()?;
    let report = agent
        .records
        .wait_for("a report", |r| r.kind() == "bypass")?;
    let executable = report.text("/process/executable");
    ensure!(
        executable.starts_with('/') && executable.contains("python"),
        "{report:?}"
    );
    Ok(())
}

#[test]
fn the_gateway_is_no_relay_for_a_host_of_the_lan() -> Result<()> {
    let scene = Scene::new()?;
    let agent = scene.enforce(&Config::default())?;
    let lan = scene.world.lan_host();
    lan.ip("route add 169.254.64.1/32 via 192.0.2.2\nroute add fd65:6772:6573::1/128 via 2001:db8::2\n")?;
    for gateway in [
        "169.254.64.1:15001",
        "[fd65:6772:6573::1]:15001",
        "169.254.64.1:15053",
    ] {
        let gateway: SocketAddr = gateway.parse()?;
        let reached =
            lan.enter(|| TcpStream::connect_timeout(&gateway, Duration::from_millis(1500)))?;
        ensure!(reached.is_err(), "a host of the LAN reached {gateway}");
    }
    let connections = agent
        .records
        .matching(|r| r.kind().starts_with("connection"))?;
    ensure!(connections.is_empty(), "{connections:#?}");
    Ok(())
}

#[test]
fn a_host_of_the_lan_does_not_get_in_by_ip_options() -> Result<()> {
    let scene = Scene::new()?;
    let agent = scene.enforce(&Config::default())?;
    let lan = scene.world.lan_host();
    lan.ip("route add 169.254.64.1/32 via 192.0.2.2\nroute add fd65:6772:6573::1/128 via 2001:db8::2\n")?;
    // IP_OPTIONS with three no-operations (RFC 791); IPV6_DSTOPTS with a PadN (RFC 8200).
    let script = "import socket\n\
                  for family, to, level, option, value in (\
                  (socket.AF_INET, '169.254.64.1', 0, 4, b'\\1\\1\\1\\0'), \
                  (socket.AF_INET6, 'fd65:6772:6573::1', 41, 59, b'\\0\\0\\1\\4\\0\\0\\0\\0')):\n\
                  \x20   s = socket.socket(family); s.settimeout(1.5)\n\
                  \x20   s.setsockopt(level, option, value)\n\
                  \x20   try: s.connect((to, 15001)); print('reached', to)\n\
                  \x20   except TimeoutError: print('dropped')";
    let made = process::finish(lan.command("python3").args(["-c", script]), PATIENCE)?.ok()?;
    ensure!(made == "dropped\ndropped\n", "{made}");
    for gateway in ["169.254.64.1", "fd65:6772:6573::1"] {
        let gateway: IpAddr = gateway.parse()?;
        let report = agent.records.wait_for("a report", |r| r.is_to(gateway))?;
        ensure!(report.reason() == "no_endpoint", "{report:?}");
    }
    Ok(())
}

#[test]
fn the_gateway_is_no_relay_for_a_process_outside_every_endpoint() -> Result<()> {
    let scene = Scene::new()?;
    let other = scene.world.pod("shop/other")?;
    let _agent = scene.enforce(&Config::default())?;
    let gateway: SocketAddr = "169.254.64.1:15001".parse()?;
    for namespace in [&scene.world.node, &other.namespace] {
        let reached = namespace
            .enter(|| TcpStream::connect_timeout(&gateway, Duration::from_millis(1500)))?;
        ensure!(
            reached.is_err(),
            "a process outside every endpoint reached the gateway"
        );
    }
    Ok(())
}

#[test]
fn a_neighbours_port_does_not_give_its_identity() -> Result<()> {
    let scene = Scene::new()?;
    let neighbour = scene.world.pod("shop/neighbour")?;
    let agent = egress_tests::agent::Agent::start(
        &scene.world,
        &Config::default(),
        &[&scene.pod, &neighbour],
    )?;
    // The forger, in the first pod, sends frames with the neighbour's address and a port that the
    // neighbour then connects from.
    let next_hop = scene.world.node.hardware_address(&scene.pod.interface)?;
    let forge = [
        "frame",
        "eth0",
        &next_hop,
        "10.1.2.5",
        "169.254.64.1",
        "15001",
    ];
    for _ in 0..20 {
        scene.pod.attack(&forge)?;
    }
    neighbour.attack(&["tcp-from", "40000", "198.51.100.7:8443"])?;
    let record = agent
        .records
        .wait_for("the neighbour's connection", |record| {
            record.kind() == "connection.open" && record.is_to(nowhere4(7))
        })?;
    ensure!(record.endpoint() == "shop/neighbour", "{record:?}");
    let report = agent.records.wait_for("a report of the forger", |r| {
        r.reason() == "spoofed_address"
    })?;
    ensure!(report.endpoint() == "shop/orders", "{report:?}");
    Ok(())
}

#[test]
fn one_report_counts_what_different_layers_drop() -> Result<()> {
    let scene = Scene::new()?;
    let next_hop = scene.world.node.hardware_address(&scene.pod.interface)?;
    let mut agent = scene.enforce(&Config::default())?;
    let frame = [
        "frame",
        "eth0",
        &next_hop,
        "10.1.1.5",
        "198.51.100.7",
        "4000",
    ];
    let attacks: [&[&str]; 3] = [
        &["udp", "198.51.100.7:4000", "x"],
        &["udp-connected", "198.51.100.7:4000", "x"],
        &frame,
    ];
    for attack in attacks.iter().cycle().take(9) {
        scene.pod.attack(attack)?;
    }
    scene.expect_nothing(nowhere4(7))?;
    agent.stop()?;
    scene::expect_count(&agent, nowhere4(7), 9)
}

#[test]
fn in_audit_everything_passes_and_is_reported() -> Result<()> {
    let scene = Scene::new()?;
    let agent = scene.enforce(&Config::default().audit())?;
    scene.pod.attack(&["udp", "198.51.100.7:4000", "x"])?.ok()?;
    scene.pod.attack(&["tcp", "198.51.100.8:8443"])?.ok()?;
    ensure!(
        !scene.arrived(nowhere4(7))?.is_empty(),
        "the datagram was dropped"
    );
    for to in [7, 8] {
        let record = agent
            .records
            .wait_for("a record", |record| record.is_to(world::nowhere4(to)))?;
        ensure!(record.verdict() == "audit", "{record:?}");
    }
    Ok(())
}
