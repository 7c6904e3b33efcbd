//! The whole agent on a pod's way to its node, beside no filter and a set of nftables, in turn: what a
//! gigabyte and a connection of TCP cost both ends together, and what a denied datagram costs its
//! sender.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::AsRawFd as _,
    process::{Child, ChildStdin, ChildStdout, Stdio},
    thread,
};

use anyhow::{Context as _, Result, bail, ensure};
use egress_tests::{
    agent::{Agent, Config},
    pod::Pod,
    world::World,
};
use serde_json::{Value, json};

use crate::{
    Effort, clock,
    figures::{self, Figures},
    flood,
    table::{Mark, Table},
};

const PORT: u16 = 5_201;

/// The client's orders: so many bytes over one connection, so many connections of one byte, or so many
/// datagrams to where nobody may send.
const BULK: u8 = b'b';
const CONNECT: u8 = b'c';
const DENIED: u8 = b'd';

/// Where nobody is, and nobody may send.
const NOWHERE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);

/// Bytes that one write or read takes.
const CHUNK: usize = 256 << 10;

/// What stands in the way, in the order of the sides.
const SIDES: [&str; 3] = ["no filter", "egress-agent", "nftables set"];

/// Measures.
pub(crate) fn measure(effort: Effort, table: &mut Table) -> Result<Value> {
    let (free, held, peer) = (World::new()?, World::new()?, World::new()?);
    let (free_pod, held_pod) = (free.pod("shop/orders")?, held.pod("shop/orders")?);
    let peer_pod = peer.pod("shop/orders")?;
    let config = Config::default().and_policy(&direct(held_pod.gateway4));
    let agent = Agent::start(&held, &config, &[&held_pod])?;
    flood::feed(&peer.node, "nft", &["-f", "-"], &nftables(&peer_pod))?;
    let mut sides = [
        Side::start(&free, &free_pod)?,
        Side::start(&held, &held_pod)?,
        Side::start(&peer, &peer_pod)?,
    ];
    let bytes = effort.pick(256_u64 << 20, 1 << 30);
    let connections = effort.pick(500_u64, 2_000);
    let datagrams = effort.pick(2_000_u64, 8_192);
    let mut found = json!({});
    for (order, count, title, key, unit) in [
        (BULK, bytes, "TCP, both ends: CPU a GB", "gigabyte", "ms"),
        (
            CONNECT,
            connections,
            "TCP, both ends: CPU a connection",
            "connection",
            "µs",
        ),
        (
            DENIED,
            datagrams,
            "UDP, denied: the sender's CPU a datagram",
            "denied",
            "µs",
        ),
    ] {
        let mut samples = [const { Vec::new() }; SIDES.len()];
        // The first round is to warm up.
        for round in 0..=effort.pick(8_usize, 30) {
            for number in 0..SIDES.len() {
                let at = (number + round) % SIDES.len();
                let took = sides[at].ask(order, count)? / count as f64;
                let took = if order == BULK {
                    took * 1e3
                } else {
                    took / 1e3
                };
                if round > 0 {
                    samples[at].push(took);
                }
            }
        }
        found[key] = match order {
            DENIED => tell_denied(title, unit, &samples, table),
            _ => tell(title, unit, &samples, table),
        };
    }
    drop(sides);
    drop(agent);
    Ok(found)
}

/// What the policy of [`direct`] says.
fn nftables(pod: &Pod) -> String {
    let (interface, to) = (&pod.interface, pod.gateway4);
    format!(
        "table ip bench {{\n\
         set allowed {{ type ipv4_addr; elements = {{ {to} }}; }}\n\
         chain filter {{ type filter hook prerouting priority raw;\n\
         iifname \"{interface}\" ip daddr @allowed tcp dport {PORT} accept\n\
         iifname \"{interface}\" drop\n}}\n}}\n"
    )
}

fn direct(to: Ipv4Addr) -> String {
    format!(
        "---\n\
         apiVersion: egress-agent.dev/v1alpha1\n\
         kind: ClusterEgressPolicy\n\
         metadata: {{ name: direct }}\n\
         spec: {{ direct: [ {{ cidrs: [{to}], ports: [{PORT}] }} ] }}\n"
    )
}

fn tell(title: &str, unit: &str, samples: &[Vec<f64>; 3], table: &mut Table) -> Value {
    table.title(title);
    let of = |at: usize| Figures::of(samples[at].iter().copied());
    table.row(SIDES[0], &[of(0).text()], None);
    let mut found = json!({ "unit": unit, "without": of(0).json() });
    for (at, key, more_key) in [
        (2, "nftables", "nftablesMorePercent"),
        (1, "with", "morePercent"),
    ] {
        let pairs = samples[at].iter().zip(&samples[0]);
        let more: Vec<f64> = pairs.map(|(it, free)| (it - free) / free * 100.0).collect();
        let more_figures = Figures::of(more.iter().copied());
        let (low, high) = figures::interval(&more);
        let interval = format!(
            "{} % more, 95 %: {} to {}",
            figures::short(more_figures.median),
            figures::short(low),
            figures::short(high)
        );
        let mark = (at == 1).then(|| Mark::new(low, 0.0));
        table.row(SIDES[at], &[of(at).text(), interval], mark.as_ref());
        found[key] = of(at).json();
        found[more_key] = more_figures.json();
        found[format!("{more_key}Interval95")] = json!([low, high]);
        if let Some(mark) = mark {
            found["mark"] = mark.json();
        }
    }
    found
}

