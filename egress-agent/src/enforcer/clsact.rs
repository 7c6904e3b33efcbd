//! Links on kernels before 6.6, which have no TCX: filters of the qdisc clsact, by netlink. A
//! filter is no descriptor that could be pinned; it stays by itself until it or its interface is
//! removed. Whose it is says its name, which is the path that a pinned link would have.

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd},
    path::Path,
};

use aya::programs::{SchedClassifier, TcAttachType};

mod netlink;

use netlink::{Message, Parent, Request, request};

/// How programs get onto links in this kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Links {
    /// By links of their own, from 6.6 on.
    Tcx,
    /// By filters of the qdisc clsact.
    Clsact,
}

impl Links {
    /// Asks the kernel for TCX programs on the loopback device, which every network namespace
    /// has. Kernels without TCX know no such question (EINVAL).
    pub fn of_this_kernel() -> Self {
        match SchedClassifier::query_tcx("lo", TcAttachType::Ingress) {
            Err(error) if errno(&error) == Some(libc::EINVAL) => Self::Clsact,
            // Whatever else is wrong is told by attaching.
            Ok(_) | Err(_) => Self::Tcx,
        }
    }

    /// The word for it in records.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcx => "tcx",
            Self::Clsact => "clsact",
        }
    }
}

fn errno(error: &(dyn std::error::Error + 'static)) -> Option<i32> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return error.raw_os_error();
        }
        next = error.source();
    }
    None
}

/// Which frames of an interface a filter sees, as the kernel puts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Those that the interface receives.
    Ingress,
    /// Those that it sends.
    Egress,
}

impl Side {
    const BOTH: [Self; 2] = [Self::Ingress, Self::Egress];

    const fn parent(self) -> Parent {
        match self {
            Self::Ingress => Parent::Ingress,
            Self::Egress => Parent::Egress,
        }
    }
}

/// The kind of the qdisc, and that of its filters.
const QDISC: &str = "clsact";
const FILTER: &str = "bpf";

/// Follows the name of a filter whose interface had no qdisc before us.
const OURS: &str = "/qdisc";

/// A filter of ours.
struct Filter {
    name: String,
    made_qdisc: bool,
    handle: u32,
    info: u32,
    program: Option<u32>,
}

/// Puts the program on the interface, ahead of what is there. Where a filter of this name is there
/// already it is replaced, without a moment between the two.
///
/// # Errors
/// The kernel refuses, or the interface has the older qdisc ingress, which has one side only.
pub fn attach(name: &str, program: BorrowedFd<'_>, interface: u32, side: Side) -> io::Result<()> {
    let made_qdisc = add_qdisc(interface)?;
    let present = filters(interface, side)?
        .into_iter()
        .find(|filter| filter.name == name);
    let add = |flags, handle, made_qdisc| {
        let name = match made_qdisc {
            true => format!("{name}{OURS}"),
            false => name.to_owned(),
        };
        let message = Message::new(interface, side.parent(), handle, netlink::FIRST)
            .kind(FILTER)
            .bpf(program.as_raw_fd(), &name);
        request(Request::NewFilter, flags, &message).map(drop)
    };
    match present {
        Some(filter) => add(netlink::REPLACE, filter.handle, filter.made_qdisc),
        None => add(netlink::CREATE, 0, made_qdisc),
    }
}

/// The id of the program that a filter of this name has, if there is one.
///
/// # Errors
/// The kernel refuses, or there is no such interface.
pub fn program(name: &str, interface: u32, side: Side) -> io::Result<Option<u32>> {
    let filters = filters(interface, side)?;
    let found = filters.into_iter().find(|filter| filter.name == name);
    Ok(found.and_then(|filter| filter.program))
}

