//! What reaches the gateway's sockets: what an endpoint's hook has let pass and published, and all
//! that opens nothing.

use egress_common::{
    endpoint::MODE_ENFORCE,
    origin::{Origin, Published},
    process::Process,
    verdict::{DropReason, Verdict},
};

use crate::{
    bench::{Bench, source},
    frame::{ACK, RST, SYN, TCP, UDP, datagram, icmp, ip, segment, syn, tcp, udp, with_options},
    kernel::{Counts, Kernel},
    scene::{GATEWAY4, GATEWAY6, ID, PROXY, RESOLVER, judge_frame},
    table,
};

const OUTSIDE: &str = "198.51.100.7";

/// What opens something with a service of the gateway's.
fn openings() -> Vec<Vec<u8>> {
    vec![
        syn(GATEWAY4, PROXY),
        syn(GATEWAY6, PROXY),
        syn(GATEWAY4, RESOLVER),
        syn(GATEWAY6, RESOLVER),
        udp(GATEWAY4, RESOLVER),
        udp(GATEWAY6, RESOLVER),
    ]
}

fn strangers(count: u64) -> Counts {
    Counts::from([((0, DropReason::NoEndpoint as u8), count)])
}

fn kernel() -> Kernel {
    Bench::link(MODE_ENFORCE).kernel
}

#[test]
fn a_stranger_opens_nothing() {
    let kernel = kernel();
    let mut frames = openings();
    frames.push(udp(GATEWAY4, PROXY));
    for (frame, count) in frames.iter().zip(1..) {
        assert!(!kernel.gateway_ingress(frame), "{frame:02x?}");
        assert_eq!(kernel.all_counts(), strangers(count), "{frame:02x?}");
    }
}

#[test]
fn an_endpoint_opens_what_its_link_has_let_pass() {
    let mut kernel = kernel();
    for frame in openings() {
        let (_, attempt) = judge_frame(&frame);
        kernel.forget_origin(&source(&attempt));
        assert!(!kernel.gateway_ingress(&frame), "before: {frame:02x?}");
        assert!(kernel.link_out(&frame), "{frame:02x?}");
        assert!(kernel.gateway_ingress(&frame), "after: {frame:02x?}");
    }
}

#[test]
fn what_a_link_denies_opens_nothing() {
    let kernel = kernel();
    let denied = |case: &table::Case| case.want != Verdict::Allow;
    for case in table::packets()
        .into_iter()
        .chain(table::frames())
        .filter(denied)
    {
        assert!(!kernel.link_out(&case.frame), "{}", case.name);
    }
    for frame in openings() {
        assert!(!kernel.gateway_ingress(&frame), "{frame:02x?}");
    }
}

/// Longer ago than a datagram may take.
#[test]
fn an_old_origin_opens_nothing() {
    let mut kernel = kernel();
    for (frame, count) in openings().iter().zip(1..) {
        let (_, attempt) = judge_frame(frame);
        let origin = Origin {
            process: Process::UNKNOWN,
            destination: attempt.destination,
            port: attempt.destination_port,
            protocol: attempt.protocol,
            flags: 0,
            endpoint: ID,
            published_ns: 1,
        };
        let published = Published {
            source: source(&attempt),
            reserved: 0,
            origin,
        };
        kernel.publish(published);
        assert!(!kernel.gateway_ingress(frame), "{frame:02x?}");
        assert_eq!(kernel.all_counts(), strangers(count), "{frame:02x?}");
    }
}

#[test]
fn what_opens_nothing_is_the_stacks_affair() {
    let kernel = kernel();
    for (name, frame) in [
        ("ACK", tcp(GATEWAY4, PROXY, ACK)),
        ("SYN-ACK", tcp(GATEWAY4, PROXY, SYN | ACK)),
        ("RST", tcp(GATEWAY6, RESOLVER, RST)),
        ("SYN to another port", syn(GATEWAY4, 22)),
        ("an upstream's answer", udp(OUTSIDE, 40_000)),
        ("an upstream's SYN-ACK", tcp(OUTSIDE, 40_000, SYN | ACK)),
        ("an upstream's ICMP", icmp(OUTSIDE, 3)),
        (
            "an upstream's options",
            with_options(TCP, OUTSIDE, &segment(40_000, ACK)),
        ),
    ] {
        assert!(kernel.gateway_ingress(&frame), "{name}");
    }
    assert_eq!(kernel.all_counts(), Counts::new());
}

/// The stack takes a connection behind IP options or extension headers; the programs do not read
/// what is there, and no endpoint sends it.
#[test]
fn a_stranger_opens_nothing_behind_options() {
    let kernel = kernel();
    let behind = |number: u8, protocol: u8, payload: &[u8]| {
        let header = [protocol, 0, 1, 4, 0, 0, 0, 0];
        ip(number, GATEWAY6, &[&header, payload].concat())
    };
    let frames = [
        with_options(TCP, GATEWAY4, &segment(PROXY, SYN)),
        with_options(UDP, GATEWAY4, &datagram(RESOLVER)),
        behind(0, TCP, &segment(PROXY, SYN)),
        behind(60, TCP, &segment(PROXY, SYN)),
        behind(60, UDP, &datagram(RESOLVER)),
    ];
    for (frame, count) in frames.iter().zip(1..) {
        assert!(!kernel.gateway_ingress(frame), "{frame:02x?}");
        assert_eq!(kernel.all_counts(), strangers(count), "{frame:02x?}");
    }
}
