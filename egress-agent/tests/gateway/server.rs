//! A server of HTTP/1.1 that writes down every byte of every request, and answers by its path.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpListener,
    time::sleep,
};

/// What came: the number of the connection, and the request as it was sent.
pub(crate) type Seen = Arc<Mutex<Vec<(usize, String)>>>;

pub(crate) async fn serve() -> (SocketAddr, Seen) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let seen = Seen::default();
    let all = seen.clone();
    tokio::spawn(async move {
        for number in 1.. {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(answer(stream, number, all.clone()));
        }
    });
    (address, seen)
}

/// Answers requests until the client ends.
pub(crate) async fn answer<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    number: usize,
    seen: Seen,
) -> Option<()> {
    let mut bytes = Vec::new();
    loop {
        let end = loop {
            if let Some(end) = end(&bytes) {
                break end;
            }
            if stream.read_buf(&mut bytes).await.ok()? == 0 {
                return None;
            }
        };
        let request = String::from_utf8_lossy(&bytes[..end]).into_owned();
        bytes.drain(..end);
        let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
        seen.lock().unwrap().push((number, request));
        let answer = match path.split('?').next().unwrap_or_default() {
            "/chunked" => {
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 7\r\n\r\n"
            }
            "/to-the-end" => {
                stream
                    .write_all(b"HTTP/1.0 200 OK\r\n\r\nto the end")
                    .await
                    .ok()?;
                return None;
            }
            "/hop" => {
                "HTTP/1.1 200 OK\r\nConnection: X-Own\r\nX-Own: 1\r\nKeep-Alive: timeout=9\r\nX-Kept: 1\r\nContent-Length: 2\r\n\r\nok"
            }
            "/ws" => {
                stream.write_all(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: x\r\n\r\n").await.ok()?;
                stream.write_all(&bytes).await.ok()?;
                let (mut read, mut write) = tokio::io::split(stream);
                tokio::io::copy(&mut read, &mut write).await.ok()?;
                return None;
            }
            "/events" => {
                stream
                    .write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
                    .await
                    .ok()?;
                loop {
                    stream.write_all(b"3\r\nabc\r\n").await.ok()?;
                    sleep(Duration::from_millis(50)).await;
                }
            }
            large if large.starts_with("/large/") => {
                let length = large["/large/".len()..].parse().ok()?;
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
                stream.write_all(head.as_bytes()).await.ok()?;
                stream.write_all(&vec![b'.'; length]).await.ok()?;
                continue;
            }
            "/slow" => {
                sleep(Duration::from_secs(1)).await;
                "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nslow"
            }
            "/never" => std::future::pending().await,
            "/gone" => return None,
            _ => "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        };
        stream.write_all(answer.as_bytes()).await.ok()?;
    }
}

/// Where a request ends: as loosely as the servers that are fooled.
fn end(bytes: &[u8]) -> Option<usize> {
    let head = bytes.windows(4).position(|it| it == b"\r\n\r\n")? + 4;
    let text = String::from_utf8_lossy(&bytes[..head]).to_ascii_lowercase();
    if text.contains("transfer-encoding: chunked") {
        let last = bytes[head - 2..]
            .windows(5)
            .position(|it| it == b"\r\n0\r\n")?;
        let trailers = &bytes[head + last + 1..];
        let end = trailers.windows(4).position(|it| it == b"\r\n\r\n")?;
        return Some(head + last + 1 + end + 4);
    }
    let length = text.split("content-length: ").nth(1);
    let length = length.and_then(|it| it.split("\r\n").next()?.parse().ok());
    let end = head + length.unwrap_or(0);
    (bytes.len() >= end).then_some(end)
}
