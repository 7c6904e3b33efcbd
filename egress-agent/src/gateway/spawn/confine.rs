//! Takes every privilege from the gateway's process, between fork and exec; and the check, after
//! exec, that none is left.

use std::{fs, io, os::fd::RawFd};

use nix::sys::signal::SigSet;
use thiserror::Error;

/// `_LINUX_CAPABILITY_VERSION_3` (linux/capability.h).
const CAPABILITY_VERSION: u32 = 0x2008_0522;
/// Beyond the highest capability of any kernel: the kernel says EINVAL at its own end.
const CAPABILITIES_MAX: libc::c_ulong = 64;

/// What the child becomes. Everything in it is a number, so that nothing allocates.
#[derive(Clone, Copy, Debug)]
pub struct Confinement {
    /// The pid of the enforcer.
    pub parent: u32,
    /// Its descriptor of the cgroup's cgroup.procs.
    pub procs: RawFd,
    /// Its descriptor of the control stream, which stays open.
    pub control: RawFd,
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// How many descriptors it is to be able to have.
    pub descriptors: u64,
}

fn check(result: libc::c_int) -> io::Result<()> {
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

impl Confinement {
    /// In the child: cgroup, signals, session, limits, bounding set, groups, ids, capabilities,
    /// `no_new_privs`, death with the parent, descriptors. Async-signal-safe.
    ///
    /// # Errors
    /// The first step that fails; the child must then not go on.
    pub fn apply(&self, inherited: &[RawFd]) -> io::Result<()> {
        self.enter_cgroup()?;
        // Whatever the parent reads by descriptor.
        SigSet::empty().thread_set_mask()?;
        // SAFETY: takes no pointer.
        if unsafe { libc::setsid() } < 0 {
            return Err(io::Error::last_os_error());
        }
        limits(self.descriptors)?;
        drop_bounding_set()?;
        self.change_ids()?;
        drop_capabilities()?;
        prctl(libc::PR_SET_NO_NEW_PRIVS, 1)?;
        // After the ids: a change of ids clears it (prctl(2)).
        prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as libc::c_ulong)?;
        // SAFETY: takes no pointer.
        if unsafe { libc::getppid() } as u32 != self.parent {
            return Err(io::Error::from_raw_os_error(libc::ESRCH));
        }
        self.keep_only(inherited)
    }

    fn enter_cgroup(&self) -> io::Result<()> {
        // SAFETY: one byte of a static; "0" stands for the writer itself (cgroup-v2.rst).
        let wrote = unsafe { libc::write(self.procs, c"0".as_ptr().cast(), 1) };
        match wrote {
            1 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    fn change_ids(&self) -> io::Result<()> {
        // SAFETY: no groups, so the pointer is not read.
        check(unsafe { libc::setgroups(0, std::ptr::null()) })?;
        // SAFETY: takes no pointer.
        check(unsafe { libc::setresgid(self.gid, self.gid, self.gid) })?;
        // SAFETY: takes no pointer.
        check(unsafe { libc::setresuid(self.uid, self.uid, self.uid) })
    }

    /// Marks everything beyond the standard streams close-on-exec, but the control stream and what
    /// is inherited.
    fn keep_only(&self, inherited: &[RawFd]) -> io::Result<()> {
        let flags = libc::CLOSE_RANGE_CLOEXEC as libc::c_int;
        // SAFETY: takes no pointer, and closes nothing before exec.
        check(unsafe { libc::close_range(3, libc::c_uint::MAX, flags) })?;
        // SAFETY: takes no pointer.
        check(unsafe { libc::fcntl(self.control, libc::F_SETFD, 0) })?;
        for fd in inherited {
            // SAFETY: takes no pointer.
            check(unsafe { libc::fcntl(*fd, libc::F_SETFD, 0) })?;
        }
        Ok(())
    }
}

fn prctl(option: libc::c_int, argument: libc::c_ulong) -> io::Result<()> {
    // SAFETY: the options used here take numbers; unused arguments are zero as they must be.
    check(unsafe {
        libc::prctl(
            option,
            argument,
            0 as libc::c_ulong,
            0 as libc::c_ulong,
            0 as libc::c_ulong,
        )
    })
}

fn limits(descriptors: u64) -> io::Result<()> {
    let mut files = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: `files` is a valid rlimit to write to.
    check(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut files) })?;
    let more = libc::rlimit {
        rlim_cur: descriptors.max(files.rlim_max),
        rlim_max: descriptors.max(files.rlim_max),
    };
    // SAFETY: `more` is a valid rlimit to read.
    let raised = check(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const more) });
    // Without CAP_SYS_RESOURCE, or beyond fs.nr_open: it makes do with fewer, and says so.
    if raised.is_err() {
        files.rlim_cur = files.rlim_max;
        // SAFETY: `files` is a valid rlimit to read.
        check(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const files) })?;
    }
    let none = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: `none` is a valid rlimit to read.
    check(unsafe { libc::setrlimit(libc::RLIMIT_CORE, &raw const none) })
}

