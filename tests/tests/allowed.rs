//! The calls of the ways around the gateway, to where they may go: there they are no attack. Each
//! arrives and is not reported, in a pod and, where it may make such a call, in a process of the
//! node's network namespace.

use std::net::IpAddr;

use anyhow::{Result, ensure};
use egress_tests::{
    agent::Config,
    scene::{Scene, unreported_with},
    world::{nowhere4, nowhere6},
};

/// By single address, by network, by single port and by every port.
fn direct() -> Config {
    Config::default().and_policy(
        "---\n\
         apiVersion: egress-agent.dev/v1alpha1\n\
         kind: ClusterEgressPolicy\n\
         metadata: { name: outside }\n\
         spec:\n\
         \x20 direct:\n\
         \x20   - { cidrs: [198.51.100.7, \"2001:db8:100::7\"], ports: [443, 853, 4000, 8443], protocols: [TCP, UDP] }\n\
         \x20   - { cidrs: [198.51.100.8/30, \"2001:db8:100::8/125\"], ports: [4000], protocols: [UDP] }\n\
         \x20   - { cidrs: [198.51.100.16/28, \"2001:db8:100::10/124\"], protocols: [TCP, UDP] }\n",
    )
}

/// What has arrived, and nothing is reported.
fn arrives(to: IpAddr, call: impl FnOnce(&Scene) -> Result<()>) -> Result<()> {
    unreported_with(&direct(), |scene, _agent| {
        call(scene)?;
        ensure!(!scene.arrived(to)?.is_empty(), "nothing arrives");
        Ok(())
    })
}

fn by_pod(line: &[&str], to: IpAddr) -> Result<()> {
    arrives(to, |scene| scene.pod.attack(line)?.ok().map(drop))
}

/// It arrives, and is answered that nobody is there.
fn refused(line: &[&str], to: IpAddr) -> Result<()> {
    arrives(to, |scene| {
        let refused = scene.pod.attack(line)?;
        ensure!(
            refused.stdout.contains("ECONNREFUSED"),
            "{}",
            refused.text()
        );
        Ok(())
    })
}

fn by_host(line: &[&str], to: IpAddr) -> Result<()> {
    let scene = Scene::new()?;
    let host = scene.world.host_pod("shop/node-agent", "orders")?;
    let mut agent = scene.enforce(&direct().and_host_pod(&host))?;
    host.attack(line)?.ok()?;
    ensure!(!scene.arrived(to)?.is_empty(), "nothing arrives");
    agent.stop()?;
    agent.records.expect_no_report()
}

/// A frame of the pod's own, to its next hop.
fn by_frame(kind: &str, from: &str, to: IpAddr) -> Result<()> {
    arrives(to, |scene| {
        let hop = scene.world.node.hardware_address(&scene.pod.interface)?;
        let line = [kind, "eth0", &hop, from, &to.to_string(), "4000"];
        scene.pod.attack(&line)?.ok().map(drop)
    })
}

/// A test for each: its name, what is called and where that goes.
macro_rules! each {
    ($by:ident: $($name:ident: $line:expr, $to:expr;)+) => {
        $(
            #[test]
            fn $name() -> Result<()> {
                $by(&$line, $to)
            }
        )+
    };
}

mod of_a_pod {
    use super::*;

