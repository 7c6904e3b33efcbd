//! Attaching and pinning. A link that is pinned already gets the new program in place; there is
//! never a moment with neither.

use crate::enforcer::{
    Enforcer, bpffs,
    clsact::{self, Links, Side},
    sys,
    tamper::{Held, Place},
};
use aya::programs::{ProgramError, ProgramFd};
use std::{
    fs::{self, File},
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
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
    INBOUND,
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
/// The one that sees what comes to an endpoint's sockets. Where the endpoint has a link that sees it.
const INBOUND: Hook = ("egress_skb_ingress", 0);
/// The programs on the gateway's cgroup.
const GATEWAY_HOOKS: &[Hook] = &[
    ("gateway_sock_ops", 3),
    ("gateway_getsockopt", 21),
    ("gateway_setsockopt", 22),
    ("gateway_skb_ingress", 0),
];
/// Those of an endpoint's programs that hold the gateway as well, which is one.
const CONTAIN_HOOKS: &[Hook] = &[
    ("egress_sock_create", 2),
    ("egress_connect4", 10),
    ("egress_connect6", 11),
    ("egress_sendmsg4", 14),
    ("egress_sendmsg6", 15),
    ("egress_skb_egress", 1),
];
/// The programs on the host side of a link, which receives what the endpoint sends: by TCX, or, on
/// kernels without it, by filters of the same side.
pub(super) const LINK_HOOKS: &[Hook] =
    &[("egress_link_in", 47), ("egress_link_out", FROM_ENDPOINT)];
/// BPF_TCX_INGRESS: into the node.
const FROM_ENDPOINT: u32 = 46;
const LINK_SIDES: &[(&str, Side)] = &[
    ("egress_link_in", Side::Egress),
    ("egress_link_out", Side::Ingress),
];

fn cgroup_hooks(has_link: bool) -> impl Iterator<Item = Hook> {
    let hooks = CGROUP_HOOKS.iter().copied();
    hooks.filter(move |hook| !has_link || *hook != INBOUND)
}

/// The names of the programs on an endpoint's cgroup.
pub fn cgroup_programs(has_link: bool) -> impl Iterator<Item = &'static str> {
    cgroup_hooks(has_link).map(|(name, _)| name)
}

/// The names of the programs on the gateway's cgroup.
pub fn gateway_programs() -> impl Iterator<Item = &'static str> {
    let all = GATEWAY_HOOKS.iter().chain(CONTAIN_HOOKS);
    all.map(|(name, _)| *name)
}

/// The names of the programs on an endpoint's link.
pub fn link_programs() -> impl Iterator<Item = &'static str> {
    LINK_HOOKS.iter().map(|(name, _)| *name)
}

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

impl AttachError {
    /// Whether there is nothing to attach to: the cgroup or interface has gone.
    pub fn is_gone(&self) -> bool {
        match self {
            Self::Cgroup { source, .. } => source.kind() == io::ErrorKind::NotFound,
            // To a removed cgroup (kernel/bpf/cgroup.c), or an interface that there is not.
            Self::Attach { source, .. } => {
                matches!(source.raw_os_error(), Some(libc::ENODEV | libc::ENOENT))
            }
            Self::Program { .. } | Self::Pin { .. } => false,
        }
    }
}

impl Enforcer {
    /// Attaches the endpoint programs to a cgroup and all below it. `name` tells its pins apart
    /// within the instance. What a link does as well is left to it.
    pub fn attach_cgroup(
        &mut self,
        name: &str,
        cgroup: &Path,
        has_link: bool,
    ) -> Result<(), AttachError> {
        let hooks: Vec<Hook> = cgroup_hooks(has_link).collect();
        self.attach_to_cgroup(&hooks, name, cgroup)?;
        if has_link {
            self.detach(INBOUND, name)?;
        }
        Ok(())
    }

