//! Sound packets: what they carry, and where to.

use egress_common::verdict::DropReason;

use super::{Case, allow, denials, deny};
use crate::{
    frame::{ACK, RST, SYN, TCP, UDP, at, icmp, ip, patched, segment, syn, tcp, udp},
    scene::{GATEWAY4, GATEWAY6, NODE4, NODE6, PROXY, RESOLVER},
};

const OUTSIDE4: &str = "198.51.100.7";
const OUTSIDE6: &str = "2001:db8::7";
const CLUSTER4: &str = "10.2.0.7";
const CLUSTER6: &str = "fd00:2::7";
const DIRECT4: &str = "10.9.0.9";
const DIRECT6: &str = "fd00:9::9";

pub(super) fn allowed() -> Vec<Case> {
    let padded = [syn(GATEWAY4, PROXY), vec![0; 6]].concat();
    let unfragmented = patched(syn(GATEWAY4, PROXY), at::FRAGMENT4, &[0x40, 0]);
    vec![
        allow("SYN to the proxy, v4", syn(GATEWAY4, PROXY)),
        allow("SYN to the proxy, v6", syn(GATEWAY6, PROXY)),
        allow("SYN to the proxy, padded", padded),
        allow("SYN to the proxy, don't fragment", unfragmented),
        allow("ACK to the proxy, v4", tcp(GATEWAY4, PROXY, ACK)),
        allow("ACK to the proxy, v6", tcp(GATEWAY6, PROXY, ACK)),
        allow("query to the resolver, v4", udp(GATEWAY4, RESOLVER)),
        allow("query to the resolver, v6", udp(GATEWAY6, RESOLVER)),
        allow("SYN to the resolver, v4", syn(GATEWAY4, RESOLVER)),
        allow("SYN to the resolver, v6", syn(GATEWAY6, RESOLVER)),
        allow("direct TCP, v4", syn(DIRECT4, 5_432)),
        allow("direct TCP, v6", syn(DIRECT6, 5_432)),
        allow("direct TCP, ACK", tcp(DIRECT4, 5_432, ACK)),
        allow("direct network, any port, v4", udp("10.8.3.4", 9_999)),
        allow("direct network, its port, v6", syn("fd00:8::4", 9_000)),
    ]
}

pub(super) fn denied() -> Vec<Case> {
    let mut cases = transport();
    cases.extend(places());
    cases.extend(numbers());
    cases
}

fn transport() -> Vec<Case> {
    use DropReason::{
        DirectTcp, DirectUdp, EncryptedDns, ForeignDns, Icmp, IcmpError, NoFlow, Quic,
    };
    let mut cases = Vec::new();
    for to in [OUTSIDE4, OUTSIDE6] {
        cases.extend([
            deny(DirectTcp, format!("SYN to {to}"), syn(to, 443)),
            deny(NoFlow, format!("ACK to {to}"), tcp(to, 443, ACK)),
            deny(NoFlow, format!("SYN-ACK to {to}"), tcp(to, 443, SYN | ACK)),
            deny(NoFlow, format!("RST to {to}"), tcp(to, 443, RST)),
            deny(DirectUdp, format!("datagram to {to}"), udp(to, 4_000)),
            deny(Quic, format!("QUIC to {to}"), udp(to, 443)),
            deny(ForeignDns, format!("query to {to}"), udp(to, 53)),
            deny(ForeignDns, format!("query by TCP to {to}"), syn(to, 53)),
            deny(EncryptedDns, format!("DNS over TLS to {to}"), syn(to, 853)),
            deny(EncryptedDns, format!("DNS over QUIC to {to}"), udp(to, 853)),
        ]);
    }
    cases.extend([
        deny(Icmp, "echo, v4", icmp(OUTSIDE4, 8)),
        deny(Icmp, "echo, v6", icmp(OUTSIDE6, 128)),
        deny(Icmp, "echo reply, v4", icmp(OUTSIDE4, 0)),
        deny(Icmp, "redirect, v4", icmp(OUTSIDE4, 5)),
        deny(IcmpError, "unreachable, v4", icmp(OUTSIDE4, 3)),
        deny(IcmpError, "unreachable, v6", icmp(OUTSIDE6, 1)),
        deny(IcmpError, "packet too big, v6", icmp(OUTSIDE6, 2)),
    ]);
    cases
}

