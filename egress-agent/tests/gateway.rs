//! The whole gateway in this process, on loopback, with origins that the test makes up.
#![allow(
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "helpers of tests"
)]

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, SocketAddr},
    os::fd::BorrowedFd,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use egress_agent::{
    gateway::{identify::Identify, protocol::*, serve::serve},
    policy::{
        flag::{allow_cidr, allow_host},
        rule::{Mode, Rule},
    },
    telemetry::record::{Event, Record, Verdict},
};
use egress_common::{address::Address, origin::Origin, process::Process};
use hickory_proto::{
    op::{Edns, Message, OpCode, Query, ResponseCode},
    rr::{Name, RData, RecordType},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream, UdpSocket, UnixStream, unix::OwnedWriteHalf},
    sync::mpsc,
    time::timeout,
};

const ENFORCED: u32 = 1;
const AUDITED: u32 = 2;

/// Says of everybody what the test last set.
#[derive(Clone)]
struct Made(Arc<Mutex<Option<Origin>>>);

impl Identify for Made {
    fn connection(&self, _socket: BorrowedFd<'_>) -> io::Result<Origin> {
        self.0
            .lock()
            .unwrap()
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }
    fn datagram(&self, socket: BorrowedFd<'_>, _source: SocketAddr) -> io::Result<Origin> {
        self.connection(socket)
    }
}

/// A gateway, an upstream on 127.0.0.1 that echoes, and a name server that logs what it is asked.
struct World {
    origin: Made,
    gateway: SocketAddr,
    dns: SocketAddr,
    upstream: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
    messages: mpsc::UnboundedReceiver<FromGateway>,
    control: OwnedWriteHalf,
    hosts: PathBuf,
}

impl Drop for World {
    fn drop(&mut self) {
        std::fs::remove_file(&self.hosts).unwrap();
    }
}

async fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = stream.split();
                drop(tokio::io::copy(&mut read, &mut write).await);
            });
        }
    });
    address
}

/// `private.test` is 10.1.2.3, `public.test` 203.0.113.7 and 10.0.0.1, `many.test` 60 addresses.
async fn name_server(asked: Arc<Mutex<Vec<String>>>) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 4096];
        while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
            let query = Message::from_vec(&buffer[..length]).unwrap();
            let question = query.queries[0].clone();
            let name = question.name.to_ascii();
            asked.lock().unwrap().push(name.clone());
            let mut answer = Message::response(query.metadata.id, OpCode::Query);
            answer.add_query(question.clone());
            let addresses: Vec<[u8; 4]> = match (name.as_str(), question.query_type) {
                ("private.test.", RecordType::A) => vec![[10, 1, 2, 3]],
                ("public.test.", RecordType::A) => vec![[203, 0, 113, 7], [10, 0, 0, 1]],
                ("many.test.", RecordType::A) => (1..=60).map(|n| [203, 0, 113, n]).collect(),
                _ => vec![],
            };
            for address in addresses {
                let data = RData::A(std::net::Ipv4Addr::from(address).into());
                answer.add_answer(hickory_proto::rr::Record::from_rdata(
                    question.name.clone(),
                    9_999,
                    data,
                ));
            }
            socket
                .send_to(&answer.to_vec().unwrap(), from)
                .await
                .unwrap();
        }
    });
    address
}

fn endpoints(generation: u64, rules: Vec<Rule>, relay_loopback: bool) -> Endpoints {
    let endpoint = |id, name: &str, mode| Endpoint {
        id,
        name: name.to_owned(),
        mode,
        policy: 1,
        relay_loopback,
    };
    Endpoints {
        generation,
        endpoints: vec![
            endpoint(ENFORCED, "enforced", Mode::Enforce),
            endpoint(AUDITED, "audited", Mode::Audit),
        ],
        policies: BTreeMap::from([(1, rules.into())]),
        refused: RefusedNetworks::default(),
    }
}

