//! Very many connections at once, and too many: with descriptors that run out, and with a bound.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, ChildStdout, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use egress_tests::{
    agent::{Agent, Config},
    process,
    scene::Scene,
};

/// Where the echo is, at an address of the internet that no name has.
const ADDRESS: &str = "198.51.100.77";

/// Gives back what it gets, to any number at once.
const SERVER: &str = "
import asyncio, resource
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
async def echo(reader, writer):
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.close()
    except OSError: pass
async def main():
    server = await asyncio.start_server(echo, '0.0.0.0', 9000, backlog=4096)
    print('listening', flush=True)
    await server.serve_forever()
asyncio.run(main())
";

/// Opens connections and asks over each whether it is one. `open N`, `busy N SECONDS`, `ask`,
/// `close`: each answers with how many there are, or were good; `hold N` begins a hello and leaves it.
const CLIENT: &str = "
import asyncio, resource, sys, time
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
TO = (sys.argv[1], 9000)
async def ask(pair, data=b'is anybody there'):
    reader, writer = pair
    writer.write(data)
    await writer.drain()
    return await reader.readexactly(len(data)) == data
async def connect(many, wait):
    async with many:
        try:
            pair = await asyncio.wait_for(asyncio.open_connection(*TO), wait)
            if await asyncio.wait_for(ask(pair), wait): return pair
        except (OSError, asyncio.TimeoutError, asyncio.IncompleteReadError): pass
async def some(count, wait):
    many = asyncio.Semaphore(200)
    return [it for it in await asyncio.gather(*(connect(many, wait) for _ in range(count))) if it]
async def work(pair, until):
    data, count = bytes(range(97, 113)) * 4096, 0
    while time.monotonic() < until:
        if not await ask(pair, data): return 0
        count += len(data)
    return count
async def main():
    pairs, line = [], asyncio.to_thread
    while words := (await line(sys.stdin.readline)).split():
        if words[0] == 'open':
            pairs += await some(int(words[1]), float(words[2]))
            answer = len(pairs)
        if words[0] == 'hold':
            held = [await asyncio.open_connection(*TO) for _ in range(int(words[1]))]
            for _, writer in held: writer.write(b'\\x16\\x03\\x01')
            pairs, answer = pairs + held, len(held)
        if words[0] == 'busy':
            busy = await some(int(words[1]), 30)
            until = time.monotonic() + float(words[2])
            counts = await asyncio.gather(*(work(it, until) for it in busy))
            for _, writer in busy: writer.close()
            answer = sum(it > 0 for it in counts)
        if words[0] == 'ask':
            answer = 0
            for pair in pairs: answer += await ask(pair)
        if words[0] == 'close':
            for _, writer in pairs: writer.close()
            pairs, answer = [], 0
        print(answer, flush=True)
asyncio.run(main())
";

/// A scene with an echo outside, and a client in the pod that is told what to do.
struct Tunnels {
    scene: Scene,
    server: Child,
}

struct Client {
    process: Child,
    answers: BufReader<ChildStdout>,
}

impl Tunnels {
    fn new() -> Result<Self> {
        let scene = Scene::new()?;
        let mut python = scene.world.internet.namespace.command("python3");
        let started = python.args(["-c", SERVER]).stdout(Stdio::piped()).spawn();
        let mut server = started.context("could not start python3")?;
        let output = server.stdout.take().context("its output is a pipe")?;
        BufReader::new(output).read_line(&mut String::new())?;
        Ok(Self { scene, server })
    }

    /// The agent, with these limits, and the rule that the pod may open connections to the echo.
    fn enforce(&self, limits: &str) -> Result<Agent<'_>> {
        let mut config = Config::default().and_policy(&format!(
            "    - cidrs: [{ADDRESS}/32]\n      ports: [9000]\n"
        ));
        config.gateway = format!("\x20 limits: {{ {limits} }}\n");
        self.scene.enforce(&config)
    }

    fn client(&self) -> Result<Client> {
        let mut command = self.scene.pod.command("python3")?;
        command.args(["-c", CLIENT, ADDRESS]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn().context("could not start python3")?;
        let output = process.stdout.take().context("its output is a pipe")?;
        Ok(Client {
            process,
            answers: BufReader::new(output),
        })
    }
}

