//! The sockets by which a process outside could be asked to act for the command: container
//! runtimes, systemd, D-Bus, tmux, an X server. All that are there when it starts are covered; /run,
//! where most of them live and new ones appear, is replaced as a whole.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsStr,
    fs,
    os::unix::{
        ffi::OsStrExt,
        fs::{FileTypeExt, MetadataExt},
    },
    path::{Path, PathBuf},
};

use super::protocol::View;

/// Places that the command gets anew, with everything in them.
const REPLACED: [&str; 4] = ["/run", "/dev", "/proc", "/sys"];

/// Shared directories in which programs put sockets, each in a directory of its own.
const SHARED: [&str; 2] = ["/tmp", "/var/tmp"];

/// Directories of [`SHARED`] that are for sockets alone, by the beginning of their names: what is
/// put there later is covered, too.
const FOR_SOCKETS: [&[u8]; 4] = [b"tmux-", b"ssh-", b".X11-unix", b".ICE-unix"];

/// How deep [`SHARED`] is searched for sockets.
const DEPTH: u32 = 3;

/// How many entries of [`SHARED`] are looked at, at most: a build's leftovers there may be very
/// many, and sockets that some process listens to are found without.
const ENTRIES: u32 = 20_000;

/// What is covered, and what of /run is there again.
pub fn view() -> View {
    let mut sockets = BTreeSet::new();
    for table in tables() {
        sockets.extend(bound(&table));
    }
    let mut directories = BTreeSet::new();
    let mut left = ENTRIES;
    let shared = SHARED.iter().map(PathBuf::from);
    for directory in shared.chain(std::env::var_os("TMUX_TMPDIR").map(PathBuf::from)) {
        directories.extend(entries(&directory).filter(|path| is_for_sockets(path)));
        walk(&directory, DEPTH, &mut left, &mut sockets);
    }
    // Where it is no link to /run it is the same by another name.
    let old = Path::new("/var/run");
    if fs::symlink_metadata(old).is_ok_and(|found| found.is_dir()) {
        directories.insert(old.to_owned());
    }
    sockets.retain(|path| {
        !REPLACED.iter().any(|replaced| path.starts_with(replaced))
            && !directories.iter().any(|covered| path.starts_with(covered))
    });
    View {
        sockets: sockets.into_iter().map(PathBuf::into_os_string).collect(),
        directories: directories
            .into_iter()
            .map(PathBuf::into_os_string)
            .collect(),
        files: resolver_configuration(),
    }
}

/// The tables of UNIX sockets of every network namespace that some process is in (proc(5)).
fn tables() -> Vec<String> {
    let mut by_namespace = BTreeMap::new();
    for process in entries(Path::new("/proc")) {
        // A process that ends meanwhile is none.
        if let Ok(namespace) = fs::metadata(process.join("ns/net")) {
            by_namespace.entry(namespace.ino()).or_insert(process);
        }
    }
    let tables = by_namespace.values();
    tables
        .filter_map(|process| fs::read(process.join("net/unix")).ok())
        .map(|table| String::from_utf8_lossy(&table).into_owned())
        .collect()
}

/// The bound sockets of a table that are there in this mount namespace. Abstract ones need no
/// cover: they belong to a network namespace.
fn bound(table: &str) -> impl Iterator<Item = PathBuf> {
    /// Fields before the path.
    const FIELDS: usize = 7;
    let paths = table.lines().skip(1).filter_map(|line| {
        let mut rest = line;
        for _ in 0..FIELDS {
            rest = rest.trim_start().split_once(' ')?.1;
        }
        Some(PathBuf::from(rest.trim_start()))
    });
    paths.filter(|path| path.is_absolute() && is_socket(path))
}

fn walk(directory: &Path, depth: u32, left: &mut u32, sockets: &mut BTreeSet<PathBuf>) {
    for path in entries(directory) {
        let Some(fewer) = left.checked_sub(1) else {
            return;
        };
        *left = fewer;
        let Ok(kind) = fs::symlink_metadata(&path).map(|found| found.file_type()) else {
            continue;
        };
        if kind.is_socket() {
            sockets.insert(path);
        } else if kind.is_dir() && depth > 1 {
            walk(&path, depth - 1, left, sockets);
        }
    }
}

fn is_socket(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket())
}

fn is_for_sockets(path: &Path) -> bool {
    let name = path.file_name().map(OsStr::as_bytes).unwrap_or_default();
    FOR_SOCKETS.iter().any(|start| name.starts_with(start)) && path.is_dir()
}

fn entries(directory: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    let entries = fs::read_dir(directory).into_iter().flatten();
    entries.filter_map(|entry| Some(entry.ok()?.path()))
}

/// /etc/resolv.conf is often a link to a file below /run.
fn resolver_configuration() -> Vec<(std::ffi::OsString, Vec<u8>)> {
    let file = fs::canonicalize("/etc/resolv.conf").ok();
    let file = file.filter(|path| path.starts_with("/run"));
    file.and_then(|path| Some((path.clone().into_os_string(), fs::read(path).ok()?)))
        .into_iter()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::{UnixDatagram, UnixListener};

    #[test]
    fn a_socket_is_found_wherever_it_is_and_whatever_its_name() {
        let folder = std::env::temp_dir().join(format!("sockets of {}", std::process::id()));
        fs::create_dir_all(folder.join("a")).unwrap();
        let (stream, datagram) = (folder.join("a/stream"), folder.join("datagram"));
        let listener = UnixListener::bind(&stream).unwrap();
        let bound = UnixDatagram::bind(&datagram).unwrap();
        fs::write(folder.join("file"), "").unwrap();
        let view = view();
        drop((listener, bound));
        fs::remove_dir_all(&folder).unwrap();
        for path in [stream, datagram] {
            assert!(
                view.sockets.contains(&path.clone().into_os_string()),
                "{path:?}"
            );
        }
        assert!(!view.sockets.contains(&folder.join("file").into_os_string()));
    }

    #[test]
    fn lines_of_the_table() {
        let table = "Num       RefCount Protocol Flags    Type St Inode Path\n\
                     0000000000000000: 00000002 00000000 00010000 0001 01 1 @abstract\n\
                     0000000000000000: 00000002 00000000 00010000 0001 01 2\n\
                     0000000000000000: 00000002 00000000 00010000 0001 01 3 /nowhere/at all\n";
        assert_eq!(bound(table).count(), 0);
    }
}
