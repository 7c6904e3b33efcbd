//! What the gateway's process gives up by itself, once it has all that it needs: files and ports,
//! by Landlock, and system calls, by seccomp. Neither can be undone.

use serde::{Deserialize, Serialize};
use thiserror::Error;

pub mod calls;
pub mod files;

use calls::CallsError;

/// Seals a gateway. The two steps are apart, since Landlock holds the thread that asks for it and
/// those that it starts, and seccomp all that there are.
pub trait Seal: Send + Sync {
    /// Before the first thread is started, and after the last file was read.
    ///
    /// # Errors
    /// The kernel has Landlock, and refuses.
    fn files(&self) -> Result<Landlock, SealError>;

    /// When all threads are started.
    ///
    /// # Errors
    /// The kernel refuses.
    fn calls(&self) -> Result<(), SealError>;
}

/// Seals this process.
#[derive(Clone, Copy, Debug)]
pub struct Process;

impl Seal for Process {
    fn files(&self) -> Result<Landlock, SealError> {
        Ok(files::seal()?)
    }

    fn calls(&self) -> Result<(), SealError> {
        Ok(calls::seal()?)
    }
}

/// The gateway cannot be sealed, and does not serve.
#[derive(Debug, Error)]
pub enum SealError {
    /// Landlock.
    #[error("Landlock refuses the gateway's rules: {0}; `egress-agent doctor` says what there is")]
    Files(#[from] landlock::RulesetError),
    /// Seccomp.
    #[error("the gateway's system calls cannot be filtered: {0}")]
    Calls(#[from] CallsError),
}

/// What Landlock does here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "state")]
pub enum Landlock {
    /// In force, with the rules of this version of its ABI.
    Enforced {
        /// From 1: files; from 4 on TCP ports, too; from 6 on abstract sockets and signals.
        abi: i32,
    },
    /// The kernel has it, and it was not switched on (`lsm=` on its command line).
    Disabled,
    /// The kernel has been built without.
    #[default]
    Absent,
}

impl std::fmt::Display for Landlock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Enforced { abi } => write!(f, "in force (ABI {abi})"),
            Self::Disabled => f.write_str("not switched on"),
            Self::Absent => f.write_str("not in this kernel"),
        }
    }
}
