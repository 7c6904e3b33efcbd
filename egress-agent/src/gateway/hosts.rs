//! The node's hosts file. It is the operator's, so its addresses are not checked.

use std::{
    cell::RefCell,
    collections::HashMap,
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    rc::Rc,
    time::{Duration, Instant, SystemTime},
};

use crate::policy::host::HostName;

/// Where it is (hosts(5)).
pub const FILE: &str = "/etc/hosts";

/// How long a look at the file's time is good for.
const FRESH: Duration = Duration::from_secs(1);

/// Names of the hosts file, read again when it changes. One per worker.
#[derive(Debug)]
pub struct Hosts {
    path: PathBuf,
    state: RefCell<State>,
}

#[derive(Debug, Default)]
struct State {
    checked: Option<Instant>,
    modified: Option<SystemTime>,
    names: Rc<HashMap<HostName, Vec<IpAddr>>>,
}

impl Hosts {
    /// The file need not exist.
    pub fn new(path: PathBuf) -> Self {
        Self {
            path,
            state: RefCell::default(),
        }
    }

    /// The addresses of a name, in the file's order; empty where it is not there.
    pub fn addresses(&self, name: &HostName) -> Vec<IpAddr> {
        let mut state = self.state.borrow_mut();
        if state.checked.is_none_or(|at| at.elapsed() > FRESH) {
            state.checked = Some(Instant::now());
            let modified = fs::metadata(&self.path).and_then(|m| m.modified()).ok();
            if modified != state.modified || modified.is_none() {
                state.names = Rc::new(read(&self.path));
                state.modified = modified;
            }
        }
        state.names.get(name).cloned().unwrap_or_default()
    }
}

/// All names of a hosts file; none where it cannot be read.
pub fn read(path: &Path) -> HashMap<HostName, Vec<IpAddr>> {
    parse(&fs::read_to_string(path).unwrap_or_default())
}

fn parse(text: &str) -> HashMap<HostName, Vec<IpAddr>> {
    let mut names: HashMap<HostName, Vec<IpAddr>> = HashMap::new();
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
