//! The privileged side: loads, attaches and pins the BPF programs, and is the only writer of
//! their maps.

pub mod attach;
pub mod bpffs;
pub mod cgroup;
pub mod clsact;
pub mod counters;
pub mod direct;
pub mod events;
mod filters;
pub mod inspect;
pub mod node;
pub mod own;
pub mod probe;
pub mod reach;
pub mod state;
mod sys;
pub mod tamper;
mod written;

use crate::enforcer::{
    attach::AttachError,
    bpffs::BpffsError,
    clsact::Links,
    direct::Sets,
    filters::Placed,
    own::{Closed, Own},
    reach::ReachState,
    tamper::Held,
    written::Written,
};
use aya::{Btf, Ebpf, EbpfLoader, include_bytes_aligned, programs::Program};
use egress_common::maps::PINNED;
use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
};
use tokio::sync::watch;

/// The BPF object, as `cargo xtask build-ebpf` made it: an ELF file, aligned for parsing in place.
pub static OBJECT: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/egress-ebpf"));

/// What can go wrong between the object and the kernel.
#[derive(Debug, thiserror::Error)]
pub enum EnforcerError {
    /// The BPF file system.
    #[error(transparent)]
    Bpffs(#[from] BpffsError),
    /// The kernel's type information cannot be read.
    #[error(
        "the kernel has no BTF at /sys/kernel/btf/vmlinux ({0}): boot one with CONFIG_DEBUG_INFO_BTF=y"
    )]
    Btf(#[source] aya::BtfError),
    /// The object was refused as a whole.
    #[error("the kernel refused the BPF object: {0}; `egress-agent doctor` says what is missing")]
    Load(#[source] Box<aya::EbpfError>),
    /// One program was refused.
    #[error(
        "the kernel refused the BPF program {name}: {why}; `egress-agent doctor` says what is missing, and RUST_LOG=debug shows the verifier's log"
    )]
    Program {
        /// Which.
        name: String,
        /// Why, without the verifier's log.
        why: String,
    },
    /// The object has not got what it should have.
    #[error("the BPF object has no {0}: build it again with `cargo xtask build`")]
    Missing(&'static str),
    /// A hook.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// A map.
    #[error("BPF map {name}: {source}")]
    Map {
        /// Which.
        name: &'static str,
        /// Why.
        source: Box<aya::maps::MapError>,
    },
    /// A perf buffer.
    #[error("perf buffer of CPU {cpu}: {source}")]
    Perf {
        /// Which CPU.
        cpu: u32,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The agent's own network namespace.
    #[error("the network namespace's cookie cannot be read: {0}; that needs Linux 5.14")]
    Namespace(#[source] std::io::Error),
    /// What is pinned.
    #[error("{path}: {source}: the pin cannot be read; run as root")]
    Pin {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// More than the tables hold.
    #[error("{0}")]
    Full(String),
}

/// The loaded programs of one instance, with its pins.
pub struct Enforcer {
    ebpf: Ebpf,
    pins: PathBuf,
    links: Links,
    /// On kernels without TCX, the filters that are attached, by their names.
    filters: HashMap<String, Placed>,
    /// The links, by their pins.
    held: BTreeMap<PathBuf, Held>,
    /// What the maps shall hold.
    written: Written,
    /// The maps that are an endpoint's own, by its id.
    own: BTreeMap<u32, Own>,
    /// Windows that were closed and not told of yet.
    closed: Vec<Closed>,
    /// The endpoint whose flows were looked through last.
    silent: u32,
    /// The endpoint whose maps were looked at last.
    looked: u32,
    /// The direct entries, by set.
    sets: Sets,
    /// What the gateway may reach.
    reach: ReachState,
    /// Dropped, whoever forwards events tells of the last ones and ends.
    forwarding: Option<watch::Sender<()>>,
}

impl Enforcer {
    /// Loads the programs, with the maps that `pins` holds; missing ones are made and pinned there.
    /// Nothing is attached or written yet.
    pub fn load(pins: &Path) -> Result<Self, EnforcerError> {
        bpffs::prepare(pins)?;
        let btf = Btf::from_sys_fs().map_err(EnforcerError::Btf)?;
        let mut loader = EbpfLoader::new();
        loader.btf(Some(&btf));
        // What is not asked for is no code in the kernel. The two crates number levels alike.
        let level = log::max_level() as u8;
        loader.override_global("AYA_LOG_LEVEL", &level, true);
        for name in PINNED {
            loader.map_pin_path(name, bpffs::map(pins, name));
        }
        let mut ebpf = loader
            .load(OBJECT)
            .map_err(|error| EnforcerError::Load(Box::new(error)))?;
        for (name, program) in ebpf.programs_mut() {
            load_program(program).map_err(|error| refused(name, &error))?;
        }
        Ok(Self {
            ebpf,
            pins: pins.to_owned(),
            links: Links::of_this_kernel(),
            filters: HashMap::new(),
            held: BTreeMap::new(),
            written: Written::open(pins)?,
            own: BTreeMap::new(),
            closed: Vec::new(),
            silent: 0,
            looked: 0,
            sets: Sets::default(),
            reach: ReachState::default(),
            forwarding: None,
        })
    }

    /// Takes over what is in the maps. From now on nobody else may write them.
    pub fn adopt(&mut self) -> Result<(), EnforcerError> {
        self.adopt_own()?;
        self.adopt_direct()
    }

    /// Where maps and links are pinned.
    pub fn pins(&self) -> &Path {
        &self.pins
    }

    /// How programs get onto links here.
    pub fn links(&self) -> Links {
        self.links
    }

    /// What the programs themselves log (aya-log), for whoever polls it.
    pub fn log(&mut self) -> Option<aya_log::EbpfLogger<&'static dyn log::Log>> {
        aya_log::EbpfLogger::init(&mut self.ebpf).ok()
    }
}

fn refused(name: &str, error: &aya::programs::ProgramError) -> EnforcerError {
    tracing::debug!(program = name, "{error}");
    // The error's own text holds the verifier's log, which is long.
    let why = if let aya::programs::ProgramError::LoadError { io_error, .. } = error {
        io_error.to_string()
    } else {
        error.to_string()
    };
    EnforcerError::Program {
        name: name.to_owned(),
        why,
    }
}

#[allow(
    clippy::wildcard_enum_match_arm,
    reason = "every other type is none of the object's"
)]
fn load_program(program: &mut Program) -> Result<(), aya::programs::ProgramError> {
    match program {
        Program::CgroupSock(program) => program.load(),
        Program::CgroupSockAddr(program) => program.load(),
        Program::CgroupSkb(program) => program.load(),
        Program::CgroupSockopt(program) => program.load(),
        Program::SockOps(program) => program.load(),
        Program::SchedClassifier(program) => program.load(),
        _ => Err(aya::programs::ProgramError::UnexpectedProgramType),
    }
}
