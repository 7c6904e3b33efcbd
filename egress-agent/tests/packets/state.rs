//! What depends on the maps rather than on the packet: whose it is, what came before it.

use std::collections::BTreeMap;

use egress_common::{
    endpoint::{Endpoint, HAS_LINK, Link, MODE_AUDIT, MODE_ENFORCE, PRIVATE_LOOPBACK},
    maps,
    verdict::DropReason,
};

use crate::{
    bench::{Bench, endpoint, put_in_cgroup},
    cgroup::Inside,
    frame::{ACK, SYN, arp, at, octets, patched, syn, tcp},
    kernel::{Counts, INTERFACE, Kernel},
    scene::{self, GATEWAY4, GATEWAY6, ID, NEXT_HOP_MAC, NEXT_HOP4, NODE4, OWN4, PROXY},
};

const OUTSIDE: &str = "198.51.100.7";
/// The port of the frames' sources.
const OWN_PORT: u16 = 40_000;

fn counts<const N: usize>(wanted: [((u32, DropReason), u64); N]) -> Counts {
    let numbered = wanted.map(|((id, reason), count)| ((id, reason as u8), count));
    BTreeMap::from(numbered)
}

fn of_nobody(count: u64) -> Counts {
    counts([((0, DropReason::UnknownEndpoint), count)])
}

/// aya-log's way from a program to whoever polls.
#[test]
fn an_unknown_interface_is_diagnosed() {
    let mut kernel = Kernel::empty();
    let said = Said::default();
    let mut log = kernel.log(said.clone());
    kernel.link_out(&syn(OUTSIDE, 443));
    log.flush();
    let said = said.0.lock().unwrap().join("\n");
    assert!(said.contains("interface 1: no link"), "{said}");
}

/// What was logged.
#[derive(Clone, Default)]
struct Said(std::sync::Arc<std::sync::Mutex<Vec<String>>>);

impl log::Log for Said {
    fn enabled(&self, _metadata: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        self.0.lock().unwrap().push(record.args().to_string());
    }

    fn flush(&self) {}
}

#[test]
fn an_unknown_interface_lets_nothing_pass() {
    let kernel = Kernel::empty();
    for frame in [
        syn(GATEWAY4, PROXY),
        syn(GATEWAY6, PROXY),
        arp(1, NEXT_HOP4, [0; 6], NEXT_HOP_MAC),
    ] {
        assert!(!kernel.link_out(&frame));
    }
    assert_eq!(kernel.all_counts(), of_nobody(3));
}

#[test]
fn a_link_without_its_endpoint_lets_nothing_pass() {
    let mut kernel = Kernel::with(endpoint(MODE_AUDIT, HAS_LINK));
    // An empty slot, and an id beyond the table.
    for id in [2, u32::MAX] {
        let link = Link {
            endpoint: id,
            ..scene::link()
        };
        kernel.insert(maps::LINKS, INTERFACE, link);
        assert!(!kernel.link_out(&syn(GATEWAY4, PROXY)), "{id}");
    }
    kernel.insert(maps::LINKS, INTERFACE, scene::link());
    kernel.set_endpoint(Endpoint::NONE);
    assert!(!kernel.link_out(&syn(GATEWAY4, PROXY)));
    assert_eq!(kernel.all_counts(), of_nobody(3));
}

#[test]
fn a_socket_of_nobody_sends_nothing() {
    let kernel = Kernel::with(endpoint(MODE_AUDIT, 0));
    assert!(!kernel.skb_egress(&syn(GATEWAY4, PROXY)));
    assert_eq!(kernel.all_counts(), of_nobody(1));
}

#[test]
fn a_cgroup_without_its_endpoint_sends_nothing() {
    let inside = Inside::enter();
    let mut kernel = Kernel::with(Endpoint::NONE);
    put_in_cgroup(&mut kernel, &inside);
    assert!(!kernel.skb_egress(&syn(GATEWAY4, PROXY)));
    assert_eq!(kernel.all_counts(), of_nobody(1));
}

