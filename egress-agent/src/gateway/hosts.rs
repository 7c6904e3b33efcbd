//! The node's hosts file. It is the operator's, so its addresses are not checked. The enforcer reads
//! it, since the gateway opens no file while it serves.

use std::{
    collections::BTreeMap,
    fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use crate::policy::host::HostName;

/// Where it is (hosts(5)).
pub const FILE: &str = "/etc/hosts";

/// Its names, each with its addresses in the file's order.
pub type HostsTable = BTreeMap<HostName, Vec<IpAddr>>;

/// The file, as it was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hosts {
    path: PathBuf,
    modified: Option<SystemTime>,
    names: Arc<HostsTable>,
}

impl Hosts {
    /// Reads it; it need not exist.
    pub fn read(path: &Path) -> Self {
        let modified = modified(path);
        Self {
            path: path.to_owned(),
            modified,
            names: Arc::new(read(path)),
        }
    }

    /// What was read.
    pub fn names(&self) -> Arc<HostsTable> {
        Arc::clone(&self.names)
    }

    /// Whether it has been written since.
    pub fn is_stale(&self) -> bool {
        modified(&self.path) != self.modified
    }
}

fn modified(path: &Path) -> Option<SystemTime> {
    let modified = |meta: fs::Metadata| -> io::Result<_> { meta.modified() };
    fs::metadata(path).and_then(modified).ok()
}

/// All names of a hosts file; none where it cannot be read.
pub fn read(path: &Path) -> HostsTable {
    parse(&fs::read_to_string(path).unwrap_or_default())
}

fn parse(text: &str) -> HostsTable {
    let mut names = HostsTable::new();
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or_default();
        let mut words = line.split_whitespace();
        let Some(Ok(address)) = words.next().map(str::parse::<IpAddr>) else {
            continue;
        };
        for name in words.filter_map(|word| HostName::from_text(word).ok()) {
            let addresses = names.entry(name).or_default();
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_all_kinds() {
        let names =
            parse("127.0.0.1 localhost\n# no\n10.0.0.1 A.test b.test # c.test\nx y\n::1 a.test\n");
        let of = |name: &str| names.get(&HostName::from_text(name).unwrap()).cloned();
        assert_eq!(of("a.test").unwrap().len(), 2);
        assert_eq!(
            of("b.test").unwrap(),
            ["10.0.0.1".parse::<IpAddr>().unwrap()]
        );
        assert_eq!(of("c.test"), None);
    }
}
