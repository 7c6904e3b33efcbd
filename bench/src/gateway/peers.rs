//! The others: each with the same list of names, two threads or workers, and the same server.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Result;

mod envoy;
mod haproxy;
mod nginx;
mod sniproxy;

/// Threads or workers of each.
pub(super) const WORKERS: usize = 2;

/// What a peer is to be configured for.
pub(super) struct Setting<'a> {
    /// For its files.
    pub(super) folder: PathBuf,
    /// Where it listens.
    pub(super) listen: SocketAddr,
    /// Where everything goes that is allowed.
    pub(super) upstream: SocketAddr,
    /// What is allowed.
    pub(super) names: &'a [String],
    /// Whether it is to be as good as it can be with many bytes, or with few.
    pub(super) bulk: bool,
}

impl Setting<'_> {
    fn write(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.folder.join(name);
        std::fs::write(&path, text)?;
        Ok(path)
    }
}

/// One of the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Peer {
    Haproxy,
    Nginx,
    Envoy,
    Sniproxy,
}

impl Peer {
    pub(super) const ALL: [Self; 4] = [Self::Haproxy, Self::Nginx, Self::Envoy, Self::Sniproxy];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Haproxy => "HAProxy",
            Self::Nginx => "nginx",
            Self::Envoy => "Envoy",
            Self::Sniproxy => "sniproxy",
        }
    }

    /// Where its binary is, if there is one.
    pub(super) fn program(self, envoy: Option<&Path>) -> Option<PathBuf> {
        let name = match self {
            Self::Haproxy => "haproxy",
            Self::Nginx => "nginx",
            Self::Sniproxy => "sniproxy",
            Self::Envoy => return envoy.map(Path::to_path_buf).filter(|path| path.is_file()),
        };
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path)
            .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from))
            .map(|folder| folder.join(name))
            .find(|path| path.is_file())
    }

    /// Its files are written, and this runs it in the foreground.
    pub(super) fn command(self, program: &Path, setting: &Setting<'_>) -> Result<Command> {
        let mut command = Command::new(program);
        match self {
            Self::Haproxy => haproxy::configure(setting, &mut command)?,
            Self::Nginx => nginx::configure(setting, &mut command)?,
            Self::Envoy => envoy::configure(setting, &mut command)?,
            Self::Sniproxy => sniproxy::configure(setting, &mut command)?,
        }
        Ok(command)
    }

    /// What it says of its version, in a word.
    pub(super) fn version(self, program: &Path) -> String {
        let flag = match self {
            Self::Haproxy | Self::Nginx => "-v",
            Self::Sniproxy => "-V",
            Self::Envoy => "--version",
        };
        let Ok(output) = Command::new(program).arg(flag).output() else {
            return String::new();
        };
        let text = [output.stdout, output.stderr].concat();
        version_in(&String::from_utf8_lossy(&text)).unwrap_or_default()
    }
}

/// The first number with points in a text.
fn version_in(text: &str) -> Option<String> {
    let is_part = |c: char| c.is_ascii_digit() || c == '.';
    let mut words = text.split(|c: char| !is_part(c));
    let is_version = |word: &&str| word.contains('.') && word.starts_with(|c: char| c != '.');
    Some(words.find(is_version)?.trim_end_matches('.').to_owned())
}

#[cfg(test)]
mod tests {
    use super::version_in;

    #[test]
    fn versions_are_found_in_what_programs_print() {
        for (text, version) in [
            ("HAProxy version 2.6.12-1+deb12u3 2023/12/16", "2.6.12"),
            ("nginx version: nginx/1.22.1", "1.22.1"),
            ("envoy  version: e5c8e3c2/1.40.0/Clean/RELEASE", "1.40.0"),
        ] {
            assert_eq!(version_in(text).as_deref(), Some(version));
        }
    }
}
