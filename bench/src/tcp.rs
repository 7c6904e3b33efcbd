//! TCP over veth, from a pod to its node: what a gigabyte and what a connection cost both ends
//! together, without the agent and with all of its programs, in turn.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
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
    table::{Mark, Table},
};

const PORT: u16 = 5_201;

/// The client's orders: so many bytes over one connection, or so many connections of one byte.
const BULK: u8 = b'b';
const CONNECT: u8 = b'c';

/// Bytes that one write or read takes.
const CHUNK: usize = 256 << 10;

/// Measures.
pub(crate) fn measure(effort: Effort, table: &mut Table) -> Result<Value> {
    let (free, held) = (World::new()?, World::new()?);
    let (free_pod, held_pod) = (free.pod("shop/orders")?, held.pod("shop/orders")?);
    let config = Config::default().and_policy(&direct(held_pod.gateway4));
    let agent = Agent::start(&held, &config, &[&held_pod])?;
    let mut sides = [
        Side::start(&free, &free_pod)?,
        Side::start(&held, &held_pod)?,
    ];
    let bytes = effort.pick(256_u64 << 20, 1 << 30);
    let connections = effort.pick(500_u64, 2_000);
    let mut found = json!({});
    for (order, count, title, key, unit) in [
        (BULK, bytes, "CPU a GB", "gigabyte", "ms"),
        (CONNECT, connections, "CPU a connection", "connection", "µs"),
    ] {
        let mut samples = [Vec::new(), Vec::new()];
        // The first round is to warm up.
        for round in 0..=effort.pick(8_usize, 30) {
            for number in 0..2 {
                let at = (number + round) % 2;
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
        found[key] = tell(title, unit, &samples, table);
    }
    drop(sides);
    drop(agent);
    Ok(found)
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

fn tell(title: &str, unit: &str, samples: &[Vec<f64>; 2], table: &mut Table) -> Value {
    let [without, with] = samples;
    let figures = [without, with].map(|samples| Figures::of(samples.iter().copied()));
    let more: Vec<f64> = with
        .iter()
        .zip(without)
        .map(|(with, without)| (with - without) / without * 100.0)
        .collect();
    let more_figures = Figures::of(more.iter().copied());
    let (low, high) = figures::interval(&more);
    table.title(&format!("TCP over veth, both ends: {title}, {unit}"));
    table.row("no filter", &[figures[0].text()], None);
    table.row("egress-agent", &[figures[1].text()], None);
    let mark = Mark::new(low, 0.0);
    let interval = format!(
        "{} %, 95 %: {} to {}",
        figures::short(more_figures.median),
        figures::short(low),
        figures::short(high)
    );
    table.row("more, of pairs", &[interval], Some(&mark));
    json!({
        "unit": unit,
        "without": figures[0].json(),
        "with": figures[1].json(),
        "morePercent": more_figures.json(),
        "morePercentInterval95": [low, high],
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
