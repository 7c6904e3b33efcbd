//! The two-way copy of a WebSocket, whose server may be behind TLS of ours.

use std::{cell::Cell, io};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, split},
    time::Instant,
};

use crate::gateway::splice::Bytes;

/// One read.
const COPY: usize = 16 << 10;

/// Copies until both sides have ended.
///
/// # Errors
/// One of them fails.
pub(super) async fn copy(
    downstream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    upstream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    bytes: &Bytes,
    moved: &Cell<Instant>,
) -> io::Result<()> {
    let (down_read, down_write) = split(downstream);
    let (up_read, up_write) = split(upstream);
    tokio::try_join!(
        pump(down_read, up_write, &bytes.sent, moved),
        pump(up_read, down_write, &bytes.received, moved),
    )?;
    Ok(())
}

async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    bytes: &Cell<u64>,
    moved: &Cell<Instant>,
) -> io::Result<()> {
    let mut buffer = vec![0; COPY];
    loop {
        let read = from.read(&mut buffer).await?;
        if read == 0 {
            return to.shutdown().await;
        }
        to.write_all(&buffer[..read]).await?;
        to.flush().await?;
        bytes.set(bytes.get() + read as u64);
        moved.set(Instant::now());
    }
}
