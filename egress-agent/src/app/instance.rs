//! A running instance: its pins, its gateway, its reports. `run` and `exec` are made of it.

use crate::{
    app::{
        handover::Handed,
        plan::{Plan, PlanError},
    },
    enforcer::{
        Enforcer, EnforcerError, Room,
        attach::{AttachError, detach_filters},
        bpffs,
        cgroup::{self, CgroupError},
        events::Report,
        node::{Node, NodeError},
        own::Closed,
        tamper::Fault,
    },
    gateway::{
        inherit::{self, Inherited},
        protocol::{Configure, ControlError, FromGateway, ToGateway},
        spawn::{ControlReceiver, ControlSender, GatewayChild, SpawnError, SpawnOptions, spawn},
    },
    telemetry::{
        kernel, process,
        record::{Event, Lost, Record},
    },
};
use egress_common::{
    endpoint::Gateway,
    event::{ReportKey, previous_started},
};
use ipnet::IpNet;
use rustix::time::ClockId;
use std::{
    collections::{HashMap, VecDeque},
    fs, io,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::sync::mpsc;

/// How long the gateway may take to listen.
const READY: Duration = Duration::from_secs(10);

/// Where the gateway of an instance listens, and how it works.
#[derive(Debug, Clone)]
pub struct GatewayPlan {
    /// The IPv4 address; on the node already, or put there by `on_loopback`.
    pub v4: IpAddr,
    /// The IPv6 address, where the node has IPv6.
    pub v6: Option<IpAddr>,
    /// TCP.
    pub port: u16,
    /// UDP and TCP.
    pub dns_port: u16,
    /// The user and group that it runs as.
    pub user: u32,
    /// Where it looks names up.
    pub resolvers: Vec<SocketAddr>,
    /// Networks that a name may lead to although they are not public.
    pub permitted_answers: Vec<IpNet>,
    /// Whether the addresses are put on the loopback device.
    pub on_loopback: bool,
}

impl GatewayPlan {
    /// Where it listens.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        std::iter::once(self.v4).chain(self.v6)
    }

    fn at(&self, port: u16) -> Vec<SocketAddr> {
        let addresses = self.addresses();
        addresses.map(|ip| SocketAddr::new(ip, port)).collect()
    }

    fn configure(&self) -> Configure {
        let mut configure = Configure::new(self.at(self.port), self.at(self.dns_port));
        configure.resolvers = self.resolvers.clone();
        configure.permitted_answers = self.permitted_answers.clone();
        configure
    }

    fn for_maps(&self) -> Gateway {
        Gateway {
            v4: self.v4.into(),
            // Without IPv6 nothing is at this address, and connects to it fail.
            v6: self.v6.unwrap_or(IpAddr::from([0; 16])).into(),
            port: self.port,
            dns_port: self.dns_port,
            reserved: 0,
        }
    }
}

/// The instance cannot be, or cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum InstanceError {
    /// The kernel side.
    #[error(transparent)]
    Enforcer(#[from] EnforcerError),
    /// Hooks.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// The hierarchy.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// The network.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// The gateway's process.
    #[error(transparent)]
    Spawn(#[from] SpawnError),
    /// The way to the gateway.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// The gateway said why it cannot work.
    #[error("gateway: {0}")]
    Gateway(String),
    /// What is on links, where the kernel has no TCX.
    #[error("the filters of links could not be removed: {source}; `tc filter show` lists them")]
    Filters {
        /// Why.
        source: io::Error,
    },
    /// The tables are too small.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The sockets of the gateway that served before.
    #[error(
        "the sockets of the running gateway cannot be had: {source}; that needs CAP_SYS_PTRACE"
    )]
    Inherit {
        /// Why.
        source: io::Error,
    },
    /// A folder.
    #[error("{path}: {source}")]
    Folder {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A new plan came into force in part, and so did the old one when it was to come back.
    #[error("{source}; and going back to the policy before failed: {undo}; restart the agent")]
    HalfWay {
        /// Why the new plan failed.
        source: Box<InstanceError>,
        /// Why the old one did.
        undo: Box<InstanceError>,
    },
}

/// The folder of an instance in the cgroup hierarchy.
pub fn cgroup_of(instance: &str) -> Result<PathBuf, CgroupError> {
    Ok(cgroup::root()?.join("egress-agent").join(instance))
}

/// What becomes of an endpoint whose cgroup or interface has gone since it was planned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Gone {
    /// The plan fails.
    Refuse,
    /// It is followed later.
    Skip,
}

