//! cgroups below the cgroup v2 mount, wherever that is.

use std::{
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

use crate::owner;

/// A cgroup and everything below it, removed when dropped.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// Makes `name` at the root of the hierarchy.
    ///
    /// # Errors
    /// Where there is no cgroup v2 mount, or no privilege.
    pub fn new(name: &str) -> Result<Self> {
        let path = mount()?.join(name);
        fs::create_dir(&path).with_context(|| format!("could not make {}", path.display()))?;
        Ok(Self { path })
    }

    /// Makes (where it is missing) a cgroup below this one and returns its path.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn child(&self, name: &str) -> Result<PathBuf> {
        let path = self.path.join(name);
        fs::create_dir_all(&path).with_context(|| format!("could not make {}", path.display()))?;
        Ok(path)
    }

    /// Its path in the file system.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.path) {
            eprintln!("{error:#}");
        }
    }
}

/// Where cgroup v2 is mounted: `/sys/fs/cgroup`, or `/sys/fs/cgroup/unified` where version 1 is
/// there too.
///
/// # Errors
/// Where it is not mounted.
pub fn mount() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").context("could not read the mounts")?;
    for line in mounts.lines() {
        let mut fields = line.split(' ');
        if let (Some(_), Some(path), Some("cgroup2")) =
            (fields.next(), fields.next(), fields.next())
        {
            return Ok(PathBuf::from(path));
        }
    }
    bail!("cgroup v2 is not mounted: mount -t cgroup2 none /sys/fs/cgroup/unified")
}

/// Removes the cgroups of owners that have gone: worlds, and what agents in them made.
pub(crate) fn clear_stale() -> Result<()> {
    for path in named(owner::is_stale)? {
        remove(&path)?;
    }
    Ok(())
}

/// cgroups at the root, or one below it, for whose name `wanted` holds.
///
/// # Errors
/// Where there is no cgroup v2 mount.
pub fn named(wanted: impl Fn(&str) -> bool) -> Result<Vec<PathBuf>> {
    let root = mount()?;
    let mut found = Vec::new();
    for parent in directories(&root).chain([root.clone()]) {
        found.extend(directories(&parent).filter(|path| {
            let name = path.file_name().unwrap_or_default();
            wanted(&name.to_string_lossy())
        }));
    }
    Ok(found)
}

fn directories(path: &Path) -> impl Iterator<Item = PathBuf> {
    fs::read_dir(path)
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.is_dir())
}

/// Kills what runs in a cgroup of ours and removes it with all below.
pub(crate) fn remove(path: &Path) -> Result<()> {
    // Attempts, 5 ms apart: a killed process leaves its cgroup a little later.
    const ATTEMPTS: u32 = 400;
    for _ in 0..ATTEMPTS {
        match fs::write(path.join("cgroup.kill"), "1") {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) => {
                return Err(error).with_context(|| format!("could not kill {}", path.display()));
            }
        }
        if remove_tree(path).is_ok() {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    bail!(
        "could not remove {}: something in it will not die",
        path.display()
    )
}

/// Directories from the leaves up; their files go with them.
fn remove_tree(path: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    fs::remove_dir(path)
}