impl World {
    async fn new(rules: &[String]) -> Self {
        static NUMBER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let hosts =
            std::env::temp_dir().join(format!("gateway-hosts-{}-{number}", std::process::id()));
        std::fs::write(&hosts, "127.0.0.1 repo.test sub.wild.test dead.test\n").unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let origin = Made(Arc::default());
        let (ours, theirs) = UnixStream::pair().unwrap();
        let identify = Arc::new(origin.clone());
        tokio::spawn(async move { serve(theirs, identify).await });
        // On ::1 alone: 127.0.0.1 would then be the gateway's own, and upstreams are there.
        let any: SocketAddr = "[::1]:0".parse().unwrap();
        let mut configure = Configure::new(vec![any], vec![any]);
        configure.resolvers = vec![name_server(asked.clone()).await];
        configure.hosts_file = hosts.clone();
        configure.workers = Some(2);
        configure.limits = Limits {
            hello: Duration::from_millis(600),
            silence: Duration::from_millis(100),
            ..Limits::default()
        };
        let (read, mut control) = ours.into_split();
        write_message(&mut control, &ToGateway::Configure(configure))
            .await
            .unwrap();
        let (sender, mut messages) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            let mut read = BufReader::new(read);
            while let Ok(Some(message)) = read_message(&mut read, FROM_GATEWAY_MAX).await {
                drop(sender.send(message));
            }
        });
        let FromGateway::Ready { listen, dns } = messages.recv().await.unwrap() else {
            panic!("not ready")
        };
        let mut world = Self {
            origin,
            gateway: listen[0],
            dns: dns[0],
            upstream: echo().await,
            asked,
            messages,
            control,
            hosts,
        };
        let rules = rules.iter().map(|rule| parse(rule)).collect();
        world.apply(endpoints(1, rules, false)).await;
        world
    }

    async fn apply(&mut self, endpoints: Endpoints) {
        let generation = endpoints.generation;
        let message = ToGateway::Endpoints(endpoints);
        write_message(&mut self.control, &message).await.unwrap();
        while self.next().await != (FromGateway::Applied { generation }) {}
    }

    async fn next(&mut self) -> FromGateway {
        let next = timeout(Duration::from_secs(20), self.messages.recv());
        next.await.expect("a message in time").unwrap()
    }

    async fn record(&mut self) -> Record {
        loop {
            if let FromGateway::Record(record) = self.next().await {
                return *record;
            }
        }
    }

    async fn count(&mut self, name: &str) -> u64 {
        write_message(&mut self.control, &ToGateway::Count)
            .await
            .unwrap();
        loop {
            if let FromGateway::Counters(counts) = self.next().await {
                return counts.get(name).copied().unwrap_or_default();
            }
        }
    }

    fn come_from(&self, endpoint: u32, destination: IpAddr, port: u16, protocol: u8) {
        let process = Process {
            pid: 42,
            command: *b"curl\0\0\0\0\0\0\0\0\0\0\0\0",
            ..Process::UNKNOWN
        };
        *self.origin.0.lock().unwrap() = Some(Origin {
            process,
            destination: Address::from(destination),
            port,
            protocol,
            flags: 0,
            endpoint,
            published_ns: 0,
        });
    }

    /// A connection whose original destination is a public address, on the upstream's port.
    async fn dial(&self, endpoint: u32) -> TcpStream {
        self.come_from(endpoint, [203, 0, 113, 9].into(), self.upstream.port(), 6);
        TcpStream::connect(self.gateway).await.unwrap()
    }

    /// The reset may come before `connect` has looked at its result.
    async fn meets_a_reset(&self) -> io::ErrorKind {
        match TcpStream::connect(self.gateway).await {
            Ok(stream) => rest(stream).await.unwrap_err(),
            Err(error) => error.kind(),
        }
    }

    async fn lookup(&self, endpoint: u32, name: &str, kind: RecordType) -> Message {
        self.ask(endpoint, &query(name, kind).to_vec().unwrap())
            .await
            .unwrap()
    }

    async fn ask(&self, endpoint: u32, bytes: &[u8]) -> Option<Message> {
        self.come_from(endpoint, [198, 51, 100, 53].into(), 53, 17);
        let socket = UdpSocket::bind("[::1]:0").await.unwrap();
        socket.send_to(bytes, self.dns).await.unwrap();
        let mut buffer = [0; 4096];
        let length = timeout(Duration::from_secs(3), socket.recv(&mut buffer))
            .await
            .ok()?;
        Some(Message::from_vec(&buffer[..length.unwrap()]).unwrap())
    }
}

