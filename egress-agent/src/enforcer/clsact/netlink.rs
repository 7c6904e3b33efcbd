//! The few messages of rtnetlink(7) for qdiscs and filters. By hand, since what other programs have
//! on an interface must not be able to confuse us: of an answer, only what is needed is read.

use std::{ffi::CStr, io};

use rtnetlink::sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

/// What is asked for: the type of a message (linux/rtnetlink.h).
#[derive(Clone, Copy)]
#[repr(u16)]
pub(super) enum Request {
    NewQdisc = 36,
    DeleteQdisc = 37,
    GetQdiscs = 38,
    NewFilter = 44,
    DeleteFilter = 45,
    GetFilters = 46,
}

/// Where in an interface's tree of qdiscs (TC_H_CLSACT and the like, linux/pkt_sched.h).
#[derive(Clone, Copy)]
#[repr(u32)]
pub(super) enum Parent {
    Any = 0,
    Qdisc = 0xffff_fff1,
    Ingress = 0xffff_fff2,
    Egress = 0xffff_fff3,
}

/// The handle of the qdisc.
pub(super) const QDISC_HANDLE: u32 = 0xffff_0000;

/// A filter's place, `tcm_info`: priority 1, the first, in the upper half; in the lower one the
/// protocol in network byte order, ETH_P_ALL.
pub(super) const FIRST: u32 = (1 << 16) | 0x0003_u16.to_be() as u32;

// Flags of a request (linux/netlink.h): NLM_F_REQUEST | NLM_F_ACK, which go with each; NLM_F_CREATE
// | NLM_F_EXCL; NLM_F_REPLACE; NLM_F_DUMP.
const REQUEST: u16 = 0x1 | 0x4;
pub(super) const CREATE: u16 = 0x400 | 0x200;
pub(super) const REPLACE: u16 = 0x100;
pub(super) const DUMP: u16 = 0x300;

// Types of answers: NLMSG_ERROR, which without an error acknowledges, and NLMSG_DONE.
const ERROR: u16 = 2;
const DONE: u16 = 3;

/// Bytes of a `nlmsghdr`, and of a `tcmsg`.
const HEADER: usize = 16;
const TCMSG: usize = 20;

// Attributes: TCA_KIND, TCA_OPTIONS; of options TCA_BPF_FD, TCA_BPF_NAME, TCA_BPF_FLAGS, TCA_BPF_ID
// (linux/rtnetlink.h, linux/pkt_cls.h).
const KIND: u16 = 1;
const OPTIONS: u16 = 2;
const BPF_FD: u16 = 6;
const BPF_NAME: u16 = 7;
const BPF_FLAGS: u16 = 8;
const BPF_ID: u16 = 11;

/// TCA_BPF_FLAG_ACT_DIRECT: what the program returns is the verdict.
const DIRECT_ACTION: u32 = 1;

/// The upper two bits of an attribute's type are flags (NLA_TYPE_MASK).
const TYPE_MASK: u16 = 0x3fff;

/// A `tcmsg` with attributes.
pub(super) struct Message(Vec<u8>);

impl Message {
    pub(super) fn new(interface: u32, parent: Parent, handle: u32, info: u32) -> Self {
        // The family, unspecified, and padding.
        let fields = [0, interface, handle, parent as u32, info];
        Self(
            fields
                .iter()
                .flat_map(|field| field.to_ne_bytes())
                .collect(),
        )
    }

    pub(super) fn kind(mut self, kind: &str) -> Self {
        put(&mut self.0, KIND, &string(kind));
        self
    }

    /// A filter's program, by its descriptor, with a name of the filter's.
    pub(super) fn bpf(mut self, program: i32, name: &str) -> Self {
        let mut options = Vec::new();
        put(&mut options, BPF_FD, &program.to_ne_bytes());
        put(&mut options, BPF_NAME, &string(name));
        put(&mut options, BPF_FLAGS, &DIRECT_ACTION.to_ne_bytes());
        put(&mut self.0, OPTIONS, &options);
        self
    }
}

fn string(text: &str) -> Vec<u8> {
    [text.as_bytes(), &[0]].concat()
}