impl Drop for Tunnels {
    fn drop(&mut self) {
        self.server.kill().ok();
        self.server.wait().ok();
    }
}

impl Client {
    fn tell(&mut self, order: &str) -> Result<usize> {
        let input = self.process.stdin.as_mut();
        writeln!(input.context("its input is a pipe")?, "{order}")?;
        let mut answer = String::new();
        self.answers.read_line(&mut answer)?;
        let count = answer.trim().parse();
        count.with_context(|| format!("{order}: the client answered {answer:?}"))
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

/// The gateway's process: the agent's child.
fn gateway(agent: &Agent<'_>) -> Result<u32> {
    let pid = agent.pid()?;
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
    children.trim().parse().context("the agent has one child")
}

/// Seconds of CPU of a process so far (proc_pid_stat(5)).
fn cpu(pid: u32) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, fields) = stat.rsplit_once(") ").context("it has a name")?;
    let fields: Vec<_> = fields.split(' ').collect();
    let ticks = fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
    Ok(ticks as f64 / 100.0)
}

fn descriptors(pid: u32) -> Result<usize> {
    Ok(fs::read_dir(format!("/proc/{pid}/fd"))?.count())
}

fn ended(agent: &Agent<'_>, count: usize) -> Result<()> {
    process::eventually("the end of all connections", || {
        let closed = agent.records.matching(|r| r.kind() == "connection.close")?;
        Ok((closed.len() >= count).then_some(()))
    })
}

/// How many there can be, idle and busy: ten thousand and one thousand, or fewer where the agent says
/// that there are not the descriptors for all.
fn within_descriptors(agent: &Agent<'_>) -> Result<(usize, usize)> {
    let log = agent.log()?;
    let Some((_, said)) = log.split_once("the gateway has descriptors for ") else {
        return Ok((10_000, 1_000));
    };
    let most: usize = said.split(' ').next().context("a number")?.parse()?;
    // One endpoint gets three quarters, and some are on their way out while others come.
    let idle = most / 4 * 3 - 1_200;
    ensure!(
        idle > 1_000,
        "descriptors for no more than {most} connections"
    );
    Ok((idle, 1_000))
}

#[test]
fn ten_thousand_idle_tunnels_and_a_thousand_busy_ones() -> Result<()> {
    let tunnels = Tunnels::new()?;
    let agent = tunnels.enforce("connectionsPerSecond: 0")?;
    let gateway = gateway(&agent)?;
    let before = descriptors(gateway)?;
    let mut client = tunnels.client()?;
    let (idle, busy) = within_descriptors(&agent)?;
    ensure!(
        client.tell(&format!("open {idle} 30"))? == idle,
        "not all opened"
    );
    ensure!(descriptors(gateway)? >= 2 * idle, "two for each");
    let at_rest = cpu(gateway)?;
    thread::sleep(Duration::from_secs(2));
    let taken = cpu(gateway)? - at_rest;
    ensure!(taken < 0.5, "idle tunnels took {taken} s of CPU in 2 s");
    ensure!(
        client.tell(&format!("busy {busy} 5"))? == busy,
        "not all were good"
    );
    ensure!(client.tell("ask")? == idle, "not all are still good");
    client.tell("close")?;
    ended(&agent, idle + busy)?;
    let lost = agent.records.matching(|r| r.kind() == "lost")?;
    ensure!(lost.is_empty(), "{lost:?}");
    process::eventually("no more descriptors than before", || {
        // Pipes are kept.
        Ok((descriptors(gateway)? <= before + 400).then_some(()))
    })
}

