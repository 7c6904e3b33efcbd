//! What the enforcer costs: its programs one by one, packets and connections over veth beside
//! nftables and ipset, and loading very many entries. And what the gateway costs, beside others.
#![allow(
    clippy::print_stdout,
    reason = "a command-line tool: what it prints is its result"
)]

mod bpf;
mod cgroup;
mod chart;
mod clock;
mod figures;
mod flood;
mod gateway;
mod kernel;
mod load;
mod runs;
mod table;
mod tcp;
mod tiny;

// The packets and the scene of the tests.
#[allow(dead_code, clippy::unwrap_used, reason = "the tests' own")]
#[path = "../../egress-agent/tests/packets/frame.rs"]
mod frame;
#[allow(dead_code, clippy::unwrap_used, reason = "the tests' own")]
#[path = "../../egress-agent/tests/packets/scene.rs"]
mod scene;

use std::{fs, net::SocketAddr, path::PathBuf};

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand, ValueEnum};
use serde_json::{Map, Value};

use crate::table::Table;

/// Measures what the enforcer costs.
#[derive(Parser)]
struct Arguments {
    /// Where the figures and charts go
    #[arg(long, default_value = "target/bench")]
    output: PathBuf,
    /// About a minute, and rough
    #[arg(long)]
    quick: bool,
    /// Only these parts
    #[arg(long, value_enum)]
    only: Vec<Part>,
    /// Another BPF object than this build's, for the programs one by one and the flood: to compare
    #[arg(long)]
    object: Option<PathBuf>,
    #[command(subcommand)]
    own: Option<Own>,
}

/// Another subject, and what it starts itself.
#[derive(Subcommand)]
enum Own {
    /// Measures what the gateway costs
    Gateway(gateway::Gateway),
    /// The client of that, in a pod
    #[command(hide = true)]
    Load {
        /// To whom
        target: SocketAddr,
        /// A name that is not allowed
        denied: String,
        /// Names that are
        names: Vec<String>,
    },
    /// A bare relay, to compare with
    #[command(hide = true)]
    Relay(gateway::relay::Relay),
    /// A client in a pod
    #[command(hide = true)]
    Client {
        /// To whom
        server: SocketAddr,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Each program by BPF_PROG_TEST_RUN
    Runs,
    /// A UDP flood over veth
    Flood,
    /// TCP over veth
    Tcp,
    /// Loading very much
    Load,
}

/// How long it may take.
#[derive(Clone, Copy)]
pub(crate) struct Effort {
    quick: bool,
}

impl Effort {
    /// One number or the other.
    pub(crate) fn pick<T>(self, quick: T, full: T) -> T {
        if self.quick { quick } else { full }
    }
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    match &arguments.own {
        Some(Own::Gateway(options)) => return gateway::measure(options),
        Some(Own::Load {
            target,
            denied,
            names,
        }) => return gateway::load::run(*target, names, denied),
        Some(Own::Relay(relay)) => return gateway::relay::run(relay),
        Some(Own::Client { server }) => return tcp::client(*server),
        None => {}
    }
    if let Some(path) = &arguments.object {
        kernel::use_object(path)?;
    }
    let effort = Effort {
        quick: arguments.quick,
    };
    let wanted = |part: Part| arguments.only.is_empty() || arguments.only.contains(&part);
    fs::create_dir_all(&arguments.output).context("could not make the output's directory")?;
    let mut table = Table::new();
    let mut found = Map::new();
    if wanted(Part::Load) {
        found.insert("load".into(), load::measure(effort, &mut table)?);
    }
    if wanted(Part::Runs) {
        found.insert("runs".into(), runs::measure(effort, &mut table)?);
    }
    if wanted(Part::Flood) {
        found.insert("flood".into(), flood::measure(effort, &mut table)?);
    }
    if wanted(Part::Tcp) {
        found.insert("tcp".into(), tcp::measure(effort, &mut table)?);
    }
    table.end();
    let path = arguments.output.join("enforcer.json");
    let text = serde_json::to_string_pretty(&Value::Object(found.clone()))?;
    fs::write(&path, text + "\n").with_context(|| format!("could not write {}", path.display()))?;
    println!("figures: {}", path.display());
    for picture in chart::write(&arguments.output, &found)? {
        println!("picture: {picture}");
    }
    Ok(())
}
