//! What a command may do with the kernel: what a container may, and less.

use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};
use rustix::{
    process::{DumpableBehavior, Signal, set_dumpable_behavior, set_parent_process_death_signal},
    thread::{
        CapabilitySet, CapabilitySets, remove_capability_from_bounding_set, set_capabilities,
        set_no_new_privs,
    },
};
use thiserror::Error;

use crate::exec::protocol::Credentials;

/// What a command that runs as root keeps: a container's usual set, without NET_RAW (raw
/// sockets) and MKNOD (devices). SYS_ADMIN and SYS_PTRACE no container has.
const KEPT: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::KILL)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETPCAP)
    .union(CapabilitySet::SETFCAP)
    .union(CapabilitySet::NET_BIND_SERVICE)
    .union(CapabilitySet::SYS_CHROOT)
    .union(CapabilitySet::AUDIT_WRITE);

/// A privilege that could not be given up.
#[derive(Debug, Error)]
pub enum PrivilegeError {
    /// Ids.
    #[error("cannot become user {uid}, group {gid}: {source}")]
    Ids {
        /// The user.
        uid: u32,
        /// The group.
        gid: u32,
        /// Why.
        source: nix::Error,
    },
    /// Capabilities and the rest.
    #[error("cannot give up {0}: {1}")]
    Kept(&'static str, #[source] rustix::io::Errno),
}

/// Becomes the command's user with at most [`KEPT`], and nothing can give it more.
///
/// # Errors
/// The first step that fails; the command must then not start.
pub(super) fn give_up(credentials: &Credentials) -> Result<(), PrivilegeError> {
    for capability in CapabilitySet::all().difference(KEPT) {
        let removed = remove_capability_from_bounding_set(capability);
        // The kernel may be older than the capability.
        if removed != Err(rustix::io::Errno::INVAL) {
            removed.map_err(|error| PrivilegeError::Kept("the capability bounding set", error))?;
        }
    }
    become_user(credentials)?;
    let held = match credentials.uid {
        0 => KEPT,
        _ => CapabilitySet::empty(),
    };
    let sets = CapabilitySets {
        effective: held,
        permitted: held,
        inheritable: CapabilitySet::empty(),
    };
    set_capabilities(None, sets).map_err(|error| PrivilegeError::Kept("capabilities", error))?;
    set_no_new_privs(true).map_err(|error| PrivilegeError::Kept("set-user-ID programs", error))?;
    // Of PID 1 the command shall see nothing, the control stream least of all.
    set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .map_err(|error| PrivilegeError::Kept("being traced", error))?;
    // A change of ids has cleared it.
    set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(|error| PrivilegeError::Kept("outliving the agent", error))
}

/// For the command itself: it is an ordinary process again.
pub(super) fn may_be_traced() -> rustix::io::Result<()> {
    set_parent_process_death_signal(None)?;
    set_dumpable_behavior(DumpableBehavior::Dumpable)
}

fn become_user(credentials: &Credentials) -> Result<(), PrivilegeError> {
    let &Credentials {
        uid,
        gid,
        ref groups,
    } = credentials;
    let groups: Vec<Gid> = groups.iter().map(|group| Gid::from_raw(*group)).collect();
    let (user, group) = (Uid::from_raw(uid), Gid::from_raw(gid));
    setgroups(&groups)
        .and_then(|()| setresgid(group, group, group))
        .and_then(|()| setresuid(user, user, user))
        .map_err(|source| PrivilegeError::Ids { uid, gid, source })
}
