//! Ways around the gateway, one test each. Each proves that the vector arrives while nobody
//! enforces, that nothing arrives when somebody does, and that one report counts every attempt.

mod calls;
mod inside;
mod kernel_made;
mod moved;
mod older;
mod options;
mod packet_sockets;
mod raw;
mod reports;
mod strangers;
mod subflows;
mod tcp;
mod udp;

use egress_tests::scene::Vector;
use std::net::IpAddr;

/// A datagram vector that each of its runs makes once.
pub(crate) fn once<'a>(attack: &'a [&'a str], to: IpAddr, reason: &'a str) -> Vector<'a> {
    Vector {
        attack,
        to,
        reason,
        times: 1,
    }
}
