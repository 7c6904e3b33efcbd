//! What CI runs: formatting, lints, licences and sources, every test, each fuzzer for a moment, and
//! the core set of tests in the kernels of the matrix.

use anyhow::Result;

use crate::{
    agent, ebpf, fuzz, kernel, paths, progress,
    setup::{self, Needs},
    suite,
};

/// Everything, cheapest first.
///
/// # Errors
/// At the first step that fails.
pub(crate) fn run() -> Result<()> {
    formatting()?;
    setup::run(Needs::Ci)?;
    ebpf::build()?;
    lints()?;
    licences()?;
    suite::test(&[])?;
    fuzz::run(None, fuzz::SECONDS)?;
    suite::test_core_in(&kernel::MATRIX)
}

fn formatting() -> Result<()> {
    progress::run(
        "Formatting of the workspace",
        agent::cargo("fmt").args(["--all", "--check"]),
    )?;
    progress::run(
        "Formatting of the BPF crate",
        agent::cargo("fmt")
            .args(["--check", "--manifest-path"])
            .arg(paths::root().join("egress-ebpf/Cargo.toml")),
    )?;
    progress::run(
        "Formatting of the fuzzers",
        agent::cargo("fmt")
            .args(["--check", "--manifest-path"])
            .arg(fuzz::manifest()),
    )
}

fn lints() -> Result<()> {
    progress::run(
        "Lints of the workspace",
        agent::cargo("clippy").args(["--workspace", "--all-targets", "--", "-D", "warnings"]),
    )?;
    // For the host, with the workspace's own clippy: what builds for BPF has none.
    progress::run(
        "Lints of the BPF crate",
        agent::cargo("clippy")
            .arg("--manifest-path")
            .arg(paths::root().join("egress-ebpf/Cargo.toml"))
            .env("CARGO_TARGET_DIR", paths::target().join("ebpf/lint"))
            // It uses features that a stable compiler has but does not offer.
            .env("RUSTC_BOOTSTRAP", "1")
            .args(["--", "-D", "warnings"])
            // What is passed by value is copied, and a BPF program's stack has 512 bytes.
            .args(["-A", "clippy::needless_borrows_for_generic_args"]),
    )
}

fn licences() -> Result<()> {
    for manifest in ["Cargo.toml", "egress-ebpf/Cargo.toml"] {
        progress::run(
            &format!("Licences, bans and sources of {manifest}"),
            agent::cargo("deny")
                .arg("--manifest-path")
                .arg(paths::root().join(manifest))
                // deny.toml is that of the current directory, the root.
                .args(["check", "licenses", "bans", "sources"]),
        )?;
    }
    progress::run(
        "Licences and sources of the fuzzers",
        agent::cargo("deny")
            .arg("--manifest-path")
            .arg(fuzz::manifest())
            // They do not ship: two versions of a crate harm nobody.
            .args(["check", "licenses", "sources"]),
    )
}
