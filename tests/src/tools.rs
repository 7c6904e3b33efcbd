//! Programs of this crate and the agent under test, by path.

use std::{env, path::PathBuf};

use anyhow::{Context as _, Result, bail};

/// Names the agent's binary; `cargo xtask` sets it.
pub const AGENT: &str = "EGRESS_AGENT";

/// The agent's binary: from the environment, or beside our own.
///
/// # Errors
/// Where there is none.
pub fn agent() -> Result<PathBuf> {
    match env::var_os(AGENT) {
        Some(path) => existing(PathBuf::from(path)),
        None => existing(built("egress-agent")?),
    }
}

/// The program that makes the attacks (`src/bin/attack`).
///
/// # Errors
/// Where it is not built.
pub fn attack() -> Result<PathBuf> {
    existing(built("attack")?)
}

/// A binary beside this one; tests are one directory deeper, in `deps`.
fn built(name: &str) -> Result<PathBuf> {
    let this = env::current_exe().context("could not tell where this program is")?;
    let mut directory = this.parent().context("a program lies in a directory")?;
    if directory.ends_with("deps") {
        directory = directory.parent().context("deps lies in a directory")?;
    }
    Ok(directory.join(name))
}

fn existing(path: PathBuf) -> Result<PathBuf> {
    if !path.exists() {
        bail!("no program at {}; run: cargo xtask build", path.display());
    }
    Ok(path)
}
