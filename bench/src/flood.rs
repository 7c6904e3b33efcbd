//! A flood of small datagrams over veth: what each costs its sender, by what stands in between.
//! On the way lie no filter, a program that does nothing, ours, a set of nftables and one of ipset,
//! each in two network namespaces of its own, all measured in turn.

use std::{
    fmt::Write as _,
    net::{Ipv4Addr, SocketAddrV4, UdpSocket},
    os::fd::{AsFd as _, OwnedFd},
    process::Stdio,
};

use anyhow::{Context as _, Result, ensure};
use egress_tests::namespace::Namespace;
use serde_json::{Value, json};

use crate::{
    Effort, bpf, clock,
    figures::{self, Figures},
    kernel::{self, Kernel, PORT, Size},
    scene::{GATEWAY4, MAC, NEXT_HOP_MAC, NEXT_HOP4, OWN4, RESOLVER},
    table::{Mark, Table},
    tiny,
};

/// What a datagram carries.
const PAYLOAD: [u8; 18] = [0; 18];

/// Addresses that are gone through in turn.
const MANY: u32 = 4_096;

/// An address that no table has.
const DENIED: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);

/// What stands in the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Filter {
    None,
    Empty,
    Ours,
    Nftables,
    Ipset,
}

impl Filter {
    fn name(self) -> &'static str {
        match self {
            Self::None => "no filter",
            Self::Empty => "an empty program",
            Self::Ours => "egress-agent",
            Self::Nftables => "nftables set",
            Self::Ipset => "ipset",
        }
    }
}

/// Where a datagram goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum To {
    One,
    Many,
    Denied,
    Resolver,
}

impl To {
    const ALL: [Self; 4] = [Self::One, Self::Many, Self::Denied, Self::Resolver];

    fn name(self) -> &'static str {
        match self {
            Self::One => "one address",
            Self::Many => "4,096 addresses",
            Self::Denied => "denied",
            Self::Resolver => "the gateway's resolver",
        }
    }
}

/// Two namespaces, what stands between them, and the sender's socket.
struct Lane {
    filter: Filter,
    entries: u32,
    sender: UdpSocket,
    addresses: Vec<SocketAddrV4>,
    /// They hold what was made.
    _receivers: [UdpSocket; 2],
    _held: Held,
    _namespaces: [Namespace; 2],
}

#[derive(Default)]
struct Held {
    _kernel: Option<Kernel>,
    _program: Option<OwnedFd>,
    _link: Option<OwnedFd>,
}

/// Measures all lanes in turn.
pub(crate) fn measure(effort: Effort, table: &mut Table) -> Result<Value> {
    let sizes = effort.pick([1, 10_000, 100_000], [1, 10_000, 1_000_000]);
    let mut lanes = vec![Lane::new(Filter::None, 0)?, Lane::new(Filter::Empty, 0)?];
    for entries in sizes {
        for filter in [Filter::Ours, Filter::Nftables, Filter::Ipset] {
            lanes.push(Lane::new(filter, entries)?);
        }
    }
    clock::pin(1)?;
    let samples = sample(&lanes, effort)?;
    clock::unpin()?;
    Ok(tell(&lanes, &samples, table))
}

/// By lane and destination, nanoseconds of the sender's time a datagram.
fn sample(lanes: &[Lane], effort: Effort) -> Result<Vec<[Vec<f64>; 4]>> {
    let batch = effort.pick(2_000, 8_192);
    let mut samples = vec![<[Vec<f64>; 4]>::default(); lanes.len()];
    // The first round is to warm up.
    for round in 0..=effort.pick(8_usize, 40) {
        for number in 0..lanes.len() {
            // Each comes after another one in each round.
            let at = (number * 7 + round) % lanes.len();
            for (to, samples) in To::ALL.iter().zip(&mut samples[at]) {
                if let Some(took) = lanes[at].send(*to, batch)?
                    && round > 0
                {
                    samples.push(took);
                }
            }
        }
    }
    Ok(samples)
}

