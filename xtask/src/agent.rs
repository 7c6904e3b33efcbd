//! The agent's binary, with the BPF object embedded.

use std::{path::PathBuf, process::Command};

use anyhow::Result;

use crate::{ebpf, environment, paths, progress};

/// How the workspace is built.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Profile {
    /// Fast to build.
    Dev,
    /// Fast to run.
    Release,
}

impl Profile {
    /// From the flag `--release`.
    pub(crate) fn of(release: bool) -> Self {
        if release { Self::Release } else { Self::Dev }
    }

    /// The directory below the target directory.
    pub(crate) fn directory(self) -> &'static str {
        match self {
            Self::Dev => "debug",
            Self::Release => "release",
        }
    }
}

/// Builds the object and the agent, and returns the path of the binary.
///
/// # Errors
/// Where either build fails.
pub(crate) fn build(profile: Profile) -> Result<PathBuf> {
    // The agent's build script finds the object in the target directory.
    ebpf::build()?;
    let mut cargo = cargo("build");
    cargo.args(["--package", "egress-agent", "--bin", "egress-agent"]);
    if profile == Profile::Release {
        cargo.arg("--release");
    }
    progress::run("Building the agent", &mut cargo)?;
    let binary = paths::target()
        .join(profile.directory())
        .join("egress-agent");
    progress::say(&format!("Built {}", paths::display(&binary)));
    Ok(binary)
}

/// `cargo` of the workspace's own toolchain, in its root.
pub(crate) fn cargo(subcommand: &str) -> Command {
    let mut command = environment::same_toolchain(&paths::cargo());
    command.arg(subcommand);
    command
}
