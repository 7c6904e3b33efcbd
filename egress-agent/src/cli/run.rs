//! `egress-agent run` and `egress-agent detach`.

use crate::app;
use clap::Args;
use std::path::PathBuf;

/// Enforces the endpoints of a configuration file until told to stop.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// The configuration file.
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Take the instance over from the agent that runs it, without a gap in service.
    #[arg(long)]
    pub take_over: bool,
}

/// Removes the pins of an instance, and thereby all its enforcement.
#[derive(Debug, Args)]
pub struct DetachArgs {
    /// Do it.
    #[arg(long)]
    pub yes: bool,
    /// The instance.
    #[arg(long, default_value = "default")]
    pub instance: String,
    /// The configuration that names the instance and the gateway's addresses.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// Runs on the main thread, with whose death the gateway's is bound up.
pub(super) fn on_this_thread<T>(
    work: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(work)
}

/// `run`.
pub fn run(args: &RunArgs) -> anyhow::Result<()> {
    on_this_thread(app::run::run(&args.config, args.take_over))
}

/// `detach`.
pub fn detach(args: &DetachArgs) -> anyhow::Result<()> {
    on_this_thread(app::run::detach(
        &args.instance,
        args.config.as_deref(),
        args.yes,
    ))
}
