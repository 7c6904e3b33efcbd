//! Raw `bpf(2)` calls for links. aya updates no cgroup link in place, and hands out no descriptor
//! of the links of socket-option programs, so that they could not be pinned; by these five calls
//! every hook is treated alike.

use std::{
    ffi::CString,
    io,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    os::unix::ffi::OsStrExt,
    path::Path,
};

// enum bpf_cmd in include/uapi/linux/bpf.h.
const BPF_OBJ_PIN: libc::c_long = 6;
const BPF_OBJ_GET: libc::c_long = 7;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const BPF_MAP_LOOKUP_AND_DELETE_ELEM: libc::c_long = 21;
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
struct Element {
    map: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
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
struct LinkInfo {
    kind: u32,
    id: u32,
    program: u32,
    reserved: u32,
    target: u64,
    hook: u64,
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

/// Where a link is attached: the id of its cgroup, or the index of its interface. 0 where that has
/// gone.
pub(super) fn target(link: BorrowedFd<'_>) -> io::Result<u64> {
    let mut info = LinkInfo::default();
    let attributes = Info {
        fd: link.as_raw_fd() as u32,
        length: size_of::<LinkInfo>() as u32,
        info: (&raw mut info) as u64,
    };
    bpf(BPF_OBJ_GET_INFO_BY_FD, &attributes)?;
    match info.kind {
        LINK_CGROUP => Ok(info.target),
        // Its index is the first half of the word, its hook the second.
        LINK_TCX => Ok(u64::from(info.target as u32)),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// Takes an entry out of a map, with what it holds at that moment; false where it is not there. The
/// library only removes, and reads before that.
///
/// # Safety
/// Key and value are of the map's own sizes, and any bytes are a value.
pub(super) unsafe fn take<K, V>(map: BorrowedFd<'_>, key: &K, value: &mut V) -> io::Result<bool> {
    let attributes = Element {
        map: map.as_raw_fd() as u32,
        padding: 0,
        key: (&raw const *key) as u64,
        value: (&raw mut *value) as u64,
        flags: 0,
    };
    match bpf(BPF_MAP_LOOKUP_AND_DELETE_ELEM, &attributes) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

fn bpf<T>(command: libc::c_long, attributes: &T) -> io::Result<i32> {
    // SAFETY: the attributes are laid out as the kernel's union for this command, they and what
    // they point to live for the call, and the kernel reads no more than the size given.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_ref(attributes),
            size_of::<T>(),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result as i32)
}

fn owned(fd: i32) -> io::Result<OwnedFd> {
    // SAFETY: the kernel has just returned this descriptor, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
