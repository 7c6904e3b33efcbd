//! Each program over a table of packets, by `BPF_PROG_TEST_RUN`: how long above a program that does
//! nothing, beside bare look-ups in the same tables.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use anyhow::{Result, ensure};
use egress_common::endpoint::HAS_LINK;
use serde_json::{Value, json};

use crate::{
    Effort, bpf,
    cgroup::Inside,
    figures::{self, Figures},
    frame::{self, ACK, SYN},
    kernel::{Kernel, NETWORK_BITS, PORT, Size, host, network},
    scene::{self, GATEWAY4, GATEWAY6, NEXT_HOP_MAC, NEXT_HOP4, NEXT_HOP6, OWN6, PROXY, RESOLVER},
    table::{Mark, Table},
    tiny,
};

/// The loopback device, on which the kernel runs them.
const INTERFACE: u32 = 1;

/// An address without an entry.
const NOWHERE: [u8; 4] = [198, 51, 100, 7];

/// Nanoseconds above an empty program that a packet of a decided flow may take.
const DECIDED: f64 = 60.0;
/// The same of a new flow, with a key that is in the processor's caches.
const NEW: f64 = 150.0;
/// How many times the bare look-up a random key may take, where that is more than [`NEW`]: few keys
/// are in the caches, whichever of them it is.
const RANDOM: f64 = 1.2;

/// What a case is compared with.
#[derive(Clone, Copy, PartialEq)]
enum Sort {
    /// The empty program on the same packet.
    Same,
    /// The empty program, each run with another destination.
    Turn,
    /// The empty program of a cgroup.
    Cgroup,
}

struct Case<'a> {
    name: &'static str,
    program: BorrowedFd<'a>,
    frame: Vec<u8>,
    sort: Sort,
}

impl Case<'_> {
    /// What must come out.
    fn verdict(&self) -> u32 {
        /// TCX_NEXT and TCX_DROP.
        const NEXT: u32 = u32::MAX;
        const DROP: u32 = 2;
        match self.sort {
            Sort::Cgroup => 1,
            Sort::Same | Sort::Turn if self.name.contains("denied") => DROP,
            Sort::Same | Sort::Turn => NEXT,
        }
    }
}

/// Which are packets of a flow that was decided before, and which open one.
const DECIDED_CASES: [&str; 3] = [
    "TCP on a flow to the gateway",
    "TCP on a flow to a direct entry",
    "TCP on a flow to the gateway, IPv6",
];
const NEW_CASES: [&str; 4] = [
    "TCP, opens a flow to the gateway",
    "TCP, opens a flow to a direct entry",
    "UDP to a direct entry, one address",
    "UDP to a direct network, one network",
];

/// Measures at every size.
pub(crate) fn measure(effort: Effort, table: &mut Table) -> Result<Value> {
    let mut found = Vec::new();
    for entries in [1, 1_000, 100_000, 1_000_000] {
        for endpoints in [1, 1_000] {
            // More endpoints change other tables; two sizes show whether they matter.
            if endpoints > 1 && !matches!(entries, 1 | 1_000_000) {
                continue;
            }
            found.push(at(entries, endpoints, effort, table)?);
        }
    }
    Ok(found.into())
}

