//! Who is measured, running: ours as `egress-agent run` with its gateway, a bare relay, or a peer; and a
//! client for it.

use std::{
    fs::{self, File},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum as _;
use egress_tests::{
    agent::{Agent, Config},
    process,
};

use super::{
    client::Client,
    load::{Order, Outcome},
    peers::{Peer, Setting, WORKERS},
    relay::Way,
    spent::{self, Spent},
    stage::{self, Stage},
};

/// Which of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Who {
    /// The agent.
    Ours,
    /// What a relay costs at least.
    Relay(Way),
    /// One of the others, and its binary.
    Peer(Peer, PathBuf),
}

impl Who {
    /// As tables name it.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Ours => "egress-agent",
            Self::Relay(Way::Splice) => "bare relay",
            Self::Relay(Way::Copy) => "bare relay that only copies",
            Self::Peer(peer, _) => peer.name(),
        }
    }

    fn key(&self) -> String {
        self.name().replace(' ', "-").to_lowercase()
    }
}

/// How long a peer may take until it listens; with very many names some take seconds.
const START: Duration = Duration::from_secs(60);
/// What goes on after an answer is the proxy's, too: a connection's end, a record.
const SETTLE: Duration = Duration::from_millis(150);

/// A running one, ended when it is dropped.
pub(super) struct Subject<'stage> {
    pub(super) who: Who,
    client: Client,
    proxy: Spent,
    /// The enforcer's own, who writes the records.
    enforcer: Option<Spent>,
    /// From its start until a connection was let through.
    pub(super) started: Duration,
    /// Microseconds of processor time that the proxy, and the enforcer, had taken by then.
    pub(super) start: [f64; 2],
    _running: Running<'stage>,
}

enum Running<'stage> {
    Agent { _agent: Agent<'stage> },
    Program { _program: Program },
}

/// What an order came to.
pub(super) struct Measured {
    pub(super) outcome: Outcome,
    /// Microseconds of processor time, of the proxy alone.
    pub(super) proxy: f64,
    /// Of the enforcer, where there is one.
    pub(super) enforcer: f64,
}

impl<'stage> Subject<'stage> {
    /// Starts one that allows so many names, and lets one connection through.
    ///
    /// # Errors
    /// It does not start, with the end of its log.
    pub(super) fn start(
        stage: &'stage Stage,
        who: &Who,
        port: u16,
        names: usize,
        bulk: bool,
    ) -> Result<Self> {
        match who {
            Who::Ours => Self::ours(stage, names),
            Who::Relay(_) | Who::Peer(..) => Self::other(stage, who, port, names, bulk),
        }
        .with_context(|| format!("could not start {}", who.name()))
    }

    fn ours(stage: &'stage Stage, names: usize) -> Result<Self> {
        let allowed = stage::allowed(names);
        let allowed: Vec<&str> = allowed.iter().map(String::as_str).collect();
        let config = Config {
            policy: Config::policy(&allowed),
            resolver: format!("\"{}\"", stage::Stage::name_server()),
            // One pod is everybody here: it has no bound of its own.
            gateway: "\x20 limits: { connectionsPerSecond: 0 }\n".to_owned(),
            ..Config::default()
        };
        let mut client = Client::start(&stage.held, Stage::server(), names)?;
        // Those before it were in the same cgroup.
        let enforcer = Spent::of(stage.world.cgroup().child("system/egress-agent")?);
        let before = enforcer.processor()?;
        let begun = Instant::now();
        let agent = Agent::start(&stage.world, &config, &[&stage.held])?;
        client.ask(&ONE)?;
        let started = begun.elapsed();
        let proxy = Spent::of_process(child_of(agent.pid()?)?)?;
        Ok(Self {
            who: Who::Ours,
            client,
            start: [proxy.processor()?, enforcer.processor()? - before],
            proxy,
            enforcer: Some(enforcer),
            started,
            _running: Running::Agent { _agent: agent },
        })
    }

