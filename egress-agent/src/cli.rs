//! The command line: one file a subcommand.

use clap::{Parser, Subcommand};

pub mod doctor;
pub mod gateway;
pub mod run;

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
    /// Enforce the endpoints of a configuration file until told to stop.
    Run(run::RunArgs),
    /// Remove an instance's pins, and thereby all its enforcement.
    Detach(run::DetachArgs),
    /// Say what this kernel and machine have and lack; fails if the agent cannot run.
    Doctor(doctor::DoctorArgs),
    /// The unprivileged side; started by the enforcer.
    #[command(hide = true)]
    Gateway(gateway::GatewayArgs),
}
