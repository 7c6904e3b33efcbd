//! CONNECT, by which a client asks a proxy for a tunnel (RFC 9110 section 9.3.6): the gateway is
//! one to those who are set up for it.

use super::{
    bad::Bad,
    fields::Fields,
    framing::Framing,
    head::{Lines, request_line},
    target::authority,
};
use crate::policy::host::HostName;

/// Where a tunnel is to lead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connect {
    /// The host; the server name inside must be the same.
    pub host: HostName,
    /// The port.
    pub port: u16,
}

/// What is said once a tunnel is allowed, and before it is known what is in it.
pub const ESTABLISHED: &[u8] = b"HTTP/1.1 200 Connection established\r\n\r\n";

/// Whether a head asks for a tunnel.
pub fn is_connect(head: &[u8]) -> bool {
    head.starts_with(b"CONNECT ")
}

/// Reads a whole head, its empty line included.
///
/// # Errors
/// The first thing that is wrong.
pub fn parse(head: &[u8]) -> Result<Connect, Bad> {
    let text = head.strip_suffix(b"\r\n\r\n").ok_or(Bad::Truncated)?;
    let mut lines = Lines(Some(text));
    let (method, target, version) = request_line(lines.next().unwrap_or_default())?;
    let fields = Fields::parse(lines)?;
    let (host, port) = authority(target)?;
    let port = port.ok_or(Bad::Connect)?;
    match fields.only("host") {
        // Some clients leave it out here, and nothing depends on it.
        Ok(None) => {}
        Ok(Some(named)) => {
            let (named, named_port) = authority(named)?;
            if named != host || named_port.is_some_and(|it| it != port) {
                return Err(Bad::TargetDisagrees);
            }
        }
        Err(_several) => return Err(Bad::SeveralHosts),
    }
    let framing = Framing::of(&fields, method, version)?;
    match framing == Framing::Empty && !fields.has("upgrade") {
        true => Ok(Connect { host, port }),
        false => Err(Bad::Connect),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::host::HostNameError;

    fn says(line: &str, fields: &str) -> Result<(String, u16), Bad> {
        let head = format!("{line}\r\n{fields}\r\n");
        assert!(is_connect(head.as_bytes()));
        parse(head.as_bytes()).map(|it| (it.host.to_string(), it.port))
    }

    #[test]
    fn where_tunnels_lead() {
        let line = "CONNECT Repo.test:443 HTTP/1.1";
        for (line, fields) in [
            (
                line,
                "Host: repo.test:443\r\nProxy-Connection: Keep-Alive\r\n",
            ),
            (line, "Host: repo.test\r\n"),
            ("CONNECT repo.test:443 HTTP/1.0", ""),
        ] {
            assert_eq!(
                says(line, fields),
                Ok(("repo.test".into(), 443)),
                "{line} {fields}"
            );
        }
        for (line, fields, expected) in [
            (line, "Host: evil.test:443\r\n", Bad::TargetDisagrees),
            (line, "Host: repo.test:80\r\n", Bad::TargetDisagrees),
            (
                line,
                "Host: a.test\r\nHost: repo.test\r\n",
                Bad::SeveralHosts,
            ),
            (line, "Content-Length: 3\r\n", Bad::Connect),
            (line, "Transfer-Encoding: chunked\r\n", Bad::Connect),
            (line, "Upgrade: websocket\r\n", Bad::Connect),
            ("CONNECT repo.test HTTP/1.1", "", Bad::Connect),
            ("CONNECT repo.test: HTTP/1.1", "", Bad::Port),
            ("CONNECT repo.test:0 HTTP/1.1", "", Bad::Port),
            ("CONNECT repo.test:65536 HTTP/1.1", "", Bad::Port),
            ("CONNECT repo.test:+443 HTTP/1.1", "", Bad::Port),
            ("CONNECT http://repo.test/ HTTP/1.1", "", Bad::Port),
            (
                "CONNECT / HTTP/1.1",
                "",
                Bad::Host(HostNameError::Character),
            ),
            (
                "CONNECT 203.0.113.7:443 HTTP/1.1",
                "",
                Bad::Host(HostNameError::IpLiteral),
            ),
            (
                "CONNECT [2001:db8::1]:443 HTTP/1.1",
                "",
                Bad::Host(HostNameError::IpLiteral),
            ),
            (
                "CONNECT a@repo.test:443 HTTP/1.1",
                "",
                Bad::Host(HostNameError::Character),
            ),
        ] {
            assert_eq!(says(line, fields), Err(expected), "{line} {fields}");
        }
    }
}