/// A running instance.
pub struct Instance {
    enforcer: Enforcer,
    sender: ControlSender,
    /// The gateway's process.
    pub child: GatewayChild,
    from_gateway: mpsc::UnboundedReceiver<FromGateway>,
    reports: mpsc::UnboundedReceiver<Report>,
    /// Of buffers in whose place others came and went.
    before: Vec<mpsc::UnboundedReceiver<Report>>,
    /// Whether the gateway has let go of everything.
    is_drained: bool,
    names: HashMap<u32, (String, bool)>,
    /// What is in force.
    gateway: GatewayPlan,
    plan: Arc<Plan>,
    /// Records that came out of one event together with another.
    waiting: VecDeque<Record>,
    /// When windows began that were closed in the last tick and the one before.
    told: [HashMap<ReportKey, u32>; 2],
    generation: u64,
    log: Option<aya_log::EbpfLogger<&'static dyn log::Log>>,
}

impl Instance {
    /// Brings an instance up: the gateway listens and knows the policy before the first hook of
    /// an endpoint is attached. Pins of an earlier agent enforce all the while.
    pub async fn start(
        name: &str,
        gateway: &GatewayPlan,
        plan: &Plan,
        node: &Node,
        room: Room,
        predecessor: Option<&Handed>,
    ) -> Result<Self, InstanceError> {
        let mut enforcer = Enforcer::load(&bpffs::instance(name), room)?;
        let log = enforcer.log();
        let (report, reports) = mpsc::unbounded_channel();
        enforcer.forward_events(report)?;
        if gateway.on_loopback {
            for address in gateway.addresses() {
                node.add_local(address).await?;
            }
        }
        let gateway_cgroup = cgroup_of(name)?.join("gateway");
        fs::create_dir_all(&gateway_cgroup).map_err(|source| InstanceError::Folder {
            path: gateway_cgroup.clone(),
            source,
        })?;
        plan.fits_beside(&Plan::default())?;
        enforcer.set_config(gateway.for_maps(), plan.cgroup_levels())?;
        enforcer.attach_gateway(&gateway_cgroup)?;
        let (inherited, _held) = match predecessor {
            Some(handed) => {
                enforcer.set_told(&handed.told);
                let (listen, dns) = (gateway.at(gateway.port), gateway.at(gateway.dns_port));
                let sockets = inherit::of_gateway(handed.gateway, &listen, &dns);
                sockets.map_err(|source| InstanceError::Inherit { source })?
            }
            None => Default::default(),
        };
        let (sender, child, from_gateway) =
            start_gateway(gateway, &gateway_cgroup, inherited).await?;
        let mut instance = Self {
            enforcer,
            sender,
            child,
            from_gateway,
            reports,
            before: Vec::new(),
            is_drained: false,
            names: HashMap::new(),
            gateway: gateway.clone(),
            plan: Arc::default(),
            waiting: VecDeque::new(),
            told: Default::default(),
            generation: 0,
            log,
        };
        instance.put(plan, Gone::Refuse).await?;
        instance.plan = Arc::new(plan.clone());
        Ok(instance)
    }

    /// Puts a plan into force in the place of the present one. If anything fails, the present one
    /// is put back.
    ///
    /// # Errors
    /// Why it cannot be. Unless that is [`InstanceError::HalfWay`], nothing has changed.
    pub async fn apply(&mut self, plan: &Plan) -> Result<(), InstanceError> {
        plan.fits_beside(&self.plan)?;
        let Err(source) = self.put(plan, Gone::Refuse).await else {
            self.plan = Arc::new(plan.clone());
            return Ok(());
        };
        let old = Arc::clone(&self.plan);
        match self.put(&old, Gone::Skip).await {
            Ok(()) => Err(source),
            Err(undo) => Err(InstanceError::HalfWay {
                source: Box::new(source),
                undo: Box::new(undo),
            }),
        }
    }

    /// Puts into force what has become of the same endpoints' cgroups, interfaces and addresses.
    ///
    /// # Errors
    /// Something cannot be attached or written; whatever can was.
    pub async fn follow(&mut self, plan: &Plan) -> Result<(), InstanceError> {
        let old = Arc::clone(&self.plan);
        for endpoint in &plan.endpoints {
            let before = old.endpoints.iter().find(|it| it.name == endpoint.name);
            let before = before.and_then(|it| it.state.link.as_ref());
            match &endpoint.state.link {
                Some(link) if before.map(|it| it.interface) != Some(link.interface) => {
                    self.guard(&endpoint.name, link.interface)?;
                }
                Some(_) | None => {}
            }
        }
        plan.fits_beside(&old)?;
        match plan.is_same_for_gateway(&self.plan) {
            true => self.enforce(plan, Gone::Skip)?,
            false => self.put(plan, Gone::Skip).await?,
        }
        self.plan = Arc::new(plan.clone());
        Ok(())
    }

