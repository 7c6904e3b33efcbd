//! `egress-agent policy suggest`.

use std::{collections::BTreeMap, fs, io::Read, path::PathBuf, process::ExitCode};

use anyhow::{Context, bail};
use clap::Args;

use super::print;
use crate::{
    app::plan::identity,
    config,
    policy::suggest::{Options, suggest},
};

/// Writes the least policies that allow what was recorded.
#[derive(Debug, Args)]
#[command(after_help = "\
Read what it writes before it is applied: whatever an endpoint has reached is in it.

Examples:
  egress-agent policy suggest records.jsonl > policy.yaml
  egress-agent policy suggest --wildcards --config config.yaml records.jsonl")]
pub struct SuggestArgs {
    /// Records, a JSON object a line; - is standard input.
    #[arg(value_name = "RECORDS")]
    pub records: PathBuf,
    /// The configuration whose endpoints the records are about; without one their names must be
    /// NAMESPACE/SERVICEACCOUNT.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Write `*.` for three hosts or more right below one name.
    #[arg(long)]
    pub wildcards: bool,
    /// Allow what was denied, too; it is commented out otherwise.
    #[arg(long)]
    pub denied: bool,
}

/// Prints the policies.
///
/// # Errors
/// The records cannot be read, or say nothing that a policy allows.
pub fn run(args: &SuggestArgs) -> anyhow::Result<ExitCode> {
    let file = args.records.display();
    let config = args.config.as_deref().map(config::load).transpose()?;
    let endpoints = config.iter().flat_map(|config| &config.endpoints);
    let options = Options {
        wildcards: args.wildcards,
        denied: args.denied,
        endpoints: endpoints
            .map(|it| (it.name.clone(), identity(it)))
            .collect::<BTreeMap<_, _>>(),
    };
    let suggestion = match suggest(&read(args)?, &options) {
        Ok(suggestion) => suggestion,
        Err((place, what)) => bail!("{file}:{}:{}: {what}", place.line, place.column),
    };
    if suggestion.records == 0 {
        bail!(
            "{file}: no connection or request of an endpoint is recorded; let it run in Audit for a while"
        );
    }
    print(&suggestion.text)?;
    Ok(ExitCode::SUCCESS)
}

fn read(args: &SuggestArgs) -> anyhow::Result<String> {
    let file = args.records.display();
    if args.records.as_os_str() == "-" {
        let mut text = String::new();
        let read = std::io::stdin().read_to_string(&mut text);
        read.context("standard input")?;
        return Ok(text);
    }
    fs::read_to_string(&args.records)
        .with_context(|| format!("{file}: cannot be read; check the path and its permissions"))
}
