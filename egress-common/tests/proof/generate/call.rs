//! Calls.

use std::net::IpAddr;

use super::{
    super::{
        choices::Choices,
        naive::{Attempted, Hook},
        world::World,
    },
    pool,
};

/// A `connect` or a datagram, to anywhere; and the address as the call names it, which may be
/// mapped.
pub(crate) fn call(from: &mut Choices<'_>, world: &World) -> (Attempted, IpAddr) {
    let is_v4 = !from.once_in(2);
    let destination = pool::address(from, world, is_v4);
    let named = match destination {
        IpAddr::V4(ip) if from.once_in(4) => ip.to_ipv6_mapped().into(),
        IpAddr::V4(_) | IpAddr::V6(_) => destination,
    };
    let hook = from.pick(&[Hook::Connect, Hook::Sendmsg]);
    let usual = if hook == Hook::Connect { 6 } else { 17 };
    let protocol = from.mostly(usual, 8, |from| from.pick(&[6, 17]));
    let destination_port = Some(pool::port(from, world));
    // A datagram's socket may be bound.
    let is_bound = protocol == 17 && from.once_in(2);
    let call = Attempted {
        hook,
        source: None,
        destination: named.to_canonical(),
        protocol,
        source_port: Some(if is_bound { pool::port(from, world) } else { 0 }),
        destination_port,
        icmp_type: None,
        opens: protocol == 6,
    };
    (call, named)
}
