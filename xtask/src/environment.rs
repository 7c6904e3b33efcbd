//! The environment of an inner cargo. `cargo run` hands its own on: the compiler, the flags, the
//! toolchain and the library path of the outer build, each of which would bend the inner one.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use crate::paths;

/// Variables of the outer build that an inner one must not see.
const OUTER: [&str; 12] = [
    "RUSTC",
    "RUSTC_WRAPPER",
    "RUSTC_WORKSPACE_WRAPPER",
    "RUSTDOC",
    "RUSTFLAGS",
    "RUSTDOCFLAGS",
    "RUSTUP_TOOLCHAIN",
    "RUSTC_BOOTSTRAP",
    "CARGO",
    "CARGO_ENCODED_RUSTFLAGS",
    "CARGO_BUILD_TARGET",
    "RUST_RECURSION_COUNT",
];

/// A command for a build with a toolchain of its own: nothing of the outer build is left.
pub(crate) fn clean(program: &Path) -> Command {
    let mut command = Command::new(program);
    for name in OUTER {
        command.env_remove(name);
    }
    for (name, _) in env::vars_os() {
        let name_text = name.to_string_lossy();
        if [
            "CARGO_PKG_",
            "CARGO_MANIFEST_",
            "CARGO_BUILD_",
            "CARGO_PROFILE_",
        ]
        .iter()
        .any(|prefix| name_text.starts_with(prefix))
        {
            command.env_remove(&name);
        }
    }
    match foreign_libraries() {
        Some(path) => command.env("LD_LIBRARY_PATH", path),
        None => command.env_remove("LD_LIBRARY_PATH"),
    };
    command
}

/// A command of the outer toolchain (the workspace's own build), run again from within.
pub(crate) fn same_toolchain(program: &Path) -> Command {
    let mut command = Command::new(program);
    for (name, _) in env::vars_os() {
        let name_text = name.to_string_lossy();
        if name_text.starts_with("CARGO_PKG_") || name_text.starts_with("CARGO_MANIFEST_") {
            command.env_remove(&name);
        }
    }
    command.current_dir(paths::root());
    command.env("CARGO_TARGET_DIR", paths::target());
    command
}

/// LD_LIBRARY_PATH without what cargo and rustup put there.
fn foreign_libraries() -> Option<std::ffi::OsString> {
    let path = env::var_os("LD_LIBRARY_PATH")?;
    let rustup = env::var_os("RUSTUP_HOME").map_or_else(
        || paths::cargo_home().with_file_name(".rustup"),
        PathBuf::from,
    );
    let kept: Vec<PathBuf> = env::split_paths(&path)
        .filter(|entry| {
            !paths::lies_below(entry.as_os_str(), &paths::target())
                && !paths::lies_below(entry.as_os_str(), &rustup)
        })
        .collect();
    if kept.is_empty() {
        return None;
    }
    env::join_paths(kept).ok()
}
