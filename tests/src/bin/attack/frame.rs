//! Frames by packet sockets, which no cgroup hook sees.

use std::{
    ffi::CString,
    io, mem,
    net::IpAddr,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
};

/// A whole frame of our making, Ethernet header included: `SOCK_RAW`.
pub(crate) fn send(interface: &str, next_hop: &str, to: IpAddr, packet: &[u8]) -> io::Result<()> {
    let mut frame = Vec::from(mac(next_hop)?);
    frame.extend(own_mac(interface)?);
    frame.extend(ethertype(to).to_be_bytes());
    frame.extend(packet);
    transmit(libc::SOCK_RAW, interface, next_hop, to, &frame)
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
    // SAFETY: socket(2) takes no pointer, and the descriptor it returns is nobody else's.
    let socket = unsafe {
        let fd = libc::socket(libc::AF_PACKET, kind | libc::SOCK_CLOEXEC, 0);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        OwnedFd::from_raw_fd(fd)
    };
    // SAFETY: a sockaddr_ll of zeros is valid.
    let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = ethertype(to).to_be();
    address.sll_ifindex = index(interface)?;
    address.sll_halen = 6;
    address.sll_addr[..6].copy_from_slice(&mac(next_hop)?);
    // SAFETY: bytes and address outlive the call and are as long as is said.
    let sent = unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            bytes.as_ptr().cast(),
            bytes.len(),
            0,
            (&raw const address).cast(),
            mem::size_of_val(&address) as libc::socklen_t,
        )
    };
    if sent < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
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
    // SAFETY: an ifreq of zeros is valid; the descriptor is closed at the end; the kernel fills
    // in the union's hardware address for this request.
    unsafe {
        let mut request: libc::ifreq = mem::zeroed();
        for (to, from) in request.ifr_name.iter_mut().zip(interface.bytes().take(15)) {
            *to = from as libc::c_char;
        }
        let fd = libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        let socket = OwnedFd::from_raw_fd(fd);
        if libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFHWADDR, &raw mut request) != 0 {
            return Err(io::Error::last_os_error());
        }
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
