//! The decision: one pure function for every hook and both layers.

use crate::{
    address::Address,
    attempt::{Attempt, ICMP, ICMP6, TCP, UDP},
    endpoint::{Endpoint, Gateway, PRIVATE_LOOPBACK, RELAY_LOOPBACK},
    maps::{Class, OWN},
    packet::{is_icmp_error, reason_of_protocol},
    verdict::{DropReason, Layer, Service, Verdict},
};

/// What the decision looks up.
pub trait Tables {
    /// Whether a direct entry of the set names this address, protocol and port.
    fn is_direct(&self, set: u32, attempt: &Attempt) -> bool;
    /// What the address is to the endpoint: [`OWN`](crate::maps::OWN),
    /// [`NEXT_HOP`](crate::maps::NEXT_HOP), both or nothing.
    fn role_of(&self, endpoint: u32, address: &Address) -> u8;
    /// What the address is to the node.
    fn class_of(&self, address: &Address) -> Class;
    /// Whether the packet or datagram answers on a flow that was opened inbound.
    fn is_reply(&self, endpoint: u32, attempt: &Attempt) -> bool;
    /// Whether somebody listens there in the endpoint's own network namespace.
    fn is_listening(&self, attempt: &Attempt) -> bool;
}

/// The resolver's port (RFC 1035 section 4.2).
pub(crate) const DNS: u16 = 53;
/// DNS over TLS and over QUIC (RFC 7858, RFC 9250).
pub(crate) const ENCRYPTED_DNS: u16 = 853;
/// Where QUIC lives (RFC 9114).
const HTTPS: u16 = 443;

/// Decides on an attempt of an endpoint. Whatever no rule names is denied.
#[inline(always)]
pub fn decide(
    attempt: &Attempt,
    endpoint: &Endpoint,
    gateway: &Gateway,
    tables: &impl Tables,
) -> Verdict {
    let destination = &attempt.destination;
    let names = attempt.destination_port == DNS && matches!(attempt.protocol, TCP | UDP);
    if names && attempt.is_call() {
        return Verdict::Redirect(Service::Resolver);
    }
    if is_icmp_error(attempt.protocol, attempt.destination_port) {
        return Verdict::Deny(DropReason::IcmpError);
    }
    if gateway.is_at(destination) {
        return if is_service(attempt, gateway) {
            Verdict::Allow
        } else {
            Verdict::Deny(DropReason::GatewayPort)
        };
    }
    let local = is_loopback(destination) || is_unspecified(destination);
    if attempt.is_call()
        && endpoint.has(PRIVATE_LOOPBACK)
        && (local || tables.role_of(endpoint.id, destination) & OWN != 0)
    {
        let relay = local && attempt.protocol == TCP && endpoint.has(RELAY_LOOPBACK);
        return if relay && !tables.is_listening(attempt) {
            Verdict::Redirect(Service::Proxy)
        } else {
            Verdict::Allow
        };
    }
    if names {
        return Verdict::Deny(DropReason::ForeignDns);
    }
    if matches!(attempt.protocol, TCP | UDP) {
        if tables.is_direct(endpoint.direct, attempt) {
            return Verdict::Allow;
        }
        if !attempt.opens() && tables.is_reply(endpoint.id, attempt) {
            return Verdict::Allow;
        }
    }
    if local {
        return Verdict::Deny(DropReason::Loopback);
    }
    if let Some(reason) = reason_of_destination(destination) {
        return Verdict::Deny(reason);
    }
    match tables.class_of(destination) {
        Class::Node => return Verdict::Deny(reason_within(attempt, DropReason::Node)),
        Class::Cluster => return Verdict::Deny(reason_within(attempt, DropReason::Cluster)),
        Class::Outside => {}
    }
    let redirected = attempt.layer as u8 == Layer::Connect as u8
        && attempt.protocol == TCP
        && attempt.destination_port != ENCRYPTED_DNS;
    if redirected {
        return Verdict::Redirect(Service::Proxy);
    }
    Verdict::Deny(reason_of_protocol_and_port(attempt))
}

