//! `egress-agent gateway`: the unprivileged side, started by the enforcer.

use std::{os::fd::RawFd, sync::Arc};

use anyhow::Context;
use clap::Args;
use tokio::net::UnixStream;

use crate::{
    cli::descriptor,
    gateway::{identify::Kernel, seal, serve, spawn::confine},
};

/// Arguments of `egress-agent gateway`.
#[derive(Debug, Args)]
pub struct GatewayArgs {
    /// The descriptor of the control stream.
    #[arg(long)]
    pub control_fd: RawFd,
}

/// Runs until the control stream ends.
///
/// # Errors
/// A privilege is left, the descriptor is no socket, or the gateway cannot work.
pub fn run(args: &GatewayArgs) -> anyhow::Result<()> {
    confine::verify()?;
    let control = descriptor::unix_stream(args.control_fd)
        .and_then(|stream| stream.set_nonblocking(true).map(|()| stream))
        .with_context(|| format!("--control-fd {}: no socket of an enforcer", args.control_fd))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the gateway's control runtime")?;
    runtime.block_on(async {
        let control = UnixStream::from_std(control)?;
        match serve::serve(control, Arc::new(Kernel), Arc::new(seal::Process)).await {
            // The enforcer says it, once.
            Err(error) if error.was_told() => std::process::exit(1),
            served => Ok(served?),
        }
    })
}