    each! { by_pod:
        udp: ["udp", "198.51.100.7:4000", "x"], nowhere4(7);
        udp_by_ipv6: ["udp", "[2001:db8:100::7]:4000", "x"], nowhere6(7);
        udp_to_a_mapped_address: ["udp", "[::ffff:198.51.100.7]:4000", "x"], nowhere4(7);
        udp_to_a_network: ["udp", "198.51.100.9:4000", "x"], nowhere4(9);
        udp_to_an_ipv6_network: ["udp", "[2001:db8:100::9]:4000", "x"], nowhere6(9);
        udp_to_any_port_of_a_network: ["udp", "198.51.100.17:9", "x"], nowhere4(17);
        udp_to_any_port_of_an_ipv6_network: ["udp", "[2001:db8:100::11]:9", "x"], nowhere6(0x11);
        connected_udp: ["udp-connected", "198.51.100.7:4000", "x"], nowhere4(7);
        connected_udp_by_ipv6: ["udp-connected", "[2001:db8:100::7]:4000", "x"], nowhere6(7);
        connected_udp_then_elsewhere: ["udp-elsewhere", "198.51.100.9:4000", "198.51.100.7:4000"], nowhere4(7);
        connected_udp_then_elsewhere_by_ipv6: ["udp-elsewhere", "[2001:db8:100::9]:4000", "[2001:db8:100::7]:4000"], nowhere6(7);
        many_datagrams_by_one_call: ["udp-many", "198.51.100.7:4000", "5"], nowhere4(7);
        many_datagrams_by_one_call_by_ipv6: ["udp-many", "[2001:db8:100::7]:4000", "5"], nowhere6(7);
        quic: ["udp", "198.51.100.7:443", "x"], nowhere4(7);
        quic_by_ipv6: ["udp", "[2001:db8:100::7]:443", "x"], nowhere6(7);
        io_uring: ["udp-ring", "198.51.100.7:4000"], nowhere4(7);
        io_uring_by_ipv6: ["udp-ring", "[2001:db8:100::7]:4000"], nowhere6(7);
        datagrams_that_the_device_cuts: ["udp-segments", "198.51.100.7:4000"], nowhere4(7);
        datagrams_that_the_device_cuts_by_ipv6: ["udp-segments", "[2001:db8:100::7]:4000"], nowhere6(7);
        a_datagram_without_a_copy: ["udp-zerocopy", "198.51.100.7:4000"], nowhere4(7);
        a_datagram_without_a_copy_by_ipv6: ["udp-zerocopy", "[2001:db8:100::7]:4000"], nowhere6(7);
        a_datagram_from_a_file: ["udp-sendfile", "198.51.100.7:4000"], nowhere4(7);
        a_datagram_from_a_file_by_ipv6: ["udp-sendfile", "[2001:db8:100::7]:4000"], nowhere6(7);
        a_datagram_from_a_pipe: ["udp-splice", "198.51.100.7:4000"], nowhere4(7);
        a_datagram_from_a_pipe_by_ipv6: ["udp-splice", "[2001:db8:100::7]:4000"], nowhere6(7);
        tcp: ["tcp", "198.51.100.7:8443"], nowhere4(7);
        tcp_by_ipv6: ["tcp", "[2001:db8:100::7]:8443"], nowhere6(7);
        tcp_to_a_mapped_address: ["tcp", "[::ffff:198.51.100.7]:8443"], nowhere4(7);
        tcp_from_a_port_of_ones_choice: ["tcp-from", "4321", "198.51.100.7:8443"], nowhere4(7);
        tcp_fast_open: ["tcp-fastopen", "198.51.100.7:8443"], nowhere4(7);
        tcp_fast_open_by_ipv6: ["tcp-fastopen", "[2001:db8:100::7]:8443"], nowhere6(7);
        multipath_tcp: ["tcp-multipath", "198.51.100.7:8443"], nowhere4(7);
        multipath_tcp_by_ipv6: ["tcp-multipath", "[2001:db8:100::7]:8443"], nowhere6(7);
        tcp_by_io_uring: ["tcp-ring", "198.51.100.7:8443"], nowhere4(7);
        tcp_by_io_uring_by_ipv6: ["tcp-ring", "[2001:db8:100::7]:8443"], nowhere6(7);
        a_header_of_ones_own: ["raw-header", "10.1.1.5", "198.51.100.7", "4000"], nowhere4(7);
        an_ipv6_header_of_ones_own: ["raw-header", "fd00:1:1::5", "2001:db8:100::7", "4000"], nowhere6(7);
    }
}

mod where_nobody_listens {
    use super::*;

