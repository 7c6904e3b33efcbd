//! What is enforced, as pins, maps and the lock say: also where no agent runs.

use std::{collections::BTreeMap, fs, time::SystemTime};

use anyhow::Context;
use egress_common::{
    ABI_VERSION,
    endpoint::{Endpoint, HAS_LINK, IS_GATEWAY, MODE_AUDIT, WIDE},
};
use serde::Serialize;

use crate::{
    app::{instance::cgroup_of, lock, names},
    enforcer::{
        attach::{cgroup_programs, gateway_programs, link_programs},
        bpffs,
        counters::Counters,
        inspect::{self, Pinned},
    },
    gateway::{seal::Landlock, spawn::confine},
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
    /// What holds the gateway.
    pub gateway_contained: GatewayStatus,
    /// By number.
    pub endpoints: Vec<EndpointStatus>,
}

/// What holds the gateway, and what it has tried.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GatewayStatus {
    /// Whether the kernel filters its system calls, all threads'; not where it does not run.
    pub seccomp: bool,
    /// What Landlock does, where an agent has left it.
    pub landlock: Option<Landlock>,
    /// Where the kernel lets it connect to: `policy`, or `wide` while an endpoint is in Audit.
    pub reach: &'static str,
    /// Packets of its own that passed.
    pub allowed: u64,
    /// What was denied it, by reason: it has been taken over, or is in the wrong.
    pub denied: BTreeMap<&'static str, u64>,
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
        let names::Names {
            endpoints: names,
            gateway: contained,
            ..
        } = names::read(instance);
        let (gateway_attached, gateway_missing) = attached(
            &links,
            |link| (link.owner == "gateway" && link.target != 0).then_some("cgroup"),
            &gateway_programs().collect::<Vec<_>>(),
        );
        let all = inspect::endpoints(&pins)?.into_iter();
        let (of_gateway, endpoints): (Vec<_>, Vec<_>) =
            all.partition(|(endpoint, ..)| endpoint.has(IS_GATEWAY));
        let gateway_contained = GatewayStatus::new(
            instance,
            contained.map(|contained| contained.landlock),
            of_gateway.first(),
        );
        let endpoints = endpoints.into_iter();
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
                denied: by_name(&counters),
            }
        });
        Ok(Self {
            schema: "egress-agent.dev/status/v1",
            instance: instance.to_owned(),
            abi: ABI_VERSION,
            agent: lock::is_held(instance),
            gateway: !gateway_processes(instance).is_empty(),
            gateway_attached,
            gateway_missing,
            gateway_contained,
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
            "instance {} (ABI {}): agent {}, gateway {}\n{}\n{:>4}  {:<32} {:<8} {:>10} {:>8} {:>10} {:>10}  STATE\n",
            self.instance,
            self.abi,
            is(self.agent),
            is(self.gateway),
            self.gateway_contained.line(),
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

impl GatewayStatus {
    fn new(
        instance: &str,
        landlock: Option<Landlock>,
        found: Option<&(Endpoint, Option<u32>, Counters)>,
    ) -> Self {
        let processes = gateway_processes(instance);
        let is_wide = found.is_some_and(|(endpoint, ..)| endpoint.has(WIDE));
        Self {
            seccomp: !processes.is_empty()
                && processes.iter().all(|pid| confine::is_filtered(*pid)),
            landlock,
            reach: if is_wide { "wide" } else { "policy" },
            allowed: found.map_or(0, |(.., counters)| counters.allowed),
            denied: found.map_or_else(BTreeMap::new, |(.., counters)| by_name(counters)),
        }
    }

    /// For people.
    fn line(&self) -> String {
        let seccomp = if self.seccomp {
            "in force"
        } else {
            "NOT IN FORCE"
        };
        let landlock = self
            .landlock
            .map_or("unknown".to_owned(), |it| it.to_string());
        let reach = match self.reach {
            "wide" => "anywhere, since an endpoint is in Audit",
            _ => "where policies may lead",
        };
        let denied: Vec<_> = self
            .denied
            .iter()
            .map(|(why, count)| format!("{why} {count}"))
            .collect();
        let denied = match denied.as_slice() {
            [] => "nothing".to_owned(),
            denied => denied.join(", "),
        };
        format!(
            "gateway held by: seccomp {seccomp}, Landlock {landlock}; connects {reach}; denied {denied}\n"
        )
    }
}

fn by_name(counters: &Counters) -> BTreeMap<&'static str, u64> {
    let denied = counters.denied.iter();
    denied
        .map(|(reason, count)| (reason.name(), *count))
        .collect()
}

fn gateway_processes(instance: &str) -> Vec<u32> {
    let procs = cgroup_of(instance).map(|folder| folder.join("gateway/cgroup.procs"));
    let text = procs.map(fs::read_to_string);
    let text = text.ok().and_then(Result::ok).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok()).collect()
}
