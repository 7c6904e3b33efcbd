//! The egress-agent binary.

use clap::Parser;
use egress_agent::cli::{Cli, Command, doctor, exec, gateway, in_one_line, init, run, status};
use std::process::ExitCode;

fn main() -> ExitCode {
    log_to_stderr();
    let success = |()| ExitCode::SUCCESS;
    let done = match Cli::parse().command {
        Command::Exec(args) => Ok(exec::run(args)),
        Command::Run(args) => run::run(&args).map(success),
        Command::Status(args) => status::run(&args).map(success),
        Command::Detach(args) => run::detach(&args).map(success),
        Command::Doctor(args) => doctor::run(&args).map(success),
        Command::Gateway(args) => gateway::run(&args).map(success),
        Command::Init(args) => init::run(&args),
    };
    done.unwrap_or_else(|error| {
        eprintln!("egress-agent: {}", in_one_line(&error));
        ExitCode::FAILURE
    })
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
