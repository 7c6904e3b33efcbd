//! A gateway, whom it dials and whom it asks; and what is said to it.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, SocketAddr},
    os::fd::BorrowedFd,
    sync::{Arc, Mutex},
    time::Duration,
};

use egress_agent::{
    gateway::{
        hosts::HostsTable,
        identify::Identify,
        protocol::*,
        resolve::server::NameServer,
        seal::{Landlock, Seal, SealError},
        serve::serve,
    },
    policy::{
        flag::{allow_cidr, allow_host},
        host::HostName,
        rule::{Mode, Rule},
    },
    telemetry::record::{Event, Record},
};
use egress_common::{address::Address, origin::Origin, process::Process};
use hickory_proto::{
    op::{Message, OpCode, Query},
    rr::{Name, RData, RecordType},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream, UdpSocket, UnixStream, unix::OwnedWriteHalf},
    sync::mpsc,
    time::timeout,
};

pub(crate) const ENFORCED: u32 = 1;
pub(crate) const AUDITED: u32 = 2;

/// Says of everybody what the test last set.
#[derive(Clone)]
pub(crate) struct Made(pub(crate) Arc<Mutex<Option<Origin>>>);

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
pub(crate) struct World {
    pub(crate) origin: Made,
    pub(crate) gateway: SocketAddr,
    pub(crate) proxy: SocketAddr,
    pub(crate) dns: SocketAddr,
    pub(crate) upstream: SocketAddr,
    pub(crate) asked: Arc<Mutex<Vec<String>>>,
    pub(crate) messages: mpsc::UnboundedReceiver<FromGateway>,
    pub(crate) control: OwnedWriteHalf,
    pub(crate) hosts: HostsTable,
    pub(crate) applied: Endpoints,
}

