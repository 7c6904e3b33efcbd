//! Raw `bpf(2)` calls. For links: aya updates no cgroup link in place, and hands out no descriptor
//! of the links of socket-option programs, so that they could not be pinned; by these calls every
//! hook is treated alike. What is attached to an interface, in what order: aya's own query gives
//! no error apart from an empty list. For maps: aya walks a map from its first key alone, and by
//! its types; whether a map holds what was written to it is asked byte by byte, some at a time; and
//! it writes one entry a call.

mod map;

use std::{
    ffi::CString,
    io,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    os::unix::ffi::OsStrExt,
    path::Path,
};

pub(super) use map::{
    ARRAY, HASH, LRU_HASH, MapInfo, NO_PREALLOC, Shape, bytes, delete, entries, insert_new, lookup,
    map_create, map_info, next_key, put_map, put_maps, take, update,
};

// enum bpf_cmd in include/uapi/linux/bpf.h.
const BPF_OBJ_PIN: libc::c_long = 6;
const BPF_OBJ_GET: libc::c_long = 7;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const BPF_PROG_QUERY: libc::c_long = 16;
const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_LINK_UPDATE: libc::c_long = 29;

/// BPF_F_BEFORE: with no program named, ahead of all.
pub(super) const BEFORE: u32 = 1 << 3;

#[repr(C)]
struct LinkCreate {
    prog_fd: u32,
    target: u32,
    attach_type: u32,
    flags: u32,
    relative: u32,
    reserved: u32,
    expected_revision: u64,
}

#[repr(C)]
struct LinkUpdate {
    link_fd: u32,
    new_prog_fd: u32,
    flags: u32,
    old_prog_fd: u32,
}

#[repr(C)]
struct Object {
    path: u64,
    fd: u32,
    flags: u32,
}

#[repr(C)]
struct Info {
    fd: u32,
    length: u32,
    info: u64,
}

/// The beginning of struct bpf_link_info.
#[repr(C)]
#[derive(Default)]
pub(super) struct LinkInfo {
    kind: u32,
    /// The link's id, which no other link ever gets.
    pub(super) id: u32,
    /// The id of the program that runs.
    pub(super) program: u32,
    reserved: u32,
    target: u64,
    hook: u64,
}

impl LinkInfo {
    /// Where it is attached: the id of its cgroup, or the index of its interface. 0 where that has
    /// gone, or the link was detached from it.
    pub(super) fn target(&self) -> u64 {
        match self.kind {
            LINK_CGROUP => self.target,
            // Its index is the first half of the word, its hook the second.
            LINK_TCX => u64::from(self.target as u32),
            _ => 0,
        }
    }

    /// enum bpf_attach_type.
    pub(super) fn attach_type(&self) -> u32 {
        match self.kind {
            LINK_TCX => (self.target >> 32) as u32,
            _ => self.hook as u32,
        }
    }
}

/// What of struct bpf_prog_info comes before and after its id.
#[repr(C)]
#[derive(Default)]
struct Kind {
    kind: u32,
    id: u32,
}

#[repr(C)]
struct Query {
    target: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    programs: u64,
    count: u32,
    reserved: u32,
    program_flags: u64,
    links: u64,
    link_flags: u64,
    revision: u64,
}

// enum bpf_link_type in include/uapi/linux/bpf.h.
const LINK_CGROUP: u32 = 3;
const LINK_TCX: u32 = 11;

/// Attaches `program` to the cgroup's descriptor, or to the interface's index.
pub(super) fn link_create(
    program: BorrowedFd<'_>,
    target: u32,
    attach_type: u32,
    flags: u32,
) -> io::Result<OwnedFd> {
    let attributes = LinkCreate {
        prog_fd: program.as_raw_fd() as u32,
        target,
        attach_type,
        flags,
        relative: 0,
        reserved: 0,
        expected_revision: 0,
    };
    owned(bpf(BPF_LINK_CREATE, &attributes)?)
}

/// Puts `program` in the place of the link's present one, without a moment between the two.
pub(super) fn link_update(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let attributes = LinkUpdate {
        link_fd: link.as_raw_fd() as u32,
        new_prog_fd: program.as_raw_fd() as u32,
        flags: 0,
        old_prog_fd: 0,
    };
    bpf(BPF_LINK_UPDATE, &attributes).map(drop)
}

/// Pins a link.
pub(super) fn pin(link: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let attributes = Object {
        path: path.as_ptr() as u64,
        fd: link.as_raw_fd() as u32,
        flags: 0,
    };
    bpf(BPF_OBJ_PIN, &attributes).map(drop)
}

/// Opens what is pinned.
pub(super) fn get(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let attributes = Object {
        path: path.as_ptr() as u64,
        fd: 0,
        flags: 0,
    };
    owned(bpf(BPF_OBJ_GET, &attributes)?)
}

/// What a link is.
pub(super) fn link_info(link: BorrowedFd<'_>) -> io::Result<LinkInfo> {
    info(link)
}

/// The id of a program, map or link: the second word of what the kernel tells of either.
pub(super) fn id(object: BorrowedFd<'_>) -> io::Result<u32> {
    Ok(info::<Kind>(object)?.id)
}

/// The kernel writes as much of the object's description as `T` has room for.
fn info<T: Default>(object: BorrowedFd<'_>) -> io::Result<T> {
    let mut info = T::default();
    let attributes = Info {
        fd: object.as_raw_fd() as u32,
        length: size_of::<T>() as u32,
        info: (&raw mut info) as u64,
    };
    bpf(BPF_OBJ_GET_INFO_BY_FD, &attributes)?;
    Ok(info)
}

/// The ids of the programs on a hook of an interface, in the order in which they run; of very many
/// the first.
pub(super) fn programs(interface: u32, attach_type: u32) -> io::Result<Vec<u32>> {
    /// BPF_MPROG_MAX in include/linux/bpf_mprog.h: there are no more.
    const MOST: usize = 64;
    let mut ids = vec![0_u32; MOST];
    let attributes = Query {
        target: interface,
        attach_type,
        query_flags: 0,
        attach_flags: 0,
        programs: ids.as_mut_ptr() as u64,
        count: MOST as u32,
        reserved: 0,
        program_flags: 0,
        links: 0,
        link_flags: 0,
        revision: 0,
    };
    match bpf(BPF_PROG_QUERY, &attributes) {
        Ok(_) => {}
        // Nothing was ever attached there.
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
        Err(error) => return Err(error),
    }
    ids.retain(|id| *id != 0);
    Ok(ids)
}

fn bpf<T>(command: libc::c_long, attributes: &T) -> io::Result<i32> {
    call(command, std::ptr::from_ref(attributes).cast_mut())
}

/// Where the kernel writes into the attributes.
fn bpf_mut<T>(command: libc::c_long, attributes: &mut T) -> io::Result<i32> {
    call(command, std::ptr::from_mut(attributes))
}

fn call<T>(command: libc::c_long, attributes: *mut T) -> io::Result<i32> {
    // SAFETY: the attributes are laid out as the kernel's union for this command, they and what
    // they point to live for the call, and the kernel reads no more than the size given; it writes
    // to those of batches alone.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attributes, size_of::<T>()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result as i32)
}

fn owned(fd: i32) -> io::Result<OwnedFd> {
    // SAFETY: the kernel has just returned this descriptor, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
