//! What arrives on the far side: every frame that the internet's interface receives. The oracle
//! of every test that something was dropped.

use std::{
    io, mem,
    net::{IpAddr, UdpSocket},
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};

use crate::{namespace::Namespace, process, world};

mod packet;

pub use packet::Packet;

/// Where [`Capture::fence`] sends: nobody else uses the port.
const FENCE_PORT: u16 = 61_999;

/// How long a read waits before it looks whether the capture is to end: 20 ms.
const TICK: libc::timeval = libc::timeval {
    tv_sec: 0,
    tv_usec: 20_000,
};

/// A running capture.
#[derive(Debug)]
pub struct Capture {
    packets: Arc<Mutex<Vec<Packet>>>,
    stop: Arc<AtomicBool>,
    socket: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Capture {
    pub(crate) fn start(internet: &Namespace) -> Result<Self> {
        let socket = internet
            .enter(packet_socket)?
            .context("could not open a packet socket")?;
        let packets: Arc<Mutex<Vec<Packet>>> = Arc::default();
        let stop: Arc<AtomicBool> = Arc::default();
        let socket = Arc::new(socket);
        let thread = {
            let (packets, stop) = (Arc::clone(&packets), Arc::clone(&stop));
            let socket = Arc::clone(&socket);
            thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    if let Some(packet) = receive(&socket) {
                        lock(&packets).push(packet);
                    }
                }
            })
        };
        Ok(Self {
            packets,
            stop,
            socket,
            thread: Some(thread),
        })
    }

    /// What has arrived for which `wanted` holds, in order.
    pub fn matching(&self, wanted: impl Fn(&Packet) -> bool) -> Vec<Packet> {
        lock(&self.packets)
            .iter()
            .filter(|packet| wanted(packet))
            .cloned()
            .collect()
    }

    /// What has arrived for an address, from anybody.
    pub fn to(&self, destination: IpAddr) -> Vec<Packet> {
        self.matching(|packet| packet.destination == Some(destination))
    }

    /// What has arrived from an address.
    pub fn from(&self, source: IpAddr) -> Vec<Packet> {
        self.matching(|packet| packet.source == Some(source))
    }

    /// Forgets what has arrived.
    pub fn clear(&self) {
        lock(&self.packets).clear();
    }

    /// Waits until everything that was sent before has arrived: sends a datagram of the node's in
    /// each family and waits until both are seen. So it shows as well that the capture sees.
    ///
    /// # Errors
    /// Where a datagram is not seen, or the capture lost a frame.
    pub fn fence(&self, node: &Namespace) -> Result<()> {
        // What another CPU still has in its queue.
        thread::sleep(Duration::from_millis(30));
        for to in [world::nowhere4(254), world::nowhere6(254)] {
            self.send_and_see(node, to)?;
        }
        let lost = lost(&self.socket).context("could not read the capture's statistics")?;
        ensure!(lost == 0, "the capture lost {lost} frames");
        Ok(())
    }

    fn send_and_see(&self, node: &Namespace, to: IpAddr) -> Result<()> {
        let is_fence =
            |packet: &Packet| packet.destination == Some(to) && packet.port == FENCE_PORT;
        let before = self.matching(is_fence).len();
        let socket = node
            .enter(|| UdpSocket::bind("[::]:0"))?
            .context("could not make the fence's socket")?;
        let mapped = match to {
            IpAddr::V4(to) => to.to_ipv6_mapped(),
            IpAddr::V6(to) => to,
        };
        process::eventually("the capture to see the node's datagram", || {
            socket
                .send_to(b"fence", (mapped, FENCE_PORT))
                .context("could not send the fence")?;
            thread::sleep(Duration::from_millis(5));
            Ok((self.matching(is_fence).len() > before).then_some(()))
        })
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It cannot panic; and were it so, the test has its result already.
            thread.join().ok();
        }
    }
}

fn lock(packets: &Mutex<Vec<Packet>>) -> std::sync::MutexGuard<'_, Vec<Packet>> {
    packets.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A packet socket of the calling thread's namespace, for all of its interfaces.
fn packet_socket() -> io::Result<OwnedFd> {
    let every_protocol = i32::from((libc::ETH_P_ALL as u16).to_be());
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
    // SAFETY: socket(2) takes no pointer, and the descriptor it returns is nobody else's.
    let socket = unsafe {
        let fd = libc::socket(libc::AF_PACKET, kind, every_protocol);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        OwnedFd::from_raw_fd(fd)
    };
    // 32 MiB, as root: no burst of a test fills it.
    set_option(&socket, libc::SO_RCVBUFFORCE, &(32_i32 << 20))?;
    set_option(&socket, libc::SO_RCVTIMEO, &TICK)?;
    Ok(socket)
}

fn set_option<T>(socket: &OwnedFd, name: i32, value: &T) -> io::Result<()> {
    let length = mem::size_of::<T>() as libc::socklen_t;
    let pointer = std::ptr::from_ref(value).cast();
    // SAFETY: the pointer and the length are those of `value`, which outlives the call.
    let result =
        unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, name, pointer, length) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// One frame that came in from outside; `None` after a tick without.
fn receive(socket: &OwnedFd) -> Option<Packet> {
    let mut frame = vec![0_u8; 65_536];
    // SAFETY: a sockaddr_ll of zeros is valid.
    let mut from: libc::sockaddr_ll = unsafe { mem::zeroed() };
    let mut from_length = mem::size_of_val(&from) as libc::socklen_t;
    // SAFETY: both buffers are as long as is said and outlive the call.
    let length = unsafe {
        libc::recvfrom(
            socket.as_raw_fd(),
            frame.as_mut_ptr().cast(),
            frame.len(),
            0,
            (&raw mut from).cast(),
            &raw mut from_length,
        )
    };
    frame.truncate(usize::try_from(length).ok()?);
    let is_loopback = from.sll_hatype == libc::ARPHRD_LOOPBACK;
    if from.sll_pkttype == libc::PACKET_OUTGOING || is_loopback {
        return None;
    }
    Some(Packet::parse(frame))
}

/// Frames that the kernel had no room for since the last call (packet(7), PACKET_STATISTICS).
fn lost(socket: &OwnedFd) -> io::Result<u32> {
    // tp_packets and tp_drops.
    let mut statistics = [0_u32; 2];
    let mut length = mem::size_of_val(&statistics) as libc::socklen_t;
    // SAFETY: the buffer is as long as is said and outlives the call.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_STATISTICS,
            statistics.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if result == 0 {
        Ok(statistics[1])
    } else {
        Err(io::Error::last_os_error())
    }
}
