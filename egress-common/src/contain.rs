//! The decision about what the gateway itself sends: the answers that it owes, its name servers, and
//! TCP to where a policy may lead. A function of its own, since the gateway is no endpoint that is
//! redirected.

use crate::{
    address::Address,
    attempt::{Attempt, TCP, TCP_ACK, TCP_SYN, UDP},
    decide::{DNS, ENCRYPTED_DNS, reason_of_protocol_and_port},
    endpoint::{Endpoint, Gateway, WIDE},
    verdict::{DropReason, Layer, Verdict},
};

/// What the decision looks up.
pub trait Reach {
    /// Whether an entry of the set names this address, protocol and port: its name servers.
    fn is_direct(&self, set: u32, attempt: &Attempt) -> bool;
    /// Why it must not reach the address; `None` where it may.
    fn refusal(&self, address: &Address) -> Option<DropReason>;
    /// Whether some policy names the port.
    fn is_named(&self, port: u16) -> bool;
    /// Whether this goes to an endpoint that may have asked.
    fn is_client(&self, attempt: &Attempt) -> bool;
}

/// Decides on an attempt of the gateway. Whatever no rule names is denied.
#[inline(always)]
pub fn contain(
    attempt: &Attempt,
    endpoint: &Endpoint,
    gateway: &Gateway,
    reach: &impl Reach,
) -> Verdict {
    let is_own = attempt.is_call() || gateway.is_at(&attempt.source);
    match attempt.protocol {
        TCP => match attempt.tcp_flags & (TCP_SYN | TCP_ACK) {
            TCP_SYN => {}
            // Somebody has connected: an endpoint, or nothing comes of it.
            flags if flags & TCP_SYN != 0 => {
                return match is_own && gateway.serves(attempt.source_port) {
                    true => Verdict::Allow,
                    false => Verdict::Deny(DropReason::NoFlow),
                };
            }
            // Of a connection whose beginning was judged. It can make no segment of its own: that
            // takes a raw socket, or CAP_NET_ADMIN (TCP_REPAIR in tcp(7)).
            _ => return Verdict::Allow,
        },
        UDP => {
            // Sends nothing.
            let connects = attempt.layer as u8 == Layer::Connect as u8;
            let answers =
                is_own && attempt.source_port == gateway.dns_port && reach.is_client(attempt);
            if connects || answers {
                return Verdict::Allow;
            }
        }
        _ => return Verdict::Deny(reason_of_protocol_and_port(attempt)),
    }
    if reach.is_direct(endpoint.direct, attempt) {
        return Verdict::Allow;
    }
    if gateway.is_at(&attempt.destination) {
        return Verdict::Deny(DropReason::GatewayPort);
    }
    let is_tcp = attempt.protocol == TCP;
    if is_tcp && endpoint.has(WIDE) {
        return Verdict::Allow;
    }
    if let Some(reason) = reach.refusal(&attempt.destination) {
        return Verdict::Deny(reason);
    }
    if is_tcp && reach.is_named(attempt.destination_port) {
        return Verdict::Allow;
    }
    Verdict::Deny(match attempt.destination_port {
        DNS => DropReason::ForeignDns,
        ENCRYPTED_DNS => DropReason::EncryptedDns,
        _ if is_tcp => DropReason::PortNotNamed,
        _ => reason_of_protocol_and_port(attempt),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{attempt::ICMP, endpoint::IS_GATEWAY};
    use core::net::IpAddr;

    const OWN: &str = "169.254.64.1";
    const SERVER: &str = "10.96.0.10";
    const POD: &str = "10.1.0.5";

    struct World;

    impl Reach for World {
        fn is_direct(&self, _set: u32, attempt: &Attempt) -> bool {
            attempt.destination == ip(SERVER) && attempt.destination_port == 53
        }

        fn refusal(&self, address: &Address) -> Option<DropReason> {
            match address.v4_octets() {
                [169, 254, 169, 254] => Some(DropReason::MetadataService),
                [10, 0, 0, 1] => Some(DropReason::Node),
                [10, 1, ..] => Some(DropReason::Cluster),
                [10, ..] => Some(DropReason::RefusedNetwork),
                _ => None,
            }
        }

        fn is_named(&self, port: u16) -> bool {
            port == 443
        }

        fn is_client(&self, attempt: &Attempt) -> bool {
            attempt.destination == ip(POD)
        }
    }

    fn ip(text: &str) -> Address {
        Address::from(text.parse::<IpAddr>().unwrap())
    }

    fn verdict(attempt: &Attempt, flags: u8) -> Verdict {
        let endpoint = Endpoint {
            id: 1,
            flags: IS_GATEWAY | flags,
            ..Endpoint::NONE
        };
        let gateway = Gateway {
            v4: ip(OWN),
            v6: Address::UNSPECIFIED,
            port: 15001,
            dns_port: 15053,
            proxy_port: 15002,
            reserved: 0,
        };
        contain(attempt, &endpoint, &gateway, &World)
    }

    fn connect(to: &str, port: u16) -> Attempt {
        Attempt::call(Layer::Connect, TCP, ip(to), port)
    }

    fn packet(from: (&str, u16), to: (&str, u16), protocol: u8, tcp_flags: u8) -> Attempt {
        Attempt {
            source: ip(from.0),
            source_port: from.1,
            tcp_flags,
            ..Attempt::call(Layer::CgroupSkb, protocol, ip(to.0), to.1)
        }
    }

    #[test]
    fn what_it_dials() {
        use DropReason::{
            Cluster, EncryptedDns, ForeignDns, GatewayPort, MetadataService, Node, PortNotNamed,
            RefusedNetwork,
        };
        use Verdict::{Allow, Deny};
        for (to, port, narrow, wide) in [
            ("203.0.113.7", 443, Allow, Allow),
            ("203.0.113.7", 8443, Deny(PortNotNamed), Allow),
            ("203.0.113.7", 53, Deny(ForeignDns), Allow),
            ("203.0.113.7", 853, Deny(EncryptedDns), Allow),
            ("169.254.169.254", 443, Deny(MetadataService), Allow),
            ("10.0.0.1", 443, Deny(Node), Allow),
            ("10.1.0.5", 443, Deny(Cluster), Allow),
            ("10.7.0.5", 443, Deny(RefusedNetwork), Allow),
            (SERVER, 53, Allow, Allow),
            (SERVER, 443, Deny(RefusedNetwork), Allow),
            (OWN, 443, Deny(GatewayPort), Deny(GatewayPort)),
            (OWN, 15001, Deny(GatewayPort), Deny(GatewayPort)),
        ] {
            let first = packet(("203.0.113.1", 40_000), (to, port), TCP, TCP_SYN);
            for attempt in [connect(to, port), first] {
                assert_eq!(verdict(&attempt, 0), narrow, "{to} {port}");
                assert_eq!(verdict(&attempt, WIDE), wide, "{to} {port}, wide");
            }
        }
    }

    #[test]
    fn what_it_answers() {
        let own = |port| (OWN, port);
        let elsewhere = ("203.0.113.9", 443);
        let no_flow = Verdict::Deny(DropReason::NoFlow);
        for (from, flags, want) in [
            (own(15001), TCP_SYN | TCP_ACK, Verdict::Allow),
            (own(15053), TCP_SYN | TCP_ACK, Verdict::Allow),
            (own(15002), TCP_SYN | TCP_ACK, Verdict::Allow),
            (own(8080), TCP_SYN | TCP_ACK, no_flow),
            (("10.0.0.1", 15001), TCP_SYN | TCP_ACK, no_flow),
            (own(15001), TCP_ACK, Verdict::Allow),
        ] {
            let attempt = packet(from, elsewhere, TCP, flags);
            assert_eq!(verdict(&attempt, 0), want, "{from:?} {flags:#x}");
        }
        // Bound to a port of its own, a socket opens nothing more than another.
        let attempt = packet(own(15001), (POD, 443), TCP, TCP_SYN);
        assert_eq!(verdict(&attempt, 0), Verdict::Deny(DropReason::Cluster));
    }

    #[test]
    fn datagrams_go_to_clients_and_name_servers_alone() {
        for (from, to, want) in [
            ((OWN, 15053), (POD, 40_000), Verdict::Allow),
            (
                (OWN, 15054),
                (POD, 40_000),
                Verdict::Deny(DropReason::Cluster),
            ),
            (
                ("10.0.0.1", 15053),
                (POD, 40_000),
                Verdict::Deny(DropReason::Cluster),
            ),
            (
                (OWN, 15053),
                ("203.0.113.7", 40_000),
                Verdict::Deny(DropReason::DirectUdp),
            ),
            (
                (OWN, 40_000),
                ("203.0.113.7", 443),
                Verdict::Deny(DropReason::Quic),
            ),
            (
                (OWN, 40_000),
                ("203.0.113.7", 53),
                Verdict::Deny(DropReason::ForeignDns),
            ),
            ((OWN, 40_000), (SERVER, 53), Verdict::Allow),
        ] {
            for flags in [0, WIDE] {
                let sent = packet(from, to, UDP, 0);
                assert_eq!(verdict(&sent, flags), want, "{from:?} {to:?}");
            }
            let call = Attempt::call(Layer::Connect, UDP, ip(to.0), to.1);
            assert_eq!(verdict(&call, 0), Verdict::Allow, "{to:?}");
        }
        let ping = packet((OWN, 0), ("203.0.113.7", 8), ICMP, 0);
        assert_eq!(verdict(&ping, WIDE), Verdict::Deny(DropReason::Icmp));
    }
}
