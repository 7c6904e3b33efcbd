//! System calls that no command gets: sockets of families that neither layer of the enforcer
//! sees, what reaches sockets by another way, and what speaks through the terminal.

use std::{collections::BTreeMap, env::consts};

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, apply_filter, sock_filter,
};
use thiserror::Error;

/// The families that the enforcer sees (INET, INET6), and those that lead nowhere else: UNIX
/// sockets of processes outside are covered, and netlink speaks to the kernel.
const FAMILIES: [libc::c_int; 4] = [
    libc::AF_UNIX,
    libc::AF_INET,
    libc::AF_INET6,
    libc::AF_NETLINK,
];

/// io_uring makes sockets that no filter sees; the kernel's keyrings ask helpers outside, a
/// resolver among them (keyctl(2), "dns_resolver"); BPF is the enforcer's.
const ABSENT: [libc::c_long; 7] = [
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_bpf,
];

/// Put words into the terminal's input, for the shell that reads it afterwards (ioctl_tty(2)).
const TERMINAL: [libc::c_ulong; 2] = [libc::TIOCSTI as _, libc::TIOCLINUX as _];

/// Set in the numbers of the x32 ABI (arch/x86/include/uapi/asm/unistd.h): other numbers for the
/// same calls.
const X32: u32 = 0x4000_0000;

/// The filter cannot be had.
#[derive(Debug, Error)]
pub enum SeccompError {
    /// It is not for this architecture, or malformed.
    #[error("cannot make the seccomp filter: {0}")]
    Filter(#[from] seccompiler::BackendError),
    /// The kernel refuses it.
    #[error("the kernel refused the seccomp filter: {0}; it needs CONFIG_SECCOMP_FILTER")]
    Apply(#[from] seccompiler::Error),
}

/// For this process and all that it starts. A call of another architecture ends its process.
///
/// # Errors
/// The kernel refuses.
pub(super) fn apply() -> Result<(), SeccompError> {
    let families: Result<Vec<_>, _> = FAMILIES
        .iter()
        .map(|family| argument(0, SeccompCmpOp::Ne, *family as u64))
        .collect();
    let other_family = vec![SeccompRule::new(families?)?];
    filter(
        [libc::SYS_socket, libc::SYS_socketpair].map(|call| (call, other_family.clone())),
        libc::EAFNOSUPPORT,
    )?;
    filter(ABSENT.map(|call| (call, Vec::new())), libc::ENOSYS)?;
    let requests: Result<Vec<_>, _> = TERMINAL
        .iter()
        .map(|request| SeccompRule::new(vec![argument(1, SeccompCmpOp::Eq, *request)?]))
        .collect();
    filter([(libc::SYS_ioctl, requests?)], libc::EPERM)?;
    if consts::ARCH == "x86_64" {
        apply_filter(&without_x32())?;
    }
    Ok(())
}

/// The kernel looks at the lower half of these arguments alone.
fn argument(
    index: u8,
    operator: SeccompCmpOp,
    value: u64,
) -> Result<SeccompCondition, seccompiler::BackendError> {
    SeccompCondition::new(index, SeccompCmpArgLen::Dword, operator, value)
}

/// A filter of its own for each error: of several, the strictest answer counts.
fn filter(
    rules: impl IntoIterator<Item = (libc::c_long, Vec<SeccompRule>)>,
    error: libc::c_int,
) -> Result<(), SeccompError> {
    let rules: BTreeMap<_, _> = rules.into_iter().collect();
    let architecture: TargetArch = consts::ARCH.try_into()?;
    let filter = SeccompFilter::new(
        rules,
        SeccompAction::Allow,
        SeccompAction::Errno(error as u32),
        architecture,
    )?;
    let program: BpfProgram = filter.try_into()?;
    Ok(apply_filter(&program)?)
}

/// "ENOSYS from [`X32`] on, else allow", which seccompiler cannot say.
fn without_x32() -> BpfProgram {
    let statement = |code, k| sock_filter {
        code,
        jt: 0,
        jf: 0,
        k,
    };
    let load = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    let compare = libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K;
    let enosys = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;
    vec![
        // The call's number is the first field of struct seccomp_data.
        statement(load as u16, 0),
        sock_filter {
            jf: 1,
            ..statement(compare as u16, X32)
        },
        statement(libc::BPF_RET as u16, enosys),
        statement(libc::BPF_RET as u16, libc::SECCOMP_RET_ALLOW),
    ]
}
