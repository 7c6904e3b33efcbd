//! Removes what an instance leaves.

use std::{fs, io, net::IpAddr, path::Path, time::Duration};

use super::{InstanceError, cgroup_of};
use crate::enforcer::{EnforcerError, attach::detach_filters, bpffs, cgroup, node::Node};

/// Removes what an instance leaves: pins, its cgroup, its addresses. Says what there was.
pub async fn remove(
    name: &str,
    addresses: &[IpAddr],
    node: &Node,
) -> Result<Vec<String>, InstanceError> {
    let mut removed = Vec::new();
    let pins = bpffs::instance(name);
    let filters = detach_filters(&pins).map_err(|source| InstanceError::Filters { source })?;
    if filters > 0 {
        removed.push(format!("{filters} filters of links"));
    }
    if bpffs::remove(&pins).map_err(EnforcerError::from)? {
        removed.push(format!("pins {}", pins.display()));
    }
    for address in addresses {
        if node.remove_local(*address).await? {
            removed.push(format!("address {address} on lo"));
        }
    }
    let folder = cgroup_of(name)?;
    if remove_cgroup(&folder).await? {
        removed.push(format!("cgroup {}", folder.display()));
    }
    // Shared with other instances; it goes with the last one.
    drop(fs::remove_dir(cgroup::root()?.join("egress-agent")));
    Ok(removed)
}

/// Ends whoever is still in the cgroup, a gateway whose agent was killed for instance, and removes
/// it with all below. The kernel takes a moment to let go of what has ended.
async fn remove_cgroup(folder: &Path) -> Result<bool, InstanceError> {
    const TRIES: u32 = 100;
    // Absent before Linux 5.14; then there is nobody to be ended but a dying gateway.
    drop(fs::write(folder.join("cgroup.kill"), "1"));
    let mut tries = 0;
    loop {
        tries += 1;
        match remove_folders(folder) {
            Ok(()) => return Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy && tries < TRIES => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Err(source) => {
                return Err(InstanceError::Folder {
                    path: folder.to_owned(),
                    source,
                });
            }
        }
    }
}

/// The files of a cgroup go with it.
fn remove_folders(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_folders(&entry.path())?;
        }
    }
    fs::remove_dir(folder)
}
