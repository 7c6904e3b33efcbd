//! Where things are: the workspace, its target directory, programs.

use std::{
    env,
    ffi::OsStr,
    path::{Path, PathBuf},
};

/// The workspace's root directory.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("xtask/ lies in the workspace's root")
        .to_path_buf()
}

/// The target directory: `CARGO_TARGET_DIR` where set, relative to the directory of the call,
/// as cargo reads it.
pub(crate) fn target() -> PathBuf {
    match env::var_os("CARGO_TARGET_DIR") {
        Some(directory) if !directory.is_empty() => env::current_dir()
            .unwrap_or_else(|_| root())
            .join(directory),
        Some(_) | None => root().join("target"),
    }
}

/// Cargo's home, where `cargo install` puts programs.
pub(crate) fn cargo_home() -> PathBuf {
    if let Some(home) = env::var_os("CARGO_HOME") {
        return PathBuf::from(home);
    }
    let home = env::var_os("HOME").unwrap_or_else(|| "/root".into());
    Path::new(&home).join(".cargo")
}

/// The program's path: on the PATH, in cargo's home, or where only root's PATH looks.
pub(crate) fn program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain([cargo_home().join("bin")])
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|directory| directory.join(name))
        .find(|candidate| is_executable(candidate))
}

/// The `cargo` that runs us, or the one on the PATH.
pub(crate) fn cargo() -> PathBuf {
    env::var_os("CARGO").map_or_else(|| PathBuf::from("cargo"), PathBuf::from)
}

/// `directory` without a trailing component that is not there yet: for messages.
pub(crate) fn display(path: &Path) -> String {
    path.strip_prefix(root())
        .unwrap_or(path)
        .as_os_str()
        .to_string_lossy()
        .into_owned()
}

fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    path.metadata()
        .is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

/// Whether the text of `value` lies below `directory`.
pub(crate) fn lies_below(value: &OsStr, directory: &Path) -> bool {
    Path::new(value).starts_with(directory)
}
