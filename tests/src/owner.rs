//! Names that say who made a thing, so that a later run can tell what nobody owns any more.

use std::{
    fs,
    sync::atomic::{AtomicU32, Ordering},
};

/// What every name starts with.
pub const PREFIX: &str = "egress-test-";

/// `egress-test-<pid>-<start time>-<number>`, in hexadecimal: unique, and tells whether its maker is alive.
pub fn unique_name() -> String {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let pid = std::process::id();
    let started = start_time(pid).unwrap_or_default();
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    // Hexadecimal: an instance's name has at most 32 characters.
    format!("{PREFIX}{pid:x}-{started:x}-{number:x}")
}

/// Whether the name is one of ours and its maker has gone.
pub fn is_stale(name: &str) -> bool {
    let Some(rest) = name.strip_prefix(PREFIX) else {
        return false;
    };
    let mut parts = rest.split('-').map(|part| u64::from_str_radix(part, 16));
    let (Some(Ok(pid)), Some(Ok(started))) = (parts.next(), parts.next()) else {
        return false;
    };
    u32::try_from(pid).is_ok_and(|pid| start_time(pid) != Some(started))
}

/// When the process started, in clock ticks since boot (proc(5), field 22 of stat): a pid that
/// was used again has another.
fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command, which may hold spaces, ends at the last parenthesis.
    let after_command = stat.rsplit_once(')')?.1;
    after_command.split_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_name_is_not_stale() {
        assert!(!is_stale(&unique_name()));
    }

    #[test]
    fn a_name_of_a_process_that_started_at_another_time_is_stale() {
        assert!(is_stale(&format!("{PREFIX}{:x}-1-0", std::process::id())));
    }

    #[test]
    fn other_names_are_left_alone() {
        for name in [
            "egress-agent",
            "kubepods",
            "egress-test-",
            "egress-test-x-1-0",
        ] {
            assert!(!is_stale(name), "{name}");
        }
    }
}
