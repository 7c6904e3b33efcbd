//! Whatever a pod makes in its network namespace changes nothing: a namespace of its own behind it,
//! translated addresses, devices, its interface moved elsewhere. Each reaches the internet while
//! nobody enforces, and nothing of it when somebody does.

use std::{net::IpAddr, path::Path};

use anyhow::{Context as _, Result, ensure};
use egress_tests::{
    agent::Config,
    namespace::Namespace,
    pod::Pod,
    process,
    scene::{Scene, Vector, holds_by},
    tools,
    world::nowhere4,
    world::nowhere6,
};

const TO4: &str = "198.51.100.7:4000";
const TO6: &str = "[2001:db8:100::7]:4000";

/// A namespace of the pod's making, behind a veth of its making, with the pod as its router.
fn inner(pod: &Pod) -> Result<Namespace> {
    let inner = Namespace::new("inner")?;
    pod.namespace.sysctl("net/ipv4/ip_forward", "1")?;
    pod.namespace.sysctl("net/ipv6/conf/all/forwarding", "1")?;
    pod.namespace.ip(&format!(
        "link add inside type veth peer name outside netns {}\n\
         address add 10.77.0.1/24 dev inside\n\
         address add fd77::1/64 dev inside nodad\n\
         link set inside up\n",
        inner.path()
    ))?;
    inner.ip("address add 10.77.0.2/24 dev outside\n\
         address add fd77::2/64 dev outside nodad\n\
         link set outside up\n\
         route add default via 10.77.0.1\n")?;
    inner
        .ip("-6 route add default via fd77::1\n")
        .or_else(|_| inner.ip("route add default via fd77::1\n"))?;
    Ok(inner)
}

/// Sends one datagram from a namespace.
fn send(from: &Namespace, to: &str) -> Result<bool> {
    let mut attack = from.command(tools::attack()?);
    attack.args(["udp", to, "x"]);
    Ok(process::finish(&mut attack, process::PATIENCE)?
        .status
        .success())
}

/// The whole proof: it arrives while nobody enforces; then nothing does, and each attempt is told of
/// with this reason.
fn holds(scene: &Scene, reason: &str, send: impl Fn() -> Result<()>) -> Result<()> {
    let arrived = || -> Result<usize> {
        let v4 = scene.arrived(nowhere4(7))?.len();
        Ok(v4 + scene.arrived(nowhere6(7))?.len())
    };
    send()?;
    ensure!(arrived()? > 0, "it does not even arrive without the agent");
    let mut agent = scene.enforce(&Config::default())?;
    scene.capture.clear();
    for _ in 0..3 {
        send()?;
    }
    ensure!(arrived()? == 0, "{} packets passed", arrived()?);
    agent.stop()?;
    let told = agent.records.matching(|record| {
        record.kind().starts_with("bypass")
            && record.endpoint() == scene.pod.name
            && record.reason() == reason
    })?;
    let count: u64 = told.iter().map(|record| record.count()).sum();
    ensure!(
        count == 3,
        "{count} of 3 told as {reason}: {:#?}",
        agent.records.bypasses()?
    );
    Ok(())
}

#[test]
fn a_namespace_behind_the_pod() -> Result<()> {
    let scene = Scene::new()?;
    let inner = inner(&scene.pod)?;
    holds(&scene, "spoofed_address", || send(&inner, TO4).map(drop))
}

#[test]
fn a_namespace_behind_the_pod_by_ipv6() -> Result<()> {
    let scene = Scene::new()?;
    let inner = inner(&scene.pod)?;
    holds(&scene, "spoofed_address", || send(&inner, TO6).map(drop))
}

#[test]
fn a_namespace_behind_translated_addresses() -> Result<()> {
    let scene = Scene::new()?;
    let inner = inner(&scene.pod)?;
    let mut nft = scene.pod.namespace.command("nft");
    nft.arg(
        "table ip pod { chain out { type nat hook postrouting priority srcnat; masquerade; }; }",
    );
    process::finish(&mut nft, process::PATIENCE)?.ok()?;
    holds(&scene, "direct_udp", || send(&inner, TO4).map(drop))
}

