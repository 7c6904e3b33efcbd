//! TCP and UDP servers that send back what they get.

use std::{
    io::{self, Read as _, Write as _},
    net::{Ipv6Addr, TcpListener, TcpStream, UdpSocket},
    thread,
};

use anyhow::{Context as _, Result};

use crate::namespace::Namespace;

/// Serves both on every address of the namespace. The threads end with the process.
pub(super) fn serve(namespace: &Namespace, port: u16) -> Result<()> {
    let (listener, socket) = namespace
        .enter(|| {
            // :: takes IPv4 as well.
            let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port))?;
            let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port))?;
            io::Result::Ok((listener, socket))
        })?
        .with_context(|| format!("could not listen on port {port}"))?;
    super::http::accept(listener, |stream| {
        // The client goes when it likes.
        tcp(stream).ok();
    });
    thread::spawn(move || {
        let mut buffer = [0; 65536];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            socket.send_to(&buffer[..length], from).ok();
        }
    });
    Ok(())
}

fn tcp(mut stream: TcpStream) -> io::Result<()> {
    let mut buffer = [0; 65536];
    loop {
        match stream.read(&mut buffer)? {
            0 => return Ok(()),
            length => stream.write_all(&buffer[..length])?,
        }
    }
}