fn places() -> Vec<Case> {
    use DropReason::{
        Broadcast, Cluster, GatewayPort, Icmp, LinkLocal, Loopback, MetadataService, Multicast,
        Node, Unroutable,
    };
    let reasoned = [
        (GatewayPort, "SYN to another port, v4", syn(GATEWAY4, 22)),
        (GatewayPort, "SYN to another port, v6", syn(GATEWAY6, 22)),
        (GatewayPort, "UDP to the proxy's port", udp(GATEWAY4, PROXY)),
        (GatewayPort, "query to port 53 itself", udp(GATEWAY4, 53)),
        (GatewayPort, "echo to the gateway, v4", icmp(GATEWAY4, 8)),
        (GatewayPort, "echo to the gateway, v6", icmp(GATEWAY6, 128)),
        (Node, "SYN to the node, v4", syn(NODE4, 10_250)),
        (Node, "SYN to the node, v6", syn(NODE6, 10_250)),
        (Node, "UDP to the node", udp(NODE4, 10_250)),
        (Node, "ACK to the node", tcp(NODE4, 40_000, ACK)),
        (Icmp, "echo to the node", icmp(NODE4, 8)),
        (Cluster, "SYN to the cluster, v4", syn(CLUSTER4, 80)),
        (Cluster, "SYN to the cluster, v6", syn(CLUSTER6, 80)),
        (Cluster, "UDP to the cluster", udp(CLUSTER4, 80)),
        (Cluster, "direct host, another port", syn(DIRECT4, 5_433)),
        (Cluster, "direct host, UDP", udp(DIRECT4, 5_432)),
        (Cluster, "direct network, another port", syn("fd00:8::4", 1)),
        (Cluster, "direct network, TCP", syn("10.8.3.4", 9_999)),
        (
            Cluster,
            "a direct host of another set",
            syn("10.9.0.10", 5_432),
        ),
        (MetadataService, "metadata, v4", syn("169.254.169.254", 80)),
        (MetadataService, "metadata, v6", syn("fd00:ec2::254", 80)),
        (MetadataService, "metadata, UDP", udp("100.100.100.200", 80)),
        (LinkLocal, "link-local, v4", syn("169.254.7.7", 80)),
        (LinkLocal, "link-local, v6", syn("fe80::7", 80)),
        (Multicast, "multicast, v4", udp("224.0.0.251", 5_353)),
        (Multicast, "multicast, v6", udp("ff02::fb", 5_353)),
        (Broadcast, "broadcast", udp("255.255.255.255", 67)),
        (Unroutable, "reserved", syn("240.0.0.1", 80)),
        (Unroutable, "this network", syn("0.1.2.3", 80)),
        (Loopback, "loopback, v4", syn("127.0.0.1", 80)),
        (Loopback, "loopback, v6", syn("::1", 80)),
        (Loopback, "unspecified, v4", syn("0.0.0.0", 80)),
        (Loopback, "unspecified, v6", syn("::", 80)),
    ];
    denials(reasoned)
}

/// By the number of the IP protocol, whatever follows.
fn numbers() -> Vec<Case> {
    use DropReason::{ExtensionHeader, GroupManagement, OtherProtocol, Tunnel};
    let mut cases = Vec::new();
    let mut add = |reason, to: &str, numbers: &[u8]| {
        cases.extend(numbers.iter().map(|number| {
            let name = format!("protocol {number} to {to}");
            deny(reason, name, ip(*number, to, &[0; 24]))
        }));
    };
    let both = [4, 41, 47, 50, 55, 94, 97, 98, 115, 137, 143];
    add(Tunnel, OUTSIDE4, &both);
    add(Tunnel, OUTSIDE4, &[51]);
    add(Tunnel, OUTSIDE6, &both);
    // HOPOPT, the other family's ICMP, DCCP, SCTP, UDP-Lite, one reserved.
    add(OtherProtocol, OUTSIDE4, &[0, 33, 58, 132, 136, 255]);
    add(OtherProtocol, OUTSIDE6, &[1, 33, 132, 136, 255]);
    add(OtherProtocol, GATEWAY4, &[58, 132]);
    add(
        ExtensionHeader,
        OUTSIDE6,
        &[0, 43, 51, 59, 60, 135, 139, 140, 253, 254],
    );
    add(GroupManagement, OUTSIDE4, &[2]);
    let mld = [58, 0, 5, 2, 0, 0, 1, 0, 143, 0, 0, 0, 0, 0, 0, 0];
    cases.push(deny(GroupManagement, "MLD report", ip(0, "ff02::16", &mld)));
    let hidden = |protocol| [&[protocol, 0, 1, 4, 0, 0, 0, 0], &segment(PROXY, SYN)[..]].concat();
    let behind = ip(60, GATEWAY6, &hidden(TCP));
    cases.push(deny(
        ExtensionHeader,
        "SYN behind destination options",
        behind,
    ));
    let behind = ip(0, GATEWAY6, &hidden(UDP));
    cases.push(deny(
        ExtensionHeader,
        "UDP behind hop-by-hop options",
        behind,
    ));
    cases
}
