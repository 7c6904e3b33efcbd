//! The fuzzers: `egress-agent/fuzz/`, a crate beside the workspace, built with the instrumentation
//! that libFuzzer reads.
//!
//! That needs the workspace's own stable compiler and a C++ compiler, no nightly: what asks for one
//! is the address sanitizer, and the code under test is safe Rust.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;

use crate::{agent, environment, paths, progress};

/// Parts the flags of `CARGO_ENCODED_RUSTFLAGS`.
const SEPARATOR: &str = "\x1f";

/// What cargo-fuzz passes, without a sanitizer; overflows and debug assertions are errors.
const FLAGS: [&str; 10] = [
    "--cfg=fuzzing",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Cllvm-args=-simplifycfg-branch-fold-threshold=0",
    "-Ccodegen-units=1",
    "-Cdebug-assertions",
    "-Coverflow-checks",
];

/// How long each fuzzer runs where nobody says: enough to show that it still holds.
pub(crate) const SECONDS: u32 = 20;

/// What is fuzzed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Target {
    /// The packet parser and the decision, against the naive ones
    Packet,
    /// The ClientHello parser, against rustls and tls-parser
    ClientHello,
    /// The detection of HTTP/1, against httparse
    RequestLine,
    /// The resolver's reading of queries and writing of replies
    Dns,
    /// Heads and bodies of requests, against httparse
    Http,
}

impl Target {
    /// The name of its binary.
    fn name(self) -> &'static str {
        match self {
            Self::Packet => "packet",
            Self::ClientHello => "client_hello",
            Self::RequestLine => "request_line",
            Self::Dns => "dns",
            Self::Http => "http",
        }
    }
}

/// Builds the fuzzers and runs one of them, or each, for so many seconds.
///
/// # Errors
/// Where the build fails, or a fuzzer finds something: then it has said what, and where the input
/// lies.
pub(crate) fn run(only: Option<Target>, seconds: u32) -> Result<()> {
    let binaries = build()?;
    let targets = only.map_or_else(|| Target::value_variants().to_vec(), |target| vec![target]);
    for target in targets {
        fuzz(&binaries, target, seconds)?;
    }
    Ok(())
}

/// The manifest of the fuzzers' crate.
pub(crate) fn manifest() -> PathBuf {
    paths::root().join("egress-agent/fuzz/Cargo.toml")
}

/// `cargo` of the workspace's toolchain for the fuzzers' crate, with a target directory of its own.
pub(crate) fn cargo(subcommand: &str) -> Result<Command> {
    let mut command = agent::cargo(subcommand);
    command
        .arg("--manifest-path")
        .arg(manifest())
        .arg("--release")
        // Named, so that build scripts and macros are built without these flags.
        .args(["--target", &host()?])
        .arg("--target-dir")
        .arg(directory().join("build"))
        .env("CARGO_ENCODED_RUSTFLAGS", FLAGS.join(SEPARATOR));
    Ok(command)
}

/// The directory of the binaries.
fn build() -> Result<PathBuf> {
    if paths::program("c++").is_none() {
        bail!("no C++ compiler for libFuzzer; run: cargo xtask setup ci");
    }
    progress::run(
        "Building the fuzzers",
        cargo("build")?.args(["--message-format", "short"]),
    )?;
    Ok(directory().join("build").join(host()?).join("release"))
}

fn fuzz(binaries: &Path, target: Target, seconds: u32) -> Result<()> {
    let name = target.name();
    let make = |kind: &str| -> Result<PathBuf> {
        let path = directory().join(kind).join(name);
        fs::create_dir_all(&path).with_context(|| format!("could not make {}", path.display()))?;
        Ok(path)
    };
    let (corpus, seeds, found) = (make("corpus")?, make("seeds")?, make("found")?);
    let mut fuzzer = environment::clean(&binaries.join(name));
    fuzzer
        // What is new goes to the first.
        .args([&corpus, &seeds])
        .env("EGRESS_FUZZ_SEEDS", &seeds)
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-artifact_prefix={}/", found.display()))
        // Seconds for one input; the most bytes of one.
        .args(["-timeout=10", "-max_len=4096", "-print_final_stats=1"]);
    progress::run_quietly(&format!("Fuzzing {name} for {seconds} s"), &mut fuzzer).with_context(
        || {
            format!(
                "{name} found something; the input lies in {}",
                found.display()
            )
        },
    )
}

fn directory() -> PathBuf {
    paths::target().join("fuzz")
}

/// The compiler's own target triple.
fn host() -> Result<String> {
    let mut rustc = environment::same_toolchain(Path::new("rustc"));
    let version = progress::output(rustc.arg("-vV")).unwrap_or_default();
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    match host {
        Some(host) => Ok(host.to_owned()),
        None => bail!("`rustc -vV` names no host"),
    }
}