fn drop_bounding_set() -> io::Result<()> {
    for capability in 0..CAPABILITIES_MAX {
        match prctl(libc::PR_CAPBSET_DROP, capability) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => return Ok(()),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Ambient, effective, permitted and inheritable.
fn drop_capabilities() -> io::Result<()> {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    prctl(
        libc::PR_CAP_AMBIENT,
        libc::PR_CAP_AMBIENT_CLEAR_ALL as libc::c_ulong,
    )?;
    let header = Header {
        version: CAPABILITY_VERSION,
        pid: 0,
    };
    // Two sets of effective, permitted and inheritable: all empty.
    let empty = [0_u32; 6];
    // SAFETY: version 3 reads a header and two sets of three words, which these are.
    let result = unsafe { libc::syscall(libc::SYS_capset, &raw const header, empty.as_ptr()) };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A privilege that is left.
#[derive(Debug, Error)]
pub enum PrivilegeError {
    /// Cannot tell.
    #[error(
        "/proc/self/status: cannot be read: {0}; the gateway does not start where it cannot check itself"
    )]
    Status(#[source] io::Error),
    /// Something is left.
    #[error(
        "the gateway still has privileges ({0}); it is started by the enforcer only, never by hand"
    )]
    Left(String),
    /// Cannot be hidden from other processes of its user.
    #[error("prctl(PR_SET_DUMPABLE): {0}")]
    Dumpable(#[source] io::Error),
}

/// In the gateway, first of all: not dumpable (exec has reset that), and no privilege left.
///
/// # Errors
/// There is one left; the gateway must not start.
pub fn verify() -> Result<(), PrivilegeError> {
    prctl(libc::PR_SET_DUMPABLE, 0).map_err(PrivilegeError::Dumpable)?;
    let status = fs::read_to_string("/proc/self/status").map_err(PrivilegeError::Status)?;
    match left(&status) {
        None => Ok(()),
        Some(line) => Err(PrivilegeError::Left(line)),
    }
}

/// Whether seccomp filters the calls of every thread of a process, as the kernel says.
pub fn is_filtered(pid: u32) -> bool {
    let filtered = |status: &str| status.lines().any(|line| line == "Seccomp:\t2");
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return false;
    };
    let mut threads = threads.filter_map(Result::ok);
    threads.all(|thread| {
        let status = fs::read_to_string(thread.path().join("status"));
        // One that has ended meanwhile does nothing any more.
        status.map_or_else(
            |error| error.kind() == io::ErrorKind::NotFound,
            |it| filtered(&it),
        )
    })
}

/// The first line of a `/proc/PID/status` that shows a privilege, or that is missing.
fn left(status: &str) -> Option<String> {
    let field = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.split_once(':'))
            .map(|(_, value)| value.trim())
    };
    for name in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
        let value = field(name).unwrap_or("missing");
        if value.bytes().any(|digit| digit != b'0') {
            return Some(format!("{name} {value}"));
        }
    }
    let ids = [field("Uid:"), field("Gid:")];
    let is_root = |ids: &str| ids.split_whitespace().any(|id| id == "0");
    if ids.iter().any(|ids| ids.is_none_or(is_root)) {
        return Some("root".to_owned());
    }
    match (field("NoNewPrivs:"), field("Groups:")) {
        (Some("1"), Some("")) => None,
        (Some("1"), groups) => Some(format!("Groups: {}", groups.unwrap_or("missing"))),
        (value, _) => Some(format!("NoNewPrivs: {}", value.unwrap_or("missing"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLEAN: &str = "Uid:\t9\t9\t9\t9\nGid:\t9\t9\t9\t9\nGroups:\t \nCapInh:\t0000\nCapPrm:\t0000\nCapEff:\t0000\nCapBnd:\t0000\nCapAmb:\t0000\nNoNewPrivs:\t1\n";

    #[test]
    fn any_privilege_is_seen() {
        assert_eq!(left(CLEAN), None);
        let table = [
            ("CapBnd:\t0000", "CapBnd:\t0001"),
            ("CapEff:\t0000\n", ""),
            ("NoNewPrivs:\t1", "NoNewPrivs:\t0"),
            ("Uid:\t9\t9", "Uid:\t9\t0"),
            ("Groups:\t ", "Groups:\t4 27 "),
        ];
        for (from, to) in table {
            assert!(left(&CLEAN.replace(from, to)).is_some(), "{to}");
        }
    }
}