fn parse(rule: &str) -> Rule {
    allow_cidr(rule).or_else(|_| allow_host(rule)).unwrap()
}

fn query(name: &str, kind: RecordType) -> Message {
    let mut query = Message::query();
    query.metadata.id = 7;
    query.metadata.recursion_desired = true;
    query.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    query
}

/// A small ClientHello.
fn hello(name: &str) -> Vec<u8> {
    let name = name.as_bytes();
    let length = |n: usize| (n as u16).to_be_bytes();
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.extend([0, 0, 2, 0x13, 1, 1, 0]);
    body.extend(length(name.len() + 9));
    body.extend([0, 0]);
    body.extend(length(name.len() + 5));
    body.extend(length(name.len() + 3));
    body.push(0);
    body.extend(length(name.len()));
    body.extend(name);
    let mut bytes = vec![22, 3, 1];
    bytes.extend(length(body.len() + 4));
    bytes.extend([1, 0]);
    bytes.extend(length(body.len()));
    bytes.extend(body);
    bytes
}

async fn exchange(stream: &mut TcpStream, bytes: &[u8]) {
    stream.write_all(bytes).await.unwrap();
    let mut echoed = vec![0; bytes.len()];
    timeout(Duration::from_secs(5), stream.read_exact(&mut echoed))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(echoed, bytes);
}

fn opened(record: Record) -> egress_agent::telemetry::record::Connection {
    match record.event {
        Event::ConnectionOpen(open) => open,
        other => panic!("{other}"),
    }
}

/// The rest of the stream, or the kind of its failure.
async fn rest(mut stream: TcpStream) -> Result<Vec<u8>, io::ErrorKind> {
    let mut rest = Vec::new();
    let read = timeout(Duration::from_secs(5), stream.read_to_end(&mut rest));
    read.await.expect("it ends").map_err(|error| error.kind())?;
    Ok(rest)
}

/// Rules for these hosts on the upstream's port cannot be written before it is known.
async fn world(rules: &[&str]) -> World {
    let mut world = World::new(&[]).await;
    let port = world.upstream.port();
    let rules = rules
        .iter()
        .map(|rule| parse(&rule.replace("PORT", &port.to_string())));
    world.apply(endpoints(2, rules.collect(), false)).await;
    world
}

