//! `egress-agent run`: the long-running agent for the endpoints of a configuration file.

mod handover;

use crate::{
    app::{
        follow::{Follow, Step, is_stale},
        handover::{Door, Predecessor, Successor, forget},
        instance::{GatewayPlan, Instance, InstanceError, remove},
        lock::Lock,
        names,
        plan::{Ids, Missing, Plan},
        posture,
    },
    config::{self, Config},
    enforcer::{
        Enforcer, bpffs,
        node::Node,
        state::{pinned_ids, pinned_sets},
    },
    policy::{load::load_files, select::Policies},
    telemetry::sink::Sink,
};
use anyhow::{Context, bail};
use std::{fs, net::IpAddr, path::Path, time::Duration};
use tokio::signal::unix::{SignalKind, signal};

/// How often windows are closed, and all that is attached and written is looked at.
const TICK: Duration = Duration::from_secs(1);

/// Runs until SIGTERM or SIGINT, and then for as long as what is connected may go on. The pins stay,
/// and go on enforcing.
pub async fn run(path: &Path, take_over: bool) -> anyhow::Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!(
            "egress-agent run needs root (CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON): run it with sudo"
        );
    }
    let config = config::load(path)?;
    let name = config.instance.clone();
    let predecessor = match take_over {
        true => Predecessor::ask(&name).await?,
        false => None,
    };
    let mut lock = match &predecessor {
        // It has it, for the time being.
        Some(_) => None,
        None => Some(Lock::take(&name)?),
    };
    let pins = bpffs::instance(&name);
    let done = run_locked(path, config, &mut lock, predecessor).await;
    if let Some(lock) = lock
        && !pins.exists()
    {
        // It did not even start, and leaves nothing.
        names::remove(&name);
        forget(&name);
        lock.remove();
    }
    done
}

/// With the lock, or with a predecessor who has it.
async fn run_locked(
    path: &Path,
    config: Config,
    lock: &mut Option<Lock>,
    mut predecessor: Option<Predecessor>,
) -> anyhow::Result<()> {
    let sink = open_sink(&config)?;
    more_descriptors();
    let node = Node::open()?;
    let mut follow = Follow::open()?;
    // From here on, since it would end an agent that is not ready yet.
    let mut hangup = signal(SignalKind::hangup())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let policies = load_files(&config.policies)?;
    let adopted = bpffs::instance(&config.instance).exists();
    let started = start(&config, &policies, &node, adopted, predecessor.as_mut()).await;
    let Started {
        instance,
        ids,
        generation,
    } = match started {
        Ok(started) => started,
        Err(error) => {
            if !adopted {
                // Nothing enforced before, and nothing is left half done.
                let undone = remove(&config.instance, &addresses(&config), &node).await;
                undone.context("undoing the start")?;
            }
            return Err(error);
        }
    };
    let name = &config.instance;
    if let Some(predecessor) = predecessor {
        predecessor.relieve().await?;
        *lock = Some(Lock::wait(name).await?);
        eprintln!("taken over, with generation {generation}");
    }
    let mut door = Some(Door::open(name)?);
    let mut running = Running {
        config,
        policies,
        node,
        generation,
        ids,
        instance,
        sink,
        tampered: 0,
        unfollowed: None,
        unreclaimed: None,
    };
    let plan = running.instance.plan();
    let links = running.instance.enforcer().links();
    let contained = running.instance.contained();
    let ready = posture::node("ready", &plan, adopted, links, contained);
    running.sink.write(&ready);
    eprintln!("ready: {} endpoints enforced", plan.endpoints.len());
    running.write_names();

    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        // Apart, since what waits for records has the instance to itself.
        let plan = running.instance.plan();
        tokio::select! {
            record = running.instance.next() => match record {
                Some(record) => running.sink.write(&record),
                None => {
                    running.finish().await?;
                    let how = running.instance.how_the_gateway_ended().await;
                    bail!(
                        "the gateway ended ({how}): endpoints stay cut off until the agent runs again"
                    );
                }
            },
            step = follow.next(&plan) => running.step(step).await,
            successor = next_successor(door.as_mut()) => {
                if let Some(successor) = running.hand_over(successor).await? {
                    if let Some(door) = door.take() {
                        door.close();
                    }
                    let told_to_end = async {
                        tokio::select! {
                            _ = terminate.recv() => {}
                            _ = interrupt.recv() => {}
                        }
                    };
                    return running.leave(lock, successor, told_to_end).await;
                }
            }
            _ = tick.tick() => running.tick().await?,
            _ = hangup.recv() => running.hangup(path).await,
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
        }
    }
    if let Some(door) = door {
        door.close();
    }
    let told_again = async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    running.drain(&mut tick, told_again).await?;
    running.finish().await?;
    let links = running.instance.enforcer().links();
    let (plan, contained) = (running.instance.plan(), running.instance.contained());
    let stopped = posture::node("stopped", &plan, false, links, contained);
    running.sink.write(&stopped);
    eprintln!(
        "stopped: the pins go on enforcing, and endpoints stay cut off, until the agent runs again or `egress-agent detach --yes`"
    );
    Ok(())
}

