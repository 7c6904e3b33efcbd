//! A running instance: its pins, its gateway, its reports. `run` and `exec` are made of it.

mod gateway;
mod handover;
mod records;
mod remove;

pub use gateway::{Contained, GatewayPlan};
pub use remove::remove;

use crate::{
    app::{
        handover::Handed,
        plan::{Plan, PlanError},
        reach::Reach,
    },
    config::GATEWAY_NAME,
    enforcer::{
        Enforcer, EnforcerError,
        attach::AttachError,
        cgroup::{self, CgroupError, CgroupId},
        events::Report,
        node::{Node, NodeError},
        state::{EndpointState, pinned_sets},
        tamper::Fault,
    },
    gateway::{
        inherit,
        protocol::{ControlError, FromGateway, ToGateway},
        seal::Landlock,
        spawn::{ControlSender, GatewayChild, SpawnError},
    },
    telemetry::record::Record,
};
use egress_common::{
    endpoint::{GATEWAY_ID, IS_GATEWAY, MODE_ENFORCE, WIDE},
    event::ReportKey,
};
use gateway::{Extent, start_gateway};
use records::enriched;
use std::{
    collections::{HashMap, VecDeque},
    fs, io,
    os::unix::process::ExitStatusExt as _,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};
use tokio::sync::mpsc;

/// How long the gateway may take to listen.
const READY: Duration = Duration::from_secs(10);

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

/// The number of the set of its name servers, where no earlier agent has given one: policies' numbers
/// are counted from 1.
const SERVERS: u32 = 1 << 31;

/// The gateway as an endpoint.
fn gateway_state(cgroup: CgroupId, servers: u32, reach: &Reach) -> EndpointState {
    let wide = if reach.wide { WIDE } else { 0 };
    EndpointState {
        id: GATEWAY_ID,
        policy: servers,
        // What it must not reach it never has to: also where an endpoint is in Audit.
        mode: MODE_ENFORCE,
        flags: IS_GATEWAY | wide,
        generation: 0,
        addresses: Vec::new(),
        cgroup: Some(cgroup),
        link: None,
    }
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
    /// Where the buffers' events go.
    report: mpsc::UnboundedSender<Report>,
    reports: mpsc::UnboundedReceiver<Report>,
    /// Whether the gateway has let go of everything.
    is_drained: bool,
    names: HashMap<u32, (String, bool)>,
    /// What is in force.
    gateway: GatewayPlan,
    /// The gateway's.
    cgroup: CgroupId,
    /// The number of the set of its name servers.
    servers: u32,
    /// What the gateway may reach.
    reach: Reach,
    /// What its process is held by.
    landlock: Landlock,
    plan: Arc<Plan>,
    /// Records that came out of one event together with another.
    waiting: VecDeque<Record>,
    /// When windows began that were closed in the last tick and the one before.
    told: [HashMap<ReportKey, u32>; 2],
    generation: u64,
    log: Option<aya_log::EbpfLogger<&'static dyn log::Log>>,
}

