//! HTTP/1.1, as little as curl, Python, Node and git need: what is asked for is a file of the
//! directory, `/bytes/N`, or else a line that says who answered whom.

use std::{
    fs,
    io::{self, BufRead as _, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    path::{Component, Path, PathBuf},
    sync::Arc,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};

use crate::namespace::Namespace;

/// How long a client may be silent: no thread waits for ever.
const IDLE: Duration = Duration::from_secs(60);

/// Who asked, and how.
#[derive(Debug)]
pub(super) struct Visit {
    /// The server name of the TLS hello.
    pub(super) server_name: Option<String>,
    /// Our address.
    pub(super) server: String,
    /// The client's address and port.
    pub(super) peer: String,
}

impl Visit {
    /// Of a connection without TLS.
    pub(super) fn new(stream: &TcpStream) -> io::Result<Self> {
        Ok(Self {
            server_name: None,
            server: stream.local_addr()?.ip().to_canonical().to_string(),
            peer: stream.peer_addr()?.ip().to_canonical().to_string(),
        })
    }
}

/// Serves plain HTTP on port 80.
pub(super) fn serve(namespace: &Namespace, files: &Path) -> Result<()> {
    let listener = namespace
        .enter(|| TcpListener::bind(("::", 80)))?
        .context("could not listen on port 80")?;
    let files: Arc<Path> = files.into();
    accept(listener, move |stream| {
        if let Ok(visit) = Visit::new(&stream) {
            // The client goes when it likes.
            answer(stream, &visit, &files).ok();
        }
    });
    Ok(())
}

/// Serves each connection on a thread of its own; the threads end with the process.
pub(super) fn accept(listener: TcpListener, serve: impl Fn(TcpStream) + Send + Sync + 'static) {
    let serve = Arc::new(serve);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let serve = Arc::clone(&serve);
            thread::spawn(move || {
                if stream.set_read_timeout(Some(IDLE)).is_ok() {
                    serve(stream);
                }
            });
        }
    });
}

/// Answers one request. `/ws` becomes an echo.
pub(super) fn answer<S: Read + Write>(stream: S, visit: &Visit, files: &Path) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut request = String::new();
    stream.read_line(&mut request)?;
    let (mut host, mut length, mut chunked) = (String::new(), 0, false);
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line)? == 0 || line.trim().is_empty() {
            break;
        }
        let (name, value) = line.split_once(':').unwrap_or_default();
        match name.to_ascii_lowercase().as_str() {
            "host" => value.trim().clone_into(&mut host),
            "content-length" => length = value.trim().parse().unwrap_or(0),
            "transfer-encoding" => chunked = true,
            _ => {}
        }
    }
    read_body(&mut stream, length, chunked)?;
    let path = request.split(' ').nth(1).unwrap_or("/");
    if path == "/ws" {
        return echo(stream);
    }
    let (status, body) = body(path, &host, visit, files);
    let stream = stream.get_mut();
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    )?;
    stream.write_all(&body)?;
    stream.flush()
}

/// Reads a body away: a close with unread bytes would be a reset.
fn read_body(stream: &mut impl io::BufRead, length: u64, chunked: bool) -> io::Result<()> {
    io::copy(&mut stream.take(length), &mut io::sink())?;
    let mut line = String::from("not read yet");
    while chunked && line != "0\r\n" {
        line.clear();
        if stream.read_line(&mut line)? == 0 {
            break;
        }
    }
    Ok(())
}

/// Agrees to a WebSocket, and sends its bytes back as they are.
fn echo<S: Read + Write>(mut stream: BufReader<S>) -> io::Result<()> {
    let agreed =
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    stream.get_mut().write_all(agreed)?;
    loop {
        let bytes = stream.fill_buf()?.to_vec();
        if bytes.is_empty() {
            return Ok(());
        }
        stream.consume(bytes.len());
        stream.get_mut().write_all(&bytes)?;
    }
}

fn body(path: &str, host: &str, visit: &Visit, files: &Path) -> (&'static str, Vec<u8>) {
    if let Some(count) = path.strip_prefix("/bytes/").and_then(|n| n.parse().ok()) {
        return ("200 OK", vec![b'.'; count]);
    }
    if path.split('?').next() == Some("/") {
        let Visit {
            server_name,
            server,
            peer,
        } = visit;
        let server_name = server_name.as_deref().unwrap_or("-");
        let line = format!("hello host={host} name={server_name} server={server} peer={peer}\n");
        return ("200 OK", line.into_bytes());
    }
    match file(path, files).and_then(|file| fs::read(file).ok()) {
        Some(content) => ("200 OK", content),
        None => ("404 Not Found", b"not found\n".to_vec()),
    }
}

/// The file that a path names, never one outside the directory.
fn file(path: &str, files: &Path) -> Option<PathBuf> {
    let path = path.split('?').next()?.trim_start_matches('/');
    let path = Path::new(path);
    path.components()
        .all(|part| matches!(part, Component::Normal(_)))
        .then(|| files.join(path))
}
