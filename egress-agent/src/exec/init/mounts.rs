//! Mounting, in the command's own mount namespace.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

use rustix::{
    fs::CWD,
    mount::{
        MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, mount, mount_bind,
        mount_change, move_mount, open_tree,
    },
};

/// What kernel file systems are mounted with.
const INERT: MountFlags = MountFlags::NOSUID
    .union(MountFlags::NODEV)
    .union(MountFlags::NOEXEC);

/// Options of an empty directory in memory that nothing is put into.
pub(super) const BLANK: &str = "mode=0755,size=4k";

/// What is mounted from now on stays here, and nothing comes in from outside.
pub(super) fn make_private() -> io::Result<()> {
    let flags = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    Ok(mount_change("/", flags)?)
}

/// A file system of the kernel's, over a blank: the kernel refuses the same one twice in a row.
pub(super) fn kernel(kind: &str, at: &Path) -> io::Result<()> {
    memory(at, BLANK)?;
    Ok(mount(kind, at, kind, INERT, None)?)
}

/// A terminal directory of its own (Documentation/filesystems/devpts.rst).
pub(super) fn terminals(at: &Path) -> io::Result<()> {
    let flags = MountFlags::NOSUID | MountFlags::NOEXEC;
    let options = c"newinstance,ptmxmode=0666,mode=0620";
    Ok(mount("devpts", at, "devpts", flags, Some(options))?)
}

/// An empty directory in memory; `options` as in tmpfs(5).
pub(super) fn memory(at: &Path, options: &str) -> io::Result<()> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    let options = CString::new(options)?;
    Ok(mount(
        "tmpfs",
        at,
        "tmpfs",
        flags,
        Some(options.as_c_str()),
    )?)
}

/// The same tree or file at another place.
pub(super) fn bind(from: &Path, to: &Path) -> io::Result<()> {
    Ok(mount_bind(from, to)?)
}

/// Nothing here can be changed any more.
pub(super) fn read_only(path: &Path) -> io::Result<()> {
    set_attributes(CWD, path, 0, libc::MOUNT_ATTR_RDONLY, 0)
}

/// The same of all that is mounted below, too.
pub(super) fn read_only_below(path: &Path) -> io::Result<()> {
    let set = libc::MOUNT_ATTR_RDONLY;
    set_attributes(CWD, path, libc::AT_RECURSIVE as u32, set, 0)
}

/// Device nodes and set-user-ID bits mean nothing any more, wherever they are.
pub(super) fn without_devices() -> io::Result<()> {
    let set = libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOSUID;
    set_attributes(CWD, Path::new("/"), libc::AT_RECURSIVE as u32, set, 0)
}

/// A copy of a mount that is nowhere yet, with all below it; it keeps what it is of, even where
/// that place is covered afterwards.
pub(super) fn detached(path: &Path) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE;
    Ok(open_tree(CWD, path, flags)?)
}

/// Puts it somewhere.
pub(super) fn attach(tree: &OwnedFd, to: &Path) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    Ok(move_mount(tree, "", CWD, to, flags)?)
}

/// mount_setattr(2), which rustix has not got.
fn set_attributes(
    at: BorrowedFd<'_>,
    path: &Path,
    flags: u32,
    set: u64,
    clear: u64,
) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let attributes = libc::mount_attr {
        attr_set: set,
        attr_clr: clear,
        propagation: 0,
        userns_fd: 0,
    };
    // SAFETY: a path that ends in NUL and a structure of the size that is given.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            at.as_fd().as_raw_fd(),
            path.as_ptr(),
            flags,
            &raw const attributes,
            size_of_val(&attributes),
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
