//! What programs do every day, none of which may fail or be reported.

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, Shutdown},
};

use anyhow::{Context as _, Result, ensure};
use egress_tests::{
    agent::{Agent, Config},
    echo::{self, Echo},
    process::PATIENCE,
    scene::{Scene, unreported, unreported_with},
};

/// Runs a script of Python's in the pod, to its good end.
fn python(scene: &Scene, script: &str) -> Result<String> {
    scene
        .pod
        .run_for(PATIENCE * 2, &["python3", "-c", script])?
        .ok()
}

/// A file of this many bytes on the servers.
fn file(scene: &Scene, name: &str, bytes: usize) -> Result<()> {
    let path = scene.world.internet.files().join(name);
    std::fs::write(path, vec![7; bytes]).context("could not write the file")
}

#[test]
fn a_large_download() -> Result<()> {
    unreported(|scene, _agent| {
        file(scene, "large", 20_000_000)?;
        let url = "https://allowed.test/large";
        let got = scene
            .curl(&["-o", "/dev/null", "-w", "%{size_download}", url])?
            .ok()?;
        ensure!(got == "20000000", "{got}");
        Ok(())
    })
}

#[test]
fn several_requests_on_one_connection() -> Result<()> {
    unreported(|scene, _agent| {
        let url = "https://allowed.test/";
        let line = [
            "-o",
            "/dev/null",
            "-w",
            "%{num_connects} ",
            url,
            "-o",
            "/dev/null",
            url,
        ];
        scene.curl(&line)?.ok()?;
        Ok(())
    })
}

#[test]
fn each_family_by_itself() -> Result<()> {
    unreported(|scene, _agent| {
        for family in ["-4", "-6"] {
            scene.curl(&[family, "https://allowed.test/"])?.ok()?;
        }
        Ok(())
    })
}

#[test]
fn many_connections_at_once() -> Result<()> {
    unreported(|scene, _agent| {
        let authority = scene.world.internet.authority().display().to_string();
        let script = format!(
            "import concurrent.futures, ssl, urllib.request\n\
             c = ssl.create_default_context(cafile={authority:?})\n\
             get = lambda _: urllib.request.urlopen('https://allowed.test/', context=c, timeout=15).status\n\
             with concurrent.futures.ThreadPoolExecutor(20) as pool:\n\
             \x20   assert set(pool.map(get, range(60))) == {{200}}"
        );
        python(scene, &script).map(drop)
    })
}

#[test]
fn a_connect_that_does_not_wait() -> Result<()> {
    unreported(|scene, _agent| {
        let authority = scene.world.internet.authority().display().to_string();
        let script = format!(
            "import asyncio, ssl\n\
             async def main():\n\
             \x20   c = ssl.create_default_context(cafile={authority:?})\n\
             \x20   r, w = await asyncio.open_connection('allowed.test', 443, ssl=c)\n\
             \x20   w.write(b'GET / HTTP/1.0\\r\\nHost: allowed.test\\r\\n\\r\\n'); await w.drain()\n\
             \x20   assert b'200' in await r.readline()\n\
             asyncio.run(main())"
        );
        python(scene, &script).map(drop)
    })
}

#[test]
fn an_ipv6_socket_to_a_mapped_address() -> Result<()> {
    unreported(|scene, _agent| {
        let authority = scene.world.internet.authority().display().to_string();
        let script = format!(
            "import socket, ssl\n\
             s = socket.socket(socket.AF_INET6); s.settimeout(10)\n\
             s.connect(('::ffff:203.0.113.10', 443))\n\
             assert s.getpeername()[0] == '::ffff:203.0.113.10', s.getpeername()\n\
             c = ssl.create_default_context(cafile={authority:?})\n\
             t = c.wrap_socket(s, server_hostname='allowed.test')\n\
             t.sendall(b'GET / HTTP/1.0\\r\\nHost: allowed.test\\r\\n\\r\\n'); assert t.recv(12)"
        );
        python(scene, &script).map(drop)
    })
}

#[test]
fn look_ups_from_a_hundred_sockets() -> Result<()> {
    unreported(|scene, _agent| {
        let script = "import socket\n\
             query = lambda i: bytes([i]) + b'\\7\\1\\0\\0\\1\\0\\0\\0\\0\\0\\0\\7allowed\\4test\\0\\0\\1\\0\\1'\n\
             all = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(100)]\n\
             for i, s in enumerate(all): s.settimeout(10); s.sendto(query(i), ('203.0.113.53', 53))\n\
             for i, s in enumerate(all):\n\
             \x20   answer, server = s.recvfrom(512)\n\
             \x20   assert answer[0] == i and server == ('203.0.113.53', 53), (answer, server)";
        python(scene, script).map(drop)
    })
}

#[test]
fn look_ups_by_tcp() -> Result<()> {
    unreported(|scene, _agent| {
        let script = "import socket, struct\n\
             query = b'\\1\\7\\1\\0\\0\\1\\0\\0\\0\\0\\0\\0\\7allowed\\4test\\0\\0\\1\\0\\1'\n\
             for family, server in ((socket.AF_INET, '203.0.113.53'), (socket.AF_INET6, '2001:db8:113::53')):\n\
             \x20   s = socket.socket(family); s.settimeout(10); s.connect((server, 53))\n\
             \x20   s.sendall(struct.pack('!H', len(query)) + query)\n\
             \x20   assert struct.unpack('!H', s.recv(2))[0] > len(query)";
        python(scene, script).map(drop)
    })
}

