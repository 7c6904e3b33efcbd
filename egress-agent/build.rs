//! Hands the BPF object to the agent: copied to `OUT_DIR/egress-ebpf` for `include_bytes!`.

use std::{env, fs, path::PathBuf, process::ExitCode};

/// Names the object where it is not in the target directory.
const OBJECT: &str = "EGRESS_EBPF_OBJECT";

fn main() -> ExitCode {
    match copy() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

fn copy() -> Result<(), String> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed={OBJECT}");
    let out = env::var_os("OUT_DIR")
        .map(PathBuf::from)
        .ok_or("OUT_DIR is not set")?;
    let object = match env::var_os(OBJECT) {
        Some(path) => PathBuf::from(path),
        None => in_target_directory(&out),
    };
    println!("cargo::rerun-if-changed={}", object.display());
    fs::copy(&object, out.join("egress-ebpf"))
        .map(|_length| ())
        .map_err(|error| {
            format!(
                "no BPF object at {} ({error}); run: cargo xtask build-ebpf",
                object.display()
            )
        })
}

/// `ebpf/egress-ebpf` of the target directory, which is some directories above `OUT_DIR`
/// (`<target>/[<triple>/]<profile>/build/<package>/out`).
fn in_target_directory(out: &std::path::Path) -> PathBuf {
    let candidates = || {
        out.ancestors()
            .skip(4)
            .take(2)
            .map(|target| target.join("ebpf/egress-ebpf"))
    };
    candidates()
        .find(|object| object.exists())
        .or_else(|| candidates().next())
        .unwrap_or_else(|| out.join("egress-ebpf"))
}
