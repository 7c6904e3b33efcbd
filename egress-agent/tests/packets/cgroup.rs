//! A cgroup for this process. A test run's socket belongs to the cgroup of whoever runs it
//! (`cgroup_sk_alloc` in kernel/cgroup/cgroup.c), so that is how a packet gets an endpoint.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use egress_agent::enforcer::cgroup::{self, CgroupId};

/// A process is in one cgroup at a time.
static ONE: Mutex<()> = Mutex::new(());

/// While it lives, the process is in a cgroup of its own; then it goes back, and the cgroup goes.
pub(crate) struct Inside {
    path: PathBuf,
    home: PathBuf,
    _one: MutexGuard<'static, ()>,
}

impl Inside {
    pub(crate) fn enter() -> Self {
        let one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        let root = cgroup::root().unwrap();
        let path = root.join(format!("egress-agent-packets-{}", std::process::id()));
        fs::create_dir(&path).expect("root, to make a cgroup");
        let inside = Self {
            path,
            home: home(&root),
            _one: one,
        };
        move_to(&inside.path).expect("root, to enter a cgroup");
        inside
    }

    pub(crate) fn id(&self) -> CgroupId {
        cgroup::identify(&self.path).unwrap()
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        let left = move_to(&self.home).and_then(|()| fs::remove_dir(&self.path));
        if let Err(error) = left {
            eprintln!("{} is left behind: {error}", self.path.display());
        }
    }
}

/// Where the process is now: the line of the v2 hierarchy in cgroups(7)'s file.
fn home(root: &Path) -> PathBuf {
    let lines = fs::read_to_string("/proc/self/cgroup").unwrap();
    let path = lines.lines().find_map(|line| line.strip_prefix("0::/"));
    root.join(path.expect("a cgroup v2 hierarchy"))
}

/// 0 stands for whoever writes it.
fn move_to(cgroup: &Path) -> std::io::Result<()> {
    fs::write(cgroup.join("cgroup.procs"), "0")
}