    /// What is in force.
    pub fn plan(&self) -> Arc<Plan> {
        Arc::clone(&self.plan)
    }

    /// The gateway learns of a plan first, and what endpoints lose in the kernel goes last, so
    /// that at no moment more is allowed than one of the two plans allows, nor is anything
    /// detached that stays.
    async fn put(&mut self, plan: &Plan, gone: Gone) -> Result<(), InstanceError> {
        self.generation += 1;
        let endpoints = plan.for_gateway(self.generation);
        self.sender.send(&ToGateway::Endpoints(endpoints)).await?;
        let applied = tokio::time::timeout(READY, self.applied()).await;
        applied.unwrap_or_else(|_elapsed| {
            let seconds = READY.as_secs();
            let message = format!("it did not take the policy up within {seconds} s");
            Err(InstanceError::Gateway(message))
        })?;
        self.enforce(plan, gone)
    }

    /// The kernel's side of a plan. Whatever of it fails, nothing is remembered to be allowed that
    /// was allowed before.
    fn enforce(&mut self, plan: &Plan, gone: Gone) -> Result<(), InstanceError> {
        let written = self.write(plan, gone);
        let forgotten = self.enforcer.forget_decisions();
        written.and(forgotten.map_err(InstanceError::from))
    }

    fn write(&mut self, plan: &Plan, gone: Gone) -> Result<(), InstanceError> {
        let states: Vec<_> = plan
            .endpoints
            .iter()
            .map(|plan| plan.state.clone())
            .collect();
        self.enforcer.set_networks(&plan.networks)?;
        let direct = plan.direct();
        self.enforcer.set_direct(&direct)?;
        self.enforcer.set_replies(&plan.replies(), &plan.networks)?;
        for state in &states {
            if !self.plan.has(state.id) && !self.enforcer.is_endpoint(state)? {
                self.enforcer.renew(state.id)?;
            }
        }
        let ids: Vec<u32> = states.iter().map(|state| state.id).collect();
        self.enforcer.give_own(&ids)?;
        for state in &states {
            self.enforcer.set_endpoint(state)?;
        }
        self.enforcer
            .set_config(self.gateway.for_maps(), plan.cgroup_levels())?;
        self.attach(plan, gone)?;
        let names: Vec<&str> = plan
            .endpoints
            .iter()
            .map(|plan| plan.name.as_str())
            .collect();
        let kept: Vec<&str> = names.iter().copied().chain(["gateway"]).collect();
        self.enforcer
            .detach_all_but(&kept)
            .map_err(|source| InstanceError::Folder {
                path: self.enforcer.pins().to_owned(),
                source,
            })?;
        self.enforcer.retain_endpoints(&states)?;
        // Nobody has their numbers any more.
        self.enforcer.retain_direct(&direct)?;
        // Those of endpoints that have gone stay for their last records.
        self.names.extend(plan.endpoints.iter().map(|plan| {
            let audit = plan.state.mode == egress_common::endpoint::MODE_AUDIT;
            (plan.state.id, (plan.name.clone(), audit))
        }));
        Ok(())
    }

    /// Waits until the gateway works by the generation that it was sent.
    async fn applied(&mut self) -> Result<(), InstanceError> {
        loop {
            match self.from_gateway.recv().await {
                Some(FromGateway::Applied { generation }) if generation == self.generation => {
                    return Ok(());
                }
                Some(FromGateway::Record(record)) => self.waiting.push_back(enriched(*record)),
                Some(_) => {}
                None => return Err(InstanceError::Gateway("it ended".into())),
            }
        }
    }

