//! ARP and NDP: the endpoint's own with its next hop, and all other.

use egress_common::verdict::DropReason;

use super::{Case, allow, denials};
use crate::{
    frame::{BROADCAST, arp, at, link_layer_option, ndp, octets, patched, router_solicitation},
    scene::{
        FOREIGN_MAC, MAC, NEIGHBOUR4, NEIGHBOUR6, NEXT_HOP_MAC, NEXT_HOP4, NEXT_HOP6,
        OWN_LINK_LOCAL, OWN4, OWN6,
    },
};

const NO_MAC: [u8; 6] = [0; 6];
const ALL_NODES: &str = "ff02::1";
/// The groups that solicitations of the next hop, of the endpoint and of its neighbour go to.
const GROUP_OF_NEXT_HOP: &str = "ff02::1:ff00:1";
const GROUP_OF_OWN: &str = "ff02::1:ff00:5";
const GROUP_OF_NEIGHBOUR: &str = "ff02::1:ff00:6";

const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;

/// A nonce of six bytes (RFC 7527).
const NONCE: [u8; 8] = [14, 1, 1, 2, 3, 4, 5, 6];

pub(super) fn allowed() -> Vec<Case> {
    let source = link_layer_option(1, MAC);
    let target = link_layer_option(2, MAC);
    let both = [&source[..], &NONCE].concat();
    vec![
        allow("ARP for the next hop", ask(NEXT_HOP4)),
        allow(
            "ARP for the next hop, to it",
            arp(1, NEXT_HOP4, NO_MAC, NEXT_HOP_MAC),
        ),
        allow(
            "ARP for the next hop, padded",
            [ask(NEXT_HOP4), vec![0; 18]].concat(),
        ),
        allow("ARP's answer", answer()),
        allow("NS for the next hop", solicit(&source)),
        allow("NS for the next hop, without option", solicit(&[])),
        allow("NS for the next hop, with a nonce", solicit(&both)),
        allow(
            "NS for the next hop, to it",
            ndp(SOLICITATION, OWN_LINK_LOCAL, NEXT_HOP6, NEXT_HOP6, &source),
        ),
        allow("DAD", ndp(SOLICITATION, "::", GROUP_OF_OWN, OWN6, &NONCE)),
        allow(
            "NA to the next hop",
            ndp(ADVERTISEMENT, OWN_LINK_LOCAL, NEXT_HOP6, OWN6, &target),
        ),
        allow(
            "NA to all",
            ndp(ADVERTISEMENT, OWN6, ALL_NODES, OWN6, &target),
        ),
        allow("RS", router_solicitation(OWN_LINK_LOCAL, &source)),
        allow("RS of nobody yet", router_solicitation("::", &[])),
    ]
}

pub(super) fn denied() -> Vec<Case> {
    let mut cases = arp_denied();
    cases.extend(ndp_foreign());
    cases.extend(ndp_forms());
    cases
}

fn arp_denied() -> Vec<Case> {
    use DropReason::{Arp, SpoofedMac};
    let sender = at::ARP + 8;
    let sender_address = at::ARP + 14;
    let foreign = octets(NEIGHBOUR4);
    denials([
        (Arp, "ARP for a neighbour", ask(NEIGHBOUR4)),
        (Arp, "ARP for oneself", ask(OWN4)),
        (
            Arp,
            "ARP to a neighbour's MAC",
            arp(1, NEXT_HOP4, NO_MAC, FOREIGN_MAC),
        ),
        (
            Arp,
            "ARP as a neighbour",
            patched(ask(NEXT_HOP4), sender_address, &foreign),
        ),
        (
            Arp,
            "ARP with another MAC inside",
            patched(ask(NEXT_HOP4), sender, &FOREIGN_MAC),
        ),
        (
            Arp,
            "ARP that carries more",
            [ask(NEXT_HOP4), vec![0; 19]].concat(),
        ),
        (
            SpoofedMac,
            "ARP from another MAC",
            patched(ask(NEXT_HOP4), at::MAC_FROM, &FOREIGN_MAC),
        ),
        (
            Arp,
            "ARP's answer as a neighbour",
            patched(answer(), sender_address, &foreign),
        ),
        (
            Arp,
            "ARP's answer to all",
            arp(2, NEXT_HOP4, NEXT_HOP_MAC, BROADCAST),
        ),
        (
            Arp,
            "ARP's answer for another MAC",
            arp(2, NEXT_HOP4, FOREIGN_MAC, NEXT_HOP_MAC),
        ),
        (
            Arp,
            "reverse ARP's operation",
            arp(3, NEXT_HOP4, NO_MAC, NEXT_HOP_MAC),
        ),
        (
            Arp,
            "ARP of another hardware",
            patched(ask(NEXT_HOP4), at::ARP, &[0, 6]),
        ),
        (
            Arp,
            "ARP for another protocol",
            patched(ask(NEXT_HOP4), at::ARP + 2, &[0x86, 0xdd]),
        ),
        (
            Arp,
            "ARP of other lengths",
            patched(ask(NEXT_HOP4), at::ARP + 4, &[6, 16]),
        ),
    ])
}