impl Instance {
    /// Brings an instance up, with the programs that are loaded: the gateway listens and knows the policy before the first hook of
    /// an endpoint is attached. Pins of an earlier agent enforce all the while.
    pub async fn start(
        mut enforcer: Enforcer,
        name: &str,
        gateway: &GatewayPlan,
        plan: &Plan,
        node: &Node,
        predecessor: Option<&Handed>,
    ) -> Result<Self, InstanceError> {
        enforcer.adopt()?;
        let log = enforcer.log();
        let (report, reports) = mpsc::unbounded_channel();
        enforcer.forward_events(report.clone())?;
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
        let mut gateway = gateway.clone();
        gateway.find_resolvers()?;
        plan.fits_beside(&Plan::default())?;
        let reach = Reach::new(plan, &gateway);
        reach.fits_beside(&Reach::default())?;
        let own = cgroup::identify(&gateway_cgroup)?;
        let levels = plan.cgroup_levels() | cgroup::levels([own].into_iter());
        enforcer.set_config(gateway.for_maps(), levels)?;
        // An earlier agent's, should this one have to give the instance back.
        let pinned = pinned_sets(enforcer.pins())?.remove(&GATEWAY_ID);
        let servers = pinned.filter(|place| *place != 0).unwrap_or(SERVERS);
        let state = gateway_state(own, servers, &reach);
        // Where there is one that serves still, it goes on as it is held.
        if !enforcer.is_endpoint(&state)? {
            enforcer.renew(state.id)?;
            enforcer.set_endpoint(&state)?;
        }
        enforcer.attach_gateway(&gateway_cgroup)?;
        let (inherited, _held) = match predecessor {
            Some(handed) => {
                enforcer.set_told(&handed.told);
                let listen = [gateway.at(gateway.port), gateway.at(gateway.proxy_port)].concat();
                let dns = gateway.at(gateway.dns_port);
                let sockets = inherit::of_gateway(handed.gateway, &listen, &dns);
                sockets.map_err(|source| InstanceError::Inherit { source })?
            }
            None => Default::default(),
        };
        let (sender, child, from_gateway, landlock) =
            start_gateway(&gateway, &gateway_cgroup, inherited).await?;
        let mut instance = Self {
            enforcer,
            sender,
            child,
            from_gateway,
            report,
            reports,
            is_drained: false,
            names: HashMap::new(),
            gateway,
            cgroup: own,
            servers,
            reach: Reach::default(),
            landlock,
            plan: Arc::default(),
            waiting: VecDeque::new(),
            told: Default::default(),
            generation: 0,
            log,
        };
        instance.put(plan, Gone::Refuse).await?;
        instance.plan = Arc::new(plan.clone());
        if predecessor.is_some() {
            // Last, since what it has taken ends with it, should the rest fail.
            instance.serve().await?;
        }
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

    /// Whether the gateway has told that nothing is connected any more.
    pub const fn is_drained(&self) -> bool {
        self.is_drained
    }

    /// How a gateway ended that says nothing any more.
    pub async fn how_the_gateway_ended(&mut self) -> String {
        /// Its descriptors close a moment before it has ended.
        const MOMENT: Duration = Duration::from_secs(1);
        match tokio::time::timeout(MOMENT, self.child.wait()).await {
            Ok(Ok(status)) if status.signal() == Some(libc::SIGSYS) => {
                "it tried a system call that no gateway makes: take it for taken over".to_owned()
            }
            Ok(Ok(status)) => status.to_string(),
            Ok(Err(error)) => error.to_string(),
            Err(_elapsed) => "it does not speak any more".to_owned(),
        }
    }

    /// What the gateway is held by.
    pub fn contained(&self) -> Contained {
        Contained {
            // Else there were no instance.
            seccomp: true,
            landlock: self.landlock,
            reach: match self.reach.wide {
                true => Extent::Wide,
                false => Extent::Policy,
            },
        }
    }

    /// What is in force.
    pub fn plan(&self) -> Arc<Plan> {
        Arc::clone(&self.plan)
    }

    /// The gateway learns of a plan first, and what endpoints lose in the kernel goes last, so
    /// that at no moment more is allowed than one of the two plans allows, nor is anything
    /// detached that stays.
    async fn put(&mut self, plan: &Plan, gone: Gone) -> Result<(), InstanceError> {
        let reach = Reach::new(plan, &self.gateway);
        reach.fits_beside(&self.reach)?;
        self.widen(&reach)?;
        self.generation += 1;
        let endpoints = plan.for_gateway(self.generation);
        let applied = FromGateway::Applied {
            generation: self.generation,
        };
        self.ask(ToGateway::Endpoints(endpoints), applied).await?;
        self.enforce(plan, gone)
    }

    /// What the gateway is about to dial, it may by then.
    fn widen(&mut self, reach: &Reach) -> Result<(), InstanceError> {
        self.enforcer.widen_reach(&reach.state)?;
        if reach.wide {
            let servers = [(self.servers, Arc::clone(&reach.servers))];
            self.enforcer.set_direct(&servers.into())?;
            let state = gateway_state(self.cgroup, self.servers, reach);
            self.enforcer.set_endpoint(&state)?;
            // It is said from now on, whatever becomes of the rest.
            self.reach.wide = true;
        }
        Ok(())
    }

    /// The kernel's side of a plan. Whatever of it fails, nothing is remembered to be allowed that
    /// was allowed before.
    fn enforce(&mut self, plan: &Plan, gone: Gone) -> Result<(), InstanceError> {
        let written = self.write(plan, gone);
        let forgotten = self.enforcer.forget_decisions();
        written.and(forgotten.map_err(InstanceError::from))
    }

    fn write(&mut self, plan: &Plan, gone: Gone) -> Result<(), InstanceError> {
        let reach = Reach::new(plan, &self.gateway);
        let states = plan.endpoints.iter().map(|plan| plan.state.clone());
        let gateway = gateway_state(self.cgroup, self.servers, &reach);
        let states: Vec<_> = states.chain([gateway]).collect();
        self.enforcer.set_networks(&plan.networks)?;
        let mut direct = plan.direct();
        direct.insert(self.servers, Arc::clone(&reach.servers));
        self.enforcer.set_direct(&direct)?;
        self.enforcer.set_replies(&plan.replies(), &plan.networks)?;
        for state in &states[..plan.endpoints.len()] {
            if !self.plan.has(state.id) && !self.enforcer.is_endpoint(state)? {
                self.enforcer.renew(state.id)?;
            }
        }
        let ids: Vec<u32> = states.iter().map(|state| state.id).collect();
        self.enforcer.give_own(&ids)?;
        for state in &states {
            self.enforcer.set_endpoint(state)?;
        }
        self.enforcer.set_config(
            self.gateway.for_maps(),
            plan.cgroup_levels() | cgroup::levels([self.cgroup].into_iter()),
        )?;
        self.enforcer.set_reach(&reach.state)?;
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
        self.reach = reach;
        self.names
            .insert(GATEWAY_ID, (GATEWAY_NAME.to_owned(), false));
        // Those of endpoints that have gone stay for their last records.
        self.names.extend(plan.endpoints.iter().map(|plan| {
            let audit = plan.state.mode == egress_common::endpoint::MODE_AUDIT;
            (plan.state.id, (plan.name.clone(), audit))
        }));
        Ok(())
    }

    /// Says something to the gateway, and waits until it says that it has done so.
    async fn ask(&mut self, message: ToGateway, done: FromGateway) -> Result<(), InstanceError> {
        self.sender.send(&message).await?;
        let answered = tokio::time::timeout(READY, self.answered(&done)).await;
        answered.unwrap_or_else(|_elapsed| {
            let message = format!("it did not answer within {} s", READY.as_secs());
            Err(InstanceError::Gateway(message))
        })
    }

    async fn answered(&mut self, done: &FromGateway) -> Result<(), InstanceError> {
        loop {
            match self.from_gateway.recv().await {
                Some(FromGateway::Record(record)) => self.waiting.push_back(enriched(*record)),
                Some(FromGateway::Failed { message }) => {
                    return Err(InstanceError::Gateway(message));
                }
                Some(answer) if answer == *done => return Ok(()),
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
                let has_link = endpoint.state.link.is_some();
                let attached =
                    self.enforcer
                        .attach_cgroup(&endpoint.name, &endpoint.cgroup, has_link);
                match attached {
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

    /// The enforcer, for counters.
    pub fn enforcer(&mut self) -> &mut Enforcer {
        &mut self.enforcer
    }
}
