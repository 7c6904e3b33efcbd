//! What a command sees of the file system: everything as it is outside, but for what speaks to
//! the kernel or to processes outside.

use std::{
    ffi::OsString,
    fs, io,
    os::unix::fs::{DirBuilderExt, MetadataExt, symlink},
    path::{Path, PathBuf},
};

use rustix::fs::Mode;
use thiserror::Error;

use super::mounts;
use crate::exec::protocol::{Credentials, View};

/// Device nodes that every program may expect; none leads anywhere.
const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];
/// Links in /dev (Documentation/admin-guide/devices.rst).
const DEVICE_LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];
/// What of /proc can be read, but not changed, as in containers (the OCI runtime specification's
/// default configuration).
const PROC_READ_ONLY: [&str; 5] = ["bus", "fs", "irq", "sys", "sysrq-trigger"];
/// What of /proc is not to be seen (as above).
const PROC_COVERED: [&str; 8] = [
    "acpi",
    "asound",
    "kcore",
    "keys",
    "latency_stats",
    "sched_debug",
    "scsi",
    "timer_list",
];
/// File systems that speak to the kernel or show all processes: covered wherever they are.
const KERNEL_FILE_SYSTEMS: [&str; 15] = [
    "binfmt_misc",
    "bpf",
    "cgroup",
    "cgroup2",
    "configfs",
    "debugfs",
    "devpts",
    "devtmpfs",
    "efivarfs",
    "fusectl",
    "mqueue",
    "proc",
    "securityfs",
    "sysfs",
    "tracefs",
];
/// Places that are made anew below; mounts in them need no cover.
const MADE_ANEW: [&str; 4] = ["/proc", "/sys", "/dev", "/run"];

const CGROUPS: &str = "/sys/fs/cgroup";
/// Where the cgroup v2 hierarchy is beside those of version 1 (hybrid).
const UNIFIED: &str = "/sys/fs/cgroup/unified";

/// A part of the view that cannot be arranged.
#[derive(Debug, Error)]
#[error("cannot arrange {path} for the command: {source}")]
pub struct ViewError {
    path: PathBuf,
    source: io::Error,
}

/// For `map_err`: names the place.
fn at(path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> ViewError {
    let path = path.as_ref().to_owned();
    move |source| ViewError { path, source }
}

/// Arranges it, in this process's mount namespace.
///
/// # Errors
/// The first part that cannot be had; the command must then not start.
pub(super) fn arrange(view: &View, user: &Credentials) -> Result<(), ViewError> {
    mounts::make_private().map_err(at("/"))?;
    let devices = devices()?;
    let hybrid = match Path::new(UNIFIED).is_dir() {
        true => Some(mounts::detached(Path::new(CGROUPS)).map_err(at(CGROUPS))?),
        false => None,
    };
    mounts::without_devices().map_err(at("/"))?;
    for covered in kernel_mounts()? {
        cover(&covered)?;
    }
    for path in &view.directories {
        cover(Path::new(path))?;
    }
    for path in &view.sockets {
        cover(Path::new(path))?;
    }
    proc()?;
    sys(hybrid)?;
    dev(&devices)?;
    run(view, user)
}

/// Nothing is to be seen here: an empty directory that cannot be changed, or an empty file. What
/// is gone by now needs none.
fn cover(path: &Path) -> Result<(), ViewError> {
    let Ok(found) = fs::symlink_metadata(path) else {
        return Ok(());
    };
    if !found.is_dir() {
        // /dev/null of outside, without its meaning: devices have none any more.
        return mounts::bind(Path::new("/dev/null"), path).map_err(at(path));
    }
    mounts::memory(path, mounts::BLANK)
        .and_then(|()| mounts::read_only(path))
        .map_err(at(path))
}

/// Where kernel file systems are mounted beside the usual places: in chroots, for instance.
fn kernel_mounts() -> Result<Vec<PathBuf>, ViewError> {
    const TABLE: &str = "/proc/self/mountinfo";
    let table = fs::read_to_string(TABLE).map_err(at(TABLE))?;
    let mounts = table.lines().filter_map(|line| {
        // proc(5): the mount point is the fifth field; the type comes after a lone hyphen.
        let (before, after) = line.split_once(" - ")?;
        let point = PathBuf::from(unescaped(before.split(' ').nth(4)?));
        let kind = after.split(' ').next()?;
        let covered = KERNEL_FILE_SYSTEMS.contains(&kind)
            && !MADE_ANEW.iter().any(|place| point.starts_with(place));
        covered.then_some(point)
    });
    Ok(mounts.collect())
}

/// Spaces and the like stand as three octal digits after a backslash (proc(5)).
fn unescaped(text: &str) -> OsString {
    use std::os::unix::ffi::OsStringExt;
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let digits = after.get(..3).filter(|_| *first == b'\\');
        let number = digits
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        bytes.push(number.unwrap_or(*first));
        rest = if number.is_some() { &after[3..] } else { after };
    }
    OsString::from_vec(bytes)
}

fn proc() -> Result<(), ViewError> {
    let proc = Path::new("/proc");
    mounts::kernel("proc", proc).map_err(at(proc))?;
    for name in PROC_READ_ONLY {
        let path = proc.join(name);
        if path.exists() {
            mounts::bind(&path, &path)
                .and_then(|()| mounts::read_only(&path))
                .map_err(at(path))?;
        }
    }
    PROC_COVERED
        .iter()
        .try_for_each(|name| cover(&proc.join(name)))
}

