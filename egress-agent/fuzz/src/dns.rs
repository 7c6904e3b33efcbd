//! The resolver's reading of queries and writing of replies.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hickory_proto::op::{Message, MessageType, Query, ResponseCode};

use crate::names::query::{Received, Reply, host_name, read};

/// The most that fits without fragments, and without EDNS.
const MOST: usize = 1_232;
const PLAIN: usize = 512;

/// The first byte says how many addresses the name has.
///
/// # Panics
/// Where a reply is not one to the query, too long, or says another name.
pub fn check(data: &[u8]) {
    let Some((addresses, query)) = data.split_first() else {
        return;
    };
    match read(query) {
        Received::NotQuery => {}
        Received::Unreadable => assert!(query.len() < 12 || is_answer(query)),
        Received::Refused(reply) => {
            let sent = check_reply(query, &reply);
            assert_ne!(sent.metadata.response_code, ResponseCode::NoError);
            assert!(sent.answers.is_empty());
        }
        Received::Question(question, reply) => answer(query, *addresses, &question, reply),
    }
}

fn is_answer(bytes: &[u8]) -> bool {
    bytes[2] & 0x80 != 0
}

fn answer(query: &[u8], addresses: u8, question: &Query, mut reply: Reply) {
    check_name(question);
    for number in 0..addresses {
        let address: IpAddr = match number % 2 {
            0 => Ipv4Addr::from([192, 0, 2, number]).into(),
            _ => Ipv6Addr::from(0x2001_0db8 << 96 | u128::from(number)).into(),
        };
        reply.add(question, address, 60);
    }
    let sent = check_reply(query, &reply);
    assert_eq!(sent.queries.as_slice(), std::slice::from_ref(question));
    let whole = Message::from_vec(&reply.message().unwrap()).unwrap();
    assert_eq!(whole.answers.len(), addresses.into());
    assert!(!whole.metadata.truncation);
    if !sent.metadata.truncation {
        assert_eq!(sent.answers, whole.answers);
    }
}

/// The datagram: an answer with the query's id, no longer than may be.
fn check_reply(query: &[u8], reply: &Reply) -> Message {
    assert!(!is_answer(query), "an answer was answered");
    let bytes = reply.datagram().unwrap();
    let has_edns = Message::from_vec(query).is_ok_and(|query| query.edns.is_some());
    assert!(bytes.len() <= if has_edns { MOST } else { PLAIN });
    assert_eq!(bytes[..2], query[..2]);
    let sent = Message::from_vec(&bytes).unwrap();
    assert_eq!(sent.metadata.message_type, MessageType::Response);
    sent
}

/// A host name is the question's labels, lower-cased and joined by dots, and nothing else.
fn check_name(question: &Query) {
    if let Ok(host) = host_name(&question.name) {
        let labels: Vec<Vec<u8>> = question
            .name
            .iter()
            .map(<[u8]>::to_ascii_lowercase)
            .collect();
        assert_eq!(host.as_str().as_bytes(), labels.join(&b'.'));
    }
}
