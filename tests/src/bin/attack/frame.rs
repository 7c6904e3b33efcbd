//! Frames by packet sockets, which no cgroup hook sees.

use std::{
    ffi::CString,
    io, mem,
    net::IpAddr,
    os::fd::{AsRawFd as _, OwnedFd},
    ptr,
};

use crate::{
    socket::{PAGE, done, open_of, page, set},
    xdp,
};

/// A whole frame of our making, Ethernet header included: `SOCK_RAW`.
pub(crate) fn send(interface: &str, next_hop: &str, to: IpAddr, packet: &[u8]) -> io::Result<()> {
    let frame = whole(interface, next_hop, to, packet)?;
    transmit(libc::SOCK_RAW, interface, next_hop, to, &frame)
}

/// The same past the interface's queue.
pub(crate) fn send_unqueued(
    interface: &str,
    next_hop: &str,
    to: IpAddr,
    packet: &[u8],
) -> io::Result<()> {
    let frame = whole(interface, next_hop, to, packet)?;
    let (socket, address) = open(libc::SOCK_RAW, interface, next_hop, to)?;
    set(&socket, libc::SOL_PACKET, libc::PACKET_QDISC_BYPASS, 1_i32)?;
    send_on(&socket, &address, &frame)
}

/// The same from memory that is shared with the kernel: `PACKET_TX_RING`.
pub(crate) fn send_by_ring(
    interface: &str,
    next_hop: &str,
    to: IpAddr,
    packet: &[u8],
) -> io::Result<()> {
    let frame = whole(interface, next_hop, to, packet)?;
    let (socket, address) = open(libc::SOCK_RAW, interface, next_hop, to)?;
    let ring = libc::tpacket_req {
        tp_block_size: PAGE as u32,
        tp_block_nr: 1,
        tp_frame_size: PAGE as u32 / 2,
        tp_frame_nr: 2,
    };
    set(&socket, libc::SOL_PACKET, libc::PACKET_TX_RING, ring)?;
    let slot = page(Some(&socket), 0)?;
    // SAFETY: a slot is half a page: a header, which zeros are valid for, then the frame.
    unsafe {
        let mut header: libc::tpacket_hdr = mem::zeroed();
        header.tp_len = frame.len() as u32;
        header.tp_status = libc::TP_STATUS_SEND_REQUEST.into();
        let bytes = slot.add(mem::size_of_val(&header));
        ptr::copy_nonoverlapping(frame.as_ptr(), bytes, frame.len());
        slot.cast::<libc::tpacket_hdr>().write_volatile(header);
    }
    send_on(&socket, &address, &[])
}

/// The same, to be cut into datagrams of this many bytes behind the socket: a virtio-net header.
pub(crate) fn send_segments(
    interface: &str,
    next_hop: &str,
    to: IpAddr,
    packet: &[u8],
    each: u16,
) -> io::Result<()> {
    // `struct virtio_net_hdr`: a checksum is to be filled in, six bytes into what UDP begins with;
    // VIRTIO_NET_HDR_GSO_UDP_L4.
    let start: u16 = if to.is_ipv4() { 34 } else { 54 };
    let mut bytes = vec![1, 5];
    for number in [start + 8, each, start, 6] {
        bytes.extend(number.to_ne_bytes());
    }
    bytes.extend(whole(interface, next_hop, to, packet)?);
    let (socket, address) = open(libc::SOCK_RAW, interface, next_hop, to)?;
    set(&socket, libc::SOL_PACKET, libc::PACKET_VNET_HDR, 1_i32)?;
    send_on(&socket, &address, &bytes)
}

/// The same by AF_XDP.
pub(crate) fn send_by_xdp(
    interface: &str,
    next_hop: &str,
    to: IpAddr,
    packet: &[u8],
) -> io::Result<()> {
    let frame = whole(interface, next_hop, to, packet)?;
    xdp::send(index(interface)? as u32, &frame)
}

fn whole(interface: &str, next_hop: &str, to: IpAddr, packet: &[u8]) -> io::Result<Vec<u8>> {
    let mut frame = Vec::from(mac(next_hop)?);
    frame.extend(own_mac(interface)?);
    frame.extend(ethertype(to).to_be_bytes());
    frame.extend(packet);
    Ok(frame)
}

