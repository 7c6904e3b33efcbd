//! What this process may do.

use super::Check;

/// A capability by its number (linux/capability.h), and what needs it.
struct Capability {
    bit: u32,
    name: &'static str,
    consequence: &'static str,
}

const fn capability(bit: u32, name: &'static str, consequence: &'static str) -> Capability {
    Capability {
        bit,
        name,
        consequence,
    }
}

const REQUIRED: [Capability; 6] = [
    capability(39, "CAP_BPF", "no program can be loaded"),
    capability(
        12,
        "CAP_NET_ADMIN",
        "no program can be attached, no address be put on the node",
    ),
    capability(38, "CAP_PERFMON", "the programs are refused"),
    capability(6, "CAP_SETGID", "the gateway cannot get a group of its own"),
    capability(7, "CAP_SETUID", "the gateway cannot get a user of its own"),
    capability(
        8,
        "CAP_SETPCAP",
        "the gateway's capabilities cannot be taken away for good",
    ),
];

const USEFUL: [Capability; 2] = [
    capability(
        21,
        "CAP_SYS_ADMIN",
        "`exec` cannot make namespaces, and the BPF file system cannot be mounted",
    ),
    capability(
        19,
        "CAP_SYS_PTRACE",
        "records lack the path of executables of other users",
    ),
];

const MEND: &str = "run as root, or give the capability";

pub(super) fn checks() -> Vec<Check> {
    let Some(effective) = effective() else {
        return vec![Check::missing(
            "capabilities",
            "/proc/self/status has no CapEff",
            "the agent cannot tell what it may do",
            "mount /proc",
        )];
    };
    of(effective)
}

/// The effective set, as `/proc/self/status` shows it (proc(5)).
pub(super) fn effective() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let hex = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(hex.trim(), 16).ok()
}

fn of(effective: u64) -> Vec<Check> {
    let lacks = |capability: &&Capability| effective & (1 << capability.bit) == 0;
    let missing = REQUIRED
        .iter()
        .filter(lacks)
        .map(|c| Check::missing(c.name, "not held", c.consequence, MEND));
    let warnings = USEFUL
        .iter()
        .filter(lacks)
        .map(|c| Check::warning(c.name, "not held", c.consequence, MEND));
    let lacking: Vec<Check> = missing.chain(warnings).collect();
    if !lacking.is_empty() {
        return lacking;
    }
    let names = REQUIRED.iter().chain(&USEFUL).map(|c| c.name);
    let names: Vec<&str> = names.collect();
    vec![Check::ok("capabilities", names.join(" "))]
}

#[cfg(test)]
mod tests {
    use super::{super::Status, *};

    #[test]
    fn each_capability_has_its_own_line() {
        assert_eq!(of(u64::MAX).len(), 1);
        assert_eq!(of(0).len(), REQUIRED.len() + USEFUL.len());
        let without_ptrace = of(!(1 << 19));
        assert_eq!(without_ptrace.len(), 1);
        assert_eq!(without_ptrace[0].name, "CAP_SYS_PTRACE");
        assert_eq!(without_ptrace[0].status, Status::Warning);
        assert_eq!(of(!(1 << 39))[0].status, Status::Missing);
    }
}
