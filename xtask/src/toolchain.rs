//! Finding a toolchain that builds for BPF: the compiler, the source of `core` beside it, and
//! `bpf-linker`.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use crate::{environment, paths, progress};

/// The oldest Debian compiler that knows edition 2024 and what aya-ebpf asks for.
const OLDEST_MINOR: u32 = 87;

/// A toolchain that builds the BPF object.
#[derive(Debug)]
pub(crate) struct Toolchain {
    kind: Kind,
    linker: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// rustup's nightly with the component `rust-src`.
    Nightly,
    /// The distribution's `rustc-web`, `cargo-web` and `rust-web-src`.
    Distribution,
}

impl Toolchain {
    /// The first of the two that is complete: rustup's nightly, then the distribution's.
    pub(crate) fn find() -> Option<Self> {
        let linker = paths::program("bpf-linker")?;
        let kind = if has_nightly() {
            Kind::Nightly
        } else if has_distribution() {
            Kind::Distribution
        } else {
            return None;
        };
        Some(Self { kind, linker })
    }

    /// `cargo` of this toolchain, in an environment without the outer build's.
    pub(crate) fn cargo(&self) -> Command {
        match self.kind {
            Kind::Nightly => {
                let mut command = environment::clean(Path::new("rustup"));
                command.args(["run", "nightly", "cargo"]);
                command
            }
            Kind::Distribution => {
                let mut command = environment::clean(Path::new("/usr/bin/cargo"));
                command.env("RUSTC", "/usr/bin/rustc");
                // The same features that nightly has, in a stable compiler: -Z build-std.
                command.env("RUSTC_BOOTSTRAP", "1");
                command
            }
        }
    }

    /// Where bpf-linker is.
    pub(crate) fn linker(&self) -> &Path {
        &self.linker
    }

    /// For people.
    pub(crate) fn name(&self) -> &'static str {
        match self.kind {
            Kind::Nightly => "rustup's nightly",
            Kind::Distribution => "the distribution's /usr/bin/rustc",
        }
    }
}

/// Whether rustup's nightly is there with the library's source.
pub(crate) fn has_nightly() -> bool {
    let mut rustc = environment::clean(Path::new("rustup"));
    rustc
        .args(["run", "nightly", "rustc", "--print", "sysroot"])
        // Asking must not install anything.
        .env("RUSTUP_AUTO_INSTALL", "0");
    progress::output(&mut rustc).is_some_and(|sysroot| has_source(Path::new(&sysroot)))
}

/// Whether the distribution's compiler is there, new enough, with cargo and the source.
pub(crate) fn has_distribution() -> bool {
    let mut version = environment::clean(Path::new("/usr/bin/rustc"));
    let Some(version) = progress::output(version.arg("--version")) else {
        return false;
    };
    let mut sysroot = environment::clean(Path::new("/usr/bin/rustc"));
    let Some(sysroot) = progress::output(sysroot.args(["--print", "sysroot"])) else {
        return false;
    };
    minor(&version).is_some_and(|minor| minor >= OLDEST_MINOR)
        && Path::new("/usr/bin/cargo").exists()
        && has_source(Path::new(&sysroot))
}

fn has_source(sysroot: &Path) -> bool {
    sysroot
        .join("lib/rustlib/src/rust/library/core/src/lib.rs")
        .exists()
}

/// 96 of `rustc 1.96.0 (…)`.
fn minor(version: &str) -> Option<u32> {
    let number = version.strip_prefix("rustc 1.")?;
    number.split('.').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_minor_version_is_read() {
        assert_eq!(minor("rustc 1.96.0 (ac68faa20 2026-05-25)"), Some(96));
        assert_eq!(minor("rustc 1.63.0"), Some(63));
        assert_eq!(minor("gcc 12"), None);
    }
}
