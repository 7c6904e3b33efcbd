//! `egress-agent policy ...`: what policies say, without a kernel and without root.

use std::{
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
};

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use egress_common::{address::Address, endpoint::Gateway};

use crate::{
    config::{self, Config},
    policy::{explain::node::NodeView, sources::Sources},
};

pub mod check;
pub mod diff;
pub mod explain;
pub mod suggest;
pub mod test;

/// Arguments of `egress-agent policy`.
#[derive(Debug, Args)]
pub struct PolicyArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: PolicyCommand,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum PolicyCommand {
    /// Say what is wrong in policy files, and what is probably not meant.
    Check(check::CheckArgs),
    /// Say whether somebody may reach something, by which rule, and if not what is nearest.
    Explain(explain::ExplainArgs),
    /// Say what becomes allowed and denied from one set of policies to another.
    Diff(diff::DiffArgs),
    /// Hold a table of expectations against policies.
    Test(test::TestArgs),
    /// Write the least policies that allow what was recorded.
    Suggest(suggest::SuggestArgs),
}

/// Runs one of them.
///
/// # Errors
/// What it says itself.
pub fn run(args: &PolicyArgs) -> anyhow::Result<ExitCode> {
    match &args.command {
        PolicyCommand::Check(args) => check::run(args),
        PolicyCommand::Explain(args) => explain::run(args),
        PolicyCommand::Diff(args) => diff::run(args),
        PolicyCommand::Test(args) => test::run(args),
        PolicyCommand::Suggest(args) => suggest::run(args),
    }
}

/// Policies, and the configuration that they are of.
struct Setting {
    config: Option<Config>,
    files: Vec<PathBuf>,
}

impl Setting {
    /// The files that are named, and those of the configuration where none are.
    fn new(files: &[PathBuf], config: Option<&PathBuf>) -> anyhow::Result<Self> {
        let config = config.map(|path| config::load(path)).transpose()?;
        let files = match (files, &config) {
            ([], None) => bail!("no policy files; name them, or their folder, or --config FILE"),
            ([], Some(config)) if config.policies.is_empty() => {
                bail!("the configuration names no policies; without one nothing is allowed")
            }
            ([], Some(config)) => config.policies.clone(),
            (files, _) => files.to_vec(),
        };
        Ok(Self { config, files })
    }
}

/// All or nothing.
fn load(files: &[PathBuf]) -> anyhow::Result<Sources> {
    let (sources, errors) = Sources::load(files);
    let more = match errors.len() {
        0 | 1 => String::new(),
        count => format!(" (and {} more; policy check tells all)", count - 1),
    };
    match errors.into_iter().next() {
        Some(error) => bail!("{error}{more}"),
        None => Ok(sources),
    }
}

/// What a configuration says of the node, for an endpoint with or without a veth.
fn node(config: &Config, has_link: bool) -> NodeView {
    let gateway = &config.gateway;
    NodeView {
        gateway: Gateway {
            v4: Address::from(std::net::IpAddr::V4(gateway.address4)),
            v6: Address::from(std::net::IpAddr::V6(gateway.address6)),
            port: gateway.port,
            dns_port: gateway.dns_port,
            proxy_port: gateway.proxy_port,
            reserved: 0,
        },
        cluster: config.cluster_networks.clone(),
        has_link,
    }
}

fn print(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .context("standard output")
}

fn print_json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    print(&(serde_json::to_string_pretty(value)? + "\n"))
}

/// `1 error`, `2 errors`.
fn counted(count: usize, what: &str) -> String {
    match count {
        1 => format!("1 {what}"),
        count => format!("{count} {what}s"),
    }
}
