//! From a query to its answer.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use egress_common::origin::Origin;
use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, Query, ResponseCode},
    rr::{DNSClass, Name, RData, Record, RecordType},
};

use crate::{
    gateway::{
        resolve::{Answer, Family, ResolveError},
        table::EndpointState,
        worker::Worker,
    },
    policy::{host::HostName, rule::Mode},
    telemetry::record::{Attempt, DnsRefusal, EndpointRef, Event, ProcessRef, Protocol, Verdict},
};

/// Bytes of a header (RFC 1035 section 4.1.1).
const HEADER: usize = 12;
/// Without EDNS (RFC 1035 section 2.3.4).
const UDP_PLAIN: usize = 512;
/// What is announced and the most that is sent over UDP: no fragments (DNS flag day 2020).
const UDP_EDNS: u16 = 1_232;
/// Seconds: `localhost` never changes.
const LOCALHOST_TTL: u32 = 3_600;

/// The answer to a datagram, truncated where it is too long; `None` where none is due.
pub async fn udp(worker: &Worker, origin: &Origin, query: &[u8]) -> Option<Vec<u8>> {
    let (answer, limit) = respond(worker, origin, query, Protocol::Udp).await?;
    let bytes = answer.to_vec().ok()?;
    match bytes.len() <= limit {
        true => Some(bytes),
        false => answer.truncate().to_vec().ok(),
    }
}

/// The answer to a query over TCP; `None` where none is due.
pub async fn tcp(worker: &Worker, origin: &Origin, query: &[u8]) -> Option<Vec<u8>> {
    let (answer, _) = respond(worker, origin, query, Protocol::Tcp).await?;
    answer.to_vec().ok()
}

/// What is done with a question.
enum Outcome {
    Answers(Vec<Answer>),
    Empty,
    Code(ResponseCode),
}

/// The answer, and the bytes that the client takes over UDP.
async fn respond(
    worker: &Worker,
    origin: &Origin,
    bytes: &[u8],
    protocol: Protocol,
) -> Option<(Message, usize)> {
    let counters = &worker.shared.counters;
    let query = match Message::from_vec(bytes) {
        Ok(query) => query,
        Err(_malformed) => {
            counters.add("dns_malformed");
            return form_error(bytes).map(|answer| (answer, UDP_PLAIN));
        }
    };
    if query.metadata.message_type != MessageType::Query {
        counters.add("dns_not_a_query");
        return None;
    }
    let mut answer = empty(&query);
    let limit = match &query.edns {
        Some(edns) => usize::from(edns.max_payload().clamp(512, UDP_EDNS)),
        None => UDP_PLAIN,
    };
    match check(&query) {
        Err(code) => {
            counters.add("dns_malformed");
            answer.metadata.response_code = code;
        }
        Ok(question) => match decide(worker, origin, question, protocol).await {
            Outcome::Answers(answers) => add(&mut answer, question, &answers),
            Outcome::Empty => {}
            Outcome::Code(code) => answer.metadata.response_code = code,
        },
    }
    Some((answer, limit))
}

/// For bytes that cannot be read beyond their header.
fn form_error(bytes: &[u8]) -> Option<Message> {
    let header = bytes.get(..HEADER)?;
    // The QR bit: never answer an answer.
    if header[2] & 0x80 != 0 {
        return None;
    }
    let id = u16::from_be_bytes([header[0], header[1]]);
    let mut answer = Message::response(id, OpCode::Query);
    answer.metadata.response_code = ResponseCode::FormErr;
    Some(answer)
}