/// That of the command's own network namespace, with the cgroups in it; both can only be read.
fn sys(hybrid: Option<std::os::fd::OwnedFd>) -> Result<(), ViewError> {
    let sys = Path::new("/sys");
    mounts::kernel("sysfs", sys)
        .and_then(|()| mounts::read_only(sys))
        .map_err(at(sys))?;
    let path = Path::new(CGROUPS);
    // From the command's own cgroup on, which is the root of its cgroup namespace.
    if let Some(hybrid) = hybrid {
        let unified = Path::new(UNIFIED);
        mounts::attach(&hybrid, path)
            .and_then(|()| mounts::kernel("cgroup2", unified))
            .map_err(at(path))?;
    } else {
        mounts::kernel("cgroup2", path).map_err(at(path))?;
    }
    mounts::read_only_below(path).map_err(at(path))
}

/// The devices of outside, and the terminal that the command is on.
fn devices() -> Result<Vec<(&'static str, std::os::fd::OwnedFd)>, ViewError> {
    let nodes = DEVICES.iter().map(|name| {
        let path = Path::new("/dev").join(name);
        Ok((*name, mounts::detached(&path).map_err(at(path))?))
    });
    let mut devices: Vec<_> = nodes.collect::<Result<_, ViewError>>()?;
    if let Some(path) = terminal() {
        // Under the name by which ttyname(3) finds it, as in containers.
        devices.push(("console", mounts::detached(&path).map_err(at(path))?));
    }
    Ok(devices)
}

/// The path of the terminal that the command is on, if it is on one that has a path here.
fn terminal() -> Option<PathBuf> {
    (0..3).find_map(|fd| {
        // SAFETY: looked at only, and never closed.
        let stream = unsafe { std::os::fd::BorrowedFd::borrow_raw(fd) };
        if !rustix::termios::isatty(stream) {
            return None;
        }
        let path = fs::read_link(format!("/proc/self/fd/{fd}")).ok()?;
        let (open, here) = (rustix::fs::fstat(stream).ok()?, fs::metadata(&path).ok()?);
        (here.rdev() == open.st_rdev).then_some(path)
    })
}

fn dev(devices: &[(&str, std::os::fd::OwnedFd)]) -> Result<(), ViewError> {
    let dev = Path::new("/dev");
    mounts::memory(dev, "mode=0755,size=64k").map_err(at(dev))?;
    for (name, node) in devices {
        let path = dev.join(name);
        fs::File::create(&path)
            .and_then(|_file| mounts::attach(node, &path))
            .map_err(at(path))?;
    }
    for (name, target) in DEVICE_LINKS {
        let path = dev.join(name);
        symlink(target, &path).map_err(at(path))?;
    }
    let (terminals, shared) = (dev.join("pts"), dev.join("shm"));
    fs::create_dir(&terminals)
        .and_then(|()| mounts::terminals(&terminals))
        .map_err(at(terminals))?;
    fs::create_dir(&shared)
        .and_then(|()| mounts::memory(&shared, "mode=1777"))
        .map_err(at(shared))?;
    mounts::read_only(dev).map_err(at(dev))
}

/// Empty, but for what programs expect there that is nobody's socket.
fn run(view: &View, user: &Credentials) -> Result<(), ViewError> {
    let run = Path::new("/run");
    let links = links_of(run)?;
    mounts::memory(run, "mode=0755").map_err(at(run))?;
    for (path, target) in links {
        symlink(target, &path).map_err(at(path))?;
    }
    directory(&run.join("lock"), 0o1777)?;
    directory(&run.join("user"), 0o755)?;
    let own = run.join("user").join(user.uid.to_string());
    directory(&own, 0o700)?;
    std::os::unix::fs::chown(&own, Some(user.uid), Some(user.gid)).map_err(at(own))?;
    for (path, content) in &view.files {
        let path = Path::new(path);
        let folder = path.parent().unwrap_or(run);
        fs::create_dir_all(folder)
            .and_then(|()| fs::write(path, content))
            .map_err(at(path))?;
    }
    Ok(())
}

/// Links at the top of a directory: they lead to where something is, as on NixOS.
fn links_of(directory: &Path) -> Result<Vec<(PathBuf, PathBuf)>, ViewError> {
    let entries = fs::read_dir(directory).map_err(at(directory))?;
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    Ok(paths
        .filter_map(|path| Some((path.clone(), fs::read_link(&path).ok()?)))
        .collect())
}

/// With just this mode, whatever the caller's umask is.
fn directory(path: &Path, mode: u32) -> Result<(), ViewError> {
    fs::DirBuilder::new()
        .mode(mode)
        .create(path)
        .and_then(|()| Ok(rustix::fs::chmod(path, Mode::from_raw_mode(mode))?))
        .map_err(at(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_unescaped() {
        for (text, want) in [
            ("/a", "/a"),
            (r"/a\040b", "/a b"),
            (r"/a\134\011", "/a\\\t"),
            (r"/a\9", r"/a\9"),
        ] {
            assert_eq!(unescaped(text), want);
        }
    }
}
