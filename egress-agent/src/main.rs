//! The egress-agent binary.

use clap::Parser;
use egress_agent::cli::{Cli, Command, doctor, gateway, run};
use std::process::ExitCode;

fn main() -> ExitCode {
    log_to_stderr();
    let done = match Cli::parse().command {
        Command::Run(args) => run::run(&args),
        Command::Detach(args) => run::detach(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Gateway(args) => gateway::run(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("egress-agent: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Diagnostics, aya-log's included, as `RUST_LOG` asks for them; warnings where it is unset.
fn log_to_stderr() {
    use tracing_subscriber::EnvFilter;
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
}
