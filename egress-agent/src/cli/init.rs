//! `egress-agent init`: PID 1 of a command, started by `egress-agent exec`.

use std::{os::fd::RawFd, process::ExitCode};

use anyhow::Context;
use clap::Args;

use crate::{cli::descriptor, exec::init};

/// Arguments of `egress-agent init`.
#[derive(Debug, Args)]
pub struct InitArgs {
    /// The descriptor of the control stream.
    #[arg(long)]
    pub control_fd: RawFd,
}

/// Runs until the command ends.
///
/// # Errors
/// This was not started by an agent.
pub fn run(args: &InitArgs) -> anyhow::Result<ExitCode> {
    let fd = args.control_fd;
    let control = descriptor::unix_stream(fd)
        .with_context(|| format!("--control-fd {fd}: no socket of an agent"))?;
    Ok(init::run(&control)?.into())
}
