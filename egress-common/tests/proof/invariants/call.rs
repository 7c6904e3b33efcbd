//! Calls.

use egress_common::{
    endpoint::{PRIVATE_LOOPBACK, RELAY_LOOPBACK},
    verdict::{Service, Verdict},
};

use super::{
    super::{
        choices::Choices,
        generate,
        naive::{Attempted, Hook},
        subject::{judge_call, shown},
        world::{ENDPOINT, Flow, Place, World},
    },
    equal, poorer,
};

/// A call.
pub(crate) fn on_call(from: &mut Choices<'_>, world: &World) {
    let (call, named) = generate::call(from, world);
    let verdict = judge_call(&call, named, world);
    let context = || format!("{}: {call:?} in {world:?}", shown(verdict));
    for same in equal(world) {
        let again = judge_call(&call, named, &same);
        assert_eq!(shown(verdict), shown(again), "{}", context());
    }
    for less in poorer(world) {
        let allows = judge_call(&call, named, &less) == Verdict::Allow;
        let more = allows && verdict != Verdict::Allow;
        assert!(!more, "{less:?} allows more: {}", context());
    }
    let port = call.destination_port.unwrap_or(0);
    match verdict {
        Verdict::Allow => assert!(may_go(&call, port, world), "{}", context()),
        Verdict::Redirect(Service::Resolver) => assert_eq!(port, 53, "{}", context()),
        Verdict::Redirect(Service::Proxy) => {
            assert!(may_be_relayed(&call, port, world), "{}", context());
        }
        Verdict::Deny(_) => assert_ne!(port, 53, "names always get an answer: {}", context()),
    }
}

fn is_gateway(call: &Attempted, world: &World) -> bool {
    let to = call.destination;
    to == world.gateway4 || world.gateway6.is_some_and(|ip| to == ip)
}

fn is_host_itself(call: &Attempted) -> bool {
    call.destination.is_loopback() || call.destination.is_unspecified()
}

/// Never outside but by a direct entry or as an answer, and never names.
fn may_go(call: &Attempted, port: u16, world: &World) -> bool {
    let to = call.destination;
    let is_service = port == world.resolver || call.protocol == 6 && port == world.proxy;
    let within =
        world.flags & PRIVATE_LOOPBACK != 0 && (is_host_itself(call) || world.own.contains(&to));
    let direct = world.goes_direct(call.protocol, to, port);
    let answers = call.protocol == 17
        && world.was_opened(&Flow {
            endpoint: ENDPOINT,
            remote: to,
            remote_port: port,
            local_port: call.source_port.unwrap_or(0),
            protocol: 17,
        });
    port != 53
        && if is_gateway(call, world) {
            is_service
        } else {
            within || direct || answers
        }
}

/// TCP to the outside; or to its own loopback where that is asked for and nobody listens.
fn may_be_relayed(call: &Attempted, port: u16, world: &World) -> bool {
    let to = call.destination;
    let relayed = world.flags & PRIVATE_LOOPBACK != 0
        && world.flags & RELAY_LOOPBACK != 0
        && is_host_itself(call)
        && !world.has_listener(to, port);
    let outside = call.hook == Hook::Connect
        && port != 853
        && world.place(to) == Place::Outside
        && !to.is_multicast()
        && !is_host_itself(call)
        && !world.goes_direct(call.protocol, to, port);
    call.protocol == 6 && port != 53 && !is_gateway(call, world) && (relayed || outside)
}
