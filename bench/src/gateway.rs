//! What the gateway costs, beside bare relays and other proxies: everybody with the same list of names
//! and the same server, in one run and in turn.

use std::{fs, path::PathBuf};

use anyhow::{Context as _, Result};
use clap::{Args, ValueEnum as _};
use serde_json::{Value, json};

use crate::{Effort, chart, figures::Figures, table::Table};

mod client;
pub(crate) mod load;
mod marks;
mod names;
mod peers;
mod poll;
pub(crate) mod relay;
mod rows;
mod server_name;
mod spent;
mod stage;
mod subject;
mod upstream;
mod wire;

use peers::Peer;
use relay::Way;
use rows::{Found, Row};
use stage::Stage;
use subject::Who;

/// What is to be measured.
#[derive(Args)]
pub(crate) struct Gateway {
    /// Where the figures and charts go
    #[arg(long, default_value = "target/bench")]
    output: PathBuf,
    /// Some minutes, and rough
    #[arg(long)]
    quick: bool,
    /// Other proxies, too, as far as they are installed
    #[arg(long)]
    peers: bool,
    /// Envoy's binary
    #[arg(long)]
    envoy: Option<PathBuf>,
    /// Only these rows
    #[arg(long, value_enum, num_args = 1..)]
    only: Vec<Row>,
}

/// Measures; what comes out never fails it.
///
/// # Errors
/// Somebody cannot be started, or the figures cannot be written.
pub(crate) fn measure(options: &Gateway) -> Result<()> {
    fs::create_dir_all(&options.output).context("could not make the output's directory")?;
    let effort = Effort {
        quick: options.quick,
    };
    let wanted = |row| options.only.is_empty() || options.only.contains(&row);
    let all = all(options);
    let stage = Stage::new()?;
    let found = rows::measure(&stage, &all, effort, wanted)?;
    drop(stage);
    print(&all, &found);
    let mut table = Table::new();
    let marks = marks::tell(&all, &found, &mut table);
    table.end();
    write(options, &all, &found, marks)
}

/// Ours, the relays, and the others that there are.
fn all(options: &Gateway) -> Vec<Who> {
    let ways = Way::value_variants().iter().rev();
    let mut all = vec![Who::Ours];
    all.extend(ways.map(|way| Who::Relay(*way)));
    for peer in Peer::ALL.into_iter().filter(|_| options.peers) {
        match peer.program(options.envoy.as_deref()) {
            Some(program) => {
                println!("{} {}", peer.name(), peer.version(&program));
                all.push(Who::Peer(peer, program));
            }
            None => println!("{}: left out, since it is not installed", peer.name()),
        }
    }
    all
}

/// As Markdown.
fn print(all: &[Who], found: &[Found]) {
    let names: Vec<&str> = all.iter().map(Who::name).collect();
    println!("\n| | {} |", names.join(" | "));
    println!("| --- |{}", " --- |".repeat(all.len()));
    for found in found {
        let cells = all.iter().map(|who| match found.of(who) {
            Some(samples) => Figures::of(samples.iter().copied()).text(),
            None => String::new(),
        });
        let cells: Vec<String> = cells.collect();
        println!("| {} | {} |", found.figure, cells.join(" | "));
    }
}

fn write(options: &Gateway, all: &[Who], found: &[Found], marks: Value) -> Result<()> {
    let path = options.output.join("gateway.json");
    let figures: Vec<Value> = found.iter().map(Found::json).collect();
    let versions = all.iter().filter_map(|who| match who {
        Who::Peer(peer, program) => Some(json!({
            "who": peer.name(),
            "version": peer.version(program),
        })),
        Who::Ours | Who::Relay(_) => None,
    });
    let value = json!({
        "figures": figures,
        "marks": marks,
        "versions": versions.collect::<Vec<_>>(),
    });
    let text = serde_json::to_string_pretty(&value)?;
    fs::write(&path, text + "\n").with_context(|| format!("could not write {}", path.display()))?;
    println!("figures: {}", path.display());
    for picture in chart::write_gateway(&options.output, &value["figures"])? {
        println!("picture: {picture}");
    }
    Ok(())
}
