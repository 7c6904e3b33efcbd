//! The demo and the tests: set up, build, run.

use std::{path::Path, process::Command};

use anyhow::{Context as _, Result, bail};

use crate::{
    agent::{self, Profile},
    kernel, paths, progress,
    setup::{self, Needs},
};

/// Sets up, builds and shows.
///
/// # Errors
/// Where a step fails, or what happened differs from what should have.
pub(crate) fn demo() -> Result<()> {
    must_be_root("demo")?;
    setup::run(Needs::Demo)?;
    let agent = agent::build(Profile::Dev)?;
    progress::run(
        "Building the demo",
        agent::cargo("build").args(["--package", "egress-tests", "--bins"]),
    )?;
    let demo = paths::target().join(Profile::Dev.directory()).join("demo");
    progress::say("Starting the demo");
    let status = with_agent(&mut Command::new(&demo), &agent)
        .status()
        .with_context(|| format!("could not start {}", demo.display()))?;
    if !status.success() {
        bail!("the demo ended with {status}: see its table above");
    }
    Ok(())
}

/// Sets up, builds and runs every test of the workspace.
///
/// # Errors
/// Where a step or a test fails.
pub(crate) fn test(filter: &[String]) -> Result<()> {
    must_be_root("test")?;
    setup::run(Needs::Test)?;
    let agent = agent::build(Profile::Dev)?;
    let mut cargo = agent::cargo("test");
    cargo
        .args(["--workspace", "--no-fail-fast", "--"])
        .args(filter);
    progress::run("Running every test", with_agent(&mut cargo, &agent))
}

/// Sets up, builds and runs every test that has to do with a kernel in one of the matrix, or those
/// that the filter names.
///
/// # Errors
/// Where a step or a test fails.
pub(crate) fn test_in(version: kernel::Version, filter: &[String]) -> Result<()> {
    must_be_root("test --kernel")?;
    setup::run(Needs::Kernel)?;
    kernel::test(version, &agent::build(Profile::Dev)?, filter)
}

/// Sets up, builds and runs the core set of tests in each of these kernels.
///
/// # Errors
/// Where a step or a test fails.
pub(crate) fn test_core_in(versions: &[kernel::Version]) -> Result<()> {
    must_be_root("test --kernel")?;
    setup::run(Needs::Kernel)?;
    kernel::core(versions, &agent::build(Profile::Dev)?)
}

/// The tests and the demo find the binary that was built here, not whichever lies around.
pub(crate) fn with_agent<'a>(command: &'a mut Command, agent: &Path) -> &'a mut Command {
    command.env("EGRESS_AGENT", agent)
}

pub(crate) fn must_be_root(task: &str) -> Result<()> {
    let user = progress::output(Command::new("id").arg("-u"));
    if user.as_deref() != Some("0") {
        bail!(
            "`cargo xtask {task}` makes network namespaces and loads BPF programs: run it as root, \
             e.g. sudo -E cargo xtask {task}"
        );
    }
    Ok(())
}
