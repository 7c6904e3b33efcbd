//! `egress-agent doctor`: what this machine has and lacks.

use std::io::{self, IsTerminal, Write};

use anyhow::{Context, bail};
use clap::Args;

use crate::doctor::{self, render};

/// Arguments of `egress-agent doctor`.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// One JSON array instead of lines.
    #[arg(long)]
    pub json: bool,
}

/// Prints every check.
///
/// # Errors
/// Something is missing that the agent needs, or the output cannot be written.
pub fn run(args: &DoctorArgs) -> anyhow::Result<()> {
    let checks = doctor::examine();
    let mut out = io::stdout().lock();
    let text = match args.json {
        true => serde_json::to_string_pretty(&checks)? + "\n",
        false => render::text(&checks, is_colourful(&out)),
    };
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .context("standard output")?;
    if !doctor::can_run(&checks) {
        bail!("doctor: something that the agent needs is missing; mend it first");
    }
    Ok(())
}

/// On a terminal, unless it or its user does without (no-color.org).
fn is_colourful(out: &impl IsTerminal) -> bool {
    let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    out.is_terminal() && wanted && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}
