//! The programs without an instance: whether this kernel takes them. Nothing is pinned, and all
//! of it goes with the value.

use std::{collections::BTreeMap, io, os::fd::AsFd};

use aya::{Btf, Ebpf, EbpfLoader, maps::PerfEventArray, programs::ProgramError};
use egress_common::maps;
use rustix::net::{AddressFamily, SocketType};

use crate::enforcer::{
    EnforcerError, OBJECT,
    attach::LINK_HOOKS,
    clsact::{self, Links, Side},
    load_program,
    state::failed,
    sys,
};

/// What the kernel said to each program.
pub struct Probe {
    ebpf: Ebpf,
    refused: Vec<(String, ProgramError)>,
}

impl Probe {
    /// Makes the maps and offers each program to the kernel.
    ///
    /// # Errors
    /// The object is refused as a whole: no type information, or no map.
    pub fn load() -> Result<Self, EnforcerError> {
        let btf = Btf::from_sys_fs().map_err(EnforcerError::Btf)?;
        let mut ebpf = EbpfLoader::new()
            .btf(Some(&btf))
            .load(OBJECT)
            .map_err(|error| EnforcerError::Load(Box::new(error)))?;
        let mut refused = Vec::new();
        for (name, program) in ebpf.programs_mut() {
            if let Err(error) = load_program(program) {
                refused.push((name.to_owned(), error));
            }
        }
        Ok(Self { ebpf, refused })
    }

    /// How many programs there are.
    pub fn count(&self) -> usize {
        self.ebpf.programs().count()
    }

    /// Those that the kernel refused, and why.
    pub fn refused(&self) -> &[(String, ProgramError)] {
        &self.refused
    }

    /// How many instructions the verifier walked for each program that was loaded, as far as the
    /// kernel tells.
    pub fn verified_instructions(&self) -> BTreeMap<String, u32> {
        let counts = self.ebpf.programs().filter_map(|(name, program)| {
            let count = program.info().ok()?.verified_instruction_count()?;
            Some((name.to_owned(), count))
        });
        counts.collect()
    }

    /// Whether the kernel made machine code of all that it loaded; `None` where that is nothing.
    pub fn is_compiled(&self) -> Option<bool> {
        let loaded = self.ebpf.programs().filter_map(|(_, p)| p.info().ok());
        loaded
            .map(|info| info.size_jitted() > 0)
            .reduce(|all, one| all && one)
    }

    /// Attaches to a link of the thread's network namespace, as the enforcer does. A filter goes
    /// with the link.
    ///
    /// # Errors
    /// The kernel refuses: TCX came with 6.6, and clsact may lack its modules.
    pub fn attach_link(&self, interface: &str) -> io::Result<Links> {
        let (name, attach_type) = LINK_HOOKS[0];
        let program = self.ebpf.program(name);
        let program = program.ok_or(io::ErrorKind::NotFound)?;
        let fd = program.fd().map_err(io::Error::other)?;
        let index = rustix::net::netdevice::name_to_index(
            rustix::net::socket(AddressFamily::INET, SocketType::DGRAM, None)?,
            interface,
        )?;
        let links = Links::of_this_kernel();
        match links {
            Links::Tcx => {
                sys::link_create(fd.as_fd(), index, attach_type, sys::BEFORE).map(drop)?
            }
            Links::Clsact => {
                clsact::attach("egress-agent/doctor", fd.as_fd(), index, Side::Egress)?
            }
        }
        Ok(links)
    }

    /// Opens a perf buffer of one CPU, as large as the enforcer's, and closes it.
    ///
    /// # Errors
    /// The kernel refuses it.
    pub fn open_events(&mut self) -> Result<(), EnforcerError> {
        let map = self
            .ebpf
            .take_map(maps::EVENTS)
            .ok_or(EnforcerError::Missing(maps::EVENTS))?;
        let mut array = PerfEventArray::try_from(map).map_err(failed(maps::EVENTS))?;
        let cpus = aya::util::online_cpus().map_err(|(_, error)| EnforcerError::Perf {
            cpu: 0,
            source: Box::new(error),
        })?;
        let cpu = cpus.first().copied().unwrap_or_default();
        array
            .open(cpu, Some(super::events::PAGES))
            .map(drop)
            .map_err(|error| EnforcerError::Perf {
                cpu,
                source: Box::new(error),
            })
    }
}
