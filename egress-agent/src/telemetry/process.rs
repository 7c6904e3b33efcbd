//! The executable of a process that the kernel named.

use crate::telemetry::record::ProcessRef;
use std::fs;

/// Adds the executable's path, where the process still lives and is the one that made the
/// socket: a process of the same pid that started after the socket was made is another.
pub fn add_executable(process: &mut ProcessRef) {
    if process.pid == 0 || process.executable.is_some() {
        return;
    }
    let folder = format!("/proc/{}", process.pid);
    let Ok(path) = fs::read_link(format!("{folder}/exe")) else {
        return;
    };
    let Some(started_ns) = started_ns(&folder) else {
        return;
    };
    if started_ns <= process.created_ns {
        process.executable = Some(path.to_string_lossy().into_owned());
    }
}

/// When it started, nanoseconds of `CLOCK_BOOTTIME`: field 22 of proc_pid_stat(5), in ticks,
/// which are rounded down.
fn started_ns(folder: &str) -> Option<u64> {
    const TICKS_PER_SECOND: u64 = 100;
    let stat = fs::read_to_string(format!("{folder}/stat")).ok()?;
    // The second field is the command in parentheses, which may hold anything.
    let (_, rest) = stat.rsplit_once(')')?;
    let ticks: u64 = rest.split_whitespace().nth(19)?.parse().ok()?;
    Some(ticks * (1_000_000_000 / TICKS_PER_SECOND))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn this(created_ns: u64) -> ProcessRef {
        ProcessRef {
            pid: std::process::id(),
            created_ns,
            ..ProcessRef::default()
        }
    }

    #[test]
    fn a_living_process_has_an_executable_and_a_later_one_has_not() {
        let mut own = this(u64::MAX);
        add_executable(&mut own);
        let exe = std::env::current_exe().unwrap();
        assert_eq!(own.executable.as_deref(), exe.to_str());
        let mut other = this(1);
        add_executable(&mut other);
        assert_eq!(other.executable, None);
    }
}