impl Lane {
    fn new(filter: Filter, entries: u32) -> Result<Self> {
        let (pod, node) = (Namespace::new("sender")?, Namespace::new("receiver")?);
        connect(&pod, &node)?;
        let held = match filter {
            Filter::None => Held::default(),
            Filter::Empty => {
                let program = tiny::empty(bpf::CLASSIFIER)?;
                let link = node.enter(|| bpf::attach(program.as_fd(), interface()?))??;
                Held {
                    _kernel: None,
                    _program: Some(program),
                    _link: Some(link),
                }
            }
            Filter::Ours => {
                let index = node.enter(interface)??;
                let kernel = Kernel::new(
                    Size {
                        hosts: entries,
                        networks: 0,
                        endpoints: 1,
                    },
                    index,
                )?;
                let program = kernel.program("egress_link_out")?;
                let link = node.enter(|| bpf::attach(program, index))??;
                Held {
                    _link: Some(link),
                    _program: None,
                    _kernel: Some(kernel),
                }
            }
            Filter::Nftables => {
                feed(&node, "nft", &["-f", "-"], &nftables(entries))?;
                Held::default()
            }
            Filter::Ipset => {
                feed(&node, "ipset", &["restore"], &ipset(entries))?;
                feed(
                    &node,
                    "iptables-legacy-restore",
                    &[],
                    &IPTABLES.replace('\t', ""),
                )?;
                Held::default()
            }
        };
        let receive = |port| node.enter(move || UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)));
        let receivers = [receive(PORT)??, receive(RESOLVER)??];
        let sender = pod.enter(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)))??;
        // Some tables have fewer.
        let all = entries.max(MANY);
        // Not one after the other as they were added, which lie side by side in some tables.
        let order = (0..MANY).map(|n| n.wrapping_mul(1_237) % MANY);
        let addresses = order.map(|n| kernel::host(n * (all / MANY)).into());
        Ok(Self {
            filter,
            entries,
            sender,
            addresses: addresses.map(|ip| SocketAddrV4::new(ip, PORT)).collect(),
            _receivers: receivers,
            _held: held,
            _namespaces: [pod, node],
        })
    }

    /// What one of so many costs the sender in nanoseconds; none where that says nothing here.
    fn send(&self, to: To, count: u32) -> Result<Option<f64>> {
        let few = self.entries > 0 && self.entries < MANY;
        let resolver = GATEWAY4.parse().context("an address")?;
        let addresses = match to {
            To::One => &self.addresses[..1],
            To::Many if few => return Ok(None),
            To::Many => &self.addresses,
            To::Denied => &[SocketAddrV4::new(DENIED, PORT)],
            To::Resolver if !matches!(self.filter, Filter::None | Filter::Empty | Filter::Ours) => {
                return Ok(None);
            }
            To::Resolver => &[SocketAddrV4::new(resolver, RESOLVER)],
        };
        let mut next = addresses.iter().cycle();
        let begun = clock::of_thread();
        for _ in 0..count {
            let to = next.next().context("there is an address")?;
            self.sender
                .send_to(&PAYLOAD, to)
                .context("could not send")?;
        }
        Ok(Some((clock::of_thread() - begun) / f64::from(count)))
    }
}

/// The host side's index, in the thread's namespace.
fn interface() -> Result<u32> {
    // SAFETY: a name that ends.
    match unsafe { libc::if_nametoindex(c"pod".as_ptr()) } {
        0 => Err(std::io::Error::last_os_error()).context("no interface"),
        index => Ok(index),
    }
}

fn connect(pod: &Namespace, node: &Namespace) -> Result<()> {
    let (own, hop) = (mac(MAC), mac(NEXT_HOP_MAC));
    node.ip(&format!(
        "link add pod address {hop} type veth peer name eth0 address {own} netns {}\n\
         address add {NEXT_HOP4}/24 dev pod\n\
         link set pod up\n\
         neigh add {OWN4} lladdr {own} dev pod nud permanent\n\
         route add local 11.0.0.0/8 dev lo\n\
         route add local {DENIED} dev lo\n\
         route add local {GATEWAY4} dev lo\n",
        pod.path()
    ))?;
    pod.ip(&format!(
        "address add {OWN4}/24 dev eth0\n\
         link set eth0 up\n\
         neigh add {NEXT_HOP4} lladdr {hop} dev eth0 nud permanent\n\
         route add default via {NEXT_HOP4}\n"
    ))
}