/// What has come of a start.
struct Started {
    instance: Instance,
    ids: Ids,
    generation: u32,
}

/// Loads first, and has a predecessor hand over only then.
async fn start(
    config: &Config,
    policies: &Policies,
    node: &Node,
    adopted: bool,
    predecessor: Option<&mut Predecessor>,
) -> anyhow::Result<Started> {
    let pins = bpffs::instance(&config.instance);
    let enforcer = Enforcer::load(&pins)?;
    let handed = match predecessor {
        Some(predecessor) => Some(predecessor.take_over().await?),
        None => None,
    };
    let mut ids = Ids::new(pinned_ids(&pins)?, pinned_sets(&pins)?);
    // What was enforced goes on being so, whatever of it is not there at this moment.
    let missing = match adopted {
        true => Missing::Wait,
        false => Missing::Refuse,
    };
    let generation = handed.as_ref().map_or(1, |handed| handed.generation + 1);
    let plan = Plan::make(config, policies, node, generation, &mut ids, missing).await?;
    let (name, gateway) = (&config.instance, gateway_plan(config)?);
    let instance = Instance::start(enforcer, name, &gateway, &plan, node, handed.as_ref()).await?;
    ids.retain(&plan);
    Ok(Started {
        instance,
        ids,
        generation,
    })
}

/// A running agent.
struct Running {
    /// As it was last taken up, with the policies of that moment.
    config: Config,
    policies: Policies,
    node: Node,
    generation: u32,
    ids: Ids,
    instance: Instance,
    sink: Sink,
    /// How many times something was not as it should have been.
    tampered: u64,
    /// Why the last change could not be followed: to be said once.
    unfollowed: Option<String>,
    /// Why not everything is back that a successor was to have: to be said once.
    unreclaimed: Option<String>,
}

/// The next agent that wants to take over; never, where nobody can ask.
async fn next_successor(door: Option<&mut Door>) -> Successor {
    match door {
        Some(door) => door.next().await,
        None => std::future::pending().await,
    }
}

impl Running {
    /// Every second.
    async fn tick(&mut self) -> anyhow::Result<()> {
        if self.unreclaimed.is_some() {
            self.reclaim();
        }
        for record in self.instance.tick()? {
            self.sink.write(&record);
        }
        if self.unfollowed.is_some() || is_stale(&self.instance.plan()) {
            self.follow(None).await;
        }
        self.mend();
        Ok(())
    }

    fn mend(&mut self) {
        let begun = std::time::Instant::now();
        let faults = self.instance.mend();
        let microseconds = begun.elapsed().as_micros();
        tracing::debug!(microseconds, "looked at all that is attached and written");
        self.tampered += faults.len() as u64;
        for record in posture::tampered(&faults, &self.instance.plan(), self.tampered) {
            tracing::warn!("{record}");
            self.sink.write(&record);
        }
    }

    async fn step(&mut self, step: Step) {
        let Step::Guard(arrival) = &step else {
            return self.follow(None).await;
        };
        let guarded = self.instance.guard(&arrival.endpoint, arrival.interface);
        if let Err(error) = guarded {
            self.not_followed(error.to_string());
        }
        let took = arrival.told.elapsed();
        self.follow(Some((&arrival.endpoint, took))).await;
    }

    /// Puts into force what has become of the endpoints' cgroups and interfaces.
    async fn follow(&mut self, attached: Option<(&str, Duration)>) {
        let made = Plan::make(
            &self.config,
            &self.policies,
            &self.node,
            self.generation,
            &mut self.ids,
            Missing::Wait,
        );
        let plan = match made.await {
            Ok(plan) => plan,
            Err(error) => return self.not_followed(error.to_string()),
        };
        let old = self.instance.plan();
        if plan != *old {
            // Before it is all written anew, and nobody could tell.
            self.mend();
            if let Err(error) = self.instance.follow(&plan).await {
                return self.not_followed(error.to_string());
            }
        }
        self.unfollowed = None;
        if plan != *old {
            self.write_names();
        }
        for record in posture::changed(&old, &plan, attached) {
            self.sink.write(&record);
        }
    }

