//! Where maps and links are pinned: `<bpffs>/egress-agent/v<ABI>/<instance>/{maps,links}`.

use egress_common::ABI_VERSION;
use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// The usual mount point (Documentation/bpf/; systemd mounts it there too).
const MOUNT: &str = "/sys/fs/bpf";
/// BPF_FS_MAGIC (include/uapi/linux/magic.h).
const MAGIC: i64 = 0xcafe_4a11;

/// The BPF file system is not as it should be.
#[derive(Debug, thiserror::Error)]
pub enum BpffsError {
    /// It is not mounted, and cannot be.
    #[error("no BPF file system at {MOUNT} ({0}): run as root, or `mount -t bpf bpf {MOUNT}`")]
    Mount(#[source] io::Error),
    /// A folder in it.
    #[error("{path}: {source}: run as root")]
    Folder {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The folder of all instances of this ABI.
pub fn root() -> PathBuf {
    Path::new(MOUNT).join(format!("egress-agent/v{ABI_VERSION}"))
}

/// The folder of one instance's pins.
pub fn instance(name: &str) -> PathBuf {
    root().join(name)
}

/// The pin of a map.
pub fn map(pins: &Path, name: &str) -> PathBuf {
    pins.join("maps").join(name)
}

/// The pin of a link.
pub fn link(pins: &Path, name: &str) -> PathBuf {
    pins.join("links").join(name)
}

/// Mounts the file system if it is not, and makes the instance's folders.
pub(super) fn prepare(pins: &Path) -> Result<(), BpffsError> {
    if !is_mounted() {
        rustix::mount::mount(
            "bpf",
            MOUNT,
            "bpf",
            rustix::mount::MountFlags::empty(),
            None,
        )
        .map_err(|error| BpffsError::Mount(error.into()))?;
    }
    for folder in [pins.join("maps"), pins.join("links")] {
        fs::create_dir_all(&folder).map_err(|source| BpffsError::Folder {
            path: folder,
            source,
        })?;
    }
    Ok(())
}

/// Whether the BPF file system is where it should be.
pub fn is_mounted() -> bool {
    rustix::fs::statfs(MOUNT).is_ok_and(|stat| stat.f_type == MAGIC)
}

/// Removes an instance's pins, links before maps; what was attached by them alone is detached
/// thereby. Says whether there was anything.
pub fn remove(pins: &Path) -> Result<bool, BpffsError> {
    let mut found = false;
    for folder in [pins.join("links"), pins.join("maps")] {
        found |= folder.exists();
        remove_folder(&folder)?;
    }
    remove_folder(pins)?;
    // The folders of an ABI, this one or another, go with their last instance, and what they are in
    // with the last of them; the kernel keeps what is not empty.
    if let Some(all) = pins.ancestors().nth(2) {
        for version in fs::read_dir(all).into_iter().flatten().flatten() {
            drop(fs::remove_dir(version.path()));
        }
        drop(fs::remove_dir(all));
    }
    Ok(found)
}

fn remove_folder(folder: &Path) -> Result<(), BpffsError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| BpffsError::Folder { path, source }
    };
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(folder)(error)),
    };
    for entry in entries {
        let path = entry.map_err(failed(folder))?.path();
        fs::remove_file(&path).map_err(failed(&path))?;
    }
    fs::remove_dir(folder).map_err(failed(folder))
}
