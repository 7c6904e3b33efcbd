//! A kernel as Debian packages it, unpacked into a cache in cargo's home: nothing is installed, and
//! the next clone finds it there.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use super::{Version, left_by_the_dead};
use crate::{paths, progress, setup};

/// An unpacked kernel.
pub(super) struct Kernel {
    /// Which one it is in the matrix.
    pub(super) version: Version,
    /// As `uname -r` tells it.
    pub(super) release: String,
    /// Its directory: holds `boot/` and `lib/modules/`.
    pub(super) directory: PathBuf,
}

impl Kernel {
    /// The bootable image.
    pub(super) fn image(&self) -> PathBuf {
        self.directory
            .join(format!("boot/vmlinuz-{}", self.release))
    }

    /// The directory of its modules.
    pub(super) fn modules(&self) -> PathBuf {
        self.directory.join("lib/modules").join(&self.release)
    }
}

/// The newest kernel of this version that the machine's package sources offer.
///
/// # Errors
/// Where they offer none, or it cannot be downloaded or unpacked.
pub(super) fn kernel(version: Version) -> Result<Kernel> {
    // Lists that are missing or old are read anew, once.
    let (name, directory) = match cached_or_downloaded(version) {
        Ok(found) => found,
        Err(_old) => {
            setup::read_package_lists()?;
            cached_or_downloaded(version)?
        }
    };
    let release = name
        .strip_prefix("linux-image-")
        .unwrap_or(&name)
        .to_owned();
    Ok(Kernel {
        version,
        release,
        directory,
    })
}

fn cached_or_downloaded(version: Version) -> Result<(String, PathBuf)> {
    let name = newest(version)?;
    let directory = cache().join(&name);
    if !directory.exists() {
        unpack(&name, &directory)?;
        remove_older(version, &name);
    }
    Ok((name, directory))
}

fn cache() -> PathBuf {
    paths::cargo_home().join("xtask-build/kernels")
}

/// The name of the newest package.
fn newest(version: Version) -> Result<String> {
    let pattern = format!(
        "^linux-image-{}\\.{}\\..*-cloud-amd64$",
        version.major, version.minor
    );
    let mut search = Command::new("apt-cache");
    search.args(["search", "--names-only", &pattern]);
    let found = progress::output(&mut search).unwrap_or_default();
    let names = found
        .lines()
        .filter_map(|line| line.split_whitespace().next());
    let Some(name) = names.max_by_key(|name| numbers(name)) else {
        bail!(
            "no package of Debian's cloud kernel {version} is known here: on Debian 12, see that \
             apt's sources have the suites bookworm and bookworm-security, then apt-get update"
        );
    };
    Ok(name.to_owned())
}

/// `[6, 1, 0, 56, 64]` of `linux-image-6.1.0-56-cloud-amd64`: names sort by their numbers.
fn numbers(name: &str) -> Vec<u64> {
    name.split(|c: char| !c.is_ascii_digit())
        .filter_map(|number| number.parse().ok())
        .collect()
}

/// Follows the name of what is not whole yet, before the number of our process.
const PART: &str = ".part";

/// Downloads and unpacks beside the cache's place, and moves it there when it is whole.
fn unpack(name: &str, directory: &Path) -> Result<()> {
    for left in left_by_the_dead(&cache(), PART) {
        // It takes some room, no more.
        fs::remove_dir_all(left).ok();
    }
    let part = cache().join(format!("{name}{PART}{}", std::process::id()));
    fs::create_dir_all(&part).with_context(|| format!("could not make {}", part.display()))?;
    let result = fill(name, &part).and_then(|()| {
        fs::rename(&part, directory)
            .with_context(|| format!("could not make {}", directory.display()))
    });
    // Where all went well it has moved.
    fs::remove_dir_all(&part).ok();
    result
}

fn fill(name: &str, part: &Path) -> Result<()> {
    let mut apt = setup::apt();
    // The sandbox's user may not write into cargo's home.
    apt.args(["-o", "APT::Sandbox::User=root", "download", name]);
    progress::run_quietly(&format!("Downloading {name}"), apt.current_dir(part))?;
    // As files of the package, with their modules unpacked, and tables for modprobe.
    let script = r#"
        set -e
        dpkg -x ./*.deb .
        rm ./*.deb
        find lib/modules -name '*.ko.xz' -exec busybox unxz {} +
        busybox depmod -b . "$(ls lib/modules)"
    "#;
    let mut shell = Command::new("sh");
    shell.args(["-c", script]).current_dir(part);
    progress::run_quietly(&format!("Unpacking {name}"), &mut shell)
}

/// A new package of a version replaces its older ones.
fn remove_older(version: Version, newest: &str) {
    let prefix = format!("linux-image-{version}.");
    for entry in fs::read_dir(cache()).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        // Another run may be unpacking, or booting: only whole ones, and an open file stays.
        if name.starts_with(&prefix) && name.ends_with("-amd64") && name != newest {
            // What cannot be removed takes some room, no more.
            fs::remove_dir_all(entry.path()).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_name_is_that_with_the_greatest_numbers() {
        let names = [
            "linux-image-6.1.0-9-cloud-amd64",
            "linux-image-6.1.0-56-cloud-amd64",
            "linux-image-6.1.0-10-cloud-amd64",
        ];
        let newest = names.iter().max_by_key(|name| numbers(name));
        assert_eq!(newest, Some(&"linux-image-6.1.0-56-cloud-amd64"));
    }
}
