//! Loading very much: 1,000 endpoints, 10,000 policies and a million direct entries, by the agent
//! itself; and changing one entry of them.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    net::Ipv4Addr,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use egress_agent::policy::load::load_files;
use egress_common::direct::{Bucket4, Bucket6};
use egress_tests::{
    agent::{Agent, Config},
    process,
    world::World,
};
use serde_json::{Value, json};

use crate::{
    Effort,
    figures::{self, Figures},
    kernel::{self, Kernel, PORT, Size},
    table::Table,
};

const NAMESPACES: u32 = 50;

/// Measures.
pub(crate) fn measure(effort: Effort, table: &mut Table) -> Result<Value> {
    let (endpoints, policies, entries) =
        effort.pick((50, 500, 100_000), (1_000, 10_000, 1_000_000));
    let change = change(entries)?;
    let world = World::new()?;
    let mut config = Config {
        policy: policy(policies, entries),
        ..Config::default()
    };
    for number in 0..endpoints {
        let cgroup = world.cgroup().child(&format!("pods/{number}"))?;
        write!(
            config.others,
            "\x20 - name: ns{}/pod{number}\n\
             \x20   namespace: ns{}\n\
             \x20   serviceAccount: a{}\n\
             \x20   cgroup: {}\n",
            number % NAMESPACES,
            number % NAMESPACES,
            number % 7,
            cgroup.display(),
        )?;
    }
    let file = world.scratch().write("parsed.yaml", &config.policy)?;
    let begun = Instant::now();
    let loaded = load_files(&[&file])?;
    let parsed = begun.elapsed().as_secs_f64();
    drop(loaded);
    let begun = Instant::now();
    let agent = Agent::start(&world, &config, &[])?;
    let ready = begun.elapsed().as_secs_f64();
    let memory = Memory::of(agent.pid()?)?;
    let rest = at_rest(agent.pid()?)?;
    // One entry more.
    config.policy.push_str("        - 203.0.113.77/32\n");
    let begun = Instant::now();
    agent.reload(&config.policy)?;
    process::eventually("the reload", || {
        Ok(agent.log()?.contains("reloaded").then_some(()))
    })?;
    let reloaded = begun.elapsed().as_secs_f64();
    let most = Memory::of(agent.pid()?)?.most;
    drop(agent);

    table.title(&format!(
        "Loading {} endpoints, {} policies, {} direct entries",
        figures::count(endpoints),
        figures::count(policies),
        figures::count(entries)
    ));
    let mut row = |name: &str, cell: String| table.row(name, &[cell], None);
    row("the policy file read, s", figures::short(parsed));
    row(
        "from the start until all is enforced, s",
        figures::short(ready),
    );
    row("agent's memory, MB", figures::short(memory.resident));
    row(
        "the same at its most, while it reloads, MB",
        figures::short(most),
    );
    row("maps of direct entries, MB", figures::short(memory.direct));
    row("all maps, MB", figures::short(memory.maps));
    row(
        "agent's CPU with nothing to do, ms a second",
        figures::short(rest),
    );
    row("one entry more, by a reload, s", figures::short(reloaded));
    row("one entry written in the kernel, µs", change[0].text());
    row("one entry removed in the kernel, µs", change[1].text());
    Ok(json!({
        "endpoints": endpoints,
        "policies": policies,
        "entries": entries,
        "parsedSeconds": parsed,
        "readySeconds": ready,
        "reloadedSeconds": reloaded,
        "agentMegabytes": memory.resident,
        "agentMostMegabytes": most,
        "directMapsMegabytes": memory.direct,
        "mapsMegabytes": memory.maps,
        "restMillisecondsPerSecond": rest,
        "writtenMicroseconds": change[0].json(),
        "removedMicroseconds": change[1].json(),
    }))
}

