//! `egress-agent exec`: one command with an enforcer and a gateway of its own.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use ipnet::IpNet;
use nix::sys::signal::Signal;
use tokio::sync::mpsc;

use crate::{
    app::{
        instance::{self, Instance, cgroup_of},
        lock::{self, Lock, LockError},
        posture,
    },
    enforcer::{Enforcer, bpffs, cgroup, node::Node},
    exec::{
        launch::{LaunchError, Launched, Place, launch},
        network::{self, Network},
        protocol::Spec,
        signals::Arrived,
        slot::Slot,
        sockets,
        summary::Summary,
        user::User,
    },
    gateway::resolve::server::NameServer,
    policy::rule::{Mode, Rule},
    telemetry::{record::Record, sink::Sink},
};

mod plan;

pub use plan::Allowed;

/// How often windows are closed.
const TICK: Duration = Duration::from_secs(1);

/// How long the last records may take after the command's end.
const SETTLE: Duration = Duration::from_millis(500);

/// How long there must be no record for the last one to have come.
const QUIET: Duration = Duration::from_millis(30);

/// Signals after which a command that does not run yet is not to run any more.
const ENDING: [Signal; 4] = [
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGTERM,
];

/// What to run, and what it may reach.
#[derive(Debug)]
pub struct Request {
    /// Of the flags.
    pub rules: Vec<Rule>,
    /// Policy files; their selectors do not matter.
    pub policies: Vec<PathBuf>,
    /// Whether what is denied is recorded and passes.
    pub audit: bool,
    /// Whether the node's loopback may be reached.
    pub allow_loopback: bool,
    /// A user's name or number; the caller where it is left out.
    pub user: Option<String>,
    /// Where the gateway looks names up; the node's resolv.conf where empty.
    pub resolvers: Vec<NameServer>,
    /// Networks that a name may lead to although they are not public.
    pub permitted_answers: Vec<IpNet>,
    /// A file that records are added to.
    pub records: Option<PathBuf>,
    /// No summary.
    pub quiet: bool,
    /// The program and its arguments, never empty.
    pub command: Vec<OsString>,
}

/// Runs the command to its end and returns its exit status. `signals` are passed on to it.
///
/// # Errors
/// It was not started: nothing has run, and nothing is left.
pub async fn exec(
    request: Request,
    signals: mpsc::UnboundedReceiver<Arrived>,
) -> anyhow::Result<u8> {
    if !rustix::process::geteuid().is_root() {
        bail!("egress-agent exec needs root to load BPF programs: run it with sudo");
    }
    let (slot, lock) = claim().await?;
    let ended = confined(request, slot, signals).await;
    let cleared = clear(slot).await.map(drop);
    lock.remove();
    cleared.context("cleaning up")?;
    ended
}

