//! A frame by AF_XDP, which goes past queues and packet sockets.

use std::{
    io, mem,
    os::fd::{AsRawFd as _, OwnedFd},
    ptr, thread,
    time::Duration,
};

use crate::socket::{PAGE, done, open_of, page, set};

/// Where the ring of frames to send is mapped: XDP_PGOFF_TX_RING (linux/if_xdp.h).
const SENDING: i64 = 0x8000_0000;

/// Has the kernel copy it, as it does for every device.
pub(crate) fn send(interface: u32, frame: &[u8]) -> io::Result<()> {
    let socket = open_of(libc::AF_XDP, libc::SOCK_RAW, 0)?;
    let memory = page(None, 0)?;
    // SAFETY: a frame is shorter than a page.
    unsafe { ptr::copy_nonoverlapping(frame.as_ptr(), memory, frame.len().min(PAGE)) };
    let region = libc::xdp_umem_reg {
        addr: memory.addr() as u64,
        len: PAGE as u64,
        chunk_size: PAGE as u32,
        headroom: 0,
        flags: 0,
        tx_metadata_len: 0,
    };
    set(&socket, libc::SOL_XDP, libc::XDP_UMEM_REG, region)?;
    for ring in [
        libc::XDP_UMEM_FILL_RING,
        libc::XDP_UMEM_COMPLETION_RING,
        libc::XDP_TX_RING,
    ] {
        set(&socket, libc::SOL_XDP, ring, 1_u32)?;
    }
    let address = libc::sockaddr_xdp {
        sxdp_family: libc::AF_XDP as u16,
        sxdp_flags: libc::XDP_COPY,
        sxdp_ifindex: interface,
        sxdp_queue_id: 0,
        sxdp_shared_umem_fd: 0,
    };
    bind(&socket, &address)?;
    let offsets = offsets(&socket)?;
    let ring = page(Some(&socket), SENDING)?;
    let descriptor = libc::xdp_desc {
        addr: 0,
        len: frame.len() as u32,
        options: 0,
    };
    // SAFETY: a ring of one entry is within a page, where the kernel says.
    unsafe {
        let entry = ring.add(offsets.tx.desc as usize);
        entry.cast::<libc::xdp_desc>().write_volatile(descriptor);
        let producer = ring.add(offsets.tx.producer as usize);
        producer.cast::<u32>().write_volatile(1);
        let (fd, none) = (socket.as_raw_fd(), ptr::null::<libc::sockaddr>());
        done(libc::sendto(
            fd,
            none.cast(),
            0,
            libc::MSG_DONTWAIT,
            none.cast(),
            0,
        ))
    }
}

/// The kernel gives back a queue some time after the socket that had it was closed.
fn bind(socket: &OwnedFd, address: &libc::sockaddr_xdp) -> io::Result<()> {
    const ATTEMPTS: u32 = 200;
    let length = mem::size_of_val(address) as libc::socklen_t;
    let mut result = Ok(());
    for _ in 0..ATTEMPTS {
        // SAFETY: the address outlives the call and is as long as is said.
        let bound =
            unsafe { libc::bind(socket.as_raw_fd(), ptr::from_ref(address).cast(), length) };
        result = done(bound as isize);
        match &result {
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {}
            _ => break,
        }
        thread::sleep(Duration::from_millis(5));
    }
    result
}

fn offsets(socket: &OwnedFd) -> io::Result<libc::xdp_mmap_offsets> {
    // SAFETY: offsets of zeros are valid, and as long as is said.
    unsafe {
        let mut offsets: libc::xdp_mmap_offsets = mem::zeroed();
        let mut length = mem::size_of_val(&offsets) as libc::socklen_t;
        let result = libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_XDP,
            libc::XDP_MMAP_OFFSETS,
            (&raw mut offsets).cast(),
            &raw mut length,
        );
        done(result as isize)?;
        Ok(offsets)
    }
}
