//! The egress-agent binary.

use clap::Parser;
use egress_agent::cli::{
    Cli, Command, doctor, exec, gateway, in_one_line, init, policy, run, status,
};
use std::process::ExitCode;

fn main() -> ExitCode {
    log_to_stderr();
    let success = |()| ExitCode::SUCCESS;
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    let done = match cli.command {
        Command::Exec(args) => Ok(exec::run(args)),
        Command::Run(args) => run::run(&args).map(success),
        Command::Status(args) => status::run(&args).map(success),
        Command::Detach(args) => run::detach(&args).map(success),
        Command::Doctor(args) => doctor::run(&args).map(success),
        Command::Policy(args) => policy::run(&args),
        Command::Gateway(args) => gateway::run(&args).map(success),
        Command::Init(args) => init::run(&args),
    };
    done.unwrap_or_else(|error| {
        eprintln!("egress-agent: {}", in_one_line(&error));
        ExitCode::FAILURE
    })
}

/// What clap says, with its status; but 1 of what is wrong about `policy`, where 2 means something.
fn usage(error: &clap::Error) -> ExitCode {
    // There is nobody left to tell that it cannot be printed.
    error.print().ok();
    let is_policy = std::env::args_os().nth(1).is_some_and(|it| it == "policy");
    match error.exit_code() {
        0 => ExitCode::SUCCESS,
        _ if is_policy => ExitCode::FAILURE,
        code => u8::try_from(code).map_or(ExitCode::FAILURE, ExitCode::from),
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