/// Appends an attribute: length, type, value, padding to four bytes.
fn put(bytes: &mut Vec<u8>, kind: u16, value: &[u8]) {
    bytes.extend((value.len() as u16 + 4).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

/// A qdisc or filter, as far as it matters here.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) interface: u32,
    pub(super) handle: u32,
    pub(super) info: u32,
    pub(super) kind: String,
    /// Of a BPF filter.
    pub(super) name: Option<String>,
    /// Of its program.
    pub(super) program: Option<u32>,
}

/// Sends a request in the calling thread's network namespace and waits for the end of the answers.
pub(super) fn request(request: Request, flags: u16, message: &Message) -> io::Result<Vec<Answer>> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let mut bytes = ((HEADER + message.0.len()) as u32).to_ne_bytes().to_vec();
    bytes.extend((request as u16).to_ne_bytes());
    bytes.extend((REQUEST | flags).to_ne_bytes());
    // Sequence number and port: the socket is for this request alone.
    bytes.extend([0; 8]);
    bytes.extend(&message.0);
    socket.send(&bytes, 0)?;
    let mut answers = Vec::new();
    loop {
        let (datagram, _kernel) = socket.recv_from_full()?;
        if read(&datagram, &mut answers)? {
            return Ok(answers);
        }
    }
}

/// Reads the messages of a datagram. True where the last one was among them.
fn read(mut datagram: &[u8], answers: &mut Vec<Answer>) -> io::Result<bool> {
    while let Some(header) = datagram.get(..HEADER) {
        let length = number(header, 0)? as usize;
        let kind = u16::from_ne_bytes([header[4], header[5]]);
        let body = datagram
            .get(HEADER..length)
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        match kind {
            ERROR => {
                return match number(body, 0)? as i32 {
                    0 => Ok(true),
                    error => Err(io::Error::from_raw_os_error(-error)),
                };
            }
            DONE => return Ok(true),
            _answer => answers.push(answer(body)?),
        }
        let next = length.next_multiple_of(4).min(datagram.len());
        datagram = &datagram[next..];
    }
    Ok(false)
}

fn answer(body: &[u8]) -> io::Result<Answer> {
    let attributes = body.get(TCMSG..).ok_or(io::ErrorKind::UnexpectedEof)?;
    let kind = find(attributes, KIND).and_then(text).unwrap_or_default();
    let options = find(attributes, OPTIONS);
    Ok(Answer {
        interface: number(body, 4)?,
        handle: number(body, 8)?,
        info: number(body, 16)?,
        kind,
        name: options.and_then(|options| text(find(options, BPF_NAME)?)),
        program: options.and_then(|options| number(find(options, BPF_ID)?, 0).ok()),
    })
}

/// The value of the first attribute of this type.
fn find(mut attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let header = attributes.get(..4)?;
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let value = attributes.get(4..length)?;
        if u16::from_ne_bytes([header[2], header[3]]) & TYPE_MASK == wanted {
            return Some(value);
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
}

fn text(value: &[u8]) -> Option<String> {
    let text = CStr::from_bytes_until_nul(value).ok()?;
    text.to_str().ok().map(str::to_owned)
}

fn number(bytes: &[u8], at: usize) -> io::Result<u32> {
    let bytes = bytes
        .get(at..at + 4)
        .and_then(|bytes| bytes.try_into().ok());
    let bytes = bytes.ok_or(io::ErrorKind::UnexpectedEof)?;
    Ok(u32::from_ne_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn datagram(kind: u16, body: &[u8]) -> Vec<u8> {
        let mut bytes = ((HEADER + body.len()) as u32).to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend([0; 10]);
        bytes.extend(body);
        bytes
    }

    #[test]
    fn what_is_written_is_read() {
        let message = Message::new(7, Parent::Egress, 3, FIRST)
            .kind("bpf")
            .bpf(9, "a name");
        let mut bytes = datagram(44, &message.0);
        bytes.extend(datagram(DONE, &[0; 4]));
        let mut answers = Vec::new();
        assert!(read(&bytes, &mut answers).unwrap());
        let expected = Answer {
            interface: 7,
            handle: 3,
            info: FIRST,
            kind: "bpf".to_owned(),
            name: Some("a name".to_owned()),
            program: None,
        };
        assert_eq!(answers, [expected]);
    }

    #[test]
    fn errors_and_acknowledgements() {
        let code = (-libc::EEXIST).to_ne_bytes();
        let error = read(&datagram(ERROR, &code), &mut Vec::new()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert!(read(&datagram(ERROR, &[0; 4]), &mut Vec::new()).unwrap());
    }

    #[test]
    fn whatever_is_cut_off_is_an_error_or_has_no_end() {
        let message = Message::new(7, Parent::Egress, 3, FIRST)
            .kind("bpf")
            .bpf(9, "a name");
        let whole = datagram(44, &message.0);
        for length in 0..whole.len() {
            let end = read(&whole[..length], &mut Vec::new());
            assert!(!matches!(end, Ok(true)), "{length}");
        }
    }
}
