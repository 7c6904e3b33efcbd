//! A name server: every name has the address of the server behind the proxies, and none of IPv6.

use std::{
    net::{Ipv4Addr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::Result;

/// Seconds for which an answer is good: longer than a run.
const TTL: u32 = 86_400;
/// How long it may take to see that it is to end.
const TICK: Duration = Duration::from_millis(50);

/// Answers until it is dropped.
pub(super) struct Names {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Names {
    /// On a thread of its own.
    pub(super) fn start(socket: UdpSocket, address: Ipv4Addr) -> Result<Self> {
        socket.set_read_timeout(Some(TICK))?;
        let stop = Arc::new(AtomicBool::new(false));
        let stops = stop.clone();
        let thread = thread::Builder::new().name("names".into()).spawn(move || {
            let mut query = [0; 512];
            while !stops.load(Ordering::Relaxed) {
                let Ok((length, from)) = socket.recv_from(&mut query) else {
                    continue;
                };
                if let Some(answer) = answer(&query[..length], address) {
                    // Who has gone asks again.
                    socket.send_to(&answer, from).ok();
                }
            }
        })?;
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for Names {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            eprintln!("the name server panicked");
        }
    }
}

/// The answer to one question (RFC 1035 section 4.1); `None` where it is none.
fn answer(query: &[u8], address: Ipv4Addr) -> Option<Vec<u8>> {
    let mut at = 12;
    while *query.get(at)? != 0 {
        at += 1 + usize::from(query[at]);
    }
    let kind = query.get(at + 1..at + 3)?;
    let has = u8::from(kind == [0, 1]);
    let mut answer = query[..2].to_vec();
    answer.extend([0x81, 0x80, 0, 1, 0, has, 0, 1 - has, 0, 0]);
    answer.extend(query.get(12..at + 5)?);
    if has == 1 {
        // The name that was asked for, type A, class IN.
        answer.extend([0xc0, 12, 0, 1, 0, 1]);
        answer.extend(TTL.to_be_bytes());
        answer.extend([0, 4]);
        answer.extend(address.octets());
    } else {
        // The root's SOA, by which the lack of an address is remembered (RFC 2308 section 5).
        answer.extend([0, 0, 6, 0, 1]);
        answer.extend(TTL.to_be_bytes());
        answer.extend([0, 22, 0, 0]);
        answer.extend([TTL; 5].map(u32::to_be_bytes).concat());
    }
    Some(answer)
}
