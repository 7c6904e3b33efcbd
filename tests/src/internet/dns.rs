//! dnsmasq with the internet's names, and the queries that reached it.

use std::{
    fs,
    net::TcpStream,
    path::PathBuf,
    process::{Child, Stdio},
};

use anyhow::{Context as _, Result, bail};

use super::{HOSTS, RESOLVER4, RESOLVER6, address4, address6};
use crate::{namespace::Namespace, process, scratch::Scratch};

/// A running dnsmasq.
#[derive(Debug)]
pub struct Dns {
    child: Child,
    log: PathBuf,
}

impl Dns {
    pub(super) fn start(namespace: &Namespace, scratch: &Scratch) -> Result<Self> {
        let log = scratch.file("dns.log");
        let config = scratch.write("dnsmasq.conf", config(&log.display().to_string()))?;
        let errors = scratch.file("dns.err");
        let child = namespace
            .command("dnsmasq")
            .arg("--keep-in-foreground")
            .arg(format!("--conf-file={}", config.display()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(&errors).context("could not make dns.err")?)
            .spawn()
            .context("could not start dnsmasq: cargo xtask setup demo installs it")?;
        let mut dns = Self { child, log };
        dns.wait_until_it_answers(namespace)
            .with_context(|| fs::read_to_string(&errors).unwrap_or_default())?;
        Ok(dns)
    }

    /// SIGSTOP: what is asked waits until [`thaw`](Self::thaw).
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn freeze(&self) -> Result<()> {
        process::signal(&self.child, libc::SIGSTOP)
    }

    /// SIGCONT.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn thaw(&self) -> Result<()> {
        process::signal(&self.child, libc::SIGCONT)
    }

    /// Every name that was asked for, in order, as `A allowed.test`.
    ///
    /// # Errors
    /// Where the log cannot be read.
    pub fn queries(&self) -> Result<Vec<String>> {
        let log = fs::read_to_string(&self.log).context("could not read dnsmasq's log")?;
        Ok(log.lines().filter_map(query).collect())
    }

    fn wait_until_it_answers(&mut self, namespace: &Namespace) -> Result<()> {
        let child = &mut self.child;
        process::eventually("dnsmasq", || {
            if let Some(status) = child.try_wait().context("could not wait")? {
                bail!("dnsmasq ended with {status}");
            }
            let connected = namespace.enter(|| TcpStream::connect((RESOLVER4, 53)).is_ok())?;
            Ok(connected.then_some(()))
        })
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        // It may have ended already.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn config(log: &str) -> String {
    let mut config = format!(
        "no-hosts\nno-resolv\nuser=root\npid-file=\nbind-interfaces\n\
         listen-address={RESOLVER4}\nlisten-address={RESOLVER6}\n\
         log-queries\nlog-facility={log}\n\
         host-record=rebind.test,10.9.9.9\nhost-record=metadata.test,169.254.169.254\n\
         host-record=node.test,192.0.2.2\n\
         txt-record=allowed.test,out of band\nauth-ttl=1\nlocal=/test/\n"
    );
    for (host, _) in HOSTS {
        config.push_str(&format!(
            "host-record={host},{},{}\n",
            address4(host),
            address6(host)
        ));
    }
    config
}

/// The answer to a query for an address of a host of [`HOSTS`], which has none of the other types;
/// `None` where the query is none.
pub(super) fn answer(query: &[u8]) -> Option<Vec<u8>> {
    let (mut at, mut labels) = (12, Vec::new());
    while *query.get(at)? != 0 {
        let end = at + 1 + usize::from(query[at]);
        labels.push(String::from_utf8_lossy(query.get(at + 1..end)?).into_owned());
        at = end;
    }
    let kind = query.get(at + 1..at + 3)?;
    let host = labels.join(".").to_lowercase();
    let is_known = HOSTS.iter().any(|(name, _)| *name == host);
    let data = match (is_known, kind) {
        (true, [0, 1]) => address4(&host).octets().to_vec(),
        (true, [0, 28]) => address6(&host).octets().to_vec(),
        _ => Vec::new(),
    };
    let count = u8::from(!data.is_empty());
    let mut answer = query[..2].to_vec();
    // A response to one question (RFC 1035 section 4.1.1).
    answer.extend([0x81, 0x80, 0, 1, 0, count, 0, 0, 0, 0]);
    answer.extend(query.get(12..at + 5)?);
    if count == 1 {
        // The name that was asked for, its type, class IN, a minute.
        answer.extend([&[0xc0, 12][..], kind, &[0, 1, 0, 0, 0, 60, 0]].concat());
        answer.push(data.len() as u8);
        answer.extend(data);
    }
    Some(answer)
}

/// `A allowed.test` of `… dnsmasq[1]: query[A] allowed.test from 10.1.1.5`.
fn query(line: &str) -> Option<String> {
    let (_, rest) = line.split_once("query[")?;
    let (kind, rest) = rest.split_once("] ")?;
    let name = rest.split(' ').next()?;
    Some(format!("{kind} {name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_log_is_read() {
        let line = "Nov 23 10:00:00 dnsmasq[77]: query[AAAA] allowed.test from 10.1.1.5";
        assert_eq!(query(line).as_deref(), Some("AAAA allowed.test"));
        assert_eq!(
            query("Nov 23 dnsmasq[77]: reply allowed.test is 1.2.3.4"),
            None
        );
    }
}