    /// Attaches what is not attached: new endpoints, and cgroups or links that were made again.
    fn attach(&mut self, plan: &Plan, gone: Gone) -> Result<(), InstanceError> {
        let skipped = |error: &AttachError| gone == Gone::Skip && error.is_gone();
        for endpoint in &plan.endpoints {
            if let Some(link) = &endpoint.state.link {
                match self.enforcer.attach_link(&endpoint.name, link.interface) {
                    Err(error) if !skipped(&error) => return Err(error.into()),
                    Ok(()) | Err(_) => {}
                }
            }
            if endpoint.state.cgroup.is_some() {
                match self
                    .enforcer
                    .attach_cgroup(&endpoint.name, &endpoint.cgroup)
                {
                    Err(error) if !skipped(&error) => return Err(error.into()),
                    Ok(()) | Err(_) => {}
                }
            }
        }
        Ok(())
    }

    /// Attaches to an interface that has just come, before anything else is known of it: the
    /// programs drop all that comes from a link that no map knows.
    ///
    /// # Errors
    /// It cannot be attached to, and has not gone again either.
    pub fn guard(&mut self, endpoint: &str, interface: u32) -> Result<(), InstanceError> {
        match self.enforcer.guard_link(endpoint, interface) {
            Err(error) if !error.is_gone() => Err(error.into()),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Looks whether all is attached and written as it should be, mends it, and says what was
    /// another.
    pub fn mend(&mut self) -> Vec<Fault> {
        self.enforcer.mend()
    }

    /// Waits for the next record. `None` when the gateway has gone.
    pub async fn next(&mut self) -> Option<Record> {
        loop {
            if let Some(record) = self.waiting.pop_front() {
                return Some(record);
            }
            tokio::select! {
                report = self.reports.recv() => {
                    let records = self.reported(report?);
                    self.waiting.extend(records);
                }
                message = self.from_gateway.recv() => {
                    if let FromGateway::Record(record) = message? {
                        return Some(enriched(*record));
                    }
                }
            }
        }
    }

    /// What closed windows come to, and the programs' own diagnostics; call it every second.
    pub fn tick(&mut self) -> Result<Vec<Record>, InstanceError> {
        if let Some(log) = &mut self.log {
            log.flush();
        }
        self.enforcer.forget_silent(now_ns(ClockId::Monotonic))?;
        let over = self.enforcer.close_windows(now_ns(ClockId::Boottime))?;
        let told = over
            .iter()
            .map(|closed| (closed.key, previous_started(closed.started_ns)));
        // An event that is older than a second has come by now.
        self.told = [told.collect(), std::mem::take(&mut self.told[0])];
        Ok(over.iter().flat_map(|it| self.closed(it)).collect())
    }

    /// The last records, before the end: whatever is still on its way, then open windows.
    pub fn finish(&mut self) -> Result<Vec<Record>, InstanceError> {
        let mut records = self.last_records();
        let over = self.enforcer.close_all_windows()?;
        records.extend(over.iter().flat_map(|it| self.closed(it)));
        Ok(records)
    }

    /// What whoever takes the instance over has to know. From now on this agent writes nothing and
    /// mends nothing, until it [reclaims](Self::reclaim) its instance or leaves.
    pub fn hand_over(&self, generation: u32) -> Handed {
        Handed {
            generation,
            gateway: self.child.id().unwrap_or_default(),
            told: self.enforcer.told(),
        }
    }

    /// Takes the instance back from somebody who did not get far: everything is attached and written
    /// as it was.
    ///
    /// # Errors
    /// Something cannot be.
    pub fn reclaim(&mut self) -> Result<(), InstanceError> {
        let (report, reports) = mpsc::unbounded_channel();
        self.enforcer.forward_events(report)?;
        let before = std::mem::replace(&mut self.reports, reports);
        self.before.push(before);
        let plan = Arc::clone(&self.plan);
        self.enforce(&plan, Gone::Skip)?;
        // Its own programs in the place of the other's; that is no tampering.
        for fault in self.enforcer.mend() {
            tracing::debug!("taken back: {fault:?}");
        }
        Ok(())
    }

    /// Has the gateway take nothing more.
    ///
    /// # Errors
    /// It has gone.
    pub async fn drain(&mut self) -> Result<(), InstanceError> {
        Ok(self.sender.send(&ToGateway::Drain).await?)
    }

    /// What has been told and not been written yet. Windows stay for whoever comes after.
    pub fn last_records(&mut self) -> Vec<Record> {
        let mut records = Vec::from(std::mem::take(&mut self.waiting));
        let mut reports = Vec::new();
        for queue in self.before.iter_mut().chain([&mut self.reports]) {
            reports.extend(std::iter::from_fn(|| queue.try_recv().ok()));
        }
        records.extend(reports.into_iter().flat_map(|it| self.reported(it)));
        while let Ok(message) = self.from_gateway.try_recv() {
            records.extend(self.record_of(message));
        }
        records
    }

    /// The next record of the gateway alone; `None` when it has gone, or no connection is left.
    pub async fn next_of_gateway(&mut self) -> Option<Record> {
        while !self.is_drained {
            let message = self.from_gateway.recv().await?;
            if let Some(record) = self.record_of(message) {
                return Some(record);
            }
        }
        None
    }

    fn record_of(&mut self, message: FromGateway) -> Option<Record> {
        self.is_drained |= message == FromGateway::Drained;
        match message {
            FromGateway::Record(record) => Some(enriched(*record)),
            FromGateway::Ready { .. }
            | FromGateway::Failed { .. }
            | FromGateway::Applied { .. }
            | FromGateway::Counters(_)
            | FromGateway::Drained => None,
        }
    }

    fn reported(&self, report: Report) -> Vec<Record> {
        match report {
            Report::Denied(event) => self.bypass(&event),
            Report::Lost(count) => vec![lost("perf", count)],
            Report::Malformed(_) => vec![lost("malformed", 1)],
        }
    }

    /// The enforcer, for counters.
    pub fn enforcer(&mut self) -> &mut Enforcer {
        &mut self.enforcer
    }

    /// What a closed window tells: its first attempt, if no event has, and how many more there were.
    fn closed(&self, closed: &Closed) -> Vec<Record> {
        let name = |id| self.name(id);
        let mut names = self.names.get(&closed.key.endpoint).into_iter();
        let audit = names.any(|(_, audit)| *audit);
        let first = closed.is_untold.then(|| kernel::first(closed, audit, name));
        let repeated = (closed.repeats > 0).then(|| kernel::repeated(closed, audit, name));
        first.into_iter().chain(repeated).map(Record::now).collect()
    }

    /// The record of an event, after that of the window before, if the kernel has restarted that
    /// before it was closed here. (It may still have restarted what was just taken away.)
    fn bypass(&self, event: &egress_common::event::Event) -> Vec<Record> {
        let mut records = Vec::new();
        let began = Some(&event.previous_started);
        if !self.told.iter().any(|told| told.get(&event.key) == began) {
            records = self.closed(&Closed {
                key: event.key,
                layer: event.layer,
                started_ns: 0,
                is_untold: false,
                repeats: u64::from(event.previous).saturating_sub(1),
            });
        }
        let record = Record::now(kernel::bypass(event, |id| self.name(id)));
        records.push(enriched(record));
        records
    }

    fn name(&self, id: u32) -> String {
        let found = self.names.get(&id);
        found.map(|(name, _)| name.clone()).unwrap_or_default()
    }
}

/// Removes what an instance leaves: pins, its cgroup, its addresses. Says what there was.
pub async fn remove(
    name: &str,
    addresses: &[IpAddr],
    node: &Node,
) -> Result<Vec<String>, InstanceError> {
    let mut removed = Vec::new();
    let pins = bpffs::instance(name);
    let filters = detach_filters(&pins).map_err(|source| InstanceError::Filters { source })?;
    if filters > 0 {
        removed.push(format!("{filters} filters of links"));
    }
    if bpffs::remove(&pins).map_err(EnforcerError::from)? {
        removed.push(format!("pins {}", pins.display()));
    }
    for address in addresses {
        if node.remove_local(*address).await? {
            removed.push(format!("address {address} on lo"));
        }
    }
    let folder = cgroup_of(name)?;
    if remove_cgroup(&folder).await? {
        removed.push(format!("cgroup {}", folder.display()));
    }
    // Shared with other instances; it goes with the last one.
    drop(fs::remove_dir(cgroup::root()?.join("egress-agent")));
    Ok(removed)
}

/// Ends whoever is still in the cgroup, a gateway whose agent was killed for instance, and removes
/// it with all below. The kernel takes a moment to let go of what has ended.
async fn remove_cgroup(folder: &Path) -> Result<bool, InstanceError> {
    const TRIES: u32 = 100;
    // Absent before Linux 5.14; then there is nobody to be ended but a dying gateway.
    drop(fs::write(folder.join("cgroup.kill"), "1"));
    let mut tries = 0;
    loop {
        tries += 1;
        match remove_folders(folder) {
            Ok(()) => return Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy && tries < TRIES => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Err(source) => {
                return Err(InstanceError::Folder {
                    path: folder.to_owned(),
                    source,
                });
            }
        }
    }
}

/// The files of a cgroup go with it.
fn remove_folders(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_folders(&entry.path())?;
        }
    }
    fs::remove_dir(folder)
}