/// Removes filters of ours for whose name and interface `unwanted` holds, wherever they are in this
/// network namespace, and their qdisc where we made it and nothing else is left in it. Says how many
/// filters there were.
///
/// # Errors
/// The kernel refuses.
pub fn detach(unwanted: impl Fn(&str, u32) -> bool) -> io::Result<usize> {
    let mut count = 0;
    for interface in interfaces()? {
        let mut made_qdisc = false;
        for side in Side::BOTH {
            for filter in filters(interface, side)? {
                if unwanted(&filter.name, interface) {
                    remove(interface, side, &filter)?;
                    made_qdisc |= filter.made_qdisc;
                    count += 1;
                }
            }
        }
        if made_qdisc && is_empty(interface)? {
            let message = Message::new(interface, Parent::Qdisc, netlink::QDISC_HANDLE, 0);
            request(Request::DeleteQdisc, 0, &message.kind(QDISC))?;
        }
    }
    Ok(count)
}

/// The name of a filter, or what the names of an instance's filters begin with: a path below the
/// BPF file system, from our own folder on.
pub fn name_of(pin: &Path) -> String {
    let own = pin.components().skip_while(|part| part.as_os_str() != OWN);
    own.collect::<std::path::PathBuf>().display().to_string()
}

/// The last part of a filter's name, where the filter is of these links: `own` is the name of their
/// folder.
pub fn link_of<'a>(name: &'a str, own: &str) -> Option<&'a str> {
    name.strip_prefix(own)?.strip_prefix('/')
}

/// The folder of all that is ours (`bpffs::root`).
const OWN: &str = "egress-agent";

/// Makes the qdisc; false where there is one.
fn add_qdisc(interface: u32) -> io::Result<bool> {
    let message = Message::new(interface, Parent::Qdisc, netlink::QDISC_HANDLE, 0).kind(QDISC);
    match request(Request::NewQdisc, netlink::CREATE, &message) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            match interfaces()?.contains(&interface) {
                true => Ok(false),
                false => Err(io::Error::other(
                    "it has the qdisc ingress, in whose place clsact is needed: `tc qdisc replace dev … clsact`",
                )),
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(io::Error::other(
            "the kernel has no qdisc clsact: `modprobe -a sch_ingress cls_bpf`",
        )),
        Err(error) => Err(error),
    }
}

/// The interfaces that have the qdisc.
fn interfaces() -> io::Result<Vec<u32>> {
    let every = Message::new(0, Parent::Any, 0, 0);
    let qdiscs = request(Request::GetQdiscs, netlink::DUMP, &every)?;
    let ours = qdiscs.iter().filter(|qdisc| qdisc.kind == QDISC);
    Ok(ours.map(|qdisc| qdisc.interface).collect())
}

/// What is ours on one side of an interface.
fn filters(interface: u32, side: Side) -> io::Result<Vec<Filter>> {
    let found = dump(interface, side)?;
    let named = found
        .into_iter()
        .filter(|filter| filter.kind == FILTER && filter.handle != 0);
    let ours = named.filter_map(|filter| {
        let name = filter.name?;
        let (name, made_qdisc) = match name.strip_suffix(OURS) {
            Some(name) => (name.to_owned(), true),
            None => (name, false),
        };
        name.starts_with(OWN).then_some(Filter {
            name,
            made_qdisc,
            handle: filter.handle,
            info: filter.info,
            program: filter.program,
        })
    });
    Ok(ours.collect())
}

fn is_empty(interface: u32) -> io::Result<bool> {
    for side in Side::BOTH {
        if !dump(interface, side)?.is_empty() {
            return Ok(false);
        }
    }
    Ok(true)
}

fn dump(interface: u32, side: Side) -> io::Result<Vec<netlink::Answer>> {
    let all = Message::new(interface, side.parent(), 0, 0);
    request(Request::GetFilters, netlink::DUMP, &all)
}

fn remove(interface: u32, side: Side, filter: &Filter) -> io::Result<()> {
    let message = Message::new(interface, side.parent(), filter.handle, filter.info);
    request(Request::DeleteFilter, 0, &message.kind(FILTER)).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_called_as_its_pin() {
        let pin = Path::new("/sys/fs/bpf/egress-agent/v1/default/links/shop+a--egress_link_in");
        let name = name_of(pin);
        assert_eq!(name, "egress-agent/v1/default/links/shop+a--egress_link_in");
        let of = |own| link_of(&name, own);
        assert_eq!(
            of("egress-agent/v1/default/links"),
            Some("shop+a--egress_link_in")
        );
        assert_eq!(of("egress-agent/v1/def"), None);
    }
}
