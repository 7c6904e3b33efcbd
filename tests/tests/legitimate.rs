//! Legitimate use is never reported, and works.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use egress_tests::{
    agent::Config,
    echo::{self, Echo},
    scene::{Scene, unreported},
};

#[test]
fn address_sorting_of_glibc_and_python() -> Result<()> {
    unreported(|scene, _agent| {
        for _ in 0..3 {
            // One UDP connect per candidate address, and nothing sent (RFC 6724).
            let found = scene.pod.run(&["getent", "ahosts", "allowed.test"])?.ok()?;
            ensure!(found.contains("203.0.113.10"), "{found}");
            ensure!(found.contains("2001:db8:113::a"), "{found}");
            let script = "import socket; print(socket.getaddrinfo('allowed.test', 443))";
            scene.pod.run(&["python3", "-c", script])?.ok()?;
        }
        Ok(())
    })
}

#[test]
fn address_sorting_of_node() -> Result<()> {
    unreported(|scene, _agent| {
        let script = "require('dns').lookup('allowed.test', {all: true}, (e, a) => { \
                      if (e) throw e; console.log(JSON.stringify(a)) })";
        let found = scene.pod.run(&["node", "-e", script])?.ok()?;
        ensure!(found.contains("203.0.113.10"), "{found}");
        Ok(())
    })
}

#[test]
fn address_sorting_as_chromium_and_go_do_it() -> Result<()> {
    // Both connect a UDP socket to each address of an answer, port 53 or 443 or 9, of either
    // family, and look at the source address that the kernel chose.
    unreported(|scene, _agent| {
        for to in [
            "198.51.100.7:443",
            "198.51.100.7:9",
            "[2001:db8:100::7]:443",
            "[2001:db8:100::7]:53",
        ] {
            scene.pod.attack(&["udp-connect", to])?.ok()?;
        }
        Ok(())
    })
}

#[test]
fn loopback_is_the_pods_own() -> Result<()> {
    unreported(|scene, _agent| {
        let script = "import socket, threading\n\
                      for family, host in ((socket.AF_INET, '127.0.0.1'), (socket.AF_INET6, '::1')):\n\
                      \x20   s = socket.create_server((host, 0), family=family)\n\
                      \x20   c = socket.create_connection(s.getsockname()[:2], 3)\n\
                      \x20   p, _ = s.accept(); c.sendall(b'x'); assert p.recv(1) == b'x'\n\
                      \x20   u = socket.socket(family, socket.SOCK_DGRAM); u.bind((host, 0))\n\
                      \x20   v = socket.socket(family, socket.SOCK_DGRAM)\n\
                      \x20   v.sendto(b'y', u.getsockname()[:2]); u.settimeout(3); assert u.recv(1) == b'y'\n\
                      print('fine')";
        let spoken = scene.pod.run(&["python3", "-c", script])?.ok()?;
        ensure!(spoken.contains("fine"), "{spoken}");
        let own = scene.pod.address4.to_string();
        let script = format!(
            "import socket\ns = socket.create_server(('{own}', 0))\n\
             c = socket.create_connection(s.getsockname(), 3); s.accept(); print('fine')"
        );
        scene.pod.run(&["python3", "-c", &script])?.ok()?;
        Ok(())
    })
}

#[test]
fn a_server_in_the_pod_answers_the_node_and_the_cluster() -> Result<()> {
    unreported(|scene, _agent| {
        let other = scene.world.pod("shop/other")?;
        let _server = Echo::start(scene.pod.command("python3")?)?;
        for client in [&scene.world.node, &other.namespace] {
            for address in scene.pod.addresses() {
                client.enter(|| echo::speak(&mut echo::connect(address)?))??;
            }
        }
        Ok(())
    })
}

#[test]
fn direct_entries_pass_beside_the_gateway() -> Result<()> {
    let scene = Scene::new()?;
    let other = scene.world.pod("shop/other")?;
    let service = other
        .namespace
        .enter(|| std::net::UdpSocket::bind((other.address4, 4000)))??;
    service.set_read_timeout(Some(Duration::from_secs(2)))?;
    let config = Config::default().and_policy(
        "---\n\
         apiVersion: egress-agent.dev/v1alpha1\n\
         kind: ClusterEgressPolicy\n\
         metadata: { name: cluster }\n\
         spec:\n\
         \x20 direct:\n\
         \x20   - { cidrs: [\"10.1.2.0/24\"], ports: [4000], protocols: [UDP] }\n",
    );
    let mut agent = scene.enforce(&config)?;
    let to = format!("{}:4000", other.address4);
    scene.pod.attack(&["udp", &to, "x"])?.ok()?;
    service.recv(&mut [0; 16]).context("the direct entry")?;
    agent.stop()?;
    agent.records.expect_no_report()
}

#[test]
fn neighbours_are_found_and_addresses_are_checked_for_duplicates() -> Result<()> {
    unreported(|scene, _agent| {
        let pod = &scene.pod;
        pod.namespace.ip("neigh flush dev eth0\n")?;
        pod.namespace.sysctl("net/ipv6/conf/eth0/accept_dad", "1")?;
        pod.namespace.ip(&format!(
            "address del {0}/64 dev eth0\naddress add {0}/64 dev eth0\n\
             route replace default via {1}\n",
            pod.address6, pod.gateway6,
        ))?;
        pod.namespace.wait_until_ready()?;
        scene.curl(&["-6", "https://allowed.test/"])?.ok()?;
        pod.namespace.ip("neigh flush dev eth0\n")?;
        scene.curl(&["-4", "https://allowed.test/"])?.ok()?;
        Ok(())
    })
}

#[test]
fn a_smaller_path_mtu_is_learnt() -> Result<()> {
    unreported(|scene, _agent| {
        scene.world.node.ip("link set uplink mtu 1300\n")?;
        scene
            .world
            .internet
            .namespace
            .ip("link set net0 mtu 1300\n")?;
        let page = scene.curl(&["https://allowed.test/bytes/200000"])?.ok()?;
        ensure!(page.len() == 200_000, "{} bytes", page.len());
        Ok(())
    })
}

#[test]
fn a_client_that_does_not_wait_for_its_answer() -> Result<()> {
    // The kernel then tells the resolver that the port is closed.
    unreported(|scene, _agent| {
        let script = "import socket, struct, time\n\
                      query = struct.pack('!6H', 7, 0x100, 1, 0, 0, 0) + b'\\7allowed\\4test\\0\\0\\1\\0\\1'\n\
                      for family, server in ((socket.AF_INET, '203.0.113.53'), \
                      (socket.AF_INET6, '2001:db8:113::53')):\n\
                      \x20   for _ in range(5):\n\
                      \x20       s = socket.socket(family, socket.SOCK_DGRAM)\n\
                      \x20       s.sendto(query, (server, 53)); s.close()\n\
                      time.sleep(1)";
        scene.pod.run(&["python3", "-c", script])?.ok()?;
        Ok(())
    })
}

#[test]
fn a_quiet_pod_is_quiet() -> Result<()> {
    // Router solicitations, MLD reports and the like that the kernel sends by itself.
    unreported(|scene, _agent| {
        scene
            .pod
            .namespace
            .ip("link set eth0 down\nlink set eth0 up\n")?;
        std::thread::sleep(Duration::from_secs(3));
        Ok(())
    })
}