    each! { refused:
        tcp_to_any_port_of_a_network: ["tcp", "198.51.100.17:9443"], nowhere4(17);
        tcp_to_any_port_of_an_ipv6_network: ["tcp", "[2001:db8:100::11]:9443"], nowhere6(0x11);
        encrypted_dns: ["tcp", "198.51.100.7:853"], nowhere4(7);
        encrypted_dns_by_ipv6: ["tcp", "[2001:db8:100::7]:853"], nowhere6(7);
    }
}

mod of_the_node {
    use super::*;

    each! { by_host:
        udp: ["udp", "198.51.100.7:4000", "x"], nowhere4(7);
        udp_by_ipv6: ["udp", "[2001:db8:100::7]:4000", "x"], nowhere6(7);
        udp_to_a_mapped_address: ["udp", "[::ffff:198.51.100.7]:4000", "x"], nowhere4(7);
        udp_to_a_network: ["udp", "198.51.100.9:4000", "x"], nowhere4(9);
        udp_to_any_port_of_an_ipv6_network: ["udp", "[2001:db8:100::11]:9", "x"], nowhere6(0x11);
        connected_udp: ["udp-connected", "198.51.100.7:4000", "x"], nowhere4(7);
        connected_udp_by_ipv6: ["udp-connected", "[2001:db8:100::7]:4000", "x"], nowhere6(7);
        connected_udp_then_elsewhere: ["udp-elsewhere", "198.51.100.9:4000", "198.51.100.7:4000"], nowhere4(7);
        many_datagrams_by_one_call: ["udp-many", "198.51.100.7:4000", "5"], nowhere4(7);
        quic: ["udp", "198.51.100.7:443", "x"], nowhere4(7);
        io_uring: ["udp-ring", "198.51.100.7:4000"], nowhere4(7);
        io_uring_by_ipv6: ["udp-ring", "[2001:db8:100::7]:4000"], nowhere6(7);
        datagrams_that_the_device_cuts: ["udp-segments", "198.51.100.7:4000"], nowhere4(7);
        a_datagram_without_a_copy: ["udp-zerocopy", "198.51.100.7:4000"], nowhere4(7);
        a_datagram_from_a_file: ["udp-sendfile", "198.51.100.7:4000"], nowhere4(7);
        a_datagram_from_a_pipe: ["udp-splice", "198.51.100.7:4000"], nowhere4(7);
        tcp: ["tcp", "198.51.100.7:8443"], nowhere4(7);
        tcp_by_ipv6: ["tcp", "[2001:db8:100::7]:8443"], nowhere6(7);
        tcp_fast_open: ["tcp-fastopen", "198.51.100.7:8443"], nowhere4(7);
        multipath_tcp: ["tcp-multipath", "198.51.100.7:8443"], nowhere4(7);
        tcp_by_io_uring: ["tcp-ring", "198.51.100.7:8443"], nowhere4(7);
    }
}

mod of_packet_sockets {
    use super::*;

    macro_rules! frames {
        ($($name:ident, $name6:ident: $kind:literal;)+) => {
            $(
                #[test]
                fn $name() -> Result<()> {
                    by_frame($kind, "10.1.1.5", nowhere4(7))
                }

                #[test]
                fn $name6() -> Result<()> {
                    by_frame($kind, "fd00:1:1::5", nowhere6(7))
                }
            )+
        };
    }

    frames! {
        a_whole_frame, a_whole_ipv6_frame: "frame";
        a_cooked_frame, a_cooked_ipv6_frame: "frame-cooked";
        a_frame_past_the_queue, an_ipv6_frame_past_the_queue: "frame-unqueued";
        a_frame_from_shared_memory, an_ipv6_frame_from_shared_memory: "frame-ring";
        a_frame_by_af_xdp, an_ipv6_frame_by_af_xdp: "frame-xdp";
        a_frame_that_is_cut_into_datagrams, an_ipv6_frame_that_is_cut_into_datagrams: "frame-segments";
    }
}
