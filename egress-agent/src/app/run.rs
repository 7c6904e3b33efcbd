//! `egress-agent run`: the long-running agent for the endpoints of a configuration file.

use crate::{
    app::{
        instance::{GatewayPlan, Instance, remove},
        lock::Lock,
        plan::{Ids, Plan},
    },
    config::{self, Config},
    enforcer::{bpffs, clsact::Links, node::Node, state::pinned_ids},
    telemetry::{
        record::{Event, Posture, Record},
        sink::Sink,
    },
};
use anyhow::{Context, bail};
use std::{fs, net::IpAddr, path::Path, time::Duration};
use tokio::signal::unix::{SignalKind, signal};

/// How often windows are closed and attachments looked at.
const TICK: Duration = Duration::from_secs(1);

/// Runs until SIGTERM or SIGINT. The pins stay, and go on enforcing.
pub async fn run(path: &Path) -> anyhow::Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!(
            "egress-agent run needs root (CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON): run it with sudo"
        );
    }
    let config = config::load(path)?;
    let lock = Lock::take(&config.instance)?;
    let done = run_locked(path, &config).await;
    if !bpffs::instance(&config.instance).exists() {
        // It did not even start, and leaves nothing.
        lock.remove();
    }
    done
}

async fn run_locked(path: &Path, config: &Config) -> anyhow::Result<()> {
    let mut sink = open_sink(config)?;
    let node = Node::open()?;
    let gateway = gateway_plan(config);
    // From here on, since it would end an agent that is not ready yet.
    let mut hangup = signal(SignalKind::hangup())?;
    let mut ids = Ids::new(pinned_ids(&bpffs::instance(&config.instance))?);
    let mut plan = Plan::make(config, &node, 1, &mut ids).await?;
    let adopted = bpffs::instance(&config.instance).exists();
    let started = Instance::start(&config.instance, &gateway, &plan, &node).await;
    let mut instance = match started {
        Ok(instance) => instance,
        Err(error) => {
            if !adopted {
                // Nothing enforced before, and nothing is left half done.
                let undone = remove(&config.instance, &addresses(config), &node).await;
                undone.context("undoing the start")?;
            }
            return Err(error.into());
        }
    };
    ids.retain(&plan);
    let links = instance.enforcer().links();
    sink.write(&posture("ready", &plan, adopted, links));
    eprintln!("ready: {} endpoints enforced", plan.endpoints.len());

    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut tick = tokio::time::interval(TICK);
    let mut generation = 1;
    loop {
        tokio::select! {
            record = instance.next() => match record {
                Some(record) => sink.write(&record),
                None => {
                    finish(&mut instance, &mut sink)?;
                    bail!("the gateway ended: endpoints stay cut off until the agent runs again");
                }
            },
            _ = tick.tick() => {
                for record in instance.tick()? {
                    sink.write(&record);
                }
            }
            _ = hangup.recv() => {
                generation += 1;
                let reloaded = reload(path, config, &node, generation, &mut ids, &gateway, &mut instance);
                match reloaded.await {
                    Ok(new) => {
                        plan = new;
                        sink.write(&posture("reloaded", &plan, false, links));
                        eprintln!("reloaded: generation {generation}");
                    }
                    Err(error) => eprintln!("egress-agent: reload refused, the policy stays as it was: {error:#}"),
                }
            }
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
        }
    }
    finish(&mut instance, &mut sink)?;
    sink.write(&posture("stopped", &plan, false, links));
    eprintln!(
        "stopped: the pins go on enforcing, and endpoints stay cut off, until the agent runs again or `egress-agent detach --yes`"
    );
    Ok(())
}

fn finish(instance: &mut Instance, sink: &mut Sink) -> anyhow::Result<()> {
    for record in instance.finish()? {
        sink.write(&record);
    }
    Ok(())
}

async fn reload(
    path: &Path,
    running: &Config,
    node: &Node,
    generation: u32,
    ids: &mut Ids,
    gateway: &GatewayPlan,
    instance: &mut Instance,
) -> anyhow::Result<Plan> {
    let config = config::load(path)?;
    if config.instance != running.instance {
        bail!("`instance` changed: that needs a restart");
    }
    let plan = Plan::make(&config, node, generation, ids).await?;
    instance.apply(gateway, &plan).await?;
    ids.retain(&plan);
    Ok(plan)
}

/// Removes an instance: what `run` left enforcing.
pub async fn detach(instance: &str, path: Option<&Path>, yes: bool) -> anyhow::Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!("egress-agent detach needs root: run it with sudo");
    }
    let config = path.map(config::load).transpose()?;
    let instance = config.as_ref().map_or(instance, |config| &config.instance);
    let pins = bpffs::instance(instance);
    if !yes {
        bail!(
            "this would remove {} and end all enforcement of instance {instance}: say --yes to do it",
            pins.display()
        );
    }
    let lock = Lock::take(instance)?;
    let own = config.as_ref().map_or_else(default_addresses, addresses);
    let removed = remove(instance, &own, &Node::open()?).await?;
    lock.remove();
    if removed.is_empty() {
        eprintln!("nothing to detach: instance {instance} has no pins");
    }
    for line in removed {
        eprintln!("removed {line}");
    }
    Ok(())
}

fn open_sink(config: &Config) -> anyhow::Result<Sink> {
    match &config.records.path {
        Some(path) => Sink::file(path)
            .with_context(|| format!("records.path {} cannot be opened", path.display())),
        None => Ok(Sink::stdout()),
    }
}

fn gateway_plan(config: &Config) -> GatewayPlan {
    let gateway = &config.gateway;
    GatewayPlan {
        v4: gateway.address4.into(),
        v6: has_ipv6().then(|| gateway.address6.into()),
        port: gateway.port,
        dns_port: gateway.dns_port,
        user: gateway.user,
        resolvers: gateway.resolvers.clone(),
        permitted_answers: gateway.permitted_answers.clone(),
        on_loopback: true,
    }
}

fn addresses(config: &Config) -> Vec<IpAddr> {
    vec![
        config.gateway.address4.into(),
        config.gateway.address6.into(),
    ]
}

fn default_addresses() -> Vec<IpAddr> {
    let gateway = config::GatewayConfig::default();
    vec![gateway.address4.into(), gateway.address6.into()]
}

/// Whether the node's kernel has IPv6, and the loopback device may use it.
pub fn has_ipv6() -> bool {
    let disabled = fs::read_to_string("/proc/sys/net/ipv6/conf/lo/disable_ipv6");
    disabled.is_ok_and(|value| value.trim() == "0")
}

fn posture(state: &str, plan: &Plan, adopted: bool, links: Links) -> Record {
    let mut detail = serde_json::Map::new();
    let endpoints = plan.endpoints.iter().map(|endpoint| {
        let audit = endpoint.state.mode == egress_common::endpoint::MODE_AUDIT;
        serde_json::json!({
            "id": endpoint.state.id,
            "name": endpoint.name,
            "mode": if audit { "Audit" } else { "Enforce" },
            "link": endpoint.state.link.is_some(),
        })
    });
    detail.insert("endpoints".into(), endpoints.collect());
    detail.insert("adopted".into(), adopted.into());
    detail.insert("links".into(), links.name().into());
    Record::now(Event::Posture(Posture {
        endpoint: None,
        state: state.to_owned(),
        detail,
    }))
}
