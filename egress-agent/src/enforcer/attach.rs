//! Attaching and pinning. A link that is pinned already gets the new program in place; there is
//! never a moment with neither.

use crate::enforcer::{
    Enforcer, bpffs,
    clsact::{self, Links, Side},
    sys,
};
use aya::programs::{ProgramError, ProgramFd};
use std::{
    fs::{self, File},
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

/// A program's name in the object, and its hook: enum bpf_attach_type in
/// include/uapi/linux/bpf.h.
pub type Hook = (&'static str, u32);

/// The programs on an endpoint's cgroup. What only remembers comes before what denies, so that
/// nothing is denied for want of a memory.
const CGROUP_HOOKS: &[Hook] = &[
    ("egress_sock_create", 2),
    ("egress_skb_ingress", 0),
    ("egress_recvmsg4", 19),
    ("egress_recvmsg6", 20),
    ("egress_getpeername4", 29),
    ("egress_getpeername6", 30),
    ("egress_connect4", 10),
    ("egress_connect6", 11),
    ("egress_sendmsg4", 14),
    ("egress_sendmsg6", 15),
    ("egress_skb_egress", 1),
];
/// The programs on the gateway's cgroup.
const GATEWAY_HOOKS: &[Hook] = &[
    ("gateway_sock_ops", 3),
    ("gateway_getsockopt", 21),
    ("gateway_setsockopt", 22),
    ("gateway_skb_ingress", 0),
];
/// The programs on the host side of a link, which receives what the endpoint sends: by TCX, or, on
/// kernels without it, by filters of the same side.
pub(super) const LINK_HOOKS: &[Hook] = &[("egress_link_in", 47), ("egress_link_out", 46)];
const LINK_SIDES: &[(&str, Side)] = &[
    ("egress_link_in", Side::Egress),
    ("egress_link_out", Side::Ingress),
];

/// Every hook that there is to attach to: endpoints' cgroups, the gateway's, links.
pub fn hooks() -> impl Iterator<Item = Hook> {
    let all = [CGROUP_HOOKS, GATEWAY_HOOKS, LINK_HOOKS];
    all.into_iter().flatten().copied()
}

/// A hook could not be had.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// The cgroup cannot be opened.
    #[error("cgroup {path}: {source}: it must be a directory of the cgroup v2 hierarchy")]
    Cgroup {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The program is not loaded.
    #[error("{program}: {source}: build the agent again with `cargo xtask build`")]
    Program {
        /// Which.
        program: &'static str,
        /// Why.
        source: Box<ProgramError>,
    },
    /// The kernel refused.
    #[error("{program} could not be attached to {target}: {source}")]
    Attach {
        /// Which program.
        program: &'static str,
        /// To what.
        target: String,
        /// Why.
        source: io::Error,
    },
    /// The pin of a link.
    #[error("{program}: the link's pin {path}: {source}")]
    Pin {
        /// Which program.
        program: &'static str,
        /// The pin.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl Enforcer {
    /// Attaches the endpoint programs to a cgroup and all below it. `name` tells its pins apart
    /// within the instance.
    pub fn attach_cgroup(&mut self, name: &str, cgroup: &Path) -> Result<(), AttachError> {
        self.attach_to_cgroup(CGROUP_HOOKS, name, cgroup)
    }

    /// Attaches the gateway's programs to its cgroup.
    pub fn attach_gateway(&mut self, cgroup: &Path) -> Result<(), AttachError> {
        self.attach_to_cgroup(GATEWAY_HOOKS, "gateway", cgroup)
    }

    /// Attaches the link programs to the host side of an endpoint's veth, ahead of all others.
    pub fn attach_link(&mut self, name: &str, interface: u32) -> Result<(), AttachError> {
        match self.links {
            Links::Tcx => self.attach_tcx(name, interface),
            Links::Clsact => self.attach_filters(name, interface),
        }
    }

    fn attach_tcx(&mut self, name: &str, interface: u32) -> Result<(), AttachError> {
        let target = Target {
            number: interface,
            id: interface.into(),
            flags: sys::BEFORE,
            name: &format!("interface {interface}"),
        };
        for hook in LINK_HOOKS {
            self.attach(*hook, name, &target)?;
        }
        Ok(())
    }

    fn attach_filters(&mut self, name: &str, interface: u32) -> Result<(), AttachError> {
        for (program, side) in LINK_SIDES {
            let fd = self.program_fd(program)?;
            let filter = clsact::name_of(&bpffs::link(&self.pins, &pin_name(name, program)));
            let attached = clsact::attach(&filter, fd.as_fd(), interface, *side);
            attached.map_err(|source| AttachError::Attach {
                program,
                target: format!("interface {interface}"),
                source,
            })?;
            self.filters.insert(filter, interface);
        }
        Ok(())
    }

    fn attach_to_cgroup(
        &mut self,
        hooks: &[Hook],
        name: &str,
        cgroup: &Path,
    ) -> Result<(), AttachError> {
        let open = || {
            let folder = File::open(cgroup)?;
            let id = folder.metadata()?.ino();
            Ok((folder, id))
        };
        let (folder, id) = open().map_err(|source| AttachError::Cgroup {
            path: cgroup.to_owned(),
            source,
        })?;
        let target = Target {
            number: folder.as_raw_fd() as u32,
            id,
            // A cgroup link needs no flags: it is one of several, and children cannot undo it.
            flags: 0,
            name: &cgroup.display().to_string(),
        };
        for hook in hooks {
            self.attach(*hook, name, &target)?;
        }
        Ok(())
    }

    /// Updates the link that is pinned under these names, or attaches and pins one.
    fn attach(
        &mut self,
        (program, attach_type): Hook,
        name: &str,
        target: &Target<'_>,
    ) -> Result<(), AttachError> {
        let path = bpffs::link(&self.pins, &pin_name(name, program));
        let fd = self.program_fd(program)?;
        let adopted = adopt(&path, target.id, &fd);
        if adopted.map_err(pin_error(program, &path))? {
            return Ok(());
        }
        let link = sys::link_create(fd.as_fd(), target.number, attach_type, target.flags);
        let link = link.map_err(|source| AttachError::Attach {
            program,
            target: target.name.to_owned(),
            source,
        })?;
        pin(link.as_fd(), &path).map_err(pin_error(program, &path))
    }

    fn program_fd(&self, program: &'static str) -> Result<ProgramFd, AttachError> {
        let error = |source| AttachError::Program {
            program,
            source: Box::new(source),
        };
        let found = self.ebpf.program(program);
        let found = found.ok_or_else(|| error(ProgramError::NotLoaded))?;
        let fd = found
            .fd()
            .and_then(|fd| fd.try_clone().map_err(ProgramError::IOError));
        fd.map_err(error)
    }

    /// Removes the pins of links whose name is none of these, and thereby detaches them.
    pub fn detach_all_but(&mut self, names: &[&str]) -> io::Result<()> {
        let kept = |link: &str| {
            let name = link.rsplit_once("--").map_or("", |(name, _)| name);
            names.iter().any(|kept| escaped(kept) == name)
        };
        let links = self.pins.join("links");
        for entry in fs::read_dir(&links)? {
            let entry = entry?;
            if !kept(&entry.file_name().to_string_lossy()) {
                fs::remove_file(entry.path())?;
            }
        }
        if self.links == Links::Clsact {
            let own = clsact::name_of(&links);
            let filters = &mut self.filters;
            clsact::detach(|name, interface| {
                let Some(link) = clsact::link_of(name, &own) else {
                    return false;
                };
                // An endpoint keeps its name when its interface is another.
                let elsewhere = filters.get(name).is_some_and(|now| *now != interface);
                elsewhere || !kept(link)
            })?;
            filters.retain(|name, _| clsact::link_of(name, &own).is_some_and(kept));
        }
        Ok(())
    }
}

/// Removes what an instance has on links, where no pin holds it.
///
/// # Errors
/// The kernel refuses.
pub fn detach_filters(pins: &Path) -> io::Result<usize> {
    match Links::of_this_kernel() {
        Links::Tcx => Ok(0),
        Links::Clsact => {
            let own = clsact::name_of(&pins.join("links"));
            clsact::detach(|name, _interface| clsact::link_of(name, &own).is_some())
        }
    }
}

/// The name of a link's pin: bpffs takes no dots in names (bpf_lookup in kernel/bpf/inode.c).
fn pin_name(name: &str, program: &str) -> String {
    format!("{}--{program}", escaped(name))
}

fn escaped(name: &str) -> String {
    name.replace('/', "+").replace('.', ",")
}

fn pin_error<'a>(program: &'static str, path: &'a Path) -> impl Fn(io::Error) -> AttachError + 'a {
    move |source| AttachError::Pin {
        program,
        path: path.to_owned(),
        source,
    }
}

/// What a program is attached to.
struct Target<'a> {
    /// As the kernel takes it: a cgroup's descriptor, or an interface's index.
    number: u32,
    /// As the kernel tells it: a cgroup's id, or an interface's index.
    id: u64,
    flags: u32,
    name: &'a str,
}

/// Pins a link, in the place of what is pinned there.
fn pin(link: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let mut new = path.as_os_str().to_owned();
    new.push("~");
    match fs::remove_file(&new) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    sys::pin(link, Path::new(&new))?;
    fs::rename(&new, path)
}

/// Takes over the link that is pinned, if it is attached to this target. False where there is
/// none, or one to a target that has gone or is another: an endpoint keeps its name when its
/// cgroup and interface are made again.
fn adopt(path: &Path, target: u64, program: &ProgramFd) -> io::Result<bool> {
    let link = match sys::get(path) {
        Ok(link) => link,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    if sys::target(link.as_fd())? != target {
        return Ok(false);
    }
    match sys::link_update(link.as_fd(), program.as_fd()) {
        Ok(()) => Ok(true),
        // The kernel's answer for a link whose target went away (kernel/bpf/cgroup.c, tcx.c).
        Err(error) if error.raw_os_error() == Some(libc::ENOLINK) => Ok(false),
        Err(error) => Err(error),
    }
}