/// Whatever bytes, as they are.
pub(crate) fn send_bytes(interface: &str, hex: &str) -> io::Result<()> {
    let wrong = || io::Error::other("these are no bytes in hexadecimal");
    let pairs = (0..hex.len()).step_by(2).map(|at| hex.get(at..at + 2));
    let bytes = pairs.map(|pair| u8::from_str_radix(pair?, 16).ok());
    let bytes: Vec<u8> = bytes.collect::<Option<_>>().ok_or_else(wrong)?;
    let any = std::net::Ipv4Addr::UNSPECIFIED.into();
    transmit(libc::SOCK_RAW, interface, "00:00:00:00:00:00", any, &bytes)
}

/// The kernel makes the Ethernet header: `SOCK_DGRAM`.
pub(crate) fn send_cooked(
    interface: &str,
    next_hop: &str,
    to: IpAddr,
    packet: &[u8],
) -> io::Result<()> {
    transmit(libc::SOCK_DGRAM, interface, next_hop, to, packet)
}

fn transmit(
    kind: i32,
    interface: &str,
    next_hop: &str,
    to: IpAddr,
    bytes: &[u8],
) -> io::Result<()> {
    let (socket, address) = open(kind, interface, next_hop, to)?;
    send_on(&socket, &address, bytes)
}

fn open(
    kind: i32,
    interface: &str,
    next_hop: &str,
    to: IpAddr,
) -> io::Result<(OwnedFd, libc::sockaddr_ll)> {
    // SAFETY: a sockaddr_ll of zeros is valid.
    let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = ethertype(to).to_be();
    address.sll_ifindex = index(interface)?;
    address.sll_halen = 6;
    address.sll_addr[..6].copy_from_slice(&mac(next_hop)?);
    Ok((open_of(libc::AF_PACKET, kind, 0)?, address))
}

fn send_on(socket: &OwnedFd, address: &libc::sockaddr_ll, bytes: &[u8]) -> io::Result<()> {
    // SAFETY: bytes and address outlive the call and are as long as is said.
    done(unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            bytes.as_ptr().cast(),
            bytes.len(),
            0,
            ptr::from_ref(address).cast(),
            mem::size_of_val(address) as libc::socklen_t,
        )
    })
}

fn ethertype(to: IpAddr) -> u16 {
    match to {
        IpAddr::V4(_) => libc::ETH_P_IP as u16,
        IpAddr::V6(_) => libc::ETH_P_IPV6 as u16,
    }
}

fn index(interface: &str) -> io::Result<i32> {
    let name = CString::new(interface)?;
    // SAFETY: a C string that outlives the call.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => Err(io::Error::last_os_error()),
        index => i32::try_from(index).map_err(io::Error::other),
    }
}

/// The interface's own address: SIOCGIFHWADDR, since /sys shows another namespace's.
fn own_mac(interface: &str) -> io::Result<[u8; 6]> {
    // SAFETY: an ifreq of zeros is valid; the kernel fills
    // in the union's hardware address for this request.
    unsafe {
        let mut request: libc::ifreq = mem::zeroed();
        for (to, from) in request.ifr_name.iter_mut().zip(interface.bytes().take(15)) {
            *to = from as libc::c_char;
        }
        let socket = open_of(libc::AF_INET, libc::SOCK_DGRAM, 0)?;
        let result = libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFHWADDR, &raw mut request);
        done(result as isize)?;
        let data = request.ifr_ifru.ifru_hwaddr.sa_data;
        Ok(std::array::from_fn(|i| data[i] as u8))
    }
}

fn mac(text: &str) -> io::Result<[u8; 6]> {
    let wrong = || io::Error::other(format!("{text} is no hardware address"));
    let mut address = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut address {
        let part = parts.next().ok_or_else(wrong)?;
        *byte = u8::from_str_radix(part, 16).map_err(|_not_hexadecimal| wrong())?;
    }
    Ok(address)
}