fn at(entries: u32, endpoints: u32, effort: Effort, table: &mut Table) -> Result<Value> {
    let filled = |hosts, networks| {
        let size = Size {
            hosts,
            networks,
            endpoints,
        };
        Kernel::new(size, INTERFACE)
    };
    let (with_hosts, with_networks) = (filled(entries, 0)?, filled(0, entries)?);
    let inside = Inside::enter()?;
    let (id, level) = inside.id()?;
    // Without a loopback of its own, on which nothing is looked at.
    for kernel in [&with_hosts, &with_networks] {
        kernel.set_cgroup(id, level, HAS_LINK)?;
    }
    let (classifier, cgroup) = (tiny::empty(bpf::CLASSIFIER)?, tiny::empty(bpf::CGROUP_SKB)?);
    let to_hosts = with_hosts.program("egress_link_out")?;
    let to_networks = with_networks.program("egress_link_out")?;
    let hosts = destinations(|n| host(n % entries))?;
    let networks = destinations(|n| network(n % entries))?;
    let nowhere = destinations(|n| [198, 18 | (n >> 16 & 1) as u8, (n >> 8) as u8, n as u8])?;
    let (hash, trie) = (hash(entries)?, trie(entries)?);
    let bare_hash = tiny::look_up(hash.as_fd(), &hash_key([0; 4])[..16])?;
    let bare_trie = tiny::look_up(trie.as_fd(), &trie_key([0; 4], 128)[..20])?;
    let turned = |program: BorrowedFd<'_>, which: &OwnedFd| tiny::in_turn(program, which.as_fd());
    let turns = [
        ("empty", turned(classifier.as_fd(), &hosts)?),
        ("bare hash, random keys", turned(bare_hash.as_fd(), &hosts)?),
        (
            "bare LPM trie, random keys",
            turned(bare_trie.as_fd(), &networks)?,
        ),
        ("UDP to direct entries, random", turned(to_hosts, &hosts)?),
        (
            "UDP to direct networks, random",
            turned(to_networks, &networks)?,
        ),
        ("UDP denied, random addresses", turned(to_hosts, &nowhere)?),
    ];
    let mut cases = cases(
        &with_hosts,
        to_networks,
        bare_hash.as_fd(),
        bare_trie.as_fd(),
    )?;
    cases.extend(turns.iter().map(|(name, turn)| Case {
        name,
        program: turn.program.as_fd(),
        frame: udp(host(0)),
        sort: Sort::Turn,
    }));
    let empty = [
        ("empty", classifier.as_fd(), Sort::Same),
        ("empty", cgroup.as_fd(), Sort::Cgroup),
    ];
    cases.extend(empty.map(|(name, program, sort)| Case {
        name,
        program,
        frame: udp(host(0)),
        sort,
    }));
    let samples = sample(&cases, effort)?;
    drop(inside);
    Ok(tell(entries, endpoints, &cases, &samples, table))
}

