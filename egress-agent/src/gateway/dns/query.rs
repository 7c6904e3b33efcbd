//! Queries and answers as bytes. Pure: who asks, and whether he may, is the affair of `answer`.

use std::net::IpAddr;

use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, Query, ResponseCode},
    rr::{Name, RData, Record},
};

use crate::policy::host::HostName;

/// Bytes of a header (RFC 1035 section 4.1.1).
const HEADER: usize = 12;
/// Without EDNS (RFC 1035 section 2.3.4).
const UDP_PLAIN: usize = 512;
/// What is announced and the most that is sent over UDP: no fragments (DNS flag day 2020).
const UDP_EDNS: u16 = 1_232;

/// What came.
#[derive(Debug)]
pub enum Received {
    /// An answer, which gets none.
    NotQuery,
    /// Too short to be answered, or an unreadable answer.
    Unreadable,
    /// Not a query that can be answered; the reply says why.
    Refused(Reply),
    /// One question, and the reply to it, still empty.
    Question(Query, Reply),
}

/// A reply in the making.
#[derive(Debug)]
pub struct Reply {
    message: Message,
    /// The bytes that the client takes over UDP.
    limit: usize,
}

/// Reads a query.
pub fn read(bytes: &[u8]) -> Received {
    let Ok(query) = Message::from_vec(bytes) else {
        return form_error(bytes).map_or(Received::Unreadable, Received::Refused);
    };
    if query.metadata.message_type != MessageType::Query {
        return Received::NotQuery;
    }
    let mut reply = Reply::to(&query);
    match check(&query) {
        Ok(question) => Received::Question(question.clone(), reply),
        Err(code) => {
            reply.set_code(code);
            Received::Refused(reply)
        }
    }
}

/// For bytes that cannot be read beyond their header.
fn form_error(bytes: &[u8]) -> Option<Reply> {
    let header = bytes.get(..HEADER)?;
    // The QR bit: never answer an answer.
    if header[2] & 0x80 != 0 {
        return None;
    }
    let id = u16::from_be_bytes([header[0], header[1]]);
    let mut message = Message::response(id, OpCode::Query);
    message.metadata.response_code = ResponseCode::FormErr;
    Some(Reply {
        message,
        limit: UDP_PLAIN,
    })
}

/// Exactly one question and nothing else that asks for something.
fn check(query: &Message) -> Result<&Query, ResponseCode> {
    if query.metadata.op_code != OpCode::Query {
        return Err(ResponseCode::NotImp);
    }
    if query.edns.as_ref().is_some_and(|edns| edns.version() != 0) {
        return Err(ResponseCode::BADVERS);
    }
    let sections = query.answers.len() + query.authorities.len() + query.additionals.len();
    match (query.queries.as_slice(), sections) {
        ([question], 0) => Ok(question),
        _ => Err(ResponseCode::FormErr),
    }
}

impl Reply {
    fn to(query: &Message) -> Self {
        let mut message = Message::response(query.metadata.id, query.metadata.op_code);
        message.metadata.recursion_desired = query.metadata.recursion_desired;
        message.metadata.recursion_available = true;
        message.add_queries(query.queries.iter().take(1).cloned());
        let mut limit = UDP_PLAIN;
        if let Some(edns) = &query.edns {
            limit = edns.max_payload().clamp(512, UDP_EDNS).into();
            let mut edns = Edns::new();
            edns.set_max_payload(UDP_EDNS);
            message.set_edns(edns);
        }
        Self { message, limit }
    }

    /// Says why there is no answer.
    pub fn set_code(&mut self, code: ResponseCode) {
        self.message.metadata.response_code = code;
    }

    /// Adds an address of the name that was asked for.
    pub fn add(&mut self, question: &Query, address: IpAddr, ttl: u32) {
        let data = match address {
            IpAddr::V4(address) => RData::A(address.into()),
            IpAddr::V6(address) => RData::AAAA(address.into()),
        };
        let record = Record::from_rdata(question.name.clone(), ttl, data);
        self.message.add_answer(record);
    }

    /// As a datagram, truncated where it is too long.
    pub fn datagram(&self) -> Option<Vec<u8>> {
        let bytes = self.message.to_vec().ok()?;
        match bytes.len() <= self.limit {
            true => Some(bytes),
            false => self.message.truncate().to_vec().ok(),
        }
    }

    /// As a message over TCP, without its length.
    pub fn message(&self) -> Option<Vec<u8>> {
        self.message.to_vec().ok()
    }
}

/// Label by label, so that a dot or NUL within one is not taken for something else.
///
/// # Errors
/// The reason's name, where it is no host name.
pub fn host_name(name: &Name) -> Result<HostName, &'static str> {
    let mut wire = Vec::with_capacity(name.len());
    for label in name.iter() {
        if label.contains(&b'.') {
            return Err("name_character");
        }
        wire.extend_from_slice(label);
        wire.push(b'.');
    }
    HostName::from_wire(&wire).map_err(|error| error.reason())
}