#[inline(always)]
fn is_service(attempt: &Attempt, gateway: &Gateway) -> bool {
    match attempt.protocol {
        TCP => gateway.serves(attempt.destination_port),
        UDP => attempt.destination_port == gateway.dns_port,
        _ => false,
    }
}

#[inline(always)]
const fn is_loopback(address: &Address) -> bool {
    let o = address.octets();
    if address.is_v4() {
        return o[12] == 127;
    }
    is_zero_but_last(&o) && o[15] == 1
}

/// Linux takes a connect to the unspecified address for one to itself.
#[inline(always)]
const fn is_unspecified(address: &Address) -> bool {
    let o = address.octets();
    if address.is_v4() {
        return o[12] | o[13] | o[14] | o[15] == 0;
    }
    is_zero_but_last(&o) && o[15] == 0
}

#[inline(always)]
const fn is_zero_but_last(o: &[u8; 16]) -> bool {
    let head = o[0] | o[1] | o[2] | o[3] | o[4] | o[5] | o[6] | o[7];
    head | o[8] | o[9] | o[10] | o[11] | o[12] | o[13] | o[14] == 0
}

/// Destinations that are never outside, whatever the node knows of them.
#[inline(always)]
fn reason_of_destination(address: &Address) -> Option<DropReason> {
    let o = address.octets();
    if address.is_v4() {
        return match [o[12], o[13], o[14], o[15]] {
            // Amazon, Google, Azure and most others; Alibaba.
            [169, 254, 169, 254] | [100, 100, 100, 200] => Some(DropReason::MetadataService),
            [255, 255, 255, 255] => Some(DropReason::Broadcast),
            [224..=239, ..] => Some(DropReason::Multicast),
            // "This network" (RFC 1122 section 3.2.1.3), and what is reserved.
            [0 | 240..=255, ..] => Some(DropReason::Unroutable),
            [169, 254, ..] => Some(DropReason::LinkLocal),
            _ => None,
        };
    }
    // Amazon's metadata service over IPv6.
    const EC2: [u8; 16] = [0xfd, 0, 0x0e, 0xc2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0x54];
    if o == EC2 {
        return Some(DropReason::MetadataService);
    }
    match (o[0], o[1] & 0xc0) {
        (0xff, _) => Some(DropReason::Multicast),
        (0xfe, 0x80) => Some(DropReason::LinkLocal),
        _ => None,
    }
}

/// Inside the cluster, too, a protocol that is neither TCP nor UDP says more than the network.
#[inline(always)]
fn reason_within(attempt: &Attempt, network: DropReason) -> DropReason {
    match attempt.protocol {
        TCP | UDP => network,
        _ => reason_of_protocol_and_port(attempt),
    }
}