fn ndp_foreign() -> Vec<Case> {
    use DropReason::{Ndp, SpoofedMac, WrongNextHop};
    let ns = |from, to, target| ndp(SOLICITATION, from, to, target, &[]);
    let na = |from, to, target| ndp(ADVERTISEMENT, from, to, target, &[]);
    let spoofed = patched(solicit(&[]), at::MAC_FROM, &FOREIGN_MAC);
    let elsewhere = patched(
        ndp(SOLICITATION, OWN_LINK_LOCAL, NEXT_HOP6, NEXT_HOP6, &[]),
        at::MAC_TO,
        &FOREIGN_MAC,
    );
    denials([
        (
            Ndp,
            "NS for a neighbour",
            ns(OWN6, GROUP_OF_NEIGHBOUR, NEIGHBOUR6),
        ),
        (
            Ndp,
            "NS as a neighbour",
            ns(NEIGHBOUR6, GROUP_OF_NEXT_HOP, NEXT_HOP6),
        ),
        (
            Ndp,
            "NS to another's group",
            ns(OWN6, GROUP_OF_OWN, NEXT_HOP6),
        ),
        (
            Ndp,
            "DAD for a neighbour's address",
            ns("::", GROUP_OF_NEIGHBOUR, NEIGHBOUR6),
        ),
        (Ndp, "DAD to all", ns("::", ALL_NODES, OWN6)),
        (
            Ndp,
            "NA for a neighbour's address",
            na(OWN6, ALL_NODES, NEIGHBOUR6),
        ),
        (
            Ndp,
            "NA for the next hop's address",
            na(OWN6, ALL_NODES, NEXT_HOP6),
        ),
        (Ndp, "NA as a neighbour", na(NEIGHBOUR6, ALL_NODES, OWN6)),
        (Ndp, "NA to a neighbour", na(OWN6, NEIGHBOUR6, OWN6)),
        (
            Ndp,
            "NA for a mapped address",
            na(OWN6, ALL_NODES, "::ffff:10.1.0.5"),
        ),
        (
            Ndp,
            "NS for a mapped address",
            ns(OWN6, "ff02::1:ff01:1", "::ffff:10.1.0.1"),
        ),
        (
            Ndp,
            "RS as a neighbour",
            router_solicitation(NEIGHBOUR6, &[]),
        ),
        (Ndp, "RA", ndp(134, OWN_LINK_LOCAL, ALL_NODES, "::", &[])),
        (
            Ndp,
            "redirect",
            ndp(137, OWN_LINK_LOCAL, NEXT_HOP6, OWN6, &[0; 16]),
        ),
        (
            WrongNextHop,
            "NS to another group's MAC",
            patched(solicit(&[]), at::MAC_TO, &[0x33, 0x33, 0, 0, 0, 1]),
        ),
        (
            WrongNextHop,
            "NA to the next hop, to a group's MAC",
            patched(
                na(OWN6, NEXT_HOP6, OWN6),
                at::MAC_TO,
                &[0x33, 0x33, 0, 0, 0, 1],
            ),
        ),
        (SpoofedMac, "NS from another MAC", spoofed),
        (WrongNextHop, "NS to a neighbour's MAC", elsewhere),
    ])
}

fn ndp_forms() -> Vec<Case> {
    use DropReason::Ndp;
    let foreign = link_layer_option(1, FOREIGN_MAC);
    let own = link_layer_option(1, MAC);
    let second = |first: &[u8]| solicit(&[first, &foreign].concat());
    let prefix = [&[3, 1], &MAC[..]].concat();
    let padded = patched(solicit(&own), at::PAYLOAD6, &[0, 28]);
    denials([
        (Ndp, "NS with another MAC", solicit(&foreign)),
        (Ndp, "NS with another MAC behind its own", second(&own)),
        (Ndp, "NS with another MAC behind a nonce", second(&NONCE)),
        (Ndp, "NS with another option", solicit(&prefix)),
        (
            Ndp,
            "NS with three options",
            solicit(&[&own[..], &NONCE, &NONCE].concat()),
        ),
        (Ndp, "NS with half an option", solicit(&own[..4])),
        (Ndp, "NS with half an option, padded", padded),
        (
            Ndp,
            "NS that carries more",
            [solicit(&own), vec![0; 8]].concat(),
        ),
        (
            Ndp,
            "NS that was forwarded",
            patched(solicit(&[]), at::HOP_LIMIT6, &[254]),
        ),
        (
            Ndp,
            "NS with a code",
            patched(solicit(&[]), at::TRANSPORT6 + 1, &[1]),
        ),
        (
            Ndp,
            "NS without a target",
            patched(solicit(&[]), at::PAYLOAD6, &[0, 8]),
        ),
        (
            Ndp,
            "RS with another MAC",
            router_solicitation(OWN_LINK_LOCAL, &foreign),
        ),
    ])
}

fn ask(target: &str) -> Vec<u8> {
    arp(1, target, NO_MAC, BROADCAST)
}

fn answer() -> Vec<u8> {
    arp(2, NEXT_HOP4, NEXT_HOP_MAC, NEXT_HOP_MAC)
}

fn solicit(options: &[u8]) -> Vec<u8> {
    ndp(
        SOLICITATION,
        OWN_LINK_LOCAL,
        GROUP_OF_NEXT_HOP,
        NEXT_HOP6,
        options,
    )
}
