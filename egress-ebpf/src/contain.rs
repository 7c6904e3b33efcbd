//! What the gateway itself may send, see `egress_common::contain`.

use crate::{
    maps,
    tables::{Maps, Outcome},
};
use egress_common::{
    address::Address,
    attempt::{Attempt, TCP},
    contain::{Reach, contain},
    decide::Tables,
    endpoint::{Endpoint, Gateway},
    maps::Class,
    verdict::DropReason,
};

/// Asks `contain`.
#[inline(always)]
pub(crate) fn judge(attempt: &Attempt, endpoint: &Endpoint, gateway: &Gateway) -> Outcome {
    Outcome::of_number(judge_apart(attempt, endpoint, gateway))
}

/// A function of its own, so that its keys lie in a stack frame of their own. Segments of what has
/// begun are worth remembering; what begins something is not.
#[inline(never)]
fn judge_apart(attempt: &Attempt, endpoint: &Endpoint, gateway: &Gateway) -> u8 {
    let verdict = contain(attempt, endpoint, gateway, &World(gateway));
    Outcome::numbered(verdict, attempt.protocol == TCP && !attempt.opens())
}

/// The maps, and where the gateway is.
struct World<'a>(&'a Gateway);

impl Reach for World<'_> {
    #[inline(always)]
    fn is_direct(&self, set: u32, attempt: &Attempt) -> bool {
        maps::has_direct(set, attempt)
    }

    #[inline(always)]
    fn refusal(&self, address: &Address) -> Option<DropReason> {
        match maps::reach(address) {
            Some(0) => None,
            Some(number) => Some(DropReason::from_number(number).unwrap_or(DropReason::Internal)),
            // Nothing is written yet.
            None => Some(DropReason::Internal),
        }
    }

    #[inline(always)]
    fn is_named(&self, port: u16) -> bool {
        maps::names(port)
    }

    #[inline(always)]
    fn is_client(&self, attempt: &Attempt) -> bool {
        let address = &attempt.destination;
        // Who has no address of its own has the node's, the gateway's among them.
        let is_nodes =
            || self.0.is_at(address) || Maps::of_packets().class_of(address) == Class::Node;
        maps::is_owned(address)
            || (maps::has_spoken(attempt.destination_port, attempt.protocol) && is_nodes())
    }
}