#[test]
fn a_pod_speaks_to_itself() -> Result<()> {
    unreported(|scene, _agent| {
        let script = "import socket, tempfile\n\
             a, b = socket.socketpair(); a.sendall(b'x'); assert b.recv(1) == b'x'\n\
             u = socket.socket(socket.AF_UNIX); u.bind('\\0egress-tests'); u.listen()\n\
             c = socket.socket(socket.AF_UNIX); c.connect('\\0egress-tests')";
        python(scene, script)?;
        scene.pod.run(&["ping", "-c", "1", "127.0.0.1"])?.ok()?;
        scene.pod.run(&["ping", "-c", "1", "::1"])?.ok()?;
        Ok(())
    })
}

/// A policy that lets datagrams and connections pass to the other pods.
fn direct() -> Config {
    Config::default().and_policy(
        "---\n\
         apiVersion: egress-agent.dev/v1alpha1\n\
         kind: ClusterEgressPolicy\n\
         metadata: { name: pods }\n\
         spec:\n\
         \x20 direct:\n\
         \x20   - { cidrs: [\"10.1.2.5\", \"fd00:1:2::/48\"], ports: [8080], protocols: [TCP, UDP] }\n",
    )
}

/// More than a window's worth, in both directions.
fn exchange_much(address: IpAddr) -> Result<()> {
    let mut stream = echo::connect(address)?;
    let sent = vec![7; 100_000];
    for _ in 0..20 {
        stream.write_all(&sent)?;
        let mut got = vec![0; sent.len()];
        stream.read_exact(&mut got)?;
        ensure!(got == sent, "other bytes");
    }
    Ok(())
}

/// The client says that it has nothing more, and then hears the rest.
fn close_by_halves(address: IpAddr) -> Result<()> {
    let mut stream = echo::connect(address)?;
    stream.write_all(b"last words")?;
    stream.shutdown(Shutdown::Write)?;
    let mut got = Vec::new();
    stream.read_to_end(&mut got)?;
    ensure!(got == b"last words", "{got:?}");
    Ok(())
}

/// What a client in the pod does with the server of another pod, at each of its addresses.
fn with_another_pod(work: impl Fn(IpAddr) -> Result<()> + Sync) -> Result<()> {
    unreported_with(&direct(), |scene, _agent| {
        let other = scene.world.pod("shop/other")?;
        let _server = Echo::start(other.command("python3")?)?;
        for address in other.addresses() {
            scene.pod.namespace.enter(|| work(address))??;
        }
        Ok(())
    })
}

#[test]
fn a_direct_connection_in_both_families() -> Result<()> {
    with_another_pod(|address| echo::speak(&mut echo::connect(address)?))
}

#[test]
fn direct_datagrams_and_their_answers_in_both_families() -> Result<()> {
    with_another_pod(|address| (0..20).try_for_each(|_| echo::ask(address)))
}

#[test]
fn much_by_a_direct_connection() -> Result<()> {
    with_another_pod(exchange_much)
}

#[test]
fn a_direct_connection_closed_by_halves() -> Result<()> {
    with_another_pod(close_by_halves)
}

/// A server in the pod, and a client on the node.
fn served(work: impl Fn(IpAddr) -> Result<()> + Sync) -> Result<()> {
    unreported(|scene, _agent| {
        let _server = Echo::start(scene.pod.command("python3")?)?;
        for address in scene.pod.addresses() {
            scene.world.node.enter(|| work(address))??;
        }
        Ok(())
    })
}

#[test]
fn much_from_a_server_in_the_pod() -> Result<()> {
    served(exchange_much)
}

#[test]
fn a_client_of_the_pods_server_that_closes_by_halves() -> Result<()> {
    served(close_by_halves)
}

#[test]
fn many_clients_of_the_pods_server_one_after_another() -> Result<()> {
    served(|address| (0..200).try_for_each(|_| echo::speak(&mut echo::connect(address)?)))
}

#[test]
fn a_client_of_a_port_where_nobody_listens() -> Result<()> {
    unreported(|scene, _agent| {
        for address in scene.pod.addresses() {
            let refused = scene.world.node.enter(|| echo::connect(address))?;
            let error = format!("{:#}", refused.err().context("somebody listens")?);
            ensure!(error.contains("refused"), "{error}");
        }
        Ok(())
    })
}

#[test]
fn an_agent_that_starts_in_the_middle() -> Result<()> {
    let scene = Scene::new()?;
    let _server = Echo::start(scene.pod.command("python3")?)?;
    let [address, _] = scene.pod.addresses();
    let mut agent = scene.enforce(&Config::default())?;
    let mut stream = scene.world.node.enter(|| echo::connect(address))??;
    echo::speak(&mut stream)?;
    agent.kill()?;
    echo::speak(&mut stream)?;
    Agent::launch(&mut agent)?;
    echo::speak(&mut stream)?;
    agent.stop()?;
    agent.records.expect_no_report()
}
