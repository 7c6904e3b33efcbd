//! A pair of virtual links in a network namespace that ends with the thread that made it.

use std::{io, thread};

use rustix::{
    net::{AddressFamily, RecvFlags, SendFlags, SocketType, recv, send, socket},
    thread::UnshareFlags,
};

/// The host side's name.
pub(super) const HOST: &str = "egress-doctor0";
/// The endpoint side's name.
const ENDPOINT: &str = "egress-doctor1";

/// RTM_NEWLINK, IFLA_IFNAME, IFLA_LINKINFO, IFLA_INFO_KIND, IFLA_INFO_DATA, VETH_INFO_PEER
/// (linux/rtnetlink.h, if_link.h, veth.h).
const RTM_NEWLINK: u16 = 16;
const IFLA_IFNAME: u16 = 3;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;
/// NLM_F_REQUEST, NLM_F_ACK, NLM_F_EXCL, NLM_F_CREATE (linux/netlink.h).
const FLAGS: u16 = 0x1 | 0x4 | 0x200 | 0x400;
/// Bytes of a `nlmsghdr`, and of an `ifinfomsg`.
const HEADER: usize = 16;

/// Why there is no pair.
#[derive(Debug)]
pub(super) enum Failure {
    /// No namespace.
    Namespace(io::Error),
    /// No links in it.
    Links(io::Error),
}

/// Calls `then` in a network namespace of its own that has the pair.
pub(super) fn with_pair<T: Send>(then: impl FnOnce() -> T + Send) -> Result<T, Failure> {
    let within = || {
        // SAFETY: this thread alone leaves the namespace, and it opens nothing that others use.
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }
            .map_err(|error| Failure::Namespace(error.into()))?;
        add_pair().map_err(Failure::Links)?;
        Ok(then())
    };
    thread::scope(|scope| {
        let worker = thread::Builder::new().spawn_scoped(scope, within);
        let worker = worker.map_err(Failure::Namespace)?;
        let panicked = |_panic| Failure::Namespace(io::Error::other("the thread panicked"));
        worker.join().map_err(panicked)?
    })
}

fn add_pair() -> io::Result<()> {
    // No protocol is 0, NETLINK_ROUTE.
    let socket = socket(AddressFamily::NETLINK, SocketType::RAW, None)?;
    let message = new_link();
    send(&socket, &message, SendFlags::empty())?;
    let mut answer = [0; 512];
    let (length, _) = recv(&socket, &mut answer[..], RecvFlags::empty())?;
    // A `nlmsgerr`: the header, then the negative error or 0.
    match answer[..length].get(HEADER..HEADER + 4) {
        Some(&[a, b, c, d]) => match i32::from_ne_bytes([a, b, c, d]) {
            0 => Ok(()),
            error => Err(io::Error::from_raw_os_error(-error)),
        },
        Some(_) | None => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

fn new_link() -> Vec<u8> {
    let mut peer = vec![0; HEADER];
    peer.extend(attribute(IFLA_IFNAME, &name(ENDPOINT)));
    let data = attribute(VETH_INFO_PEER, &peer);
    let mut info = attribute(IFLA_INFO_KIND, b"veth");
    info.extend(attribute(IFLA_INFO_DATA, &data));
    let mut body = vec![0; HEADER];
    body.extend(attribute(IFLA_IFNAME, &name(HOST)));
    body.extend(attribute(IFLA_LINKINFO, &info));
    let mut message = Vec::with_capacity(HEADER + body.len());
    message.extend(((HEADER + body.len()) as u32).to_ne_bytes());
    message.extend(RTM_NEWLINK.to_ne_bytes());
    message.extend(FLAGS.to_ne_bytes());
    message.extend([0; 8]);
    message.extend(body);
    message
}

fn name(name: &str) -> Vec<u8> {
    [name.as_bytes(), &[0]].concat()
}

/// Length, type, value, padding to four bytes.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = ((value.len() + 4) as u16).to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}