#[inline(always)]
pub(crate) fn reason_of_protocol_and_port(attempt: &Attempt) -> DropReason {
    match (attempt.protocol, attempt.destination_port) {
        (TCP | UDP, ENCRYPTED_DNS) => DropReason::EncryptedDns,
        (TCP, _) if !attempt.is_call() && !attempt.opens() => DropReason::NoFlow,
        (TCP, _) => DropReason::DirectTcp,
        (UDP, HTTPS) => DropReason::Quic,
        (UDP, _) => DropReason::DirectUdp,
        (ICMP | ICMP6, _) => DropReason::Icmp,
        (protocol, _) => reason_of_protocol(protocol),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        attempt::{TCP_ACK, TCP_SYN},
        endpoint::HAS_LINK,
    };
    use core::net::IpAddr;

    const GATEWAY: &str = "169.254.64.1";
    const OWN_ADDRESS: &str = "10.1.0.5";

    struct Tables;

    impl super::Tables for Tables {
        fn is_direct(&self, _set: u32, attempt: &Attempt) -> bool {
            attempt.destination == ip("10.9.0.9") && attempt.destination_port == 5432
        }

        fn role_of(&self, _endpoint: u32, address: &Address) -> u8 {
            if *address == ip(OWN_ADDRESS) { OWN } else { 0 }
        }

        fn class_of(&self, address: &Address) -> Class {
            match address.v4_octets() {
                [10, 0, 0, 1] => Class::Node,
                [10, ..] => Class::Cluster,
                _ => Class::Outside,
            }
        }

        fn is_reply(&self, _endpoint: u32, attempt: &Attempt) -> bool {
            attempt.destination == ip("10.0.0.1") && attempt.destination_port == 40_000
        }

        fn is_listening(&self, attempt: &Attempt) -> bool {
            attempt.destination_port == 3000
        }
    }

    fn ip(text: &str) -> Address {
        Address::from(text.parse::<IpAddr>().unwrap())
    }

    fn endpoint(flags: u8) -> Endpoint {
        Endpoint {
            id: 1,
            flags,
            ..Endpoint::NONE
        }
    }

    fn gateway() -> Gateway {
        Gateway {
            v4: ip(GATEWAY),
            v6: ip("fd65:6772:6573::1"),
            port: 15001,
            dns_port: 15053,
            proxy_port: 15002,
            reserved: 0,
        }
    }

    fn verdict(attempt: &Attempt, flags: u8) -> Verdict {
        decide(attempt, &endpoint(flags), &gateway(), &Tables)
    }

    fn packet(protocol: u8, to: &str, port: u16, tcp_flags: u8) -> Attempt {
        Attempt {
            source: ip(OWN_ADDRESS),
            tcp_flags,
            ..Attempt::call(Layer::Link, protocol, ip(to), port)
        }
    }

    const POD: u8 = HAS_LINK | PRIVATE_LOOPBACK;

    #[test]
    fn calls() {
        use Service::{Proxy, Resolver};
        use Verdict::{Allow, Deny, Redirect};
        for (protocol, to, port, want) in [
            (TCP, "198.51.100.7", 443, Redirect(Proxy)),
            (TCP, "2001:db8::7", 22, Redirect(Proxy)),
            (TCP, "198.51.100.7", 853, Deny(DropReason::EncryptedDns)),
            (TCP, "8.8.8.8", 53, Redirect(Resolver)),
            (UDP, "8.8.8.8", 53, Redirect(Resolver)),
            (UDP, "127.0.0.53", 53, Redirect(Resolver)),
            (UDP, "198.51.100.7", 443, Deny(DropReason::Quic)),
            (UDP, "198.51.100.7", 4000, Deny(DropReason::DirectUdp)),
            (TCP, GATEWAY, 15001, Allow),
            (TCP, GATEWAY, 15002, Allow),
            (UDP, GATEWAY, 15002, Deny(DropReason::GatewayPort)),
            (TCP, GATEWAY, 15053, Allow),
            (UDP, GATEWAY, 15053, Allow),
            (UDP, GATEWAY, 15001, Deny(DropReason::GatewayPort)),
            (TCP, GATEWAY, 22, Deny(DropReason::GatewayPort)),
            (
                TCP,
                "169.254.169.254",
                80,
                Deny(DropReason::MetadataService),
            ),
            (TCP, "fd00:ec2::254", 80, Deny(DropReason::MetadataService)),
            (TCP, "169.254.1.1", 80, Deny(DropReason::LinkLocal)),
            (TCP, "fe80::1", 80, Deny(DropReason::LinkLocal)),
            (UDP, "224.0.0.251", 5353, Deny(DropReason::Multicast)),
            (UDP, "ff02::fb", 5353, Deny(DropReason::Multicast)),
            (UDP, "255.255.255.255", 67, Deny(DropReason::Broadcast)),
            (TCP, "250.0.0.1", 80, Deny(DropReason::Unroutable)),
            (TCP, "0.1.2.3", 80, Deny(DropReason::Unroutable)),
            (UDP, "0.0.0.1", 80, Deny(DropReason::Unroutable)),
            (TCP, "10.0.0.1", 10250, Deny(DropReason::Node)),
            (TCP, "10.2.0.1", 80, Deny(DropReason::Cluster)),
            (TCP, "10.9.0.9", 5432, Allow),
            (TCP, "10.9.0.9", 5433, Deny(DropReason::Cluster)),
            (TCP, "127.0.0.1", 8080, Allow),
            (TCP, "::1", 8080, Allow),
            (TCP, "0.0.0.0", 8080, Allow),
            (TCP, OWN_ADDRESS, 8080, Allow),
        ] {
            let layer = if protocol == TCP {
                Layer::Connect
            } else {
                Layer::Sendmsg
            };
            let attempt = Attempt::call(layer, protocol, ip(to), port);
            assert_eq!(verdict(&attempt, POD), want, "{protocol} {to} {port}");
        }
    }

    #[test]
    fn the_nodes_loopback_is_denied_and_relayed_only_where_asked() {
        let call = |port| Attempt::call(Layer::Connect, TCP, ip("127.0.0.1"), port);
        let denied = Verdict::Deny(DropReason::Loopback);
        assert_eq!(verdict(&call(80), 0), denied);
        let relayed = verdict(&call(80), POD | RELAY_LOOPBACK);
        assert_eq!(relayed, Verdict::Redirect(Service::Proxy));
        assert_eq!(verdict(&call(3000), POD | RELAY_LOOPBACK), Verdict::Allow);
    }

    #[test]
    fn without_ipv6_the_gateway_is_not_at_the_unspecified_address() {
        let gateway = Gateway {
            v6: Address::UNSPECIFIED,
            ..gateway()
        };
        for (port, flags, want) in [
            (8080, POD, Verdict::Allow),
            (15001, 0, Verdict::Deny(DropReason::Loopback)),
        ] {
            let call = Attempt::call(Layer::Connect, TCP, ip("::"), port);
            let verdict = decide(&call, &endpoint(flags), &gateway, &Tables);
            assert_eq!(verdict, want, "{port}");
        }
    }

    #[test]
    fn packets_are_never_redirected() {
        for (protocol, to, port, flags, want) in [
            (
                TCP,
                "198.51.100.7",
                443,
                TCP_SYN,
                Verdict::Deny(DropReason::DirectTcp),
            ),
            (
                TCP,
                "198.51.100.7",
                443,
                TCP_ACK,
                Verdict::Deny(DropReason::NoFlow),
            ),
            (UDP, "8.8.8.8", 53, 0, Verdict::Deny(DropReason::ForeignDns)),
            (TCP, GATEWAY, 15001, TCP_SYN, Verdict::Allow),
            (ICMP, GATEWAY, 8, 0, Verdict::Deny(DropReason::GatewayPort)),
            (ICMP, GATEWAY, 3, 0, Verdict::Deny(DropReason::IcmpError)),
            (ICMP6, "fe80::1", 1, 0, Verdict::Deny(DropReason::IcmpError)),
            (ICMP, "198.51.100.7", 8, 0, Verdict::Deny(DropReason::Icmp)),
            (
                ICMP,
                "198.51.100.7",
                3,
                0,
                Verdict::Deny(DropReason::IcmpError),
            ),
            (TCP, "10.0.0.1", 40_000, TCP_SYN | TCP_ACK, Verdict::Allow),
            (
                TCP,
                "10.0.0.1",
                40_000,
                TCP_SYN,
                Verdict::Deny(DropReason::Node),
            ),
            (
                TCP,
                "127.0.0.1",
                80,
                TCP_SYN,
                Verdict::Deny(DropReason::Loopback),
            ),
        ] {
            let attempt = packet(protocol, to, port, flags);
            assert_eq!(verdict(&attempt, POD), want, "{protocol} {to} {port}");
        }
    }
}
