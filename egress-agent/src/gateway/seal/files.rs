//! Landlock: no file is opened, made or removed any more, no TCP port is bound and, where the kernel
//! knows how to, no abstract socket is connected to and no process outside is signalled. All that
//! the gateway reads it has read before, or gets from the enforcer.

use landlock::{
    ABI, Access, AccessFs, AccessNet, LandlockStatus, Ruleset, RulesetAttr, RulesetError, Scope,
};

use super::Landlock;

/// All that is known of today; an older kernel does what it can of it, and its ABI says what.
const KNOWN: ABI = ABI::V6;

/// For this thread and those that it starts.
///
/// # Errors
/// The kernel has Landlock, and refuses.
pub fn seal() -> Result<Landlock, RulesetError> {
    // No rule follows: whatever is handled is refused.
    let status = Ruleset::default()
        .handle_access(AccessFs::from_all(KNOWN))?
        // Its own ports are bound by now.
        .handle_access(AccessNet::BindTcp)?
        .scope(Scope::from_all(KNOWN))?
        .create()?
        .restrict_self()?;
    Ok(of_status(status.landlock))
}

/// What the kernel has, without asking for anything.
pub fn available() -> Landlock {
    /// LANDLOCK_CREATE_RULESET_VERSION (include/uapi/linux/landlock.h).
    const VERSION: libc::c_uint = 1;
    let none: *const libc::c_void = std::ptr::null();
    // SAFETY: with this flag and no attributes the kernel reads no memory.
    let version = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, none, 0, VERSION) };
    match i32::try_from(version) {
        Ok(abi @ 1..) => Landlock::Enforced { abi },
        Ok(_) | Err(_) => match std::io::Error::last_os_error().raw_os_error() {
            Some(libc::EOPNOTSUPP) => Landlock::Disabled,
            Some(_) | None => Landlock::Absent,
        },
    }
}

fn of_status(status: LandlockStatus) -> Landlock {
    match status {
        LandlockStatus::Available { effective_abi, .. } => Landlock::Enforced {
            abi: (effective_abi as i32).min(KNOWN as i32),
        },
        LandlockStatus::NotEnabled => Landlock::Disabled,
        LandlockStatus::NotImplemented => Landlock::Absent,
    }
}
