//! A name server on loopback that says whatever a test wants, byte by byte.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex},
    time::Duration,
};

use egress_agent::{
    gateway::{
        protocol::Configure,
        refuse::Refused,
        resolve::{
            Answer, Family, ResolveError, Resolver, Servers, SetupError,
            cache::{Cache, CacheBounds},
            server::NameServer,
        },
    },
    policy::host::HostName,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, UdpSocket},
    time::sleep,
};

/// RFC 1035 section 3.2.2 and RFC 3596.
pub(crate) const A: u16 = 1;
pub(crate) const CNAME: u16 = 5;
pub(crate) const SOA: u16 = 6;
pub(crate) const AAAA: u16 = 28;

/// A pointer to the name of the question (RFC 1035 section 4.1.4).
pub(crate) const ASKED: &[u8] = &[0xc0, 12];

/// What was asked, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) id: u16,
    pub(crate) name: String,
    pub(crate) kind: u16,
    pub(crate) by_tcp: bool,
    question: Vec<u8>,
}

/// One message, or none.
pub(crate) type Says = Vec<Vec<u8>>;

/// A server, and the questions that reached it.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) asked: Arc<Mutex<Vec<Asked>>>,
}

impl Server {
    /// By UDP and TCP on one port; answers every question with what `says` returns.
    pub(crate) async fn start(says: impl Fn(&Asked) -> Says + Send + Sync + 'static) -> Self {
        let says = Arc::new(says);
        let (udp, tcp) = loop {
            let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            // Another test may have the same port by TCP.
            if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()).await {
                break (udp, tcp);
            }
        };
        let server = Self {
            address: udp.local_addr().unwrap(),
            asked: Arc::default(),
        };
        let (log, by_udp) = (server.asked.clone(), says.clone());
        tokio::spawn(async move {
            let mut buffer = [0; 4096];
            while let Ok((length, from)) = udp.recv_from(&mut buffer).await {
                let asked = read(&buffer[..length], false);
                log.lock().unwrap().push(asked.clone());
                for message in by_udp(&asked) {
                    udp.send_to(&message, from).await.unwrap();
                }
            }
        });
        let log = server.asked.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = tcp.accept().await {
                let (log, says) = (log.clone(), says.clone());
                tokio::spawn(async move { serve(stream, &*says, &log).await });
            }
        });
        server
    }

    /// How often this was asked.
    pub(crate) fn count(&self, name: &str, kind: u16) -> usize {
        let asked = self.asked.lock().unwrap();
        let of = |it: &&Asked| it.name == name && it.kind == kind;
        asked.iter().filter(of).count()
    }

    /// A resolver that asks it.
    pub(crate) fn resolver(&self) -> Resolver {
        resolver(&[NameServer::udp(self.address)], CacheBounds::default())
    }

    /// The same by TCP alone.
    pub(crate) fn by_tcp(&self) -> Resolver {
        let server = format!("tcp://{}", self.address).parse().unwrap();
        resolver(&[server], CacheBounds::default())
    }
}

/// Serves one stream of messages.
pub(crate) async fn serve(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    says: &(impl Fn(&Asked) -> Says + ?Sized),
    log: &Mutex<Vec<Asked>>,
) {
    while let Ok(length) = stream.read_u16().await {
        let mut query = vec![0; length.into()];
        if stream.read_exact(&mut query).await.is_err() {
            return;
        }
        let asked = read(&query, true);
        log.lock().unwrap().push(asked.clone());
        for message in says(&asked) {
            let mut framed = (message.len() as u16).to_be_bytes().to_vec();
            framed.extend(message);
            if stream.write_all(&framed).await.is_err() {
                return;
            }
        }
        // So that what is written goes, also through TLS.
        if stream.flush().await.is_err() {
            return;
        }
    }
}

fn read(query: &[u8], by_tcp: bool) -> Asked {
    let (mut at, mut labels) = (12, Vec::new());
    while query[at] != 0 {
        let end = at + 1 + usize::from(query[at]);
        labels.push(String::from_utf8_lossy(&query[at + 1..end]).into_owned());
        at = end;
    }
    Asked {
        id: u16::from_be_bytes([query[0], query[1]]),
        name: labels.join("."),
        kind: u16::from_be_bytes([query[at + 1], query[at + 2]]),
        by_tcp,
        question: query[12..at + 5].to_vec(),
    }
}

