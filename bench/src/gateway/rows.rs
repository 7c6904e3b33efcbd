//! What is measured, round by round, everybody in turn.

use anyhow::Result;
use clap::ValueEnum;
use serde_json::{Value, json};

use super::{
    load::Order,
    stage::Stage,
    subject::{Measured, Subject, Who},
};
use crate::{Effort, figures::Figures};

/// Names that are allowed.
pub(super) const NAMES: usize = 10_000;
/// The same where it is measured how long a start takes.
const MANY_NAMES: usize = 100_000;
/// Connections at a time, and tunnels with small exchanges.
const AT_ONCE: usize = 32;
/// Tunnels with many bytes.
const TUNNELS: usize = 8;
/// The same in a crowd.
const CROWD: usize = 1_000;
/// Tunnels in which nothing moves: what one endpoint may have.
const IDLE: usize = 4_000;
/// The first port of peers, below those of clients.
const PORTS: u16 = 10_400;

/// A row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Row {
    /// Many bytes through eight tunnels
    Bulk,
    /// Many bytes through a thousand
    Crowd,
    /// New connections
    Connections,
    /// Small exchanges in tunnels
    Exchanges,
    /// Connections that are denied
    Denials,
    /// Tunnels in which nothing moves
    Idle,
    /// From the start to the first connection
    Start,
}

/// One figure of everybody, by rounds.
pub(super) struct Found {
    /// For tables and marks.
    pub(super) figure: &'static str,
    /// Who, and their samples.
    pub(super) samples: Vec<(Who, Vec<f64>)>,
}

impl Found {
    /// Of one of them, where it was measured.
    pub(super) fn of(&self, who: &Who) -> Option<&[f64]> {
        let found = self.samples.iter().find(|(it, _)| it == who);
        found.map(|(_, samples)| samples.as_slice())
    }

    pub(super) fn json(&self) -> Value {
        let all = self.samples.iter().map(|(who, samples)| {
            json!({
                "who": who.name(),
                "value": Figures::of(samples.iter().copied()).json(),
            })
        });
        json!({ "figure": self.figure, "all": all.collect::<Vec<_>>() })
    }
}

