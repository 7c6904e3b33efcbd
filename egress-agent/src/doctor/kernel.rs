//! The kernel itself.

use aya::{
    Btf,
    maps::MapType,
    programs::{LsmAttachType, ProgramType},
    sys::{is_map_supported, is_program_supported},
};

use super::{Check, line_of};
use crate::gateway::seal::{Landlock, files};

/// The oldest long-term kernel with all that the programs use.
const OLDEST: (u32, u32) = (6, 1);

pub(super) fn checks() -> Vec<Check> {
    vec![version(), btf(), bpf(), lsm(), seccomp(), landlock()]
}

fn version() -> Check {
    let release = rustix::system::uname()
        .release()
        .to_string_lossy()
        .into_owned();
    match numbers(&release) {
        Some(version) if version >= OLDEST => Check::ok("kernel", release),
        Some(_) | None => Check::missing(
            "kernel",
            release,
            "hooks and helpers of 6.1 are needed",
            "boot a kernel of 6.6 or newer",
        ),
    }
}

/// `(6, 18)` of `6.18.44-something`.
fn numbers(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    let mut next = || numbers.next()?.parse().ok();
    Some((next()?, next()?))
}

fn btf() -> Check {
    const PATH: &str = "/sys/kernel/btf/vmlinux";
    match Btf::from_sys_fs() {
        Ok(_) => Check::ok("kernel types (BTF)", PATH),
        Err(error) => Check::missing(
            "kernel types (BTF)",
            format!("{PATH}: {error}"),
            "no program can be loaded",
            "boot a kernel with CONFIG_DEBUG_INFO_BTF=y, and mount /sys",
        ),
    }
}

/// bpf(2), by making a map.
fn bpf() -> Check {
    const NAME: &str = "bpf(2)";
    let restricted = match line_of("/proc/sys/kernel/unprivileged_bpf_disabled").as_deref() {
        Some("0") => "a map can be made; unprivileged users may call it too",
        Some(_) | None => "a map can be made",
    };
    match is_map_supported(MapType::Hash) {
        Ok(true) => Check::ok(NAME, restricted),
        Ok(false) => Check::missing(
            NAME,
            "the kernel knows no hash map",
            "no program can be loaded",
            "boot a kernel with CONFIG_BPF_SYSCALL=y",
        ),
        Err(error) => Check::missing(
            NAME,
            format!("making a map: {}", error.io_error),
            "no program can be loaded",
            "run as root, where neither lockdown nor a container's seccomp filter forbids bpf(2)",
        ),
    }
}

/// Programs on LSM hooks of cgroups, by loading one.
fn lsm() -> Check {
    const NAME: &str = "BPF LSM";
    const CONSEQUENCE: &str = "socket families beyond INET and INET6 cannot be refused to \
        hostNetwork endpoints; exec refuses them by seccomp";
    const MEND: &str = "boot a kernel with CONFIG_BPF_LSM=y and lsm=...,bpf";
    match is_program_supported(ProgramType::Lsm(LsmAttachType::Cgroup)) {
        Ok(true) => Check::warning(
            NAME,
            "the kernel has it; this version does not use it yet",
            CONSEQUENCE,
            "give such endpoints a network namespace of their own",
        ),
        Ok(false) => Check::warning(NAME, "not in this kernel", CONSEQUENCE, MEND),
        Err(error) => {
            let source = std::error::Error::source(&error).map(ToString::to_string);
            let found = source.unwrap_or_else(|| error.to_string());
            Check::warning(
                NAME,
                format!("loading a program: {found}"),
                CONSEQUENCE,
                MEND,
            )
        }
    }
}

/// Filters that answer with an error or end a process, which the gateway puts on itself and `exec` on
/// its command.
fn seccomp() -> Check {
    let actions = [libc::SECCOMP_RET_ERRNO, libc::SECCOMP_RET_KILL_PROCESS];
    match actions.into_iter().find_map(|it| is_answer(it).err()) {
        None => Check::ok(
            "seccomp",
            "filters can answer with an error, and end a process",
        ),
        Some(error) => Check::missing(
            "seccomp",
            error,
            "the gateway cannot refuse system calls to whoever takes it over, and does not start",
            "boot a kernel with CONFIG_SECCOMP_FILTER=y",
        ),
    }
}

/// Whether filters can answer in this way.
fn is_answer(action: u32) -> std::io::Result<()> {
    // SAFETY: the kernel reads one word, which lives across the call (seccomp(2),
    // SECCOMP_GET_ACTION_AVAIL).
    let result = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_GET_ACTION_AVAIL,
            0,
            &raw const action,
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

/// What holds the gateway from files, beside its user.
fn landlock() -> Check {
    const NAME: &str = "Landlock";
    /// The first with TCP ports.
    const WHOLE: i32 = 4;
    match files::available() {
        Landlock::Enforced { abi } if abi >= WHOLE => Check::ok(NAME, format!("ABI {abi}")),
        Landlock::Enforced { abi } => Check::warning(
            NAME,
            format!("ABI {abi}"),
            "a gateway that was taken over opens no file, but may bind TCP ports beside its own",
            "boot a kernel of 6.7 or newer",
        ),
        lacking @ (Landlock::Disabled | Landlock::Absent) => Check::warning(
            NAME,
            lacking,
            "seccomp alone keeps a gateway that was taken over from files, and nothing from TCP ports beside its own",
            "boot a kernel with CONFIG_SECURITY_LANDLOCK=y, and landlock in lsm= on its command line",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases() {
        let table = [
            ("6.18.44-x1", Some((6, 18))),
            ("6.1-rc3", Some((6, 1))),
            ("5.10.0-8-amd64", Some((5, 10))),
            ("linux", None),
        ];
        for (release, expected) in table {
            assert_eq!(numbers(release), expected, "{release}");
        }
    }
}