fn mac(bytes: [u8; 6]) -> String {
    bytes.map(|byte| format!("{byte:02x}")).join(":")
}

fn nftables(entries: u32) -> String {
    let mut text = String::from("table ip bench {\n set allowed { type ipv4_addr; elements = {\n");
    for n in 0..entries {
        writeln!(text, "{},", Ipv4Addr::from(kernel::host(n))).expect("a String takes all");
    }
    text.push_str(
        "}\n }\n chain filter { type filter hook prerouting priority raw;\n\
         ip daddr @allowed udp dport 4000 accept\n drop\n }\n }\n",
    );
    text
}

fn ipset(entries: u32) -> String {
    let size = (entries / 4).next_power_of_two().max(1_024);
    let mut text = format!("create allowed hash:ip hashsize {size} maxelem 2097152\n");
    for n in 0..entries {
        let address = Ipv4Addr::from(kernel::host(n));
        writeln!(text, "add allowed {address}").expect("a String takes all");
    }
    text
}

const IPTABLES: &str = "*raw
:PREROUTING ACCEPT [0:0]
-A PREROUTING -p udp --dport 4000 -m set --match-set allowed dst -j ACCEPT
-A PREROUTING -j DROP
COMMIT
";

/// Runs a program in a namespace on a text.
pub(crate) fn feed(
    namespace: &Namespace,
    program: &str,
    arguments: &[&str],
    text: &str,
) -> Result<()> {
    use std::io::Write as _;
    let mut child = namespace
        .command(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("could not start {program}: cargo xtask setup bench"))?;
    let mut input = child.stdin.take().context("its standard input")?;
    input
        .write_all(text.as_bytes())
        .context("it does not read")?;
    drop(input);
    let output = child.wait_with_output().context("could not wait")?;
    ensure!(
        output.status.success(),
        "{program}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

fn tell(lanes: &[Lane], samples: &[[Vec<f64>; 4]], table: &mut Table) -> Value {
    let above = |at: usize, to: usize| Figures::of_pairs(&samples[at][to], &samples[0][to]);
    let peer = |filter: Filter, entries: u32, to: usize| {
        let found = lanes
            .iter()
            .position(|lane| lane.filter == filter && lane.entries == entries);
        found.map(|at| above(at, to).median)
    };
    let mut parts = Vec::new();
    for (number, to) in To::ALL.iter().enumerate() {
        table.title(&format!(
            "UDP flood over veth, {}: ns of the sender's CPU a packet, above no filter",
            to.name()
        ));
        let mut rows = Vec::new();
        for (at, lane) in lanes.iter().enumerate() {
            if samples[at][number].is_empty() {
                continue;
            }
            let (figures, name) = match lane.filter {
                Filter::None => (
                    Figures::of(samples[at][number].iter().copied()),
                    "no filter, in all".to_owned(),
                ),
                Filter::Empty => (above(at, number), lane.filter.name().to_owned()),
                Filter::Ours | Filter::Nftables | Filter::Ipset => (
                    above(at, number),
                    format!("{}, {}", lane.filter.name(), figures::count(lane.entries)),
                ),
            };
            let is_marked = lane.filter == Filter::Ours && matches!(to, To::Many | To::Denied);
            let most = peer(Filter::Nftables, lane.entries, number).filter(|_| is_marked);
            let mark = most.map(|most| Mark::new(figures.median, most));
            table.row(&name, &[figures.text()], mark.as_ref());
            let mut row = json!({
                "filter": lane.filter.name(),
                "entries": lane.entries,
                "nanoseconds": figures.json(),
            });
            if let Some(mark) = mark {
                row["mark"] = mark.json();
            }
            rows.push(row);
        }
        parts.push(json!({ "to": to.name(), "filters": rows }));
    }
    parts.into()
}