async fn start_gateway(
    plan: &GatewayPlan,
    cgroup: &Path,
    inherited: Inherited,
) -> Result<
    (
        ControlSender,
        GatewayChild,
        mpsc::UnboundedReceiver<FromGateway>,
    ),
    InstanceError,
> {
    let mut process = spawn(&SpawnOptions {
        executable: PathBuf::from("/proc/self/exe"),
        cgroup: cgroup.to_owned(),
        uid: plan.user,
        gid: plan.user,
        inherited: inherited.all().collect(),
    })?;
    let mut configure = plan.configure();
    configure.inherited = inherited;
    let configure = ToGateway::Configure(configure);
    process.sender.send(&configure).await?;
    let ready = tokio::time::timeout(READY, process.receiver.receive()).await;
    match ready {
        Ok(Ok(Some(FromGateway::Ready { .. }))) => {}
        Ok(Ok(Some(FromGateway::Failed { message }))) => {
            return Err(InstanceError::Gateway(message));
        }
        Ok(Ok(_)) => return Err(InstanceError::Gateway("it ended before it listened".into())),
        Ok(Err(error)) => return Err(error.into()),
        Err(_elapsed) => {
            let message = format!("it did not listen within {} s", READY.as_secs());
            return Err(InstanceError::Gateway(message));
        }
    }
    let (to, from_gateway) = mpsc::unbounded_channel();
    tokio::spawn(receive(process.receiver, to));
    Ok((process.sender, process.process, from_gateway))
}

