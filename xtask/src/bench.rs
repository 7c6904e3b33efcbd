//! Measuring: set up, build optimised, run.

use std::process::Command;

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;

use crate::{
    agent::{self, Profile},
    paths, progress,
    setup::{self, Needs},
    suite::{must_be_root, with_agent},
};

/// What is measured.
#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Subject {
    /// The kernel side, and loading it
    Enforcer,
}

/// How many times longer than in a test things may take: a million entries take their time.
const PATIENCE: &str = "6";

/// Measures; what comes out never fails it.
///
/// # Errors
/// Where a step fails.
pub(crate) fn run(subject: Subject, quick: bool) -> Result<()> {
    must_be_root("bench")?;
    setup::run(Needs::Bench)?;
    let agent = agent::build(Profile::Release)?;
    progress::run(
        "Building the bench",
        agent::cargo("build").args(["--release", "--package", "egress-bench"]),
    )?;
    let program = match subject {
        Subject::Enforcer => "egress-bench",
    };
    let program = paths::target()
        .join(Profile::Release.directory())
        .join(program);
    let mut command = Command::new(&program);
    command
        .arg("--output")
        .arg(paths::target().join("bench"))
        .env("EGRESS_TESTS_PATIENCE", PATIENCE);
    if quick {
        command.arg("--quick");
    }
    progress::say("Measuring: the less else this machine does, the better");
    let status = with_agent(&mut command, &agent)
        .status()
        .with_context(|| format!("could not start {}", program.display()))?;
    if !status.success() {
        bail!("the bench ended with {status}");
    }
    Ok(())
}