pub(crate) async fn echo() -> SocketAddr {
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
pub(crate) async fn name_server(asked: Arc<Mutex<Vec<String>>>) -> SocketAddr {
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

/// Short ones.
pub(crate) fn limits() -> Limits {
    Limits {
        hello: Duration::from_millis(600),
        silence: Duration::from_millis(100),
        greeting: Duration::from_millis(100),
        keep_alive: Duration::from_secs(2),
        http_idle: Duration::from_secs(4),
        ..Limits::default()
    }
}

pub(crate) fn endpoints(generation: u64, rules: Vec<Rule>, relay_loopback: bool) -> Endpoints {
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
        hosts: Arc::default(),
    }
}

/// For a gateway that shares its process with its test.
pub(crate) struct Unsealed;

impl Seal for Unsealed {
    fn files(&self) -> Result<Landlock, SealError> {
        Ok(Landlock::Absent)
    }

    fn calls(&self) -> Result<(), SealError> {
        Ok(())
    }
}

impl World {
    pub(crate) async fn new(rules: &[String]) -> Self {
        Self::within(limits(), rules).await
    }

    pub(crate) async fn within(limits: Limits, rules: &[String]) -> Self {
        Self::with(limits, rules, String::new()).await
    }

    /// That trusts these authorities.
    pub(crate) async fn trusting(rules: &[String], roots: String) -> Self {
        Self::with(limits(), rules, roots).await
    }

    async fn with(limits: Limits, rules: &[String], roots: String) -> Self {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let origin = Made(Arc::default());
        let (ours, theirs) = UnixStream::pair().unwrap();
        let identify = Arc::new(origin.clone());
        tokio::spawn(async move { serve(theirs, identify, Arc::new(Unsealed)).await });
        // On ::1 alone: 127.0.0.1 would then be the gateway's own, and upstreams are there.
        let any: SocketAddr = "[::1]:0".parse().unwrap();
        let mut configure = Configure::new(vec![any], vec![any]);
        configure.proxy = vec![any];
        configure.resolvers = vec![NameServer::udp(name_server(asked.clone()).await)];
        configure.workers = Some(2);
        configure.roots = roots;
        configure.limits = limits;
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
        let FromGateway::Ready {
            listen, proxy, dns, ..
        } = messages.recv().await.unwrap()
        else {
            panic!("not ready")
        };
        let mut world = Self {
            origin,
            gateway: listen[0],
            proxy: proxy[0],
            dns: dns[0],
            upstream: echo().await,
            asked,
            messages,
            control,
            hosts: HostsTable::new(),
            applied: Endpoints::default(),
        };
        for name in ["repo.test", "sub.wild.test", "dead.test"] {
            world.hosts.insert(
                HostName::from_text(name).unwrap(),
                vec![[127, 0, 0, 1].into()],
            );
        }
        let rules = rules.iter().map(|rule| parse(rule)).collect();
        world.apply(endpoints(1, rules, false)).await;
        world
    }

    pub(crate) async fn apply(&mut self, mut endpoints: Endpoints) {
        endpoints.hosts = Arc::new(self.hosts.clone());
        self.applied = endpoints.clone();
        let generation = endpoints.generation;
        let message = ToGateway::Endpoints(endpoints);
        write_message(&mut self.control, &message).await.unwrap();
        while self.next().await != (FromGateway::Applied { generation }) {}
    }

    /// Has the hosts file say this of a name, and nothing else.
    pub(crate) async fn name(&mut self, name: &str, address: [u8; 4]) {
        let name = HostName::from_text(name).unwrap();
        self.hosts = HostsTable::from([(name, vec![address.into()])]);
        let mut endpoints = self.applied.clone();
        endpoints.generation += 1;
        self.apply(endpoints).await;
    }

    pub(crate) async fn next(&mut self) -> FromGateway {
        let next = timeout(Duration::from_secs(20), self.messages.recv());
        next.await.expect("a message in time").unwrap()
    }

    pub(crate) async fn record(&mut self) -> Record {
        loop {
            if let FromGateway::Record(record) = self.next().await {
                return *record;
            }
        }
    }

    pub(crate) async fn count(&mut self, name: &str) -> u64 {
        write_message(&mut self.control, &ToGateway::Count)
            .await
            .unwrap();
        loop {
            if let FromGateway::Counters(counts) = self.next().await {
                return counts.get(name).copied().unwrap_or_default();
            }
        }
    }

    pub(crate) fn come_from(&self, endpoint: u32, destination: IpAddr, port: u16, protocol: u8) {
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
    pub(crate) async fn dial(&self, endpoint: u32) -> TcpStream {
        self.come_from(endpoint, [203, 0, 113, 9].into(), self.upstream.port(), 6);
        TcpStream::connect(self.gateway).await.unwrap()
    }

    /// The reset may come before `connect` has looked at its result.
    pub(crate) async fn meets_a_reset(&self) -> io::ErrorKind {
        match TcpStream::connect(self.gateway).await {
            Ok(stream) => rest(stream).await.unwrap_err(),
            Err(error) => error.kind(),
        }
    }

    pub(crate) async fn lookup(&self, endpoint: u32, name: &str, kind: RecordType) -> Message {
        self.ask(endpoint, &query(name, kind).to_vec().unwrap())
            .await
            .unwrap()
    }

    pub(crate) async fn ask(&self, endpoint: u32, bytes: &[u8]) -> Option<Message> {
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

pub(crate) fn parse(rule: &str) -> Rule {
    allow_cidr(rule).or_else(|_| allow_host(rule)).unwrap()
}

pub(crate) fn query(name: &str, kind: RecordType) -> Message {
    let mut query = Message::query();
    query.metadata.id = 7;
    query.metadata.recursion_desired = true;
    query.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    query
}

/// A small ClientHello in one record.
pub(crate) fn hello(name: &str) -> Vec<u8> {
    records(&message(name, 0), usize::MAX)
}

/// A ClientHello, without records: a padding of so many bytes (RFC 7685), and the name behind it.
pub(crate) fn message(name: &str, padding: usize) -> Vec<u8> {
    let name = name.as_bytes();
    let length = |n: usize| (n as u16).to_be_bytes();
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.extend([0, 0, 2, 0x13, 1, 1, 0]);
    body.extend(length(4 + padding + name.len() + 9));
    body.extend([0, 21]);
    body.extend(length(padding));
    body.extend(vec![0; padding]);
    body.extend([0, 0]);
    body.extend(length(name.len() + 5));
    body.extend(length(name.len() + 3));
    body.push(0);
    body.extend(length(name.len()));
    body.extend(name);
    let mut message = vec![1, 0];
    message.extend(length(body.len()));
    message.extend(body);
    message
}

/// In handshake records of at most so many bytes.
pub(crate) fn records(message: &[u8], size: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    for part in message.chunks(size) {
        bytes.extend([22, 3, 1]);
        bytes.extend((part.len() as u16).to_be_bytes());
        bytes.extend(part);
    }
    bytes
}

pub(crate) async fn exchange(stream: &mut TcpStream, bytes: &[u8]) {
    stream.write_all(bytes).await.unwrap();
    let mut echoed = vec![0; bytes.len()];
    timeout(Duration::from_secs(5), stream.read_exact(&mut echoed))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(echoed, bytes);
}

pub(crate) fn opened(record: Record) -> egress_agent::telemetry::record::Connection {
    match record.event {
        Event::ConnectionOpen(open) => open,
        other => panic!("{other}"),
    }
}

/// The rest of the stream, or the kind of its failure.
pub(crate) async fn rest(mut stream: TcpStream) -> Result<Vec<u8>, io::ErrorKind> {
    let mut rest = Vec::new();
    let read = timeout(Duration::from_secs(5), stream.read_to_end(&mut rest));
    read.await.expect("it ends").map_err(|error| error.kind())?;
    Ok(rest)
}

/// Rules for these hosts on the upstream's port cannot be written before it is known.
pub(crate) async fn world(rules: &[&str]) -> World {
    let mut world = World::new(&[]).await;
    let port = world.upstream.port();
    let rules = rules
        .iter()
        .map(|rule| parse(&rule.replace("PORT", &port.to_string())));
    world.apply(endpoints(2, rules.collect(), false)).await;
    world
}
