//! Records of what is in force.

use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::{
    app::{
        instance::Contained,
        plan::{EndpointPlan, Plan},
    },
    enforcer::{clsact::Links, tamper::Fault},
    telemetry::record::{EndpointRef, Event, Posture, Record},
};

/// Of the node, with all its endpoints and its gateway.
pub fn node(state: &str, plan: &Plan, adopted: bool, links: Links, gateway: Contained) -> Record {
    let endpoints: Vec<Value> = plan.endpoints.iter().map(endpoint).collect();
    let mut detail = Map::new();
    detail.insert("endpoints".into(), endpoints.into());
    detail.insert("adopted".into(), adopted.into());
    detail.insert("links".into(), links.name().into());
    detail.insert("gateway".into(), json!(gateway));
    record(None, state, detail)
}

/// Of every endpoint whose cgroup or interface is another than before. `attached` is the endpoint
/// whose new interface was attached to in between, and how long that took from the kernel's
/// notification.
pub fn changed(old: &Plan, new: &Plan, attached: Option<(&str, Duration)>) -> Vec<Record> {
    let records = new.endpoints.iter().filter_map(|now| {
        let before = old.endpoints.iter().find(|it| it.state.id == now.state.id);
        let place = |it: &EndpointPlan| {
            let link = it.state.link.as_ref().map(|link| link.interface);
            (it.state.cgroup, link)
        };
        if before.map(place) == Some(place(now)) {
            return None;
        }
        let state = match now.waits_for().is_empty() {
            true => "enforced",
            false => "waiting",
        };
        let mut detail = Map::new();
        detail.insert("endpoint".into(), endpoint(now));
        if let Some((_, took)) = attached.filter(|(name, _)| *name == now.name) {
            let microseconds = took.as_micros() as u64;
            detail.insert("attachedAfterMicroseconds".into(), microseconds.into());
        }
        Some(record(Some(reference(now)), state, detail))
    });
    records.collect()
}

/// Of what was not as it should have been: `tampered` of each fault, and then what became of it.
/// `count` is how many there have been.
pub fn tampered(faults: &[Fault], plan: &Plan, count: u64) -> Vec<Record> {
    let records = faults.iter().flat_map(|fault| {
        let found = fault.endpoint.as_ref().map(|name| {
            let found = plan.endpoints.iter().find(|it| it.name == *name);
            found.map_or_else(|| unnumbered(name), reference)
        });
        let mut detail = Map::new();
        detail.insert("what".into(), fault.what.as_str().into());
        detail.insert("count".into(), count.into());
        let first = record(found.clone(), "tampered", detail.clone());
        let then = match &fault.failed {
            None => "repaired",
            Some(why) => {
                detail.insert("why".into(), why.as_str().into());
                "not_repaired"
            }
        };
        [first, record(found, then, detail)]
    });
    records.collect()
}

/// What is attached by itself has a name, and no number.
fn unnumbered(name: &str) -> EndpointRef {
    EndpointRef {
        id: 0,
        name: name.to_owned(),
    }
}

fn reference(plan: &EndpointPlan) -> EndpointRef {
    EndpointRef {
        id: plan.state.id,
        name: plan.name.clone(),
    }
}

fn endpoint(plan: &EndpointPlan) -> Value {
    let audit = plan.state.mode == egress_common::endpoint::MODE_AUDIT;
    let mut value = json!({
        "id": plan.state.id,
        "name": plan.name,
        "mode": if audit { "Audit" } else { "Enforce" },
        "link": plan.state.link.is_some(),
    });
    let waits_for = plan.waits_for();
    if !waits_for.is_empty() {
        value["waitsFor"] = waits_for.into();
    }
    value
}

fn record(endpoint: Option<EndpointRef>, state: &str, detail: Map<String, Value>) -> Record {
    Record::now(Event::Posture(Posture {
        endpoint,
        state: state.to_owned(),
        detail,
    }))
}
