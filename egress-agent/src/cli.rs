//! The command line: one file a subcommand.

use clap::{Parser, Subcommand};

mod descriptor;
pub mod doctor;
pub mod exec;
pub mod gateway;
pub mod init;
pub mod policy;
pub mod run;
pub mod status;

/// Makes the egress gateway the only way out, and says who tried another way.
#[derive(Debug, Parser)]
#[command(name = "egress-agent", version)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Hold one command, and all that it starts, to a list of hosts.
    Exec(exec::ExecArgs),
    /// Enforce the endpoints of a configuration file until told to stop.
    Run(run::RunArgs),
    /// Remove an instance's pins, and thereby all its enforcement.
    Detach(run::DetachArgs),
    /// Say what is enforced; fails if something that should be attached is not.
    Status(status::StatusArgs),
    /// Say what this kernel and machine have and lack; fails if the agent cannot run.
    Doctor(doctor::DoctorArgs),
    /// Say what policies allow: check, explain, compare and test them.
    Policy(policy::PolicyArgs),
    /// The unprivileged side; started by the enforcer.
    #[command(hide = true)]
    Gateway(gateway::GatewayArgs),
    /// PID 1 of a command; started by `exec`.
    #[command(hide = true)]
    Init(init::InitArgs),
}

/// An error in one line, with what it came from; what a message says already is not said again.
pub fn in_one_line(error: &anyhow::Error) -> String {
    let mut line = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !line.contains(&cause) {
            line = format!("{line}: {cause}");
        }
    }
    line
}
