//! A directory for a world's files, removed when dropped, and what runs that were killed left.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use crate::{cgroup, owner};

/// Where BPF objects are pinned.
const PINS: &str = "/sys/fs/bpf";

/// Where running instances are locked.
const LOCKS: &str = "/run/egress-agent";

/// A directory of one world.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
}

impl Scratch {
    /// Makes it, readable by every user: the gateway and unprivileged clients read from it.
    ///
    /// # Errors
    /// Where the temporary directory cannot be written.
    pub fn new(name: &str) -> Result<Self> {
        let path = env::temp_dir().join(name);
        fs::create_dir(&path).with_context(|| format!("could not make {}", path.display()))?;
        Ok(Self { path })
    }

    /// A file's path in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Writes a file and returns its path.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> Result<PathBuf> {
        let path = self.file(name);
        fs::write(&path, content).with_context(|| format!("could not write {}", path.display()))?;
        Ok(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if env::var_os("EGRESS_TESTS_KEEP").is_some() {
            eprintln!("kept {}", self.path.display());
            return;
        }
        if let Err(error) = fs::remove_dir_all(&self.path) {
            eprintln!("could not remove {}: {error}", self.path.display());
        }
    }
}

/// Removes what owners that have gone left behind: cgroups, pins and directories.
///
/// # Errors
/// Where something of ours cannot be removed.
pub fn clear_stale() -> Result<()> {
    cgroup::clear_stale()?;
    for name in entries(&env::temp_dir()) {
        if owner::is_stale(&name) {
            remove(&env::temp_dir().join(name))?;
        }
    }
    for pins in pins(owner::is_stale) {
        remove(&pins)?;
    }
    for lock in locks(owner::is_stale) {
        fs::remove_file(&lock).with_context(|| format!("could not remove {}", lock.display()))?;
    }
    Ok(())
}

/// What an instance has left outside its world: pins, cgroups and locks.
///
/// # Errors
/// Where the cgroups cannot be listed.
pub fn left_by(instance: &str) -> Result<Vec<PathBuf>> {
    // The world's own cgroup, at the root, goes with the world.
    let own = cgroup::mount()?.join(instance);
    let left = left_by_all(|name| name == instance)?;
    Ok(left.into_iter().filter(|path| *path != own).collect())
}

/// What all instances have left for whose name `wanted` holds.
///
/// # Errors
/// Where the cgroups cannot be listed.
pub fn left_by_all(wanted: impl Fn(&str) -> bool) -> Result<Vec<PathBuf>> {
    let mut left = pins(&wanted);
    left.extend(locks(&wanted));
    left.extend(cgroup::named(wanted)?);
    Ok(left)
}

/// Locks of instances for whose name `wanted` holds.
fn locks(wanted: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    entries(Path::new(LOCKS))
        .into_iter()
        .filter(|name| {
            // The lock itself, the names of its endpoints, and where it can be asked to hand over.
            let stems = [".lock", ".json", ".sock"].map(|end| name.strip_suffix(end));
            stems.into_iter().flatten().any(&wanted)
        })
        .map(|name| Path::new(LOCKS).join(name))
        .collect()
}

/// Directories of pins whose own name is that of an instance for which `wanted` holds.
pub fn pins(wanted: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![(PathBuf::from(PINS), 0)];
    while let Some((directory, depth)) = open.pop() {
        for name in entries(&directory) {
            let path = directory.join(&name);
            if !path.is_dir() {
                continue;
            }
            // An instance's name is the last part, or comes after a version.
            if wanted(&name) {
                found.push(path);
            } else if depth < 3 {
                open.push((path, depth + 1));
            }
        }
    }
    found
}

fn entries(directory: &Path) -> Vec<String> {
    fs::read_dir(directory)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect()
}

fn remove(path: &Path) -> Result<()> {
    fs::remove_dir_all(path).with_context(|| format!("could not remove {}", path.display()))
}
