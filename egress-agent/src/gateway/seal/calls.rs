//! seccomp: the system calls that a gateway makes while it serves, and no others.
//!
//! Two filters, of which the stricter answer counts. What [`ALLOWED`] and the like do not name is
//! answered with EPERM, since libraries try calls that they can do without, and a gateway that ends
//! for that would be everybody's outage. What [`DEADLY`] names no gateway ever tries, and whoever
//! does has taken it over: the process ends at once, by SIGSYS, and the enforcer says so.

use std::{collections::BTreeMap, env::consts};

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, apply_filter_all_threads,
};
use thiserror::Error;

/// Of connections and datagrams, of their readiness, of memory, threads and clocks. Sockets, files
/// and memory that could become code are not among them: see [`with_arguments`].
const ALLOWED: &[libc::c_long] = &[
    // Sockets that there are, or that come from accept. None listens but those that do already.
    libc::SYS_accept4,
    libc::SYS_bind,
    libc::SYS_connect,
    libc::SYS_getpeername,
    libc::SYS_getsockname,
    libc::SYS_getsockopt,
    libc::SYS_setsockopt,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_recvmmsg,
    libc::SYS_sendto,
    libc::SYS_sendmsg,
    libc::SYS_sendmmsg,
    libc::SYS_shutdown,
    // Bytes.
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_pipe2,
    libc::SYS_splice,
    libc::SYS_close,
    // Readiness.
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_eventfd2,
    libc::SYS_ppoll,
    // Memory.
    libc::SYS_brk,
    libc::SYS_madvise,
    libc::SYS_mremap,
    libc::SYS_munmap,
    // Threads, their signals and their end.
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_futex,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_membarrier,
    libc::SYS_restart_syscall,
    libc::SYS_rseq,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_yield,
    libc::SYS_sigaltstack,
    // Clocks, where they are no memory that the kernel shares; and randomness.
    libc::SYS_clock_getres,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_getrandom,
    libc::SYS_gettimeofday,
    libc::SYS_nanosleep,
];

/// Under their older names, which newer architectures have not got.
#[cfg(target_arch = "x86_64")]
const ALLOWED_HERE: &[libc::c_long] = &[libc::SYS_epoll_wait, libc::SYS_poll];
#[cfg(not(target_arch = "x86_64"))]
const ALLOWED_HERE: &[libc::c_long] = &[];

/// What only somebody else would try: another program, another process or its memory, the kernel's
/// programs and settings, other namespaces and mounts, and io_uring, which makes sockets that no
/// filter sees.
const DEADLY: &[libc::c_long] = &[
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_clone,
    libc::SYS_clone3,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_open,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_reboot,
    libc::SYS_setns,
    libc::SYS_unshare,
    libc::SYS_chroot,
    libc::SYS_pivot_root,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_open_tree,
    libc::SYS_move_mount,
    libc::SYS_fsopen,
    libc::SYS_fsmount,
    libc::SYS_mount_setattr,
    libc::SYS_open_by_handle_at,
    libc::SYS_memfd_create,
];

#[cfg(target_arch = "x86_64")]
const DEADLY_HERE: &[libc::c_long] = &[libc::SYS_fork, libc::SYS_vfork];
#[cfg(not(target_arch = "x86_64"))]
const DEADLY_HERE: &[libc::c_long] = &[];

/// The families of its sockets.
const FAMILIES: [libc::c_int; 2] = [libc::AF_INET, libc::AF_INET6];
/// Their kinds; the bits above are flags (SOCK_TYPE_MASK in include/linux/net.h).
const KINDS: [libc::c_int; 2] = [libc::SOCK_STREAM, libc::SOCK_DGRAM];
const KIND_MASK: u64 = 0xf;

/// What it asks of a descriptor.
const FCNTL: [libc::c_int; 7] = [
    libc::F_GETFD,
    libc::F_SETFD,
    libc::F_GETFL,
    libc::F_SETFL,
    libc::F_DUPFD_CLOEXEC,
    libc::F_GETPIPE_SZ,
    libc::F_SETPIPE_SZ,
];

