//! The resolver.

use egress_agent::telemetry::record::{Event, Verdict};
use hickory_proto::{
    op::{Edns, Message, Query, ResponseCode},
    rr::{Name, RecordType},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::world::*;

#[tokio::test]
async fn look_ups_of_allowed_names_only() {
    let mut world = world(&["public.test", "private.test", "repo.test"]).await;
    let answer = world.lookup(ENFORCED, "Public.TEST.", RecordType::A).await;
    let addresses: Vec<_> = answer
        .answers
        .iter()
        .map(|r| (r.data.to_string(), r.ttl))
        .collect();
    assert_eq!(addresses, [("203.0.113.7".to_owned(), 300)]);
    let none = world.lookup(ENFORCED, "private.test.", RecordType::A).await;
    assert_eq!(
        (none.metadata.response_code, none.answers.len()),
        (ResponseCode::NoError, 0)
    );
    let Event::Dns(refusal) = world.record().await.event else {
        panic!("dns")
    };
    assert_eq!(refusal.attempt.reason.as_deref(), Some("answer_private"));
    assert_eq!(refusal.answer, Some([10, 1, 2, 3].into()));
    let hosts = world.lookup(ENFORCED, "repo.test.", RecordType::A).await;
    assert_eq!(hosts.answers[0].data.to_string(), "127.0.0.1");
    assert_eq!(
        world.count("answer_private").await,
        2,
        "10.0.0.1 of public.test, and private.test"
    );
    let https = world
        .lookup(ENFORCED, "public.test.", RecordType::HTTPS)
        .await;
    assert_eq!(
        (https.metadata.response_code, https.answers.len()),
        (ResponseCode::NoError, 0)
    );
    let local = world.lookup(ENFORCED, "localhost.", RecordType::AAAA).await;
    assert_eq!(local.answers[0].data.to_string(), "::1");
    assert!(world.messages.try_recv().is_err(), "nothing to report");
    world.asked.lock().unwrap().clear();
    let refused = [
        ("evil.test.", RecordType::A, "host_not_allowed"),
        ("x.public.test.", RecordType::A, "host_not_allowed"),
        ("cloudflare-ech.com.", RecordType::A, "ech_public_name"),
        ("public.test.", RecordType::TXT, "dns_type_not_allowed"),
        ("public.test.", RecordType::ANY, "dns_type_not_allowed"),
        ("abc.t.evil.test.", RecordType::NULL, "host_not_allowed"),
        (
            "9.113.0.203.in-addr.arpa.",
            RecordType::PTR,
            "host_not_allowed",
        ),
        (".", RecordType::NS, "name_empty"),
    ];
    for (name, kind, reason) in refused {
        let answer = world.lookup(ENFORCED, name, kind).await;
        assert_eq!(
            answer.metadata.response_code,
            ResponseCode::Refused,
            "{name} {kind}"
        );
        assert!(answer.answers.is_empty());
        let Event::Dns(refusal) = world.record().await.event else {
            panic!("dns")
        };
        assert_eq!(
            refusal.attempt.reason.as_deref(),
            Some(reason),
            "{name} {kind}"
        );
    }
    world.lookup(ENFORCED, "evil.test.", RecordType::A).await;
    assert!(world.messages.try_recv().is_err(), "told once in a window");
    assert!(
        world.asked.lock().unwrap().is_empty(),
        "nothing left the gateway"
    );
}

#[tokio::test]
async fn dns_in_audit_is_resolved_and_recorded() {
    let mut world = world(&[]).await;
    let answer = world.lookup(AUDITED, "public.test.", RecordType::A).await;
    assert_eq!(answer.answers.len(), 1);
    let Event::Dns(refusal) = world.record().await.event else {
        panic!("dns")
    };
    assert_eq!(refusal.attempt.verdict, Verdict::Audit);
}

#[tokio::test]
async fn dns_bounds() {
    let mut world = world(&["many.test"]).await;
    let cut = world.lookup(ENFORCED, "many.test.", RecordType::A).await;
    assert!(cut.metadata.truncation && cut.answers.is_empty() && cut.edns.is_none());
    let mut edns = query("many.test.", RecordType::A);
    let mut opt = Edns::new();
    opt.set_max_payload(4096);
    edns.set_edns(opt);
    let full = world.ask(ENFORCED, &edns.to_vec().unwrap()).await.unwrap();
    assert!(full.edns.is_some() && full.answers.len() == 60 && !full.metadata.truncation);
    // Over TCP it is whole.
    world.come_from(ENFORCED, [198, 51, 100, 53].into(), 53, 6);
    let mut stream = TcpStream::connect(world.dns).await.unwrap();
    for _ in 0..2 {
        let bytes = query("many.test.", RecordType::A).to_vec().unwrap();
        stream.write_u16(bytes.len() as u16).await.unwrap();
        stream.write_all(&bytes).await.unwrap();
        let mut answer = vec![0; stream.read_u16().await.unwrap().into()];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(Message::from_vec(&answer).unwrap().answers.len(), 60);
    }
    let mut two = query("many.test.", RecordType::A);
    two.add_query(Query::query(
        Name::from_ascii("evil.test.").unwrap(),
        RecordType::A,
    ));
    let answer = world.ask(ENFORCED, &two.to_vec().unwrap()).await.unwrap();
    assert_eq!(answer.metadata.response_code, ResponseCode::FormErr);
    let mut garbage = query("many.test.", RecordType::A).to_vec().unwrap();
    garbage.truncate(15);
    let answer = world.ask(ENFORCED, &garbage).await.unwrap();
    assert_eq!(answer.metadata.response_code, ResponseCode::FormErr);
    assert_eq!(world.count("dns_malformed").await, 2);
}
