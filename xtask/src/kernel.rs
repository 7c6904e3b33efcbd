//! Tests in the kernels of the matrix: Debian's cloud kernels, booted by QEMU without
//! virtualisation, with this machine's files read-only below them.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use anyhow::{Result, bail};

use crate::progress;

mod guest;
mod machine;
mod package;
mod suites;
mod told;

use suites::Suites;

/// The kernels that CI boots: the oldest that is supported, where interfaces have qdiscs and filters,
/// and one where they have links.
pub(crate) const MATRIX: [Version; 2] = [
    Version { major: 6, minor: 1 },
    Version {
        major: 6,
        minor: 12,
    },
];

/// How long a guest may run everything: twice what it takes on two idle CPUs.
const LIMIT: Duration = Duration::from_secs(75 * 60);

/// How long it may run the core set, so that CI ends in time even on a busy machine.
const CORE_LIMIT: Duration = Duration::from_secs(12 * 60);

/// A kernel's version, as far as the matrix is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Version {
    major: u32,
    minor: u32,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

impl FromStr for Version {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let numbers = text.split_once('.').and_then(|(major, minor)| {
            Some(Self {
                major: major.parse().ok()?,
                minor: minor.parse().ok()?,
            })
        });
        match numbers {
            Some(version) => Ok(version),
            None => bail!("a kernel is named by two numbers, e.g. 6.1"),
        }
    }
}

/// Runs every test in a kernel, or those that the filter names. The tests are built already.
///
/// # Errors
/// Where the kernel cannot be had or booted, or a test fails.
pub(crate) fn test(version: Version, agent: &Path, filter: &[String]) -> Result<()> {
    run(version, agent, &Suites::build()?.filtered(filter)?, LIMIT)
}

/// Runs the core set in each of these kernels.
///
/// # Errors
/// As [`test`].
pub(crate) fn core(versions: &[Version], agent: &Path) -> Result<()> {
    let suites = Suites::build()?.core()?;
    for version in versions {
        run(*version, agent, &suites, CORE_LIMIT)?;
    }
    Ok(())
}

fn run(version: Version, agent: &Path, suites: &Suites, limit: Duration) -> Result<()> {
    let kernel = package::kernel(version)?;
    progress::say(&format!(
        "Booting {} and running {} there (no virtualisation: slow)",
        kernel.release,
        suites.summary(),
    ));
    let status = machine::run(&kernel, &guest::script(&kernel, agent, suites), limit)?;
    if status != 0 {
        bail!(
            "tests failed in Linux {version} ({}): see above",
            kernel.release
        );
    }
    progress::say(&format!("All tests passed in {}", kernel.release));
    Ok(())
}

/// What killed runs left in a directory: names that end in the number of a process that is no more.
fn left_by_the_dead(directory: &Path, infix: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let left = entries.filter(|entry| {
        let name = entry.file_name().to_string_lossy().into_owned();
        let process = name.rsplit_once(infix).map(|(_, process)| process);
        process
            .and_then(|process| process.parse::<u32>().ok())
            .is_some_and(|process| !Path::new(&format!("/proc/{process}")).exists())
    });
    left.map(|entry| entry.path()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_two_numbers() {
        for text in ["6.1", "6.12"] {
            assert_eq!(text.parse::<Version>().unwrap().to_string(), text);
        }
        for text in ["6", "6.", "6.1.0", "v6.1", ""] {
            assert!(text.parse::<Version>().is_err(), "{text}");
        }
    }
}