fn cases<'a>(
    kernel: &'a Kernel,
    to_networks: BorrowedFd<'a>,
    bare_hash: BorrowedFd<'a>,
    bare_trie: BorrowedFd<'a>,
) -> Result<Vec<Case<'a>>> {
    let out = kernel.program("egress_link_out")?;
    let back = kernel.program("egress_link_in")?;
    let socket = kernel.program("egress_skb_egress")?;
    let gateway = kernel.program("gateway_skb_ingress")?;
    let (direct4, direct6) = ("10.9.0.9", "fd00:9::9");
    let inbound = |flags| {
        let frame = frame::tcp(scene::OWN4, 40_000, flags);
        frame::patched(frame, frame::at::SOURCE4, &frame::octets(scene::NODE4))
    };
    let solicitation = frame::ndp(
        135,
        OWN6,
        "ff02::1:ff00:1",
        NEXT_HOP6,
        &frame::link_layer_option(1, scene::MAC),
    );
    let case = |name, program, frame, sort| Case {
        name,
        program,
        frame,
        sort,
    };
    use Sort::{Cgroup, Same};
    Ok(vec![
        case("bare hash, one key", bare_hash, udp(host(0)), Same),
        case("bare LPM trie, one key", bare_trie, udp(network(0)), Same),
        case(
            "TCP, opens a flow to the gateway",
            out,
            frame::tcp(GATEWAY4, PROXY, SYN),
            Same,
        ),
        case(
            "TCP on a flow to the gateway",
            out,
            frame::tcp(GATEWAY4, PROXY, ACK),
            Same,
        ),
        case(
            "TCP on a flow to the gateway, IPv6",
            out,
            frame::tcp(GATEWAY6, PROXY, ACK),
            Same,
        ),
        case(
            "DNS to the gateway",
            out,
            frame::udp(GATEWAY4, RESOLVER),
            Same,
        ),
        case(
            "TCP, opens a flow to a direct entry",
            out,
            frame::tcp(direct4, 5_432, SYN),
            Same,
        ),
        case(
            "TCP on a flow to a direct entry",
            out,
            frame::tcp(direct4, 5_432, ACK),
            Same,
        ),
        case(
            "TCP to a direct entry, IPv6",
            out,
            frame::tcp(direct6, 5_432, ACK),
            Same,
        ),
        case(
            "UDP to a direct entry, one address",
            out,
            udp(host(0)),
            Same,
        ),
        case(
            "UDP to a direct network, one network",
            to_networks,
            udp(network(0)),
            Same,
        ),
        case(
            "UDP to a direct network, any port",
            out,
            frame::udp("10.8.1.1", 7),
            Same,
        ),
        case("UDP denied, one address", out, udp(NOWHERE), Same),
        case(
            "ARP",
            out,
            frame::arp(1, NEXT_HOP4, [0; 6], [0xff; 6]),
            Same,
        ),
        case(
            "ARP to the next hop",
            out,
            frame::arp(1, NEXT_HOP4, [0; 6], NEXT_HOP_MAC),
            Same,
        ),
        case("NDP", out, solicitation, Same),
        case("link in: TCP on a flow", back, inbound(ACK), Same),
        case("link in: TCP, opens a flow", back, inbound(SYN), Same),
        case(
            "socket out: TCP to the gateway",
            socket,
            frame::tcp(GATEWAY4, PROXY, ACK),
            Cgroup,
        ),
        case(
            "socket out: UDP to a direct entry",
            socket,
            udp(host(0)),
            Cgroup,
        ),
        case(
            "gateway in: TCP on a flow",
            gateway,
            frame::tcp(GATEWAY4, PROXY, ACK),
            Cgroup,
        ),
    ])
}

/// As many networks as the set of direct entries has, in a trie.
fn trie(entries: u32) -> Result<OwnedFd> {
    let map = bpf::trie(trie_key([0; 4], 0).len() as u32, entries)?;
    fill(&map, entries, |n| trie_key(network(n), NETWORK_BITS + 96))?;
    Ok(map)
}

/// The same in a hash of the kernel's.
fn hash(entries: u32) -> Result<OwnedFd> {
    let map = bpf::hash(hash_key([0; 4]).len() as u32, entries)?;
    fill(&map, entries, |n| hash_key(host(n)).to_vec())?;
    Ok(map)
}

fn fill(map: &OwnedFd, entries: u32, key: impl Fn(u32) -> Vec<u8>) -> Result<()> {
    let all: Vec<u32> = (0..entries).collect();
    for some in all.chunks(4_096) {
        let keys: Vec<u8> = some.iter().flat_map(|n| key(*n)).collect();
        bpf::update_all(map.as_fd(), &keys, &vec![1; some.len()], some.len())?;
    }
    Ok(())
}

/// What counts, in bits; then port and protocol, and the address.
fn trie_key(address: [u8; 4], bits: u8) -> Vec<u8> {
    let mut key = hash_key(address);
    key[3] = 0;
    [&(32 + u32::from(bits)).to_ne_bytes()[..], &key].concat()
}

/// Port, protocol and prefix length, and the address in the mapped form.
fn hash_key([a, b, c, d]: [u8; 4]) -> [u8; 20] {
    let [low, high] = PORT.to_ne_bytes();
    let mapped = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d];
    let mut key = [0; 20];
    key[..4].copy_from_slice(&[low, high, 17, 128]);
    key[4..].copy_from_slice(&mapped);
    key
}

