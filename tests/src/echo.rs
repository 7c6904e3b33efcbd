//! A server that gives back what it gets, by TCP and UDP, on port 8080 of all its addresses.

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};

/// Where it listens.
const PORT: u16 = 8080;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(2);

const SCRIPT: &str = "import socket, threading\n\
    t = socket.create_server(('::', 8080), family=socket.AF_INET6, dualstack_ipv6=True)\n\
    def stream(c):\n\
    \x20   while data := c.recv(100): c.sendall(data)\n\
    \x20   c.close()\n\
    def datagrams(family, any):\n\
    \x20   u = socket.socket(family, socket.SOCK_DGRAM)\n\
    \x20   if family == socket.AF_INET6: u.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)\n\
    \x20   u.bind((any, 8080))\n\
    \x20   while True:\n\
    \x20       data, client = u.recvfrom(100)\n\
    \x20       try: u.sendto(data, client)\n\
    \x20       except PermissionError: pass\n\
    start = lambda f, *a: threading.Thread(target=f, args=a, daemon=True).start()\n\
    start(datagrams, socket.AF_INET, '0.0.0.0')\n\
    start(datagrams, socket.AF_INET6, '::')\n\
    print('listening', flush=True)\n\
    while True: start(stream, t.accept()[0])";

/// A running server. When dropped it is killed.
#[derive(Debug)]
pub struct Echo(Child);

impl Echo {
    /// Starts it, by a command for `python3`, and waits until it listens.
    ///
    /// # Errors
    /// Where it does not start.
    pub fn start(mut python: Command) -> Result<Self> {
        let child = python.args(["-c", SCRIPT]).stdout(Stdio::piped()).spawn();
        let mut server = Self(child.context("could not start python3")?);
        let output = server.0.stdout.as_mut().context("its output is a pipe")?;
        output.read_exact(&mut [0; 9])?;
        Ok(server)
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// A connection to the server at this address.
///
/// # Errors
/// Where it does not answer.
pub fn connect(address: IpAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&(address, PORT).into(), PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// Whether the server answers on the connection.
///
/// # Errors
/// Where it does not.
pub fn speak(stream: &mut TcpStream) -> Result<()> {
    stream.write_all(b"hello")?;
    let mut answer = [0; 5];
    stream.read_exact(&mut answer)?;
    ensure!(answer == *b"hello", "{answer:?}");
    Ok(())
}

/// Whether the server at this address answers a datagram.
///
/// # Errors
/// Where it does not.
pub fn ask(address: IpAddr) -> Result<()> {
    let any: IpAddr = match address {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.send_to(b"hello", (address, PORT))?;
    let mut answer = [0; 8];
    let (length, from) = socket.recv_from(&mut answer)?;
    ensure!(from.ip() == address, "answered by {from}");
    ensure!(answer[..length] == *b"hello", "{answer:?}");
    Ok(())
}
