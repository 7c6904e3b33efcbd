//! Measuring: set up, build optimised, run.

use std::process::Command;

use anyhow::{Context as _, Result, bail};
use clap::{Args, ValueEnum};

use crate::{
    agent::{self, Profile},
    paths, progress,
    setup::{self, Needs},
    suite::{must_be_root, with_agent},
};

/// What is measured.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Subject {
    /// The kernel side, and loading it
    Enforcer,
    /// Connections and bytes through the gateway
    Gateway,
}

/// How it is measured.
#[derive(Args)]
pub(crate) struct Options {
    /// What
    #[arg(value_enum)]
    what: Subject,
    /// Some minutes at most, and rough
    #[arg(long)]
    quick: bool,
    /// For the gateway: install other proxies, and measure them, too
    #[arg(long)]
    peers: bool,
    /// Only these parts or rows, as the bench names them
    #[arg(long, num_args = 1..)]
    only: Vec<String>,
}

/// How many times longer than in a test things may take: a million entries take their time.
const PATIENCE: &str = "6";

/// Measures; what comes out never fails it.
///
/// # Errors
/// Where a step fails.
pub(crate) fn run(options: &Options) -> Result<()> {
    must_be_root("bench")?;
    setup::run(Needs::Bench)?;
    let peers = options.peers && options.what == Subject::Gateway;
    let envoy = peers.then(setup::peers).transpose()?.flatten();
    let agent = agent::build(Profile::Release)?;
    progress::run(
        "Building the bench",
        agent::cargo("build").args(["--release", "--package", "egress-bench"]),
    )?;
    let program = paths::target()
        .join(Profile::Release.directory())
        .join("egress-bench");
    let mut command = Command::new(&program);
    match options.what {
        Subject::Enforcer => {}
        Subject::Gateway => drop(command.arg("gateway")),
    }
    command
        .arg("--output")
        .arg(paths::target().join("bench"))
        .env("EGRESS_TESTS_PATIENCE", PATIENCE);
    if options.quick {
        command.arg("--quick");
    }
    if peers {
        command.arg("--peers");
    }
    if let Some(envoy) = envoy {
        command.arg("--envoy").arg(envoy);
    }
    for part in &options.only {
        command.arg("--only").arg(part);
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