    /// To be tried again with the next tick.
    fn not_followed(&mut self, why: String) {
        if self.unfollowed.as_ref() != Some(&why) {
            eprintln!("egress-agent: a change of the node cannot be followed yet: {why}");
            self.unfollowed = Some(why);
        }
    }

    async fn hangup(&mut self, path: &Path) {
        match self.reload(path).await {
            Ok(()) => {
                let links = self.instance.enforcer().links();
                let (plan, contained) = (self.instance.plan(), self.instance.contained());
                let record = posture::node("reloaded", &plan, false, links, contained);
                self.sink.write(&record);
                eprintln!("reloaded: generation {}", self.generation);
            }
            Err(error) => match error.downcast_ref::<InstanceError>() {
                Some(InstanceError::HalfWay { .. }) => {
                    eprintln!(
                        "egress-agent: reload failed, and only part of it is undone: {error:#}"
                    );
                }
                Some(_) | None => {
                    eprintln!("egress-agent: reload refused, the policy stays as it was: {error:#}")
                }
            },
        }
    }

    async fn reload(&mut self, path: &Path) -> anyhow::Result<()> {
        let config = config::load(path)?;
        if config.instance != self.config.instance {
            bail!("`instance` changed: that needs a restart");
        }
        let policies = load_files(&config.policies)?;
        let (generation, mut ids) = (self.generation + 1, self.ids.clone());
        let missing = Missing::Wait;
        let plan = Plan::make(
            &config, &policies, &self.node, generation, &mut ids, missing,
        );
        let plan = plan.await?;
        self.mend();
        self.instance.apply(&plan).await?;
        ids.retain(&plan);
        (self.config, self.policies) = (config, policies);
        (self.generation, self.ids) = (generation, ids);
        self.write_names();
        Ok(())
    }

    /// For `status`, which does without where they cannot be written.
    fn write_names(&self) {
        if let Err(error) = names::write(
            &self.config.instance,
            &self.instance.plan(),
            self.instance.contained(),
        ) {
            tracing::warn!("the endpoints' names cannot be written for `status`: {error}");
        }
    }

    /// Takes nothing more, and lets what is connected go on for its time, or until somebody wants the
    /// end at once. All is watched as before.
    async fn drain(
        &mut self,
        tick: &mut tokio::time::Interval,
        told_again: impl Future<Output = ()>,
    ) -> anyhow::Result<()> {
        let time = Duration::from_secs(self.config.gateway.drain_seconds);
        if time.is_zero() {
            return Ok(());
        }
        self.instance.drain().await?;
        eprintln!("ending: what is connected goes on for up to {time:?}, or until a second signal");
        let over = tokio::time::sleep(time);
        tokio::pin!(over, told_again);
        loop {
            tokio::select! {
                record = self.instance.next() => match record {
                    Some(record) => self.sink.write(&record),
                    None => break,
                },
                _ = tick.tick() => self.tick().await?,
                () = &mut over => return Ok(()),
                () = &mut told_again => return Ok(()),
            }
        }
        if !self.instance.is_drained() {
            let how = self.instance.how_the_gateway_ended().await;
            eprintln!("egress-agent: the gateway ended ({how}) before what was connected had");
        }
        Ok(())
    }

    async fn finish(&mut self) -> anyhow::Result<()> {
        for record in self.instance.finish().await? {
            self.sink.write(&record);
        }
        Ok(())
    }
}

/// Each endpoint's links are some thirteen descriptors. Where there may be no more, attaching
/// says so.
fn more_descriptors() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let maximum = getrlimit(Resource::Nofile).maximum;
    let limit = Rlimit {
        current: maximum,
        maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::debug!("no more descriptors than before: {error}");
    }
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
    names::remove(instance);
    forget(instance);
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

fn gateway_plan(config: &Config) -> anyhow::Result<GatewayPlan> {
    let gateway = &config.gateway;
    Ok(GatewayPlan {
        v4: gateway.address4.into(),
        v6: has_ipv6().then(|| gateway.address6.into()),
        port: gateway.port,
        dns_port: gateway.dns_port,
        proxy_port: gateway.proxy_port,
        user: gateway.user,
        resolvers: gateway.resolvers.clone(),
        resolver_roots: gateway.resolver_roots.clone(),
        cache: gateway.cache.bounds(),
        answer_grace: gateway.answer_grace(),
        permitted_answers: gateway.permitted_answers.clone(),
        limits: gateway.limits(),
        refused_answers: gateway.refused_answers.clone(),
        roots: crate::app::roots::read(gateway.roots.as_deref())?,
        on_loopback: true,
    })
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
