//! The process behind a socket, as the kernel saw it when the socket was made.

/// The creator of a socket. In softirq "current" is somebody else, so this is kept in the
/// socket's storage from `sock_create` on.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq)]
#[cfg_attr(any(test, feature = "user"), derive(Debug))]
pub struct Process {
    /// When the socket was made: nanoseconds of `CLOCK_BOOTTIME`. A process of this pid that
    /// started later is another one.
    pub created_ns: u64,
    /// The cgroup v2 id of the creator at that moment.
    pub cgroup: u64,
    /// The process id (thread group) in the initial pid namespace; 0 where unknown.
    pub pid: u32,
    /// The user id in the initial user namespace.
    pub uid: u32,
    /// `comm`, NUL-padded.
    pub command: [u8; 16],
}

impl Process {
    /// Nobody: packets that the kernel made, and sockets older than the enforcement.
    pub const UNKNOWN: Self = Self {
        created_ns: 0,
        cgroup: 0,
        pid: 0,
        uid: 0,
        command: [0; 16],
    };

    /// `comm` up to its NUL; invalid UTF-8 ends it.
    pub fn command(&self) -> &str {
        let end = self
            .command
            .iter()
            .position(|&b| b == 0)
            .unwrap_or(self.command.len());
        let bytes = &self.command[..end];
        match core::str::from_utf8(bytes) {
            Ok(text) => text,
            Err(e) => core::str::from_utf8(&bytes[..e.valid_up_to()]).unwrap_or_default(),
        }
    }
}

const _: () = assert!(size_of::<Process>() == 40 && align_of::<Process>() == 8);