/// What a link will judge is not counted twice, and its own loopback is the endpoint's affair.
#[test]
fn flags_change_what_a_sockets_egress_does() {
    let inside = Inside::enter();
    let mut kernel = Kernel::with(endpoint(MODE_ENFORCE, HAS_LINK));
    put_in_cgroup(&mut kernel, &inside);
    assert!(kernel.skb_egress(&syn(GATEWAY4, PROXY)));
    assert_eq!(kernel.all_counts(), Counts::new());
    assert!(!kernel.skb_egress(&syn(OUTSIDE, 443)));
    let denied = counts([((ID, DropReason::DirectTcp), 1)]);
    assert_eq!(kernel.all_counts(), denied);
    // The test run is on the loopback device.
    kernel.set_endpoint(endpoint(MODE_ENFORCE, PRIVATE_LOOPBACK));
    assert!(kernel.skb_egress(&syn(OUTSIDE, 443)));
    assert_eq!(kernel.all_counts(), denied);
}

/// A frame to the endpoint: source and destination change places.
fn inbound(from: &str, port: u16, flags: u8) -> Vec<u8> {
    let frame = patched(tcp(OWN4, OWN_PORT, flags), at::SOURCE4, &octets(from));
    patched(frame, at::TRANSPORT4, &port.to_be_bytes())
}

#[test]
fn the_node_opens_a_flow_and_is_answered() {
    const PORT: u16 = 55_555;
    let kernel = Bench::link(MODE_ENFORCE).kernel;
    let answer = tcp(NODE4, PORT, SYN | ACK);
    assert!(!kernel.link_out(&answer), "before there is a flow");
    // No SYN, so no flow.
    kernel.link_in(&inbound(NODE4, PORT, ACK));
    assert!(!kernel.link_out(&answer), "of no flow");
    // The test run's frames come from port 40,000: so the flow's local port is that.
    kernel.link_in(&patched(
        inbound(NODE4, PORT, SYN),
        at::TRANSPORT4 + 2,
        &OWN_PORT.to_be_bytes(),
    ));
    assert!(kernel.link_out(&answer), "on the flow");
    assert!(
        !kernel.link_out(&tcp(NODE4, PORT, SYN)),
        "back by a flow of its own"
    );
    assert!(
        !kernel.link_out(&tcp(NODE4, PORT + 1, ACK)),
        "of another port"
    );
    let wanted = [((ID, DropReason::Node), 4)];
    let mut wanted = counts(wanted);
    wanted.insert((ID, 0), 1);
    assert_eq!(kernel.all_counts(), wanted);
}

#[test]
fn the_outside_and_the_gateway_open_no_flow() {
    let kernel = Bench::link(MODE_ENFORCE).kernel;
    for (from, port, reason) in [
        (OUTSIDE, 55_555, DropReason::NoFlow),
        (GATEWAY4, 55_555, DropReason::GatewayPort),
    ] {
        kernel.link_in(&inbound(from, port, SYN));
        assert!(!kernel.link_out(&tcp(from, port, SYN | ACK)), "{from}");
        assert_eq!(kernel.count(reason as u8), 1, "{from}");
    }
}

/// A denied packet gets no further, so each hook that denies counts another attempt.
#[test]
fn both_hooks_count_what_they_deny() {
    let inside = Inside::enter();
    let mut kernel = Kernel::with(endpoint(MODE_ENFORCE, HAS_LINK));
    put_in_cgroup(&mut kernel, &inside);
    assert!(!kernel.skb_egress(&syn(OUTSIDE, 443)));
    for _ in 0..3 {
        assert!(!kernel.link_out(&syn(OUTSIDE, 443)));
    }
    assert_eq!(
        kernel.all_counts(),
        counts([((ID, DropReason::DirectTcp), 4)])
    );
}

/// In Audit the link sees again what the socket's hook has counted and let pass.
#[test]
fn in_audit_a_packet_is_counted_once() {
    let inside = Inside::enter();
    let mut kernel = Kernel::with(endpoint(MODE_AUDIT, HAS_LINK));
    put_in_cgroup(&mut kernel, &inside);
    for _ in 0..3 {
        assert!(kernel.skb_egress(&syn(OUTSIDE, 443)));
        assert!(kernel.link_out(&syn(OUTSIDE, 443)));
    }
    assert_eq!(
        kernel.all_counts(),
        counts([((ID, DropReason::DirectTcp), 3)])
    );
}