/// What may be changed of an answer.
pub(crate) struct Reply {
    pub(crate) id: u16,
    /// Beside response, recursion desired and available.
    pub(crate) flags: u16,
    pub(crate) questions: Vec<Vec<u8>>,
    pub(crate) answers: Vec<Vec<u8>>,
    pub(crate) authorities: Vec<Vec<u8>>,
}

impl Reply {
    pub(crate) fn to(asked: &Asked) -> Self {
        Self {
            id: asked.id,
            flags: 0,
            questions: vec![asked.question.clone()],
            answers: Vec::new(),
            authorities: Vec::new(),
        }
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let counts = [
            self.questions.len(),
            self.answers.len(),
            self.authorities.len(),
            0,
        ];
        let mut bytes = self.id.to_be_bytes().to_vec();
        bytes.extend((0x8180 | self.flags).to_be_bytes());
        bytes.extend(counts.iter().flat_map(|n| (*n as u16).to_be_bytes()));
        let sections = [&self.questions, &self.answers, &self.authorities];
        bytes.extend(sections.into_iter().flatten().flatten());
        bytes
    }
}

/// An honest answer with these records.
pub(crate) fn answer(asked: &Asked, answers: Vec<Vec<u8>>) -> Says {
    let mut reply = Reply::to(asked);
    reply.answers = answers;
    vec![reply.bytes()]
}

/// An honest answer to a question for A, and none of AAAA.
pub(crate) fn of_v4(asked: &Asked, ttl: u32, addresses: &[&str]) -> Says {
    let records = addresses.iter().filter(|_| asked.kind == A);
    let records = records.map(|address| address_record(ASKED, ttl, address));
    answer(asked, records.collect())
}

pub(crate) fn record(owner: &[u8], kind: u16, ttl: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = owner.to_vec();
    bytes.extend(kind.to_be_bytes());
    bytes.extend([0, 1]);
    bytes.extend(ttl.to_be_bytes());
    bytes.extend((data.len() as u16).to_be_bytes());
    bytes.extend(data);
    bytes
}

pub(crate) fn address_record(owner: &[u8], ttl: u32, address: &str) -> Vec<u8> {
    match address.parse().unwrap() {
        IpAddr::V4(address) => record(owner, A, ttl, &address.octets()),
        IpAddr::V6(address) => record(owner, AAAA, ttl, &address.octets()),
    }
}

pub(crate) fn soa(ttl: u32, minimum: u32) -> Vec<u8> {
    let mut data = [wire("ns.test"), wire("admin.test")].concat();
    data.extend(
        [1_u32, 2, 3, 4, minimum]
            .iter()
            .flat_map(|n| n.to_be_bytes()),
    );
    record(&wire("test"), SOA, ttl, &data)
}

/// A question of our own.
pub(crate) fn question(name: &str, kind: u16) -> Vec<u8> {
    let mut bytes = wire(name);
    bytes.extend(kind.to_be_bytes());
    bytes.extend([0, 1]);
    bytes
}

pub(crate) fn wire(name: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for label in name.split('.') {
        bytes.push(label.len() as u8);
        bytes.extend(label.bytes());
    }
    bytes.push(0);
    bytes
}

pub(crate) fn configure(servers: &[NameServer]) -> Configure {
    let mut configure = Configure::new(Vec::new(), Vec::new());
    configure.resolvers = servers.to_vec();
    configure.limits.resolve = Duration::from_secs(2);
    configure
}

pub(crate) fn resolver(servers: &[NameServer], bounds: CacheBounds) -> Resolver {
    let cache = Arc::new(Cache::new(bounds));
    made(&configure(servers), cache).unwrap()
}

pub(crate) fn made(configure: &Configure, cache: Arc<Cache>) -> Result<Resolver, SetupError> {
    let servers = Servers::read(configure)?;
    Resolver::new(
        &servers,
        Refused::default(),
        cache,
        configure.limits.resolve,
    )
}

pub(crate) fn host(name: &str) -> HostName {
    HostName::from_text(name).unwrap()
}

pub(crate) async fn v4(resolver: &Resolver, name: &str) -> Result<Vec<Answer>, ResolveError> {
    resolver.family(&host(name), Family::V4).await
}

pub(crate) async fn texts(resolver: &Resolver, name: &str) -> Vec<String> {
    let answers = v4(resolver, name).await.unwrap();
    answers.iter().map(|a| a.address.to_string()).collect()
}

pub(crate) async fn pass(milliseconds: u64) {
    sleep(Duration::from_millis(milliseconds)).await;
}