/// A task of its own, since receiving must not be broken off half-way. It ends with a gateway that
/// says what is not for it to say: that one is somebody else's by now.
async fn receive(mut receiver: ControlReceiver, to: mpsc::UnboundedSender<FromGateway>) {
    while let Ok(Some(message)) = receiver.receive().await {
        if !is_the_gateways(&message) || to.send(message).is_err() {
            return;
        }
    }
}

/// What the kernel saw, and the agent's own state, are not the gateway's to tell of.
fn is_the_gateways(message: &FromGateway) -> bool {
    match message {
        FromGateway::Record(record) => match record.event {
            Event::ConnectionOpen(_)
            | Event::ConnectionClose(_)
            | Event::Dns(_)
            | Event::Lost(_) => true,
            Event::Bypass(_) | Event::BypassRepeated(_) | Event::Posture(_) => false,
        },
        FromGateway::Ready { .. }
        | FromGateway::Failed { .. }
        | FromGateway::Applied { .. }
        | FromGateway::Counters(_)
        | FromGateway::Drained => true,
    }
}

fn enriched(mut record: Record) -> Record {
    match &mut record.event {
        Event::ConnectionOpen(open) => process::add_executable(&mut open.attempt.process),
        Event::ConnectionClose(close) => process::add_executable(&mut close.open.attempt.process),
        Event::Dns(refusal) => process::add_executable(&mut refusal.attempt.process),
        Event::Bypass(bypass) => process::add_executable(&mut bypass.attempt.process),
        Event::BypassRepeated(_) | Event::Lost(_) | Event::Posture(_) => {}
    }
    record
}

fn lost(source: &str, count: u64) -> Record {
    Record::now(Event::Lost(Lost {
        source: source.to_owned(),
        count,
    }))
}

fn now_ns(clock: ClockId) -> u64 {
    let now = rustix::time::clock_gettime(clock);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::record::Posture;

    #[test]
    fn a_gateway_tells_nothing_of_the_kernel_or_the_agent() {
        let told = |event| is_the_gateways(&FromGateway::Record(Box::new(Record::now(event))));
        let key = ReportKey {
            endpoint: 1,
            destination: IpAddr::from([198, 51, 100, 7]).into(),
            port: 443,
            protocol: 17,
            reason: 3,
        };
        let closed = Closed {
            key,
            layer: 3,
            started_ns: 0,
            is_untold: false,
            repeats: 1,
        };
        assert!(!told(kernel::repeated(&closed, false, |_id| String::new())));
        assert!(!told(Event::Posture(Posture {
            endpoint: None,
            state: "ready".into(),
            detail: serde_json::Map::new(),
        })));
        assert!(told(Event::Lost(Lost {
            source: "gateway".into(),
            count: 1
        })));
    }
}
