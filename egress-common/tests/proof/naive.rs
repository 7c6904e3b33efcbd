//! The decision once more, slow and obvious, from the prose of the design: slices, lists and the
//! standard library's types, no code of the crate but the names of verdicts and reasons.

mod addresses;
mod frame;
mod ip;
mod judge;

pub(crate) use frame::judge_frame;
pub(crate) use judge::{Attempted, Hook, judge};

use egress_common::verdict::Verdict;

use super::world::World;

/// What a socket's hook says of an IP packet.
pub(crate) fn judge_packet(packet: &[u8], world: &World) -> Verdict {
    match ip::read_any(packet) {
        Ok(packet) => judge(&packet, world),
        Err(reason) => Verdict::Deny(reason),
    }
}