fn empty(query: &Message) -> Message {
    let mut answer = Message::response(query.metadata.id, query.metadata.op_code);
    answer.metadata.recursion_desired = query.metadata.recursion_desired;
    answer.metadata.recursion_available = true;
    answer.add_queries(query.queries.iter().take(1).cloned());
    if query.edns.is_some() {
        let mut edns = Edns::new();
        edns.set_max_payload(UDP_EDNS);
        answer.set_edns(edns);
    }
    answer
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

async fn decide(worker: &Worker, origin: &Origin, question: &Query, protocol: Protocol) -> Outcome {
    let table = worker.shared.table.borrow().clone();
    let Some(endpoint) = table.endpoint(origin.endpoint) else {
        refuse(worker, origin, None, question, protocol, "unknown_endpoint");
        return Outcome::Code(ResponseCode::Refused);
    };
    let reason = match wanted(endpoint, question) {
        Ok(Wanted::Localhost(answer)) => return answer,
        Ok(Wanted::Nothing) => return Outcome::Empty,
        Ok(Wanted::Addresses(name, family)) => {
            worker.shared.counters.add("dns_allowed");
            return resolve(worker, &name, family).await;
        }
        Err(reason) => reason,
    };
    refuse(worker, origin, Some(endpoint), question, protocol, reason);
    match (endpoint.mode, audited(question)) {
        (Mode::Audit, Some((name, family))) => resolve(worker, &name, family).await,
        (Mode::Audit, None) | (Mode::Enforce, _) => Outcome::Code(ResponseCode::Refused),
    }
}

enum Wanted {
    Localhost(Outcome),
    /// A type that browsers ask for beside the address.
    Nothing,
    Addresses(HostName, Family),
}

fn wanted(endpoint: &EndpointState, question: &Query) -> Result<Wanted, &'static str> {
    if question.query_class != DNSClass::IN {
        return Err("dns_class_not_allowed");
    }
    let name = host_name(&question.name)?;
    let family = family(question.query_type);
    if name.is_localhost() {
        return Ok(Wanted::Localhost(localhost(family)));
    }
    if !endpoint.policy.allows_name(&name) {
        return Err("host_not_allowed");
    }
    match (question.query_type, family) {
        (_, Some(family)) => Ok(Wanted::Addresses(name, family)),
        (RecordType::HTTPS | RecordType::SVCB, None) => Ok(Wanted::Nothing),
        (_, None) => Err("dns_type_not_allowed"),
    }
}

/// In audit mode addresses of any name are looked up; nothing else can be.
fn audited(question: &Query) -> Option<(HostName, Family)> {
    if question.query_class != DNSClass::IN {
        return None;
    }
    host_name(&question.name)
        .ok()
        .zip(family(question.query_type))
}

const fn family(kind: RecordType) -> Option<Family> {
    if matches!(kind, RecordType::A) {
        Some(Family::V4)
    } else if matches!(kind, RecordType::AAAA) {
        Some(Family::V6)
    } else {
        None
    }
}

/// Label by label, so that a dot or NUL within one is not taken for something else.
fn host_name(name: &Name) -> Result<HostName, &'static str> {
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

fn localhost(family: Option<Family>) -> Outcome {
    let address: IpAddr = match family {
        Some(Family::V4) => Ipv4Addr::LOCALHOST.into(),
        Some(Family::V6) => Ipv6Addr::LOCALHOST.into(),
        None => return Outcome::Empty,
    };
    Outcome::Answers(vec![Answer {
        address,
        ttl: LOCALHOST_TTL,
    }])
}

async fn resolve(worker: &Worker, name: &HostName, family: Family) -> Outcome {
    match worker.resolver.family(name, family).await {
        Ok(answers) => Outcome::Answers(answers),
        Err(ResolveError::NoName) => Outcome::Code(ResponseCode::NXDomain),
        Err(ResolveError::NoAddress) => Outcome::Empty,
        Err(ResolveError::Refused(_, refusal)) => {
            worker.shared.counters.add(refusal.reason());
            Outcome::Empty
        }
        Err(ResolveError::Timeout | ResolveError::Server(_)) => {
            worker.shared.counters.add("dns_upstream_failed");
            Outcome::Code(ResponseCode::ServFail)
        }
    }
}

fn add(message: &mut Message, question: &Query, answers: &[Answer]) {
    for answer in answers {
        let data = match answer.address {
            IpAddr::V4(address) => RData::A(address.into()),
            IpAddr::V6(address) => RData::AAAA(address.into()),
        };
        message.add_answer(Record::from_rdata(question.name.clone(), answer.ttl, data));
    }
}

fn refuse(
    worker: &Worker,
    origin: &Origin,
    endpoint: Option<&EndpointState>,
    question: &Query,
    protocol: Protocol,
    reason: &'static str,
) {
    let audit = endpoint.is_some_and(|endpoint| endpoint.mode == Mode::Audit);
    let (verdict, counter) = match audit {
        true => (Verdict::Audit, "dns_audited"),
        false => (Verdict::Deny, "dns_refused"),
    };
    let shared = &worker.shared;
    shared.counters.add(counter);
    let refusal = DnsRefusal {
        attempt: Attempt {
            endpoint: EndpointRef {
                id: origin.endpoint,
                name: endpoint.map(|e| e.name.to_string()).unwrap_or_default(),
            },
            process: ProcessRef::from(&origin.process),
            destination: origin.destination.to_ip(),
            port: origin.port,
            protocol,
            verdict,
            reason: Some(reason.to_owned()),
        },
        name: question.name.to_lowercase().to_ascii(),
        query_type: question.query_type.to_string(),
        count: 1,
    };
    let told = {
        let mut log = shared.refusals.lock();
        let log = log.as_mut().map_err(|_poisoned| ());
        log.map_or_else(|()| None, |log| log.note(refusal))
    };
    if let Some(refusal) = told {
        shared.records.tell(Event::Dns(refusal));
    }
}
