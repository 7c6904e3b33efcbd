//! Kernel events as records.

use crate::enforcer::own::Closed;
use crate::telemetry::record::{Attempt, Bypass, EndpointRef, Event, Protocol, Verdict};
use egress_common::{
    address::Address,
    event,
    verdict::{DropReason, Layer},
};

/// What the kernel denied, the first of its key and window.
pub fn bypass(event: &event::Event, name: impl Fn(u32) -> String) -> Event {
    let audit = event.kind == event::KIND_AUDIT;
    Event::Bypass(Bypass {
        attempt: Attempt {
            endpoint: endpoint(event.key.endpoint, name),
            process: (&event.process).into(),
            destination: destination(event.key.destination),
            port: event.key.port,
            protocol: Protocol::from(event.key.protocol),
            verdict: if audit { Verdict::Audit } else { Verdict::Deny },
            reason: Some(reason(event.key.reason)),
        },
        layer: layer(event.layer),
        repeats: 0,
        others: false,
        length: 0,
        cgroup: None,
    })
}

/// The first attempt of a window that no event has told of: there was no room for one.
pub fn first(closed: &Closed, audit: bool, name: impl Fn(u32) -> String) -> Event {
    Event::Bypass(of_window(closed, 0, audit, name))
}

/// How many more there were of a key, once its window is over.
pub fn repeated(closed: &Closed, audit: bool, name: impl Fn(u32) -> String) -> Event {
    Event::BypassRepeated(of_window(closed, closed.repeats, audit, name))
}

fn of_window(closed: &Closed, repeats: u64, audit: bool, name: impl Fn(u32) -> String) -> Bypass {
    let key = &closed.key;
    let others = key.is_others();
    Bypass {
        attempt: Attempt {
            endpoint: endpoint(key.endpoint, name),
            process: Default::default(),
            destination: destination(key.destination),
            port: if others { 0 } else { key.port },
            protocol: Protocol::from(if others { 0 } else { key.protocol }),
            verdict: if audit { Verdict::Audit } else { Verdict::Deny },
            reason: Some(reason(key.reason)),
        },
        layer: layer(closed.layer),
        repeats,
        others,
        length: 0,
        cgroup: None,
    }
}

fn endpoint(id: u32, name: impl Fn(u32) -> String) -> EndpointRef {
    EndpointRef { id, name: name(id) }
}

fn destination(address: Address) -> std::net::IpAddr {
    address.to_ip()
}

fn reason(number: u8) -> String {
    match DropReason::from_number(number) {
        Some(reason) => reason.name().to_owned(),
        None => format!("reason_{number}"),
    }
}

fn layer(number: u8) -> String {
    match Layer::from_number(number) {
        Some(layer) => layer.name().to_owned(),
        None => format!("layer_{number}"),
    }
}