#[test]
fn a_destination_that_is_translated_behind_the_hooks() -> Result<()> {
    // What is sent to the gateway's own port, as `connect` and `sendmsg` see it, goes elsewhere.
    let scene = Scene::new()?;
    let mut nft = scene.pod.namespace.command("nft");
    nft.arg(
        "table ip pod { chain out { type nat hook output priority -100; \
         ip daddr 169.254.64.1 udp dport 15053 dnat to 198.51.100.7:4000; }; }",
    );
    process::finish(&mut nft, process::PATIENCE)?.ok()?;
    let attack = ["udp", "169.254.64.1:15053", "x"];
    holds(&scene, "direct_udp", || scene.pod.attack(&attack).map(drop))
}

#[test]
fn an_ipv6_destination_that_is_translated_behind_the_hooks() -> Result<()> {
    let scene = Scene::new()?;
    let mut nft = scene.pod.namespace.command("nft");
    nft.arg(
        "table ip6 pod { chain out { type nat hook output priority -100; \
         ip6 daddr fd65:6772:6573::1 udp dport 15053 dnat to [2001:db8:100::7]:4000; }; }",
    );
    process::finish(&mut nft, process::PATIENCE)?.ok()?;
    let attack = ["udp", "[fd65:6772:6573::1]:15053", "x"];
    holds(&scene, "direct_udp", || scene.pod.attack(&attack).map(drop))
}

#[test]
fn an_interface_that_moved() -> Result<()> {
    let scene = Scene::new()?;
    let elsewhere = Namespace::new("elsewhere")?;
    let pod = &scene.pod;
    pod.namespace
        .ip(&format!("link set eth0 netns {}\n", elsewhere.path()))?;
    elsewhere.ip(&format!(
        "address add {}/24 dev eth0\nlink set eth0 up\nroute add default via {}\n",
        pod.address4, pod.gateway4
    ))?;
    holds(&scene, "direct_udp", || send(&elsewhere, TO4).map(drop))
}

#[test]
fn an_address_of_ones_own_choice() -> Result<()> {
    let scene = Scene::new()?;
    scene
        .pod
        .namespace
        .ip("address add 10.1.99.5/32 dev eth0\n")?;
    let script = "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); \
                  s.bind(('10.1.99.5', 0)); s.sendto(b'x', ('198.51.100.7', 4000))";
    // As a process that no cgroup hook sees.
    holds(&scene, "spoofed_address", || {
        let mut python = scene.pod.namespace.command("python3");
        python.args(["-c", script]);
        process::finish(&mut python, process::PATIENCE).map(drop)
    })
}

#[test]
fn a_hardware_address_of_ones_own_choice() -> Result<()> {
    let scene = Scene::new()?;
    let pod = &scene.pod;
    ends_as_spoofed_mac(&scene, &pod.namespace, || {
        // Not before the agent has read the true one.
        pod.namespace.ip(&format!(
            "link set eth0 address 02:00:00:00:77:77\n\
             neighbour flush dev eth0\n\
             route replace default via {}\n",
            pod.gateway4
        ))
    })
}

#[test]
fn a_device_on_top_of_the_interface() -> Result<()> {
    let scene = Scene::new()?;
    let above = Namespace::new("above")?;
    let (pod, mac) = (&scene.pod, "02:00:00:00:77:78");
    pod.namespace.ip(&format!(
        "link add link eth0 name above0 address {mac} type macvlan mode bridge\n\
         link set above0 netns {}\n",
        above.path()
    ))?;
    above.ip(&format!(
        "address add 10.1.{}.77/24 dev above0\nlink set above0 up\nroute add default via {}\n",
        pod.number, pod.gateway4
    ))?;
    ends_as_spoofed_mac(&scene, &above, || Ok(()))
}

/// What has another hardware address may already end where it asks for its next hop, by ARP: how
/// often it does is the kernel's affair.
fn ends_as_spoofed_mac(
    scene: &Scene,
    from: &Namespace,
    change: impl Fn() -> Result<()>,
) -> Result<()> {
    send(from, TO4)?;
    ensure!(
        !scene.arrived(nowhere4(7))?.is_empty(),
        "it does not even arrive"
    );
    let mut agent = scene.enforce(&Config::default())?;
    scene.capture.clear();
    change()?;
    for _ in 0..3 {
        send(from, TO4)?;
    }
    scene.expect_nothing(nowhere4(7))?;
    agent.stop()?;
    let told = agent.records.matching(|it| it.reason() == "spoofed_mac")?;
    ensure!(!told.is_empty(), "{:#?}", agent.records.bypasses()?);
    Ok(())
}

