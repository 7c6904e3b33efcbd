//! `egress-agent status`: what is enforced, agent or not.

use std::io::{self, IsTerminal, Write};

use anyhow::{Context, bail};
use clap::Args;

use crate::app::status::Status;

/// Arguments of `egress-agent status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// JSON also on a terminal.
    #[arg(long)]
    pub json: bool,
    /// The instance.
    #[arg(long, default_value = "default")]
    pub instance: String,
}

/// Prints it.
///
/// # Errors
/// There is no such instance, or something that should be attached is not.
pub fn run(args: &StatusArgs) -> anyhow::Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!("egress-agent status needs root, to read pins and maps: run it with sudo");
    }
    let status = Status::read(&args.instance)?;
    let mut out = io::stdout().lock();
    let text = match args.json || !out.is_terminal() {
        true => serde_json::to_string_pretty(&status)? + "\n",
        false => status.table(),
    };
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .context("standard output")?;
    let missing: Vec<_> = status.missing().map(String::as_str).collect();
    if !missing.is_empty() {
        bail!(
            "status: not attached: {}; a running agent attaches it again within a second",
            missing.join(", ")
        );
    }
    Ok(())
}