#[tokio::test]
async fn an_allowed_name_is_resolved_dialled_and_relayed() {
    let mut world = world(&["repo.test:PORT"]).await;
    let mut stream = world.dial(ENFORCED).await;
    let bytes = hello("REPO.test.");
    for byte in &bytes {
        stream.write_all(&[*byte]).await.unwrap();
    }
    let mut echoed = vec![0; bytes.len()];
    stream.read_exact(&mut echoed).await.unwrap();
    assert_eq!(echoed, bytes);
    exchange(&mut stream, b"and more").await;
    let open = opened(world.record().await);
    assert_eq!(open.attempt.verdict, Verdict::Allow);
    assert_eq!(open.server_name.as_deref(), Some("repo.test"));
    assert_eq!(
        open.rule,
        Some(format!("--allow repo.test:{}", world.upstream.port()))
    );
    assert_eq!(open.upstream, Some(world.upstream));
    assert!(open.mismatch, "203.0.113.9 is not where the name lives");
    assert_eq!(
        (
            open.attempt.process.pid,
            open.attempt.process.command.as_str()
        ),
        (42, "curl")
    );
    stream.shutdown().await.unwrap();
    assert_eq!(rest(stream).await, Ok(vec![]));
    let Event::ConnectionClose(close) = world.record().await.event else {
        panic!("close")
    };
    let length = bytes.len() as u64 + 8;
    assert_eq!((close.bytes_sent, close.bytes_received), (length, length));
    assert_eq!(close.close_reason, "eof");
    assert!(world.asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_denied_name_gets_an_alert_and_no_look_up() {
    let mut world = world(&["repo.test:PORT", "*.wild.test:PORT"]).await;
    for name in ["evil.test", "wild.test", "a.repo.test"] {
        let mut stream = world.dial(ENFORCED).await;
        stream.write_all(&hello(name)).await.unwrap();
        assert_eq!(rest(stream).await, Ok(vec![21, 3, 3, 0, 2, 2, 49]));
        let open = opened(world.record().await);
        assert_eq!(open.attempt.verdict, Verdict::Deny);
        assert_eq!(open.attempt.reason.as_deref(), Some("host_not_allowed"));
    }
    assert!(world.asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn curl_says_something_sensible_of_a_denied_name() {
    let mut world = world(&["repo.test:PORT"]).await;
    world.come_from(ENFORCED, [203, 0, 113, 9].into(), 443, 6);
    let curl = tokio::process::Command::new("curl")
        .args(["-sS", "--max-time", "10", "--connect-to"])
        .arg(format!("::{}", world.gateway))
        .arg("https://evil.test/")
        .output();
    let output = curl.await.expect("curl is installed");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains("alert access denied"), "{error}");
    let open = opened(world.record().await);
    assert_eq!(open.server_name.as_deref(), Some("evil.test"));
}

#[tokio::test]
async fn opaque_goes_where_cidrs_say_or_nowhere() {
    let mut world = world(&["127.0.0.0/8:PORT"]).await;
    // A loopback destination is not for cidrs to allow.
    world.come_from(ENFORCED, [127, 0, 0, 1].into(), world.upstream.port(), 6);
    let mut stream = TcpStream::connect(world.gateway).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    assert_eq!(rest(stream).await, Err(io::ErrorKind::ConnectionReset));
    assert_eq!(
        opened(world.record().await).attempt.reason.as_deref(),
        Some("loopback")
    );
    let mut stream = world.dial(ENFORCED).await;
    stream.write_all(b"SSH-2.0-x\r\n").await.unwrap();
    assert_eq!(rest(stream).await, Err(io::ErrorKind::ConnectionReset));
    let reason = opened(world.record().await).attempt.reason;
    assert_eq!(reason.as_deref(), Some("address_not_allowed"));
}

#[tokio::test]
async fn loopback_is_relayed_where_it_is_allowed_also_for_a_silent_client() {
    let mut world = world(&[]).await;
    let rule = allow_cidr("127.0.0.0/8").unwrap();
    world.apply(endpoints(3, vec![rule.clone()], true)).await;
    world.come_from(ENFORCED, [127, 0, 0, 1].into(), world.upstream.port(), 6);
    let mut stream = TcpStream::connect(world.gateway).await.unwrap();
    let open = opened(world.record().await);
    assert_eq!(open.rule.as_deref(), Some(rule.name.as_str()));
    assert_eq!(open.upstream, Some(world.upstream));
    exchange(&mut stream, b"after a silence").await;
}

#[tokio::test]
async fn audit_goes_to_the_original_destination_and_is_recorded() {
    let mut world = world(&[]).await;
    world.come_from(AUDITED, [127, 0, 0, 1].into(), world.upstream.port(), 6);
    let mut stream = TcpStream::connect(world.gateway).await.unwrap();
    exchange(&mut stream, &hello("evil.test")).await;
    let open = opened(world.record().await);
    assert_eq!(open.attempt.verdict, Verdict::Audit);
    assert_eq!(open.attempt.reason.as_deref(), Some("host_not_allowed"));
}

#[tokio::test]
async fn the_gateway_never_dials_itself() {
    let mut world = world(&["::/0", "own.test:PORT"]).await;
    for endpoint in [ENFORCED, AUDITED] {
        world.come_from(endpoint, world.gateway.ip(), world.gateway.port(), 6);
        let mut stream = TcpStream::connect(world.gateway).await.unwrap();
        stream.write_all(b"opaque").await.unwrap();
        assert_eq!(rest(stream).await, Err(io::ErrorKind::ConnectionReset));
        let reason = opened(world.record().await).attempt.reason;
        assert_eq!(reason.as_deref(), Some("gateway_address"));
    }
}

#[tokio::test]
async fn a_name_that_leads_inside_is_refused() {
    let mut world = world(&["private.test:PORT"]).await;
    let mut stream = world.dial(ENFORCED).await;
    stream.write_all(&hello("private.test")).await.unwrap();
    assert_eq!(rest(stream).await, Ok(vec![21, 3, 3, 0, 2, 2, 49]));
    let open = opened(world.record().await);
    assert_eq!(open.attempt.reason.as_deref(), Some("answer_private"));
    assert_eq!(open.attempt.verdict, Verdict::Deny);
}

#[tokio::test]
async fn without_an_origin_or_with_an_unknown_endpoint_nothing_passes() {
    let mut world = world(&["repo.test:PORT"]).await;
    assert_eq!(world.meets_a_reset().await, io::ErrorKind::ConnectionReset);
    assert_eq!(world.count("connections_without_origin").await, 1);
    world.come_from(99, [203, 0, 113, 9].into(), 443, 6);
    assert_eq!(world.meets_a_reset().await, io::ErrorKind::ConnectionReset);
    let reason = opened(world.record().await).attempt.reason;
    assert_eq!(reason.as_deref(), Some("unknown_endpoint"));
}

#[tokio::test]
async fn slow_and_silent_clients_meet_a_deadline() {
    let mut world = world(&["repo.test:PORT"]).await;
    let stream = world.dial(ENFORCED).await;
    assert_eq!(rest(stream).await, Err(io::ErrorKind::ConnectionReset));
    let reason = opened(world.record().await).attempt.reason;
    assert_eq!(reason.as_deref(), Some("silent_client"));
    let mut stream = world.dial(ENFORCED).await;
    stream.write_all(&hello("repo.test")[..20]).await.unwrap();
    assert_eq!(rest(stream).await, Ok(vec![21, 3, 3, 0, 2, 2, 50]));
    let reason = opened(world.record().await).attempt.reason;
    assert_eq!(reason.as_deref(), Some("hello_timeout"));
}

#[tokio::test]
async fn a_client_that_leaves_without_a_byte_is_no_report() {
    let mut world = world(&["repo.test:PORT"]).await;
    drop(world.dial(ENFORCED).await);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(world.count("connections_without_data").await, 1);
    assert!(world.messages.try_recv().is_err());
}

#[tokio::test]
async fn a_dead_upstream_is_told_and_recorded() {
    let mut world = world(&["dead.test:1"]).await;
    world.come_from(ENFORCED, [203, 0, 113, 9].into(), 1, 6);
    let mut stream = TcpStream::connect(world.gateway).await.unwrap();
    stream.write_all(&hello("dead.test")).await.unwrap();
    assert_eq!(rest(stream).await, Ok(vec![21, 3, 3, 0, 2, 2, 80]));
    assert_eq!(opened(world.record().await).attempt.verdict, Verdict::Allow);
    let Event::ConnectionClose(close) = world.record().await.event else {
        panic!("close")
    };
    assert_eq!(close.close_reason, "dial_refused");
}

#[tokio::test]
async fn a_live_connection_ends_when_policy_no_longer_allows_it() {
    let mut world = world(&["repo.test:PORT"]).await;
    let mut stream = world.dial(ENFORCED).await;
    exchange(&mut stream, &hello("repo.test")).await;
    opened(world.record().await);
    let port = world.upstream.port();
    let same = vec![parse(&format!("repo.test:{port}"))];
    world.apply(endpoints(3, same, false)).await;
    exchange(&mut stream, b"still there").await;
    world.apply(endpoints(4, vec![], false)).await;
    assert_eq!(rest(stream).await, Err(io::ErrorKind::ConnectionReset));
    let Event::ConnectionClose(close) = world.record().await.event else {
        panic!("close")
    };
    assert_eq!(close.close_reason, "policy_changed");
}

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
    let hosts = world.lookup(ENFORCED, "repo.test.", RecordType::A).await;
    assert_eq!(hosts.answers[0].data.to_string(), "127.0.0.1");
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

#[tokio::test]
async fn a_port_in_use_is_told_to_the_enforcer() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (ours, theirs) = UnixStream::pair().unwrap();
    let task = tokio::spawn(async move { serve(theirs, Arc::new(Made(Arc::default()))).await });
    let (read, mut write) = ours.into_split();
    let configure = Configure::new(vec![taken.local_addr().unwrap()], vec![]);
    write_message(&mut write, &ToGateway::Configure(configure))
        .await
        .unwrap();
    let message = read_message(&mut BufReader::new(read), FROM_GATEWAY_MAX)
        .await
        .unwrap();
    let Some(FromGateway::Failed { message }) = message else {
        panic!("{message:?}")
    };
    assert!(message.contains("the port is in use"), "{message}");
    assert!(task.await.unwrap().is_err());
}
