//! Packets to where they could go, if they were sound; and fragments and options, which are not
//! read.

use egress_common::verdict::DropReason;

use super::{Case, denials};
use crate::{
    frame::{
        SYN, TCP, UDP, at, datagram, icmp, ip, octets, patched, segment, syn, udp, with_options,
    },
    scene::{GATEWAY4, GATEWAY6, PROXY, RESOLVER},
};

pub(super) fn cases() -> Vec<Case> {
    let mut cases = fragments_and_options();
    cases.extend(headers4());
    cases.extend(headers6());
    cases.extend(transport());
    cases
}

fn fragments_and_options() -> Vec<Case> {
    let fragment4 = |field: u16| patched(syn4(), at::FRAGMENT4, &field.to_be_bytes());
    let fragment6 = |field: u16| {
        let [high, low] = field.to_be_bytes();
        let header = [TCP, 0, high, low, 0, 0, 0, 1];
        ip(44, GATEWAY6, &[&header, &segment(PROXY, SYN)[..]].concat())
    };
    let reasoned = [
        (
            DropReason::Fragment,
            "first fragment, v4",
            fragment4(0x2000),
        ),
        (
            DropReason::Fragment,
            "later fragment, v4",
            fragment4(0x2010),
        ),
        (DropReason::Fragment, "last fragment, v4", fragment4(0x0010)),
        (DropReason::Fragment, "first fragment, v6", fragment6(1)),
        (DropReason::Fragment, "later fragment, v6", fragment6(0x81)),
        (DropReason::Fragment, "atomic fragment, v6", fragment6(0)),
        (
            DropReason::IpOptions,
            "SYN behind IP options",
            with_options(TCP, GATEWAY4, &segment(PROXY, SYN)),
        ),
        (
            DropReason::IpOptions,
            "query behind IP options",
            with_options(UDP, GATEWAY4, &datagram(RESOLVER)),
        ),
        (
            DropReason::IpOptions,
            "header longer than the packet",
            patched(syn4(), at::VERSION, &[0x4f]),
        ),
    ];
    denials(reasoned)
}

fn headers4() -> Vec<Case> {
    use DropReason::{Malformed, Truncated};
    let total = |length: u16| patched(syn4(), at::TOTAL4, &length.to_be_bytes());
    let reserved = patched(syn4(), at::FRAGMENT4, &[0x80, 0]);
    denials([
        (
            Malformed,
            "version 5, v4",
            patched(syn4(), at::VERSION, &[0x55]),
        ),
        (
            Malformed,
            "version 0, v4",
            patched(syn4(), at::VERSION, &[0x05]),
        ),
        (
            Malformed,
            "header of 16 bytes",
            patched(syn4(), at::VERSION, &[0x44]),
        ),
        (
            Malformed,
            "header of no bytes",
            patched(syn4(), at::VERSION, &[0x40]),
        ),
        (Malformed, "total longer than the frame", total(41)),
        (Malformed, "total of 65,535", total(u16::MAX)),
        (Malformed, "total of nothing", total(0)),
        (Malformed, "total shorter than the header", total(19)),
        (Truncated, "total of the header alone", total(20)),
        (Truncated, "total that cuts TCP's header", total(39)),
        (Malformed, "reserved bit", reserved),
    ])
}

fn headers6() -> Vec<Case> {
    use DropReason::{Malformed, Truncated};
    let payload = |length: u16| patched(syn6(), at::PAYLOAD6, &length.to_be_bytes());
    let mapped = octets("::ffff:10.1.0.5");
    let from_mapped = patched(syn6(), at::SOURCE6, &mapped);
    let to_mapped = patched(syn6(), at::DESTINATION6, &mapped);
    denials([
        (
            Malformed,
            "version 5, v6",
            patched(syn6(), at::VERSION, &[0x50]),
        ),
        (Malformed, "payload longer than the frame", payload(21)),
        (Malformed, "payload of 65,535", payload(u16::MAX)),
        (Truncated, "payload of nothing", payload(0)),
        (Truncated, "payload that cuts TCP's header", payload(19)),
        (Malformed, "from a mapped address", from_mapped),
        (Malformed, "to a mapped address", to_mapped),
    ])
}

fn transport() -> Vec<Case> {
    use DropReason::{Malformed, Truncated};
    let offset = |words: u8| patched(syn4(), at::TRANSPORT4 + 12, &[words << 4]);
    let length = |bytes: u8| patched(query(), at::TRANSPORT4 + 5, &[bytes]);
    let cut4 = |total| patched(query(), at::TOTAL4, &[0, total]);
    let cut6 = patched(udp(GATEWAY6, RESOLVER), at::PAYLOAD6, &[0, 7]);
    let short = patched(icmp(GATEWAY4, 8), at::TOTAL4, &[0, 27]);
    let offset6 = patched(syn6(), at::TRANSPORT6 + 12, &[0x40]);
    denials([
        (Malformed, "TCP header of 16 bytes, v4", offset(4)),
        (Malformed, "TCP header of 16 bytes, v6", offset6),
        (Malformed, "TCP header longer than the packet", offset(6)),
        (Malformed, "datagram shorter than the packet", length(11)),
        (Malformed, "datagram longer than the packet", length(13)),
        (Malformed, "datagram of no length", length(0)),
        (Truncated, "total that cuts UDP's header", cut4(27)),
        (Truncated, "payload that cuts UDP's header", cut6),
        (Truncated, "total that cuts ICMP's header", short),
    ])
}

fn syn4() -> Vec<u8> {
    syn(GATEWAY4, PROXY)
}

fn syn6() -> Vec<u8> {
    syn(GATEWAY6, PROXY)
}

fn query() -> Vec<u8> {
    udp(GATEWAY4, RESOLVER)
}
