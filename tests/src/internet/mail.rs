//! A server that speaks first, line by line, as those of mail do (RFC 5321): as much as Python's
//! smtplib needs.

use std::{
    io::{self, BufRead as _, BufReader, Write as _},
    net::{Ipv6Addr, TcpListener, TcpStream},
};

use anyhow::{Context as _, Result};

use crate::namespace::Namespace;

/// Serves it on every address of the namespace. The threads end with the process.
pub(super) fn serve(namespace: &Namespace, port: u16) -> Result<()> {
    // :: takes IPv4 as well.
    let listener = namespace
        .enter(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)))?
        .with_context(|| format!("could not listen on port {port}"))?;
    super::http::accept(listener, |stream| {
        // The client goes when it likes.
        talk(stream).ok();
    });
    Ok(())
}

fn talk(mut stream: TcpStream) -> io::Result<()> {
    let own = stream.local_addr()?.ip().to_canonical();
    write!(stream, "220 {own} ready\r\n")?;
    let mut lines = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    while lines.read_line(&mut line)? > 0 {
        if line.trim_end().eq_ignore_ascii_case("QUIT") {
            return write!(stream, "221 bye\r\n");
        }
        write!(stream, "250 {}\r\n", line.trim_end())?;
        line.clear();
    }
    Ok(())
}
