//! The BPF object: `egress-ebpf/` built for `bpfel-unknown-none`.

use std::{
    env::consts,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::{paths, progress, setup, toolchain::Toolchain};

/// Parts the flags of `CARGO_ENCODED_RUSTFLAGS`.
const SEPARATOR: &str = "\x1f";

/// Builds the object and puts it at `<target>/ebpf/egress-ebpf`, which it returns. The file is
/// touched only where its content changed, so that the agent is not rebuilt for nothing.
///
/// # Errors
/// Where no toolchain is found (the message says what to run) or the build fails.
pub(crate) fn build() -> Result<PathBuf> {
    let Some(toolchain) = Toolchain::find() else {
        bail!("no toolchain for BPF on this machine\n{}", setup::advice());
    };
    progress::run(
        &format!("Building the BPF object with {}", toolchain.name()),
        &mut cargo(&toolchain, "build"),
    )?;
    let built = build_directory().join("bpfel-unknown-none/release/egress-ebpf");
    let object = paths::target().join("ebpf/egress-ebpf");
    copy_if_changed(&built, &object)?;
    Ok(object)
}

/// `cargo clippy` for the BPF crate, where the toolchain has clippy.
pub(crate) fn cargo(toolchain: &Toolchain, subcommand: &str) -> Command {
    let mut command = toolchain.cargo();
    command
        .current_dir(paths::root().join("egress-ebpf"))
        .args([subcommand, "--release"])
        .args(["--target", "bpfel-unknown-none", "-Z", "build-std=core"])
        .arg("--target-dir")
        .arg(build_directory())
        .env("CARGO_ENCODED_RUSTFLAGS", flags(toolchain.linker()));
    command
}

/// What aya-build passes, and the linker that was found, by its path.
fn flags(linker: &Path) -> String {
    let architecture = match consts::ARCH {
        "riscv64gc" => "riscv64",
        other => other,
    };
    [
        format!("--cfg=bpf_target_arch=\"{architecture}\""),
        "-Cdebuginfo=2".to_owned(),
        format!("-Clinker={}", linker.display()),
        "-Clink-arg=--btf".to_owned(),
        // Zeroes by a few stores, not by a loop over bytes.
        "-Clink-arg=--disable-expand-memcpy-in-order".to_owned(),
        // Compare-and-exchange, which kernels have since 5.12.
        "-Ctarget-cpu=v3".to_owned(),
    ]
    .join(SEPARATOR)
}

fn build_directory() -> PathBuf {
    paths::target().join("ebpf/build")
}

fn copy_if_changed(from: &Path, to: &Path) -> Result<()> {
    let new = fs::read(from).with_context(|| {
        format!(
            "the build ended well but left no object at {}",
            from.display()
        )
    })?;
    if fs::read(to).is_ok_and(|old| old == new) {
        return Ok(());
    }
    fs::write(to, new).with_context(|| format!("could not write {}", to.display()))
}