/// Many small policies, and last a large one, whose last line is an entry.
fn policy(policies: u32, entries: u32) -> String {
    let mut text = String::new();
    for number in 0..policies - 1 {
        write!(
            text,
            "apiVersion: egress-agent.dev/v1alpha1\n\
             kind: EgressPolicy\n\
             metadata: {{ name: p{number}, namespace: ns{} }}\n\
             spec:\n\
             \x20 selector: {{ serviceAccounts: [a{}] }}\n\
             \x20 egress: [ {{ hosts: [\"h{number}.test\"] }} ]\n\
             ---\n",
            number % NAMESPACES,
            number % 11,
        )
        .expect("a String takes all");
    }
    write!(
        text,
        "apiVersion: egress-agent.dev/v1alpha1\n\
         kind: ClusterEgressPolicy\n\
         metadata: {{ name: direct }}\n\
         spec:\n\
         \x20 direct:\n\
         \x20   - protocols: [UDP]\n\
         \x20     ports: [{PORT}]\n\
         \x20     cidrs:\n"
    )
    .expect("a String takes all");
    for n in 0..entries {
        let address = Ipv4Addr::from(kernel::host(n));
        writeln!(text, "        - {address}/32").expect("a String takes all");
    }
    text
}

/// Megabytes.
struct Memory {
    resident: f64,
    most: f64,
    direct: f64,
    maps: f64,
}

impl Memory {
    /// Of the agent, and of the maps that it has open, as the kernel tells them: since Linux 6.4
    /// with every entry that they have.
    fn of(pid: u32) -> Result<Self> {
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let field = |name: &str| -> Result<f64> {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let kilobytes =
                line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
            Ok(kilobytes.context("no such field")? * 1024.0 / 1e6)
        };
        /// BPF_MAP_TYPE_ARRAY (include/uapi/linux/bpf.h).
        const ARRAY: u64 = 2;
        let sizes = [size_of::<Bucket4>() as u64, size_of::<Bucket6>() as u64];
        let mut maps = BTreeMap::new();
        for entry in fs::read_dir(format!("/proc/{pid}/fdinfo"))? {
            // What was closed meanwhile is no map.
            let text = fs::read_to_string(entry?.path()).unwrap_or_default();
            let value = |name: &str| {
                let line = text.lines().find_map(|line| line.strip_prefix(name))?;
                line.trim().parse::<u64>().ok()
            };
            if let (Some(id), Some(bytes)) = (value("map_id:"), value("memlock:")) {
                let is_direct = value("value_size:").is_some_and(|it| sizes.contains(&it))
                    && value("map_type:") == Some(ARRAY);
                maps.insert(id, (bytes as f64 / 1e6, is_direct));
            }
        }
        let direct = maps.values().filter(|(_, direct)| *direct);
        Ok(Self {
            resident: field("VmRSS:")?,
            most: field("VmHWM:")?,
            direct: direct.map(|(bytes, _)| bytes).sum(),
            maps: maps.values().map(|(bytes, _)| bytes).sum(),
        })
    }
}

/// Milliseconds of CPU in a second in which the agent only looks whether all is as it should be.
fn at_rest(pid: u32) -> Result<f64> {
    const SECONDS: u64 = 4;
    let spent = || -> Result<f64> {
        let mut all = 0.0;
        for task in fs::read_dir(format!("/proc/{pid}/task"))? {
            // Nanoseconds on a processor come first.
            let text = fs::read_to_string(task?.path().join("schedstat"))?;
            let nanoseconds = text.split(' ').next().context("an empty schedstat")?;
            all += nanoseconds.parse::<f64>()? / 1e6;
        }
        Ok(all)
    };
    let before = spent()?;
    thread::sleep(Duration::from_secs(SECONDS));
    Ok((spent()? - before) / SECONDS as f64)
}

/// Microseconds of writing and of removing one entry beside so many.
fn change(entries: u32) -> Result<[Figures; 2]> {
    let mut kernel = Kernel::new(
        Size {
            hosts: entries,
            networks: 0,
            endpoints: 1,
        },
        1,
    )?;
    let (mut written, mut removed) = (Vec::new(), Vec::new());
    for n in 0..1_000 {
        let entry = kernel::entry(kernel::host(entries + n), 32);
        let begun = Instant::now();
        ensure!(kernel.direct.add(&entry), "there is no room for one more");
        written.push(begun.elapsed().as_secs_f64() * 1e6);
        let begun = Instant::now();
        kernel.direct.remove(&entry);
        removed.push(begun.elapsed().as_secs_f64() * 1e6);
    }
    Ok([Figures::of(written), Figures::of(removed)])
}