/// A datagram to a port that entries have.
fn udp([a, b, c, d]: [u8; 4]) -> Vec<u8> {
    frame::udp(&format!("{a}.{b}.{c}.{d}"), PORT)
}

/// A table to be gone through in turn, without an order in it.
fn destinations(address: impl Fn(u32) -> [u8; 4]) -> Result<OwnedFd> {
    let map = bpf::array(tiny::TURN)?;
    let mut state = 1_u32;
    let all: Vec<u32> = (0..tiny::TURN).collect();
    for keys in all.chunks(4_096) {
        let mut values = Vec::new();
        for _ in keys {
            // Marsaglia, Xorshift RNGs (2003).
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            values.extend(address(state));
            values.extend([0; 4]);
        }
        let keys: Vec<u8> = keys.iter().flat_map(|key| key.to_ne_bytes()).collect();
        bpf::update_all(map.as_fd(), &keys, &values, keys.len() / 4)?;
    }
    Ok(map)
}

/// All cases in turn, round by round.
fn sample(cases: &[Case<'_>], effort: Effort) -> Result<Vec<Vec<f64>>> {
    let mut samples = vec![Vec::new(); cases.len()];
    // The first round is to warm up.
    for round in 0..=effort.pick(5, 15) {
        for (case, samples) in cases.iter().zip(&mut samples) {
            let times = match case.sort {
                Sort::Turn => effort.pick(5_000, 30_000),
                Sort::Same | Sort::Cgroup => effort.pick(10_000, 50_000),
            };
            let (verdict, took) = bpf::run(case.program, &case.frame, times)?;
            ensure!(
                verdict == case.verdict(),
                "{}: the verdict is {verdict}",
                case.name
            );
            if round > 0 {
                samples.push(took);
            }
        }
    }
    Ok(samples)
}

fn tell(
    entries: u32,
    endpoints: u32,
    cases: &[Case<'_>],
    samples: &[Vec<f64>],
    table: &mut Table,
) -> Value {
    let of = |name: &str, sort: Sort| {
        let found = cases
            .iter()
            .position(|it| it.name == name && it.sort == sort);
        found.map_or(&[][..], |at| &samples[at])
    };
    let above = |at: usize| Figures::of_pairs(&samples[at], of("empty", cases[at].sort));
    table.title(&format!(
        "BPF_PROG_TEST_RUN, ns above an empty program; {} direct entries, {} endpoints",
        figures::count(entries),
        figures::count(endpoints)
    ));
    let mut rows = Vec::new();
    for (at, case) in cases.iter().enumerate() {
        let figures = match case.name {
            "empty" => Figures::of(samples[at].iter().copied()),
            _ => above(at),
        };
        let name = match (case.name, case.sort) {
            ("empty", Sort::Same) => "an empty program, in all",
            ("empty", Sort::Turn) => "the same with a random destination",
            ("empty", Sort::Cgroup) => "the same of a cgroup",
            (name, _) => name,
        };
        let random = |bare| {
            let bare = Figures::of_pairs(of(bare, Sort::Turn), of("empty", Sort::Turn));
            (RANDOM * bare.median).max(NEW)
        };
        let most = match case.name {
            name if DECIDED_CASES.contains(&name) => Some(DECIDED),
            name if NEW_CASES.contains(&name) => Some(NEW),
            // One key is not random.
            _ if entries == 1 => None,
            "UDP to direct entries, random" => Some(random("bare hash, random keys")),
            "UDP to direct networks, random" => Some(random("bare LPM trie, random keys")),
            _ => None,
        };
        let mark = most.map(|most| Mark::new(figures.median, most));
        table.row(name, &[figures.text()], mark.as_ref());
        let mut row = json!({ "case": name, "nanoseconds": figures.json() });
        if let Some(mark) = mark {
            row["mark"] = mark.json();
        }
        rows.push(row);
    }
    json!({ "entries": entries, "endpoints": endpoints, "cases": rows })
}
