//! From a query to its answer.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use egress_common::origin::Origin;
use hickory_proto::{
    op::{Query, ResponseCode},
    rr::{DNSClass, RecordType},
};

use super::query::{self, Received, Reply, host_name};
use crate::{
    gateway::{
        resolve::{Answer, Checked, Family, ResolveError, Source},
        table::EndpointState,
        worker::Worker,
    },
    policy::{evaluate::DenyReason, host::HostName, rule::Mode},
    telemetry::record::{Attempt, DnsRefusal, EndpointRef, Event, ProcessRef, Protocol, Verdict},
};

/// Seconds: `localhost` never changes.
const LOCALHOST_TTL: u32 = 3_600;

/// The answer to a datagram, truncated where it is too long; `None` where none is due.
pub async fn udp(worker: &Worker, origin: &Origin, query: &[u8]) -> Option<Vec<u8>> {
    let reply = respond(worker, origin, query, Protocol::Udp).await?;
    reply.datagram()
}

/// The answer to a query over TCP; `None` where none is due.
pub async fn tcp(worker: &Worker, origin: &Origin, query: &[u8]) -> Option<Vec<u8>> {
    let reply = respond(worker, origin, query, Protocol::Tcp).await?;
    reply.message()
}

/// What is done with a question.
enum Outcome {
    Answers(Vec<Answer>),
    Empty,
    Code(ResponseCode),
}

async fn respond(
    worker: &Worker,
    origin: &Origin,
    bytes: &[u8],
    protocol: Protocol,
) -> Option<Reply> {
    let counters = &worker.shared.counters;
    let (question, mut reply) = match query::read(bytes) {
        Received::Question(question, reply) => (question, reply),
        Received::Refused(reply) => {
            counters.add("dns_malformed");
            return Some(reply);
        }
        Received::Unreadable => {
            counters.add("dns_malformed");
            return None;
        }
        Received::NotQuery => {
            counters.add("dns_not_a_query");
            return None;
        }
    };
    let asker = Asker {
        worker,
        origin,
        question: &question,
        protocol,
    };
    match asker.decide().await {
        Outcome::Answers(answers) => {
            for answer in answers {
                reply.add(&question, answer.address, answer.ttl);
            }
        }
        Outcome::Empty => {}
        Outcome::Code(code) => reply.set_code(code),
    }
    Some(reply)
}

/// Who asks what, and how.
struct Asker<'a> {
    worker: &'a Worker,
    origin: &'a Origin,
    question: &'a Query,
    protocol: Protocol,
}

impl Asker<'_> {
    async fn decide(&self) -> Outcome {
        let table = self.worker.shared.table.borrow().clone();
        let Some(endpoint) = table.endpoint(self.origin.endpoint) else {
            self.refuse(None, "unknown_endpoint");
            return Outcome::Code(ResponseCode::Refused);
        };
        let reason = match wanted(endpoint, self.question) {
            Ok(Wanted::Localhost(answer)) => return answer,
            Ok(Wanted::Nothing) => return Outcome::Empty,
            Ok(Wanted::Addresses(name, family)) => {
                self.worker.shared.counters.add("dns_allowed");
                return self.resolve(endpoint, &name, family).await;
            }
            Err(reason) => reason,
        };
        self.refuse(Some(endpoint), reason);
        match (endpoint.mode, audited(self.question)) {
            (Mode::Audit, Some((name, family))) => self.resolve(endpoint, &name, family).await,
            (Mode::Audit, None) | (Mode::Enforce, _) => Outcome::Code(ResponseCode::Refused),
        }
    }

    async fn resolve(&self, endpoint: &EndpointState, name: &HostName, family: Family) -> Outcome {
        let shared = &self.worker.shared;
        match self.worker.resolver.checked_family(name, family).await {
            Ok(Checked { answers, left_out }) => {
                if let Some((_, refusal)) = left_out {
                    shared.counters.add(refusal.reason());
                }
                // Before it is sent: the connection may come on its heels.
                let id = self.origin.endpoint;
                shared.answered.note(id, &endpoint.name, name, &answers);
                Outcome::Answers(answers)
            }
            Err(ResolveError::NoName) => Outcome::Code(ResponseCode::NXDomain),
            Err(ResolveError::NoAddress) => Outcome::Empty,
            Err(ResolveError::Refused(address, refusal)) => {
                shared.counters.add(refusal.reason());
                let refused = self.refusal(Some(endpoint), Verdict::Deny, refusal.reason());
                self.tell(DnsRefusal {
                    answer: Some(address),
                    ..refused
                });
                Outcome::Empty
            }
            Err(ResolveError::Timeout | ResolveError::Server(_)) => {
                shared.counters.add("dns_upstream_failed");
                Outcome::Code(ResponseCode::ServFail)
            }
        }
    }

    fn refuse(&self, endpoint: Option<&EndpointState>, reason: &'static str) {
        let audit = endpoint.is_some_and(|endpoint| endpoint.mode == Mode::Audit);
        let (verdict, counter) = match audit {
            true => (Verdict::Audit, "dns_audited"),
            false => (Verdict::Deny, "dns_refused"),
        };
        self.worker.shared.counters.add(counter);
        self.tell(self.refusal(endpoint, verdict, reason));
    }

    fn refusal(
        &self,
        endpoint: Option<&EndpointState>,
        verdict: Verdict,
        reason: &'static str,
    ) -> DnsRefusal {
        DnsRefusal {
            attempt: Attempt {
                endpoint: EndpointRef {
                    id: self.origin.endpoint,
                    name: endpoint.map(|e| e.name.to_string()).unwrap_or_default(),
                },
                process: ProcessRef::from(&self.origin.process),
                destination: self.origin.destination.to_ip(),
                port: self.origin.port,
                protocol: self.protocol.clone(),
                verdict,
                reason: Some(reason.to_owned()),
            },
            name: self.question.name.to_lowercase().to_ascii(),
            query_type: self.question.query_type.to_string(),
            answer: None,
            count: 1,
        }
    }

    fn tell(&self, refusal: DnsRefusal) {
        let shared = &self.worker.shared;
        let told = {
            let mut log = shared.refusals.lock();
            let log = log.as_mut().map_err(|_poisoned| ());
            log.map_or_else(|()| None, |log| log.note(refusal))
        };
        if let Some(refusal) = told {
            shared.records.tell(Event::Dns(refusal));
        }
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
    let look_up = endpoint.policy.decide_look_up(&name);
    look_up.map_err(DenyReason::as_str)?;
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

fn localhost(family: Option<Family>) -> Outcome {
    let address: IpAddr = match family {
        Some(Family::V4) => Ipv4Addr::LOCALHOST.into(),
        Some(Family::V6) => Ipv6Addr::LOCALHOST.into(),
        None => return Outcome::Empty,
    };
    Outcome::Answers(vec![Answer {
        address,
        ttl: LOCALHOST_TTL,
        source: Source::Hosts,
    }])
}