/// The agent refuses at the call; nftables drops what has gone through the stack.
fn tell_denied(title: &str, unit: &str, samples: &[Vec<f64>; 3], table: &mut Table) -> Value {
    let [free, ours, peer] = samples
        .each_ref()
        .map(|samples| Figures::of(samples.iter().copied()));
    let mark = Mark::new(ours.median, peer.median);
    table.title(title);
    table.row("no filter, to where nobody is", &[free.text()], None);
    table.row(SIDES[2], &[peer.text()], None);
    table.row(SIDES[1], &[ours.text()], Some(&mark));
    json!({
        "unit": unit,
        "without": free.json(),
        "nftables": peer.json(),
        "with": ours.json(),
        "mark": mark.json(),
    })
}

/// A client in a pod, a child of ours, and a server on the node, a thread.
struct Side {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
    listener: TcpListener,
}

impl Side {
    fn start(world: &World, pod: &Pod) -> Result<Self> {
        let at = SocketAddr::from((pod.gateway4, PORT));
        let listener = world.node.enter(|| TcpListener::bind(at))??;
        let this = std::env::current_exe().context("where this program is")?;
        let mut child = pod
            .command(this)?
            .args(["client", &at.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("could not start the client")?;
        Ok(Self {
            orders: child.stdin.take().context("its standard input")?,
            answers: BufReader::new(child.stdout.take().context("its standard output")?),
            child,
            listener,
        })
    }

    /// Nanoseconds of both ends together.
    fn ask(&mut self, order: u8, count: u64) -> Result<f64> {
        let listener = &self.listener;
        let server = thread::scope(|scope| {
            let server = scope.spawn(|| serve(listener, order, count));
            writeln!(self.orders, "{} {count}", order as char)?;
            server
                .join()
                .map_err(|_panic| anyhow::anyhow!("the server panicked"))?
        })?;
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        let client: f64 = line.trim().parse().context("the client did not answer")?;
        Ok(server + client)
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        // It may have ended already.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn serve(listener: &TcpListener, order: u8, count: u64) -> Result<f64> {
    clock::pin(1)?;
    let begun = clock::of_thread();
    if order == DENIED {
        return Ok(0.0);
    }
    if order == BULK {
        let (mut stream, _) = listener.accept()?;
        let mut buffer = vec![0; CHUNK];
        while stream.read(&mut buffer)? > 0 {}
    } else {
        for _ in 0..count {
            let (mut stream, _) = listener.accept()?;
            stream.read_exact(&mut [0])?;
        }
    }
    Ok(clock::of_thread() - begun)
}

/// What the client does: a line for each order, until its standard input ends.
pub(crate) fn client(server: SocketAddr) -> Result<()> {
    clock::pin(0)?;
    for line in std::io::stdin().lines() {
        let line = line?;
        let (order, count) = line.split_once(' ').context("an order and a number")?;
        let count: u64 = count.parse()?;
        let begun = clock::of_process();
        match order.as_bytes() {
            [BULK] => send(server, count)?,
            [CONNECT] => (0..count).try_for_each(|_| open(server))?,
            [DENIED] => send_in_vain(count)?,
            _ => bail!("no such order"),
        }
        println!("{}", clock::of_process() - begun);
    }
    Ok(())
}

fn send(server: SocketAddr, mut count: u64) -> Result<()> {
    let mut stream = TcpStream::connect(server)?;
    let chunk = vec![0; CHUNK];
    while count > 0 {
        let some = chunk.len().min(count as usize);
        stream.write_all(&chunk[..some])?;
        count -= some as u64;
    }
    Ok(())
}

/// Whatever becomes of each: the call fails, or nothing comes of it.
fn send_in_vain(count: u64) -> Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    for _ in 0..count {
        socket.send_to(&[0; 18], (NOWHERE, PORT)).ok();
    }
    Ok(())
}

/// Ends by a reset once the server has closed, so that no port is kept for a minute.
fn open(server: SocketAddr) -> Result<()> {
    let mut stream = TcpStream::connect(server)?;
    stream.write_all(&[0])?;
    ensure!(stream.read(&mut [0])? == 0, "the server says something");
    let linger = libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    // SAFETY: a linger of its size, for a socket of ours.
    let set = unsafe {
        libc::setsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_LINGER,
            (&raw const linger).cast(),
            size_of_val(&linger) as libc::socklen_t,
        )
    };
    ensure!(set == 0, "{}", std::io::Error::last_os_error());
    Ok(())
}