/// The filters cannot be had.
#[derive(Debug, Error)]
pub enum CallsError {
    /// They are not for this architecture, or malformed.
    #[error("cannot make the seccomp filter: {0}")]
    Filter(#[from] seccompiler::BackendError),
    /// The kernel refuses them.
    #[error("the kernel refused the seccomp filter: {0}; it needs CONFIG_SECCOMP_FILTER")]
    Apply(#[from] seccompiler::Error),
}

/// For all threads of this process. A call of another architecture ends it, too.
///
/// # Errors
/// The kernel refuses.
pub fn seal() -> Result<(), CallsError> {
    // Last what is allowed, since it has no room for another filter.
    apply_filter_all_threads(&deadly()?)?;
    apply_filter_all_threads(&allowed(std::process::id())?)?;
    Ok(())
}

type Rules = BTreeMap<libc::c_long, Vec<SeccompRule>>;

/// Ends the process at what no gateway tries, and lets all else pass on to the other filter.
fn deadly() -> Result<BpfProgram, CallsError> {
    let all = DEADLY.iter().chain(DEADLY_HERE);
    let mut rules: Rules = all.map(|call| (*call, Vec::new())).collect();
    let other = FAMILIES.map(|family| (0, SeccompCmpOp::Ne, family as u64));
    rules.insert(libc::SYS_socket, vec![rule(&other)?]);
    compile(rules, SeccompAction::Allow, SeccompAction::KillProcess)
}

/// Allows what a gateway does.
fn allowed(pid: u32) -> Result<BpfProgram, CallsError> {
    let all = ALLOWED.iter().chain(ALLOWED_HERE);
    let mut rules: Rules = all.map(|call| (*call, Vec::new())).collect();
    rules.extend(with_arguments(pid)?);
    let refused = SeccompAction::Errno(libc::EPERM as u32);
    compile(rules, refused, SeccompAction::Allow)
}

/// Calls that are allowed with these arguments alone.
fn with_arguments(pid: u32) -> Result<Rules, CallsError> {
    let mut sockets = Vec::new();
    for family in FAMILIES {
        for kind in KINDS {
            sockets.push(rule(&[
                (0, SeccompCmpOp::Eq, family as u64),
                (1, SeccompCmpOp::MaskedEq(KIND_MASK), kind as u64),
            ])?);
        }
    }
    // What can be written never becomes code.
    let executable = SeccompCmpOp::MaskedEq(libc::PROT_EXEC as u64);
    let no_code = vec![rule(&[(2, executable, 0)])?];
    let asked = FCNTL.map(|what| rule(&[(1, SeccompCmpOp::Eq, what as u64)]));
    let non_blocking = rule(&[(1, SeccompCmpOp::Eq, libc::FIONBIO)])?;
    // abort(3) signals its own thread.
    let own = rule(&[(0, SeccompCmpOp::Eq, pid.into())])?;
    Ok([
        (libc::SYS_socket, sockets),
        (libc::SYS_mmap, no_code.clone()),
        (libc::SYS_mprotect, no_code),
        (
            libc::SYS_fcntl,
            asked.into_iter().collect::<Result<_, _>>()?,
        ),
        (libc::SYS_ioctl, vec![non_blocking]),
        (libc::SYS_tgkill, vec![own]),
    ]
    .into())
}

/// All of these: number of the argument, comparison, value. The kernel looks at the lower half of
/// these arguments alone.
fn rule(conditions: &[(u8, SeccompCmpOp, u64)]) -> Result<SeccompRule, CallsError> {
    let conditions = conditions.iter().map(|(argument, operator, value)| {
        SeccompCondition::new(*argument, SeccompCmpArgLen::Dword, operator.clone(), *value)
    });
    Ok(SeccompRule::new(conditions.collect::<Result<_, _>>()?)?)
}

fn compile(
    rules: Rules,
    otherwise: SeccompAction,
    matched: SeccompAction,
) -> Result<BpfProgram, CallsError> {
    let architecture: TargetArch = consts::ARCH.try_into()?;
    let filter = SeccompFilter::new(rules, otherwise, matched, architecture)?;
    Ok(filter.try_into()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_both_allowed_and_deadly() {
        let rules = with_arguments(1).unwrap();
        for call in DEADLY.iter().chain(DEADLY_HERE) {
            assert!(!ALLOWED.contains(call) && !ALLOWED_HERE.contains(call));
            assert!(!rules.contains_key(call), "{call}");
        }
    }
}