    fn other(stage: &'stage Stage, who: &Who, port: u16, names: usize, bulk: bool) -> Result<Self> {
        let listen = stage.listener(port);
        let key = format!("{}-{port}", who.key());
        let folder = stage.folder().join(&key);
        fs::create_dir_all(&folder)?;
        let cgroup = stage.world.cgroup().child(&format!("peers/{key}"))?;
        let log = folder.join("log");
        let command = match who {
            Who::Peer(peer, program) => {
                let setting = Setting {
                    folder,
                    listen,
                    upstream: Stage::server(),
                    names: &stage::allowed(names),
                    bulk,
                };
                peer.command(program, &setting)?
            }
            Who::Relay(way) => relay(listen, *way)?,
            Who::Ours => bail!("the agent is started another way"),
        };
        let mut client = Client::start(&stage.free, listen, names)?;
        // Those before it were in the same cgroup.
        let proxy = Spent::of(cgroup.clone());
        let before = proxy.processor()?;
        let begun = Instant::now();
        let mut program = Program::start(stage, command, &cgroup, &log)?;
        process::within(START, "it to listen", || {
            program.expect_running()?;
            let connected = stage
                .free
                .namespace
                .enter(|| TcpStream::connect(listen).is_ok())?;
            Ok(connected.then_some(()))
        })
        .with_context(|| stage::end_of(&log))?;
        client.ask(&ONE).with_context(|| stage::end_of(&log))?;
        let started = begun.elapsed();
        Ok(Self {
            who: who.clone(),
            client,
            start: [proxy.processor()? - before, 0.0],
            proxy,
            enforcer: None,
            started,
            _running: Running::Program { _program: program },
        })
    }

    /// Has the client do something, and waits for what comes of it.
    ///
    /// # Errors
    /// The client could not do it.
    pub(super) fn ask(&mut self, order: &Order) -> Result<Measured> {
        let before = (self.proxy.processor()?, self.of_enforcer()?);
        let outcome = self.client.ask(order);
        let outcome = outcome.with_context(|| format!("through {}", self.who.name()))?;
        std::thread::sleep(SETTLE);
        Ok(Measured {
            outcome,
            proxy: self.proxy.processor()? - before.0,
            enforcer: self.of_enforcer()? - before.1,
        })
    }

    /// Bytes of the proxy's memory.
    ///
    /// # Errors
    /// It has gone.
    pub(super) fn memory(&self) -> Result<f64> {
        self.proxy.memory()
    }

    fn of_enforcer(&self) -> Result<f64> {
        self.enforcer.as_ref().map_or(Ok(0.0), Spent::processor)
    }
}

/// A connection that shows that all is well.
const ONE: Order = Order::Connect {
    count: 1,
    at_once: 1,
};

/// This program, as the bare relay.
fn relay(listen: std::net::SocketAddr, way: Way) -> Result<Command> {
    let mut command = Command::new(std::env::current_exe().context("where this program is")?);
    let way = way.to_possible_value().context("ways have names")?;
    command
        .arg("relay")
        .args([listen.to_string(), Stage::server().to_string()])
        .args([way.get_name(), &WORKERS.to_string()]);
    Ok(command)
}

/// The first child of a process.
fn child_of(pid: u32) -> Result<u32> {
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        // A thread may end meanwhile.
        let children = fs::read_to_string(task?.path().join("children")).unwrap_or_default();
        if let Some(child) = children.split_whitespace().next() {
            return Ok(child.parse()?);
        }
    }
    bail!("process {pid} has no child")
}

/// A program on the node, in a cgroup of its own, with which its children end.
struct Program {
    child: Child,
    cgroup: PathBuf,
}

impl Program {
    fn start(stage: &Stage, mut command: Command, cgroup: &Path, log: &Path) -> Result<Self> {
        let output = File::create(log)?;
        spent::begin_in(cgroup, &mut command)?;
        stage.world.node.confine(&mut command);
        let child = command
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("could not start {:?}", command.get_program()))?;
        Ok(Self {
            child,
            cgroup: cgroup.to_owned(),
        })
    }

    fn expect_running(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            Some(status) => bail!("it ended with {status}"),
            None => Ok(()),
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if let Err(error) = fs::write(self.cgroup.join("cgroup.kill"), "1") {
            eprintln!("{}: could not kill: {error}", self.cgroup.display());
        }
        // It may have ended already.
        self.child.wait().ok();
    }
}
