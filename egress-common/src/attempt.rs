//! One attempt to get out, in the form that every hook brings it to.

use crate::{address::Address, verdict::Layer};

/// TCP.
pub const TCP: u8 = 6;
/// UDP.
pub const UDP: u8 = 17;
/// ICMP for IPv4.
pub const ICMP: u8 = 1;
/// ICMP for IPv6.
pub const ICMP6: u8 = 58;

/// TCP's FIN, SYN, RST and ACK bits (RFC 9293 section 3.1).
pub const TCP_FIN: u8 = 0x01;
/// See [`TCP_FIN`].
pub const TCP_SYN: u8 = 0x02;
/// See [`TCP_FIN`].
pub const TCP_RST: u8 = 0x04;
/// See [`TCP_FIN`].
pub const TCP_ACK: u8 = 0x10;

/// A packet, or a call that would make one.
#[derive(Clone, Copy)]
#[cfg_attr(any(test, feature = "user"), derive(Debug, PartialEq, Eq))]
pub struct Attempt {
    /// Where from; unspecified at `connect` and `sendmsg`.
    pub source: Address,
    /// Where to.
    pub destination: Address,
    /// Host byte order; 0 where the protocol has none, or the socket none yet.
    pub source_port: u16,
    /// Host byte order; for ICMP its type.
    pub destination_port: u16,
    /// The IP protocol number.
    pub protocol: u8,
    /// TCP's flags; 0 otherwise.
    pub tcp_flags: u8,
    /// Who asks.
    pub layer: Layer,
}

impl Attempt {
    /// A call to TCP's `connect`, or a datagram, not a packet yet.
    #[inline(always)]
    pub const fn call(layer: Layer, protocol: u8, destination: Address, port: u16) -> Self {
        Self {
            source: Address::UNSPECIFIED,
            destination,
            source_port: 0,
            destination_port: port,
            protocol,
            tcp_flags: if protocol == TCP { TCP_SYN } else { 0 },
            layer,
        }
    }

    /// Whether a call can still be sent elsewhere.
    #[inline(always)]
    pub const fn is_call(&self) -> bool {
        matches!(self.layer, Layer::Connect | Layer::Sendmsg)
    }

    /// Whether this opens a TCP connection: SYN without ACK.
    #[inline(always)]
    pub const fn opens(&self) -> bool {
        self.protocol == TCP && self.tcp_flags & (TCP_SYN | TCP_ACK) == TCP_SYN
    }
}