/// A figure's name, and how it is made of what was measured.
type Figure = (&'static str, fn(&Measured, f64) -> f64);

/// What is done in a round for some figures.
struct Task {
    before: Option<Order>,
    order: Order,
    after: Option<Order>,
    /// Units of work in it: connections, GB.
    units: f64,
    figures: &'static [Figure],
}

/// Measures the rows that are wanted.
///
/// # Errors
/// Somebody cannot be started, or a client cannot do what it is to do.
pub(super) fn measure(
    stage: &Stage,
    all: &[Who],
    effort: Effort,
    wanted: impl Fn(Row) -> bool,
) -> Result<Vec<Found>> {
    let mut found = Vec::new();
    let tasks = |rows: &[Row]| -> Vec<Task> {
        let wanted = rows.iter().copied().filter(|row| wanted(*row));
        wanted.flat_map(|row| tasks(row, effort)).collect()
    };
    found.extend(in_turn(
        stage,
        all,
        effort,
        true,
        &tasks(&[Row::Bulk, Row::Crowd]),
    )?);
    let few = [Row::Connections, Row::Exchanges, Row::Denials];
    found.extend(in_turn(stage, all, effort, false, &tasks(&few))?);
    if wanted(Row::Idle) {
        found.push(idle(stage, all)?);
    }
    if wanted(Row::Start) {
        found.extend(start(stage, all, effort)?);
    }
    Ok(found)
}

fn tasks(row: Row, effort: Effort) -> Vec<Task> {
    const GB_UP: &[Figure] = &[
        ("up, GB/s", |it, gb| gb / it.outcome.seconds),
        ("up, CPU s/GB", |it, gb| it.proxy / 1e6 / gb),
    ];
    const GB_DOWN: &[Figure] = &[
        ("down, GB/s", |it, gb| gb / it.outcome.seconds),
        ("down, CPU s/GB", |it, gb| it.proxy / 1e6 / gb),
    ];
    const CROWD_UP: &[Figure] = &[
        ("1,000 tunnels up, GB/s", |it, gb| gb / it.outcome.seconds),
        ("1,000 tunnels up, CPU s/GB", |it, gb| it.proxy / 1e6 / gb),
    ];
    const CROWD_DOWN: &[Figure] = &[
        ("1,000 tunnels down, GB/s", |it, gb| gb / it.outcome.seconds),
        ("1,000 tunnels down, CPU s/GB", |it, gb| it.proxy / 1e6 / gb),
    ];
    const CONNECTIONS: &[Figure] = &[
        ("connections/s", |it, count| count / it.outcome.seconds),
        ("CPU µs/connection", |it, count| it.proxy / count),
        ("connection, p50 ms", |it, _| it.outcome.p50 / 1e3),
        ("connection, p99 ms", |it, _| it.outcome.p99 / 1e3),
        ("enforcer's CPU µs/connection", |it, count| {
            it.enforcer / count
        }),
    ];
    const EXCHANGES: &[Figure] = &[
        ("CPU µs/exchange", |it, count| it.proxy / count),
        ("exchange, p50 µs", |it, _| it.outcome.p50),
        ("exchange, p99 µs", |it, _| it.outcome.p99),
    ];
    const DENIALS: &[Figure] = &[
        ("denials/s", |it, count| count / it.outcome.seconds),
        ("CPU µs/denial", |it, count| it.proxy / count),
        ("enforcer's CPU µs/denial", |it, count| it.enforcer / count),
    ];
    let through = |tunnels, order, units, figures| Task {
        before: Some(Order::Open { tunnels }),
        order,
        after: Some(Order::Close),
        units,
        figures,
    };
    let alone = |order, units, figures| Task {
        before: None,
        order,
        after: None,
        units,
        figures,
    };
    let bytes: u64 = effort.pick(1 << 30, 4 << 30);
    let gb = bytes as f64 / 1e9;
    let connections = effort.pick(3_000, 10_000);
    let exchanges = effort.pick(30_000, 100_000);
    let at_once = AT_ONCE;
    match row {
        Row::Bulk => vec![
            through(TUNNELS, Order::Up { bytes }, gb, GB_UP),
            through(TUNNELS, Order::Down { bytes }, gb, GB_DOWN),
        ],
        Row::Crowd => vec![
            through(CROWD, Order::Up { bytes }, gb, CROWD_UP),
            through(CROWD, Order::Down { bytes }, gb, CROWD_DOWN),
        ],
        Row::Connections => vec![alone(
            Order::Connect {
                count: connections,
                at_once,
            },
            connections as f64,
            CONNECTIONS,
        )],
        Row::Exchanges => vec![through(
            AT_ONCE,
            Order::Exchange { count: exchanges },
            exchanges as f64,
            EXCHANGES,
        )],
        Row::Denials => vec![alone(
            Order::Deny {
                count: connections,
                at_once,
            },
            connections as f64,
            DENIALS,
        )],
        Row::Idle | Row::Start => Vec::new(),
    }
}

/// All tasks of everybody in turn, round by round, in another order each.
fn in_turn(
    stage: &Stage,
    all: &[Who],
    effort: Effort,
    bulk: bool,
    tasks: &[Task],
) -> Result<Vec<Found>> {
    if tasks.is_empty() {
        return Ok(Vec::new());
    }
    let mut subjects = Vec::new();
    for (number, who) in (0..).zip(all) {
        subjects.push(Subject::start(stage, who, PORTS + number, NAMES, bulk)?);
    }
    let mut found: Vec<Vec<Found>> = tasks.iter().map(|task| nothing_yet(task, all)).collect();
    // The first round is to warm up.
    for round in 0..=effort.pick(3_usize, 5) {
        for (task, found) in tasks.iter().zip(&mut found) {
            for turn in 0..subjects.len() {
                let at = (turn + round) % subjects.len();
                let subject = &mut subjects[at];
                if let Some(order) = &task.before {
                    subject.ask(order)?;
                }
                let measured = subject.ask(&task.order)?;
                if let Some(order) = &task.after {
                    subject.ask(order)?;
                }
                if round == 0 {
                    continue;
                }
                for (found, (_, of)) in found.iter_mut().zip(task.figures) {
                    found.samples[at].1.push(of(&measured, task.units));
                }
            }
        }
    }
    Ok(found.into_iter().flatten().collect())
}

fn nothing_yet(task: &Task, all: &[Who]) -> Vec<Found> {
    let figures = task.figures.iter().map(|(figure, _)| Found {
        figure,
        samples: all.iter().map(|who| (who.clone(), Vec::new())).collect(),
    });
    figures.collect()
}

/// Bytes of the proxy's memory for each tunnel, beyond what it had before.
fn idle(stage: &Stage, all: &[Who]) -> Result<Found> {
    let mut samples = Vec::new();
    for (number, who) in (0..).zip(all) {
        let mut subject = Subject::start(stage, who, PORTS + number, NAMES, false)?;
        subject.ask(&Order::Connect {
            count: 200,
            at_once: AT_ONCE,
        })?;
        let before = subject.memory()?;
        subject.ask(&Order::Open { tunnels: IDLE })?;
        let bytes = (subject.memory()? - before) / IDLE as f64;
        samples.push((who.clone(), vec![bytes]));
    }
    Ok(Found {
        figure: "bytes/idle tunnel",
        samples,
    })
}

/// Seconds until the first connection is through, and of processor time by then.
fn start(stage: &Stage, all: &[Who], effort: Effort) -> Result<Vec<Found>> {
    let mut found = Vec::new();
    for (figures, names) in [
        (
            [
                "start with 10,000 names, s",
                "start with 10,000 names, CPU s",
                "the same, enforcer's CPU s",
            ],
            NAMES,
        ),
        (
            [
                "start with 100,000 names, s",
                "start with 100,000 names, CPU s",
                "the same, enforcer's CPU s",
            ],
            MANY_NAMES,
        ),
    ] {
        let mut of_names = figures.map(|figure| Found {
            figure,
            samples: all.iter().map(|who| (who.clone(), Vec::new())).collect(),
        });
        for _ in 0..effort.pick(1, 3) {
            for (at, who) in all.iter().enumerate() {
                let subject = Subject::start(stage, who, PORTS + at as u16, names, false)?;
                let [proxy, enforcer] = subject.start.map(|microseconds| microseconds / 1e6);
                let values = [subject.started.as_secs_f64(), proxy, enforcer];
                for (found, value) in of_names.iter_mut().zip(values) {
                    found.samples[at].1.push(value);
                }
            }
        }
        found.extend(of_names);
    }
    Ok(found)
}
