//! What is enforced, as pins, maps and the lock say: also where no agent runs.

use std::{collections::BTreeMap, fs, time::SystemTime};

use anyhow::Context;
use egress_common::{
    ABI_VERSION,
    endpoint::{HAS_LINK, MODE_AUDIT},
};
use serde::Serialize;

use crate::{
    app::{instance::cgroup_of, lock, names},
    enforcer::{
        attach::{cgroup_programs, gateway_programs, link_programs},
        bpffs,
        inspect::{self, Pinned},
    },
};

/// One instance.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// `egress-agent.dev/status/v1`. Fields may be added within it.
    pub schema: &'static str,
    /// Which.
    pub instance: String,
    /// The version of its maps.
    pub abi: u32,
    /// Whether its agent runs.
    pub agent: bool,
    /// Whether its gateway runs.
    pub gateway: bool,
    /// The programs on the gateway's cgroup.
    pub gateway_attached: Vec<Attached>,
    /// Those that should be there and are not.
    pub gateway_missing: Vec<String>,
    /// By number.
    pub endpoints: Vec<EndpointStatus>,
}

/// One endpoint.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointStatus {
    /// Its number.
    pub id: u32,
    /// Its name, where an agent has left it.
    pub name: Option<String>,
    /// `Enforce` or `Audit`.
    pub mode: &'static str,
    /// Of the policy.
    pub generation: u32,
    /// What it waits for.
    pub waits_for: Vec<String>,
    /// Its programs.
    pub attached: Vec<Attached>,
    /// Those that should be there and are not.
    pub missing: Vec<String>,
    /// Packets that passed.
    pub allowed: u64,
    /// What was denied, by reason.
    pub denied: BTreeMap<&'static str, u64>,
}

/// A program that is attached.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Attached {
    /// Its name.
    pub program: String,
    /// Its id.
    pub program_id: u32,
    /// The link's id.
    pub link_id: u32,
    /// `cgroup` and its id, or `interface` and its index.
    pub target: String,
    /// When the program was loaded, in seconds since 1970.
    pub since: Option<u64>,
}

impl Status {
    /// Reads it.
    ///
    /// # Errors
    /// There is no such instance, or it cannot be read.
    pub fn read(instance: &str) -> anyhow::Result<Self> {
        let pins = bpffs::instance(instance);
        let links = inspect::links(&pins)
            .with_context(|| format!("instance {instance}: nothing is pinned at {}: start it, or name another with --instance", pins.display()))?;
        let names = names::read(instance).endpoints;
        let (gateway_attached, gateway_missing) = attached(
            &links,
            |link| (link.owner == "gateway" && link.target != 0).then_some("cgroup"),
            &gateway_programs().collect::<Vec<_>>(),
        );
        let endpoints = inspect::endpoints(&pins)?.into_iter();
        let endpoints = endpoints.map(|(endpoint, interface, counters)| {
            let named = names.iter().find(|named| named.id == endpoint.id);
            let mut wanted = Vec::new();
            if endpoint.cgroup != 0 {
                wanted.extend(cgroup_programs(endpoint.has(HAS_LINK)));
            }
            if endpoint.has(HAS_LINK) {
                wanted.extend(link_programs());
            }
            let is_on_link = |link: &Pinned| link_programs().any(|name| name == link.program);
            let place = |link: &Pinned| match is_on_link(link) {
                true => (interface.map(u64::from) == Some(link.target)).then_some("interface"),
                false => (link.target == endpoint.cgroup && link.target != 0).then_some("cgroup"),
            };
            let (attached, missing) = attached(&links, place, &wanted);
            let denied = counters.denied.iter();
            EndpointStatus {
                id: endpoint.id,
                name: named.map(|named| named.name.clone()),
                mode: if endpoint.mode == MODE_AUDIT {
                    "Audit"
                } else {
                    "Enforce"
                },
                generation: endpoint.generation,
                waits_for: named
                    .map(|named| named.waits_for.clone())
                    .unwrap_or_default(),
                attached,
                missing,
                allowed: counters.allowed,
                denied: denied
                    .map(|(reason, count)| (reason.name(), *count))
                    .collect(),
            }
        });
        Ok(Self {
            schema: "egress-agent.dev/status/v1",
            instance: instance.to_owned(),
            abi: ABI_VERSION,
            agent: lock::is_held(instance),
            gateway: gateway_runs(instance),
            gateway_attached,
            gateway_missing,
            endpoints: endpoints.collect(),
        })
    }

    /// What should be attached and is not.
    pub fn missing(&self) -> impl Iterator<Item = &String> {
        let endpoints = self.endpoints.iter().flat_map(|it| &it.missing);
        self.gateway_missing.iter().chain(endpoints)
    }

    /// For people.
    pub fn table(&self) -> String {
        let is = |it: bool| if it { "running" } else { "not running" };
        let mut text = format!(
            "instance {} (ABI {}): agent {}, gateway {}\n\n{:>4}  {:<32} {:<8} {:>10} {:>8} {:>10} {:>10}  STATE\n",
            self.instance,
            self.abi,
            is(self.agent),
            is(self.gateway),
            "ID",
            "NAME",
            "MODE",
            "GENERATION",
            "PROGRAMS",
            "ALLOWED",
            "DENIED",
        );
        for it in &self.endpoints {
            let state = match (it.missing.as_slice(), it.waits_for.as_slice()) {
                ([], []) => "attached".to_owned(),
                ([], waits) => format!("waiting for {}", waits.join(", ")),
                (missing, _) => format!("NOT ATTACHED: {}", missing.join(", ")),
            };
            let denied: u64 = it.denied.values().sum();
            let name = it.name.as_deref().unwrap_or("unknown");
            text.push_str(&format!(
                "{:>4}  {name:<32} {:<8} {:>10} {:>8} {:>10} {denied:>10}  {state}\n",
                it.id,
                it.mode,
                it.generation,
                it.attached.len(),
                it.allowed
            ));
            for (reason, count) in &it.denied {
                text.push_str(&format!("      {reason:<32} {count:>44}\n"));
            }
        }
        text
    }
}

fn attached(
    links: &[Pinned],
    place: impl Fn(&Pinned) -> Option<&'static str>,
    wanted: &[&'static str],
) -> (Vec<Attached>, Vec<String>) {
    let here = links.iter().filter_map(|link| {
        let kind = place(link)?;
        let since = link
            .loaded
            .map(|at| at.duration_since(SystemTime::UNIX_EPOCH));
        Some(Attached {
            program: link.program.clone(),
            program_id: link.program_id,
            link_id: link.id,
            target: format!("{kind} {}", link.target),
            since: since.and_then(Result::ok).map(|since| since.as_secs()),
        })
    });
    let here: Vec<_> = here.collect();
    let missing = wanted
        .iter()
        .filter(|name| !here.iter().any(|it| it.program == **name));
    let missing = missing.map(|name| (*name).to_owned()).collect();
    (here, missing)
}

fn gateway_runs(instance: &str) -> bool {
    let procs = cgroup_of(instance).map(|folder| folder.join("gateway/cgroup.procs"));
    procs.is_ok_and(|path| fs::read_to_string(path).is_ok_and(|text| !text.trim().is_empty()))
}
