//! The cgroup hierarchy, the BPF file system, and what earlier runs left in it.

use std::{fs, path::Path};

use super::Check;
use crate::enforcer::{bpffs, cgroup};

pub(super) fn checks() -> Vec<Check> {
    let mut checks = match cgroup::root() {
        Ok(root) => vec![hierarchy(&root), scratch(&root)],
        Err(error) => vec![Check::missing(
            "cgroup v2",
            error,
            "there is nothing to attach programs to",
            "boot with systemd.unified_cgroup_hierarchy=1",
        )],
    };
    checks.push(file_system());
    checks.push(pins());
    checks
}

fn hierarchy(root: &Path) -> Check {
    let found = root.display().to_string();
    if root == Path::new("/sys/fs/cgroup") {
        return Check::ok("cgroup v2", found);
    }
    Check::warning(
        "cgroup v2",
        format!("{found}, beside version 1 (hybrid)"),
        "processes that a runtime puts into version 1 cgroups only are in no endpoint's cgroup",
        "make sure that endpoints are cgroups of this hierarchy, or boot with \
         systemd.unified_cgroup_hierarchy=1",
    )
}

/// The gateway and every command get a cgroup: makes one and removes it.
fn scratch(root: &Path) -> Check {
    const NAME: &str = "new cgroups";
    let path = root.join(format!("egress-agent-doctor-{}", std::process::id()));
    match fs::create_dir(&path).and_then(|()| fs::remove_dir(&path)) {
        Ok(()) => Check::ok(NAME, "can be made"),
        Err(error) => Check::missing(
            NAME,
            format!("{}: {error}", path.display()),
            "the gateway cannot have a cgroup of its own",
            "run as root, with the hierarchy mounted read-write",
        ),
    }
}

fn file_system() -> Check {
    const NAME: &str = "BPF file system";
    const CONSEQUENCE: &str = "programs cannot outlive the agent";
    let path = bpffs::root();
    let mount = path.ancestors().nth(2).unwrap_or(&path);
    let found = mount.display();
    match (
        bpffs::is_mounted(),
        mount.is_dir(),
        rustix::process::geteuid().is_root(),
    ) {
        (true, _, true) => Check::ok(NAME, found),
        (false, true, true) => Check::ok(NAME, format!("not at {found} yet; the agent mounts it")),
        (false, false, _) => Check::missing(
            NAME,
            format!("{found} does not exist"),
            CONSEQUENCE,
            "mount /sys, on a kernel with CONFIG_BPF_SYSCALL=y",
        ),
        (_, true, false) | (true, false, false) => Check::missing(
            NAME,
            format!("{found} is for root alone"),
            CONSEQUENCE,
            "run as root",
        ),
    }
}

/// What is pinned now, by whichever version.
fn pins() -> Check {
    const NAME: &str = "pins";
    let root = bpffs::root();
    let Some(parent) = root.parent() else {
        return Check::ok(NAME, "none");
    };
    let found = match instances(parent) {
        Ok(found) => found,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(error) => {
            return Check::warning(
                NAME,
                format!("{}: {error}", parent.display()),
                "what earlier runs left enforcing is not known",
                "run as root",
            );
        }
    };
    if found.is_empty() {
        return Check::ok(NAME, "none of earlier runs");
    }
    Check::warning(
        NAME,
        format!("below {}: {}", parent.display(), found.join(", ")),
        "they enforce, whether an agent runs or not; `run` of the same instance takes them over",
        "`egress-agent detach --yes` removes them, where that is meant",
    )
}

/// `v1/default`, …
fn instances(parent: &Path) -> std::io::Result<Vec<String>> {
    let mut found = Vec::new();
    for version in fs::read_dir(parent)? {
        for instance in fs::read_dir(version?.path())? {
            let path = instance?.path();
            let name = path.strip_prefix(parent).unwrap_or(&path);
            found.push(name.display().to_string());
        }
    }
    found.sort();
    Ok(found)
}