    /// Removes the link that is pinned under these names, if there is one.
    fn detach(&mut self, hook: Hook, name: &str) -> Result<(), AttachError> {
        let path = bpffs::link(&self.pins, &pin_name(name, hook.0));
        self.held.remove(&path);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(pin_error(hook.0, &path)(error))
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Attaches the gateway's programs to its cgroup.
    pub fn attach_gateway(&mut self, cgroup: &Path) -> Result<(), AttachError> {
        self.attach_to_cgroup(CONTAIN_HOOKS, "gateway", cgroup)?;
        self.attach_to_cgroup(GATEWAY_HOOKS, "gateway", cgroup)
    }

    /// Attaches the link programs to the host side of an endpoint's veth, ahead of all others.
    pub fn attach_link(&mut self, name: &str, interface: u32) -> Result<(), AttachError> {
        match self.links {
            Links::Tcx => self.attach_tcx(LINK_HOOKS, name, interface),
            Links::Clsact => self.attach_filters(LINK_SIDES, name, interface),
        }
    }

    /// Attaches the one of the link programs that sees what the endpoint sends: at once, the other
    /// follows by [`attach_link`](Self::attach_link).
    pub fn guard_link(&mut self, name: &str, interface: u32) -> Result<(), AttachError> {
        match self.links {
            Links::Tcx => {
                let out = LINK_HOOKS.iter().filter(|(_, hook)| *hook == FROM_ENDPOINT);
                let out: Vec<Hook> = out.copied().collect();
                self.attach_tcx(&out, name, interface)
            }
            Links::Clsact => {
                let out = LINK_SIDES.iter().filter(|(_, side)| *side == Side::Ingress);
                let out: Vec<_> = out.copied().collect();
                self.attach_filters(&out, name, interface)
            }
        }
    }

    fn attach_tcx(
        &mut self,
        hooks: &[Hook],
        name: &str,
        interface: u32,
    ) -> Result<(), AttachError> {
        let target = Target {
            number: interface,
            id: interface.into(),
            flags: sys::BEFORE,
            name: &format!("interface {interface}"),
            place: Place::Interface(interface),
        };
        for hook in hooks {
            self.attach(*hook, name, &target)?;
        }
        Ok(())
    }

    /// Attaches again what is not attached any more, to the same place.
    pub(super) fn attach_again(&mut self, held: &Held) -> Result<(), AttachError> {
        let hooks = &[held.hook];
        match &held.place {
            Place::Cgroup(path) => self.attach_to_cgroup(hooks, &held.name, path),
            Place::Interface(index) => self.attach_tcx(hooks, &held.name, *index),
        }
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
            place: Place::Cgroup(cgroup.to_owned()),
        };
        for hook in hooks {
            self.attach(*hook, name, &target)?;
        }
        Ok(())
    }

    /// Updates the link that is pinned under these names, or attaches and pins one.
    fn attach(&mut self, hook: Hook, name: &str, target: &Target<'_>) -> Result<(), AttachError> {
        let (program, attach_type) = hook;
        let path = bpffs::link(&self.pins, &pin_name(name, program));
        if self
            .held
            .get(&path)
            .is_some_and(|it| it.target == target.id)
        {
            // Whether it is still as it was, `mend` asks, and says so where it is not.
            return Ok(());
        }
        let fd = self.program_fd(program)?;
        let adopted = adopt(&path, target.id, &fd);
        if let Some(link) = adopted.map_err(pin_error(program, &path))? {
            return self.hold(hook, name, target, &fd, link, path);
        }
        let link = sys::link_create(fd.as_fd(), target.number, attach_type, target.flags);
        let link = link.map_err(|source| AttachError::Attach {
            program,
            target: target.name.to_owned(),
            source,
        })?;
        pin(link.as_fd(), &path).map_err(pin_error(program, &path))?;
        self.hold(hook, name, target, &fd, link, path)
    }

    /// Keeps a link's descriptor, so that it stays attached whatever becomes of its pin, and what
    /// it should be.
    fn hold(
        &mut self,
        hook: Hook,
        name: &str,
        target: &Target<'_>,
        program: &ProgramFd,
        link: OwnedFd,
        pin: PathBuf,
    ) -> Result<(), AttachError> {
        let ids = (|| Ok((sys::id(link.as_fd())?, sys::id(program.as_fd())?)))();
        let (id, program_id) = ids.map_err(pin_error(hook.0, &pin))?;
        let held = Held {
            link,
            id,
            name: name.to_owned(),
            hook,
            place: target.place.clone(),
            target: target.id,
            program_id,
        };
        self.held.insert(pin, held);
        Ok(())
    }

    pub(super) fn program_fd(&self, program: &'static str) -> Result<ProgramFd, AttachError> {
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
        self.held
            .retain(|_pin, held| names.contains(&held.name.as_str()));
        let kept = |link: &str| {
            let name = link.rsplit_once("--").map_or("", |(name, _)| name);
            names.iter().any(|kept| escaped(kept) == name)
        };
        let links = self.pins.join("links");
        for entry in fs::read_dir(&links)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                // None of ours.
                continue;
            }
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
                let elsewhere = filters
                    .get(name)
                    .is_some_and(|now| now.interface != interface);
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
pub(super) fn pin_name(name: &str, program: &str) -> String {
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
    /// As it is found again.
    place: Place,
}

/// Pins a link, in the place of what is pinned there.
pub(super) fn pin(link: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
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

/// Takes over the link that is pinned, if it is attached to this target. None where there is
/// none, or one to a target that has gone or is another: an endpoint keeps its name when its
/// cgroup and interface are made again.
fn adopt(path: &Path, target: u64, program: &ProgramFd) -> io::Result<Option<OwnedFd>> {
    let link = match sys::get(path) {
        Ok(link) => link,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let info = sys::link_info(link.as_fd())?;
    if info.target() != target {
        return Ok(None);
    }
    // The kernel waits some ten milliseconds after an update of a link.
    if info.program == sys::id(program.as_fd())? {
        return Ok(Some(link));
    }
    match sys::link_update(link.as_fd(), program.as_fd()) {
        Ok(()) => Ok(Some(link)),
        // The kernel's answer for a link whose target went away (kernel/bpf/cgroup.c, tcx.c).
        Err(error) if error.raw_os_error() == Some(libc::ENOLINK) => Ok(None),
        Err(error) => Err(error),
    }
}
