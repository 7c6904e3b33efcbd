//! The cgroup v2 hierarchy: where it is mounted, and what a cgroup in it is called by the kernel.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

/// CGROUP2_SUPER_MAGIC (include/uapi/linux/magic.h).
const MAGIC: i64 = 0x6367_7270;

/// A cgroup is not what it should be.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// There is no hierarchy.
    #[error(
        "no cgroup v2 hierarchy is mounted: mount one with `mount -t cgroup2 none /sys/fs/cgroup`"
    )]
    NoHierarchy,
    /// It cannot be read.
    #[error("cgroup {path}: {source}: name a directory below {root}")]
    NotFound {
        /// Which.
        path: PathBuf,
        /// The root of the hierarchy.
        root: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It lies elsewhere.
    #[error("{path} is not a cgroup v2 directory: name one below {root}")]
    Elsewhere {
        /// Which.
        path: PathBuf,
        /// The root of the hierarchy.
        root: PathBuf,
    },
    /// It lies too deep.
    #[error("cgroup {path} lies {level} levels deep: {MAX_LEVEL} are supported")]
    TooDeep {
        /// Which.
        path: PathBuf,
        /// How deep.
        level: u32,
    },
}

/// How deep below the root an endpoint's cgroup may lie; the same bound as in the programs.
const MAX_LEVEL: u32 = 12;

/// Where the cgroup v2 hierarchy is mounted: alone, or beside version 1 (hybrid).
pub fn root() -> Result<PathBuf, CgroupError> {
    ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"]
        .into_iter()
        .map(PathBuf::from)
        .find(|path| is_cgroup2(path))
        .ok_or(CgroupError::NoHierarchy)
}

fn is_cgroup2(path: &Path) -> bool {
    rustix::fs::statfs(path).is_ok_and(|stat| stat.f_type == MAGIC)
}

/// What the kernel calls a cgroup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CgroupId {
    /// Its id, which is its inode number.
    pub id: u64,
    /// How many levels it lies below the root.
    pub level: u32,
}

/// Whether this process is in a cgroup namespace of its own, so that its hierarchy may begin
/// anywhere in the kernel's, and a level below its root says nothing.
pub fn is_namespaced() -> bool {
    /// Of the first namespace: PROC_CGROUP_INIT_INO in include/linux/proc_ns.h.
    const FIRST: u64 = 0xEFFF_FFFB;
    fs::metadata("/proc/self/ns/cgroup").map_or(true, |namespace| namespace.ino() != FIRST)
}

/// The levels, as bits, at which the programs look for these cgroups.
pub fn levels(cgroups: impl Iterator<Item = CgroupId>) -> u32 {
    if is_namespaced() {
        return (1..=MAX_LEVEL).fold(0, |bits, level| bits | 1 << level);
    }
    cgroups.fold(0, |bits, cgroup| bits | 1 << cgroup.level)
}

/// Reads id and level of a cgroup directory.
pub fn identify(path: &Path) -> Result<CgroupId, CgroupError> {
    let root = root()?;
    let found = fs::canonicalize(path).and_then(|real| Ok((fs::metadata(&real)?.ino(), real)));
    let (id, real) = found.map_err(|source| CgroupError::NotFound {
        path: path.to_owned(),
        root: root.clone(),
        source,
    })?;
    let below = match real.strip_prefix(&root) {
        Ok(below) if is_cgroup2(&real) && below.components().next().is_some() => below,
        Ok(_) | Err(_) => {
            return Err(CgroupError::Elsewhere {
                path: path.to_owned(),
                root,
            });
        }
    };
    let level = below.components().count() as u32;
    if level > MAX_LEVEL {
        return Err(CgroupError::TooDeep {
            path: path.to_owned(),
            level,
        });
    }
    Ok(CgroupId { id, level })
}
