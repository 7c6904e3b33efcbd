//! How a denial is told.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// A TLS alert's description (RFC 8446 section 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Alert {
    /// Policy does not allow it.
    AccessDenied = 49,
    /// The hello cannot be read.
    DecodeError = 50,
    /// SSLv2.
    ProtocolVersion = 70,
    /// Allowed, but upstream cannot be reached.
    InternalError = 80,
    /// No server name, or none that is one.
    UnrecognizedName = 112,
}

/// For how long, and how much, a denied client may go on sending before it is cut off.
const DRAIN_TIME: Duration = Duration::from_secs(2);
const DRAIN_BYTES: usize = 256 << 10;

/// Sends a fatal alert and closes so that it arrives: a close with unread bytes would be a
/// reset, and the client's kernel would throw the alert away.
pub async fn refuse(stream: TcpStream, alert: Alert) {
    linger(stream, &[21, 3, 3, 0, 2, 2, alert as u8]).await;
}

/// Says the last words and closes so that they arrive, with what was said before.
pub async fn linger(mut stream: TcpStream, words: &[u8]) {
    let said = async {
        stream.write_all(words).await?;
        stream.shutdown().await?;
        let (mut sink, mut drained) = ([0; 4096], 0);
        while drained < DRAIN_BYTES {
            match stream.read(&mut sink).await? {
                0 => break,
                read => drained += read,
            }
        }
        std::io::Result::Ok(())
    };
    // Whatever goes wrong, the client has gone or is cut off now.
    drop(timeout(DRAIN_TIME, said).await);
}

/// Closes with a reset.
pub fn reset(stream: TcpStream) {
    // It fails on a socket that is closed already: nothing is left to reset.
    drop(stream.set_zero_linger());
}