/// An MTU at which datagrams of this many bytes leave in two fragments.
const MTU: &str = "link set eth0 mtu 1280\n";
const LARGE: &str = "import socket, sys; to = sys.argv[1]\n\
                     s = socket.socket(socket.AF_INET6 if ':' in to else socket.AF_INET, socket.SOCK_DGRAM)\n\
                     s.setsockopt(0, 10, 0) if ':' not in to else None\n\
                     try: s.sendto(b'x' * 2000, (to, 4000))\n\
                     except PermissionError: pass";

#[test]
fn an_mtu_that_makes_fragments() -> Result<()> {
    makes_fragments(nowhere4(7))
}

#[test]
fn an_mtu_that_makes_fragments_by_ipv6() -> Result<()> {
    makes_fragments(nowhere6(7))
}

/// Of a socket that no cgroup hook sees: the link is met by fragments, two for each datagram.
fn makes_fragments(to: IpAddr) -> Result<()> {
    let scene = Scene::new()?;
    scene.pod.namespace.ip(MTU)?;
    let vector = Vector {
        attack: &["fragments"],
        to,
        reason: "fragment",
        times: 2,
    };
    holds_by(&scene, vector, || {
        let mut python = scene.pod.namespace.command("python3");
        python.args(["-c", LARGE, &to.to_string()]);
        process::finish(&mut python, process::PATIENCE)
    })
}

#[test]
fn a_packet_from_a_tun_device() -> Result<()> {
    let scene = Scene::new()?;
    ensure!(
        Path::new("/dev/net/tun").exists(),
        "there is no /dev/net/tun"
    );
    scene.pod.namespace.sysctl("net/ipv4/ip_forward", "1")?;
    scene
        .pod
        .namespace
        .sysctl("net/ipv4/conf/all/rp_filter", "0")?;
    let script = "import fcntl, os, socket, struct, subprocess, time\n\
                  t = os.open('/dev/net/tun', os.O_RDWR)\n\
                  fcntl.ioctl(t, 0x400454ca, struct.pack('16sH', b'tun7', 0x1001))\n\
                  subprocess.run(['ip', 'address', 'add', '10.78.0.1/24', 'dev', 'tun7'], check=True)\n\
                  subprocess.run(['ip', 'link', 'set', 'tun7', 'up'], check=True)\n\
                  def sum16(b):\n\
                  \x20   s = sum(struct.unpack('!%dH' % (len(b) // 2), b))\n\
                  \x20   s = (s & 0xffff) + (s >> 16); return ~((s & 0xffff) + (s >> 16)) & 0xffff\n\
                  body = struct.pack('!4H', 40000, 4000, 12, 0) + b'tun!'\n\
                  head = struct.pack('!BBHHHBBH4s4s', 0x45, 0, 20 + len(body), 1, 0, 64, 17, 0, \
                  socket.inet_aton('10.78.0.2'), socket.inet_aton('198.51.100.7'))\n\
                  head = head[:10] + struct.pack('!H', sum16(head)) + head[12:]\n\
                  os.write(t, head + body); time.sleep(0.2)";
    holds(&scene, "spoofed_address", || {
        let sent = scene.pod.run(&["python3", "-c", script])?;
        sent.ok().context("the device")?;
        Ok(())
    })
}

#[test]
fn a_child_that_outlives_its_parent() -> Result<()> {
    let scene = Scene::new()?;
    let done = scene.world.scratch().file("child");
    let script = format!(
        "import os, socket, time\n\
         if os.fork(): os._exit(0)\n\
         os.setsid(); time.sleep(0.2)\n\
         s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n\
         try: s.sendto(b'x', ('198.51.100.7', 4000))\n\
         except PermissionError: pass\n\
         open({:?}, 'w').close()",
        done.display().to_string()
    );
    holds(&scene, "direct_udp", || {
        std::fs::remove_file(&done).ok();
        let line = [
            "sh",
            "-c",
            "python3 -c \"$0\" > /dev/null 2>&1 < /dev/null",
            &script,
        ];
        scene.pod.run(&line)?.ok()?;
        process::eventually("the child to send", || Ok(done.exists().then_some(())))
    })
}
