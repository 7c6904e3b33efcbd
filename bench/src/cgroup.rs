//! The process in a cgroup of its own, for programs that ask whose a packet is.

use std::{fs, os::unix::fs::MetadataExt as _, path::PathBuf};

use anyhow::{Context as _, Result};
use egress_tests::{
    cgroup::{self, Cgroup},
    owner,
};

/// As long as it lives.
pub(crate) struct Inside {
    own: Cgroup,
    before: PathBuf,
}

impl Inside {
    pub(crate) fn enter() -> Result<Self> {
        let mount = cgroup::mount()?;
        let text = fs::read_to_string("/proc/self/cgroup").context("whose cgroup this is")?;
        let line = text.lines().find_map(|line| line.strip_prefix("0::/"));
        let inside = Self {
            own: Cgroup::new(&owner::unique_name())?,
            before: mount.join(line.context("no cgroup v2")?),
        };
        fs::write(inside.own.path().join("cgroup.procs"), "0")
            .context("could not enter a cgroup")?;
        Ok(inside)
    }

    /// Its id, and how many levels it lies below the root.
    pub(crate) fn id(&self) -> Result<(u64, u32)> {
        Ok((fs::metadata(self.own.path())?.ino(), 1))
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        // Else it would be killed with what it is in.
        if let Err(error) = fs::write(self.before.join("cgroup.procs"), "0") {
            eprintln!("could not leave the cgroup: {error}");
            std::process::abort();
        }
    }
}
