//! What is decided of a packet or a call, and why.

/// The decision.
#[derive(Clone, Copy, PartialEq, Eq)]
#[cfg_attr(any(test, feature = "user"), derive(Debug))]
pub enum Verdict {
    /// Let it pass.
    Allow,
    /// Send it to the gateway instead; only at `connect` and `sendmsg`.
    Redirect(Service),
    /// Drop it.
    Deny(DropReason),
}

/// The gateway's listeners.
#[derive(Clone, Copy, PartialEq, Eq)]
#[cfg_attr(any(test, feature = "user"), derive(Debug))]
pub enum Service {
    /// The proxy.
    Proxy,
    /// The resolver, UDP and TCP.
    Resolver,
}

macro_rules! drop_reasons {
    ($($(#[doc = $doc:literal])+ $number:literal $variant:ident $name:literal,)+) => {
        /// Why something was dropped. Numbers are stable and never used again.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[cfg_attr(any(test, feature = "user"), derive(Debug))]
        #[repr(u8)]
        pub enum DropReason {
            $($(#[doc = $doc])+ $variant = $number,)+
        }

        impl DropReason {
            /// Every reason, by number.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The name in records, metrics and documentation.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }

            /// One line that says what it means.
            pub const fn meaning(self) -> &'static str {
                match self {
                    $(Self::$variant => concat!($($doc),+).trim_ascii(),)+
                }
            }

            /// The reason of this number, if there is one.
            pub const fn from_number(number: u8) -> Option<Self> {
                match number {
                    $($number => Some(Self::$variant),)+
                    _ => None,
                }
            }
        }
    };
}

drop_reasons! {
    /// TCP to an address that only the gateway may reach.
    1 DirectTcp "direct_tcp",
    /// UDP to an address outside.
    2 DirectUdp "direct_udp",
    /// QUIC (UDP 443); the client falls back to TCP.
    3 Quic "quic",
    /// DNS that did not go through the redirect to the gateway's resolver.
    4 ForeignDns "foreign_dns",
    /// DNS over TLS or QUIC (port 853).
    5 EncryptedDns "encrypted_dns",
    /// A cloud's metadata service.
    6 MetadataService "metadata_service",
    /// The node's own addresses.
    7 Node "node",
    /// The cluster's networks, without a direct entry.
    8 Cluster "cluster",
    /// The gateway's address on another port or protocol.
    9 GatewayPort "gateway_port",
    /// ICMP or ICMPv6.
    10 Icmp "icmp",
    /// A fragment of an IP packet.
    11 Fragment "fragment",
    /// A tunnel protocol inside IP.
    12 Tunnel "tunnel",
    /// An IP protocol that is neither TCP nor UDP.
    13 OtherProtocol "other_protocol",
    /// IPv4 options.
    14 IpOptions "ip_options",
    /// An IPv6 extension header.
    15 ExtensionHeader "extension_header",
    /// Lengths, versions or fields that contradict each other.
    16 Malformed "malformed",
    /// Shorter than its own headers.
    17 Truncated "truncated",
    /// A frame that is neither IPv4, IPv6 nor ARP.
    18 Ethertype "ethertype",
    /// A frame with a VLAN tag.
    19 Vlan "vlan",
    /// A source address that is not the endpoint's.
    20 SpoofedAddress "spoofed_address",
    /// A source MAC that is not the endpoint's.
    21 SpoofedMac "spoofed_mac",
    /// A destination MAC that is not the next hop's; where no link is watched, the gateway's address
    /// by another interface than loopback.
    22 WrongNextHop "wrong_next_hop",
    /// ARP other than for oneself toward the next hop.
    23 Arp "arp",
    /// NDP other than for oneself toward the next hop.
    24 Ndp "ndp",
    /// A multicast destination.
    25 Multicast "multicast",
    /// A broadcast destination.
    26 Broadcast "broadcast",
    /// A link-local destination.
    27 LinkLocal "link_local",
    /// The node's loopback.
    28 Loopback "loopback",
    /// A raw socket, or one of another protocol than TCP and UDP, where no link is watched.
    29 RawSocket "raw_socket",
    /// The endpoint is not known (yet).
    30 UnknownEndpoint "unknown_endpoint",
    /// A TCP segment of no flow that was opened inbound.
    31 NoFlow "no_flow",
    /// IGMP or MLD; without a report where no process sent it, since kernels do by themselves.
    32 GroupManagement "group_management",
    /// A connection to the gateway from whoever is no endpoint.
    33 NoEndpoint "no_endpoint",
    /// A map or helper failed.
    34 Internal "internal",
    /// An address that stands for no host.
    35 Unroutable "unroutable",
    /// An ICMP error message; without a report where no process sent it, since kernels do by themselves.
    36 IcmpError "icmp_error",
    /// A network that no name may lead to, private ones and the operator's; of the gateway itself.
    37 RefusedNetwork "refused_network",
    /// TCP to a port that no policy names; of the gateway itself.
    38 PortNotNamed "port_not_named",
}

impl DropReason {
    /// One more than the largest number; the length of a table by reason.
    pub const COUNT: usize = 64;

    /// Whether it is counted only where no process did it: the kernel spoke by itself.
    #[inline(always)]
    pub const fn is_quiet(self) -> bool {
        matches!(self, Self::GroupManagement | Self::IcmpError)
    }
}

/// Where something was decided. Numbers are part of the events.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(any(test, feature = "user"), derive(Debug))]
#[repr(u8)]
pub enum Layer {
    /// `cgroup/sock_create`.
    SockCreate = 1,
    /// `cgroup/connect4` and `connect6`.
    Connect = 2,
    /// `cgroup/sendmsg4` and `sendmsg6`.
    Sendmsg = 3,
    /// `cgroup_skb/egress`.
    CgroupSkb = 4,
    /// The host side of the endpoint's veth.
    Link = 5,
    /// `cgroup_skb/ingress` of the gateway.
    Gateway = 6,
}

impl Layer {
    /// Every layer.
    pub const ALL: [Self; 6] = [
        Self::SockCreate,
        Self::Connect,
        Self::Sendmsg,
        Self::CgroupSkb,
        Self::Link,
        Self::Gateway,
    ];

    /// The name in records.
    pub const fn name(self) -> &'static str {
        match self {
            Self::SockCreate => "sock_create",
            Self::Connect => "connect",
            Self::Sendmsg => "sendmsg",
            Self::CgroupSkb => "cgroup_skb",
            Self::Link => "link",
            Self::Gateway => "gateway",
        }
    }

    /// The layer of this number, if there is one.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|layer| *layer as u8 == number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_unique_and_come_back() {
        for reason in DropReason::ALL {
            assert_eq!(DropReason::from_number(*reason as u8), Some(*reason));
            assert!((*reason as usize) < DropReason::COUNT);
        }
        assert_eq!(DropReason::from_number(0), None);
    }
}