/// A number that nobody else has, after clearing what commands left whose agent was killed.
async fn claim() -> anyhow::Result<(Slot, Lock)> {
    cgroup::root()?;
    for instance in left_behind() {
        let Some(slot) = Slot::of_instance(&instance) else {
            continue;
        };
        // Who holds it is alive.
        if let Ok(lock) = Lock::take(&instance) {
            let removed = clear(slot).await.context("clearing what was left")?;
            if !removed.is_empty() {
                eprintln!(
                    "egress-agent: cleared what a killed run left: {}",
                    removed.join(", ")
                );
            }
            lock.remove();
        }
    }
    for slot in Slot::all() {
        match Lock::take(&slot.instance()) {
            Ok(lock) => return Ok((slot, lock)),
            Err(LockError::Taken(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    bail!("as many commands run already as there can be: wait for one to end")
}

/// Instances of which there is something.
fn left_behind() -> Vec<String> {
    let pins = fs::read_dir(bpffs::root()).into_iter().flatten();
    let pinned = pins.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut all: Vec<_> = lock::instances().into_iter().chain(pinned).collect();
    all.sort();
    all.dedup();
    all
}

/// Removes all that a command's instance has outside its processes. Says what there was.
async fn clear(slot: Slot) -> anyhow::Result<Vec<String>> {
    let mut removed = Vec::new();
    if network::remove(slot).await? {
        removed.push(format!("interface {}", slot.link()));
    }
    let node = Node::open()?;
    removed.extend(instance::remove(&slot.instance(), &slot.gateway(), &node).await?);
    Ok(removed)
}

async fn confined(
    request: Request,
    slot: Slot,
    signals: mpsc::UnboundedReceiver<Arrived>,
) -> anyhow::Result<u8> {
    let quiet = request.quiet;
    let mut command = match start(request, slot, signals).await {
        Ok(command) => command,
        // The command's own fault has a status of its own.
        Err(error) => match error.downcast::<LaunchError>() {
            Ok(error) => {
                eprintln!("egress-agent: {error}");
                return Ok(error.status());
            }
            Err(error) => return Err(error),
        },
    };
    let status = command.run().await?;
    if !quiet {
        eprintln!("egress-agent: {}", command.summary);
    }
    Ok(status)
}

async fn start(
    request: Request,
    slot: Slot,
    mut signals: mpsc::UnboundedReceiver<Arrived>,
) -> anyhow::Result<Running> {
    let user = User::of(request.user.as_deref())?;
    let allowed = Allowed::new(
        request.rules,
        &request.policies,
        request.audit,
        request.allow_loopback,
    )?;
    let sink = open_sink(request.records.as_deref())?;
    let name = slot.instance();
    let cgroup = cgroup_of(&name)?.join("command");
    fs::create_dir_all(&cgroup)
        // Not even by mounting the hierarchy in a user namespace can it make cgroups below.
        .and_then(|()| fs::write(cgroup.join("cgroup.max.descendants"), "0"))
        .with_context(|| format!("cannot make {}", cgroup.display()))?;
    // What is denied can only pass where there is a way for it: in Audit the command has the
    // node's own network.
    let network = match allowed.mode {
        Mode::Enforce => Some(Network::make(slot, crate::app::run::has_ipv6()).await?),
        Mode::Audit => None,
    };
    let gateway = plan::gateway(
        slot,
        request.resolvers,
        request.permitted_answers,
        crate::app::roots::read(None)?,
        network.is_none(),
    );
    let node = Node::open()?;
    let program = request.command.first().map(OsString::as_os_str);
    let program = program.context("there is no command: write it after --")?;
    let plan = plan::plan(slot, program, &cgroup, &allowed, &node).await?;
    let enforcer = Enforcer::load(&bpffs::instance(&name))?;
    let instance = Instance::start(enforcer, &name, &gateway, &plan, &node, None).await?;
    if let Some(network) = &network {
        for address in gateway.addresses() {
            network.reaches((address, gateway.port).into())?;
        }
    }
    let directory = std::env::current_dir().context("the working directory")?;
    let spec = Spec {
        environment: user.environment(std::env::vars_os()),
        credentials: user.credentials,
        directory: directory.into_os_string(),
        view: sockets::view(),
        command: request.command,
    };
    let place = Place {
        cgroup,
        namespace: network.map(|network| network.namespace),
    };
    while let Ok(Arrived { signal, .. }) = signals.try_recv() {
        if ENDING.contains(&signal) {
            return Err(LaunchError::Interrupted(signal).into());
        }
    }
    let launched = launch(spec, place).await?;
    Ok(Running {
        instance,
        launched,
        signals,
        sink,
        summary: Summary::default(),
        tampered: 0,
    })
}

fn open_sink(path: Option<&Path>) -> anyhow::Result<Option<Sink>> {
    let Some(path) = path else {
        return Ok(None);
    };
    let sink = Sink::file(path);
    let sink = sink.with_context(|| format!("--records {}: cannot be opened", path.display()))?;
    Ok(Some(sink))
}

/// A command that runs.
struct Running {
    instance: Instance,
    launched: Launched,
    signals: mpsc::UnboundedReceiver<Arrived>,
    sink: Option<Sink>,
    summary: Summary,
    /// How many times something was not as it should have been.
    tampered: u64,
}

impl Running {
    /// Until it ends, and its last records have come.
    async fn run(&mut self) -> anyhow::Result<u8> {
        let mut tick = tokio::time::interval(TICK);
        let mut gateway = true;
        let status = loop {
            tokio::select! {
                record = self.instance.next(), if gateway => match record {
                    Some(record) => self.take(&record),
                    None => {
                        gateway = false;
                        let how = self.instance.how_the_gateway_ended().await;
                        eprintln!("egress-agent: the gateway ended ({how}): nothing goes out any more");
                    }
                },
                _ = tick.tick() => {
                    for record in self.instance.tick()? {
                        self.take(&record);
                    }
                    let faults = self.instance.mend();
                    self.tampered += faults.len() as u64;
                    let plan = self.instance.plan();
                    for record in posture::tampered(&faults, &plan, self.tampered) {
                        self.take(&record);
                    }
                }
                Some(arrived) = self.signals.recv() => self.pass_on(arrived),
                ended = &mut self.launched.ended => break ended.context("the command cannot be waited for")?,
            }
        };
        if gateway {
            self.settle().await;
        }
        for record in self.instance.finish().await? {
            self.take(&record);
        }
        Ok(status)
    }

    /// What the command was told last is recorded a moment after its end.
    async fn settle(&mut self) {
        let begun = Instant::now();
        while begun.elapsed() < SETTLE {
            match tokio::time::timeout(QUIET, self.instance.next()).await {
                Ok(Some(record)) => self.take(&record),
                Ok(None) => return,
                Err(_elapsed) if self.summary.is_open() => {}
                Err(_elapsed) => return,
            }
        }
    }

    fn take(&mut self, record: &Record) {
        self.summary.add(record);
        if let Some(sink) = &mut self.sink {
            sink.write(record);
        }
    }

    /// The terminal's own signals reach the command without.
    fn pass_on(&self, arrived: Arrived) {
        let signal = rustix::process::Signal::from_named_raw(arrived.signal as i32);
        if let (true, Some(signal)) = (arrived.sent, signal) {
            self.launched.signal(signal);
        }
    }
}
