//! `cargo xtask`: sets up a machine, builds the BPF object and the agent, shows, tests and measures
//! them.
#![allow(
    clippy::print_stdout,
    reason = "a command-line tool: what it prints is its result"
)]

mod agent;
mod bench;
mod ci;
mod ebpf;
mod environment;
mod fuzz;
mod kernel;
mod paths;
mod progress;
mod setup;
mod suite;
mod toolchain;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::{agent::Profile, setup::Needs};

/// Sets up, builds, shows and tests egress-agent.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    command: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Install what is missing on this machine, or say exactly what to run
    Setup {
        /// For what; each includes the one before: build, demo, bench, test, kernel, ci
        #[arg(value_enum, default_value_t = Needs::Test)]
        needs: Needs,
    },
    /// Build the BPF object
    BuildEbpf,
    /// Build the BPF object, then the agent with the object embedded
    Build {
        /// Optimised
        #[arg(long)]
        release: bool,
    },
    /// Set up, build, and show the whole path with real programs in private namespaces
    Demo,
    /// Set up, build, and run every test; needs root
    Test {
        /// In another kernel, by QEMU: 6.1 or 6.12, as Debian packages it
        #[arg(long, value_name = "VERSION")]
        kernel: Option<kernel::Version>,
        /// There, only the core set
        #[arg(long, requires = "kernel", conflicts_with = "filter")]
        core: bool,
        /// Passed to the tests, e.g. a part of a test's name
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        filter: Vec<String>,
    },
    /// Set up, build optimised, and measure beside others; needs root
    Bench(bench::Options),
    /// Build the fuzzers, and run each or one of them
    Fuzz {
        /// Only this one
        #[arg(value_enum)]
        target: Option<fuzz::Target>,
        /// How long each
        #[arg(long, default_value_t = fuzz::SECONDS)]
        seconds: u32,
    },
    /// Formatting, lints, licences, every test, a little fuzzing, other kernels: what .ci/run calls
    Ci,
}

fn main() -> Result<()> {
    match Arguments::parse().command {
        Task::Setup { needs } => setup::run(needs),
        Task::BuildEbpf => ebpf::build().map(|_object| ()),
        Task::Build { release } => agent::build(Profile::of(release)).map(|_binary| ()),
        Task::Demo => suite::demo(),
        Task::Test {
            kernel,
            core,
            filter,
        } => match kernel {
            Some(version) if core => suite::test_core_in(&[version]),
            Some(version) => suite::test_in(version, &filter),
            None => suite::test(&filter),
        },
        Task::Bench(options) => bench::run(&options),
        Task::Fuzz { target, seconds } => fuzz::run(target, seconds),
        Task::Ci => ci::run(),
    }
}