/// Bytes of its own memory that a process has resident (proc_pid_status(5)).
fn resident(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"));
    let kilobytes = line
        .context("it has RssAnon")?
        .trim()
        .trim_end_matches(" kB");
    Ok(kilobytes.parse::<u64>()? << 10)
}

#[test]
fn many_connections_leave_nothing_behind() -> Result<()> {
    const ROUND: usize = 1_500;
    let tunnels = Tunnels::new()?;
    let agent = tunnels.enforce("connectionsPerSecond: 0")?;
    let gateway = gateway(&agent)?;
    let mut client = tunnels.client()?;
    let mut after = Vec::new();
    for round in 1..=6 {
        let opened = client.tell(&format!("open {ROUND} 30"))?;
        ensure!(opened == ROUND, "{opened} of {ROUND} opened");
        client.tell("close")?;
        ended(&agent, round * ROUND)?;
        after.push((resident(gateway)?, descriptors(gateway)?));
    }
    // What the first rounds have grown to is used again.
    let (second, last) = (after[1], after[5]);
    ensure!(last.0 < second.0 + (1 << 20), "memory grows: {after:?}");
    ensure!(last.1 <= second.1 + 4, "descriptors grow: {after:?}");
    Ok(())
}

#[test]
fn without_descriptors_it_waits_and_recovers() -> Result<()> {
    let tunnels = Tunnels::new()?;
    let agent = tunnels.enforce("connections: 1000")?;
    let gateway = gateway(&agent)?;
    // Fewer than it has counted on: 40 more.
    let limit = descriptors(gateway)? + 40;
    let mut prlimit = Command::new("setpriv");
    // As its own user, who may lower it without any privilege.
    prlimit.args([
        "--reuid=62951",
        "--regid=62951",
        "--clear-groups",
        "prlimit",
    ]);
    prlimit.args([
        format!("--pid={gateway}"),
        format!("--nofile={limit}:{limit}"),
    ]);
    process::finish(&mut prlimit, process::PATIENCE)?.ok()?;
    let mut client = tunnels.client()?;
    let opened = client.tell("open 200 4")?;
    ensure!((5..60).contains(&opened), "{opened} of 200 opened");
    ensure!(
        client.tell("ask")? == opened,
        "those that are open are good"
    );
    agent.records.wait_for("why some failed", |record| {
        record.kind() == "connection.close" && record.text("/close_reason") == "dial_no_resources"
    })?;
    // More than it can take, so that most of them wait to be accepted.
    client.tell("hold 100")?;
    thread::sleep(Duration::from_millis(500));
    ensure!(descriptors(gateway)? >= limit - 1, "some are left");
    let (begun, at_first) = (Instant::now(), cpu(gateway)?);
    thread::sleep(Duration::from_secs(2));
    let share = (cpu(gateway)? - at_first) / begun.elapsed().as_secs_f64();
    ensure!(share < 0.3, "it took {share} of a CPU to wait");
    client.tell("close")?;
    process::eventually("a connection", || {
        let opened = client.tell("open 1 3")?;
        Ok((opened == 1).then_some(()))
    })?;
    Ok(())
}

#[test]
fn beyond_the_bound_the_rest_go_on() -> Result<()> {
    let tunnels = Tunnels::new()?;
    let agent = tunnels.enforce("connections: 100, connectionsPerEndpoint: 60")?;
    let mut client = tunnels.client()?;
    ensure!(client.tell("open 200 10")? == 60, "as many as it may");
    ensure!(client.tell("ask")? == 60, "those that are open are good");
    let reason = "too_many_connections_of_endpoint";
    let told = agent.records.wait_for("one that was reset", |record| {
        record.kind() == "connection.open" && record.reason() == reason
    })?;
    ensure!(told.endpoint() == "shop/orders", "{told:?}");
    let more = agent.records.wait_for("how many more", |record| {
        record.kind() == "connection.repeated" && record.reason() == reason
    })?;
    ensure!(more.number("/repeats") == 139, "{more:?}");
    Ok(())
}
