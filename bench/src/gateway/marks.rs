//! How dear it may be: ratios to what was measured in the same rounds.

use serde_json::{Value, json};

use super::{peers::Peer, relay::Way, rows::Found, subject::Who};
use crate::{
    figures::{Figures, short},
    table::{Mark, Table},
};

/// Bytes of user memory that an idle tunnel may take.
const IDLE_BYTES: f64 = 1_024.0;
/// Seconds that a start with 100,000 names may take.
const START_SECONDS: f64 = 0.2;

/// What a figure is compared with.
#[derive(Clone, Copy)]
enum Than {
    Relay(Way),
    Peer(Peer),
    /// Whichever of the peers has the lowest median.
    BestPeer,
}

/// A figure, what it is compared with, and how many times as much it may be.
const RATIOS: [(&str, Than, f64); 16] = [
    ("up, CPU s/GB", Than::Relay(Way::Splice), 1.1),
    ("down, CPU s/GB", Than::Relay(Way::Splice), 1.1),
    ("1,000 tunnels up, CPU s/GB", Than::Relay(Way::Splice), 1.1),
    (
        "1,000 tunnels down, CPU s/GB",
        Than::Relay(Way::Splice),
        1.1,
    ),
    ("up, CPU s/GB", Than::Peer(Peer::Haproxy), 1.0),
    ("down, CPU s/GB", Than::Peer(Peer::Haproxy), 1.0),
    ("1,000 tunnels up, CPU s/GB", Than::Peer(Peer::Haproxy), 1.0),
    (
        "1,000 tunnels down, CPU s/GB",
        Than::Peer(Peer::Haproxy),
        1.0,
    ),
    ("CPU µs/connection", Than::Relay(Way::Splice), 1.15),
    ("CPU µs/connection", Than::Peer(Peer::Haproxy), 1.0),
    ("CPU µs/connection", Than::Peer(Peer::Nginx), 1.0),
    ("CPU µs/connection", Than::Peer(Peer::Envoy), 1.0),
    ("connection, p99 ms", Than::BestPeer, 1.0),
    ("CPU µs/exchange", Than::Relay(Way::Copy), 1.05),
    ("exchange, p99 µs", Than::BestPeer, 1.0),
    ("CPU µs/denial", Than::Relay(Way::Splice), 1.2),
];

/// Says which are met; a mark for what was not measured is not said.
pub(super) fn tell(all: &[Who], found: &[Found], table: &mut Table) -> Value {
    table.title("Marks, as ratios to others of the same rounds");
    let mut told = Vec::new();
    for (figure, than, most) in RATIOS {
        let Some(found) = found.iter().find(|it| it.figure == figure) else {
            continue;
        };
        let Some(other) = other(than, all, found) else {
            continue;
        };
        let ratios = ratios(found, &Who::Ours, other);
        let mark = Mark::new(ratios.median, most);
        let name = format!("{figure}: to {}", other.name());
        table.row(&name, &[ratios.text()], Some(&mark));
        told.push(json!({ "mark": name, "ratio": ratios.json(), "is": mark.json() }));
    }
    for (figure, most) in [
        ("bytes/idle tunnel", IDLE_BYTES),
        ("start with 100,000 names, s", START_SECONDS),
        ("start with 100,000 names, CPU s", START_SECONDS),
    ] {
        let found = found.iter().find(|it| it.figure == figure);
        let Some(samples) = found.and_then(|found| found.of(&Who::Ours)) else {
            continue;
        };
        let value = Figures::of(samples.iter().copied());
        let mark = Mark::new(value.median, most);
        table.row(figure, &[short(value.median)], Some(&mark));
        told.push(json!({ "mark": figure, "value": value.json(), "is": mark.json() }));
    }
    told.into()
}

fn other<'a>(than: Than, all: &'a [Who], found: &Found) -> Option<&'a Who> {
    let median = |who: &Who| {
        let samples = found.of(who).unwrap_or_default();
        Figures::of(samples.iter().copied()).median
    };
    let mut those = all.iter().filter(|who| match (than, who) {
        (Than::Relay(way), Who::Relay(it)) => way == *it,
        (Than::Peer(peer), Who::Peer(it, _)) => peer == *it,
        (Than::BestPeer, Who::Peer(..)) => true,
        (_, Who::Ours | Who::Relay(_) | Who::Peer(..)) => false,
    });
    match than {
        Than::Relay(_) | Than::Peer(_) => those.next(),
        Than::BestPeer => those.min_by(|a, b| median(a).total_cmp(&median(b))),
    }
}

/// Of each round.
fn ratios(found: &Found, it: &Who, other: &Who) -> Figures {
    let of = |who| found.of(who).unwrap_or_default();
    Figures::of(of(it).iter().zip(of(other)).map(|(it, other)| it / other))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_a_ratio_of_the_same_rounds() {
        let relay = Who::Relay(Way::Splice);
        let found = Found {
            figure: "CPU µs/connection",
            samples: vec![
                (Who::Ours, vec![11.0, 22.0, 10.0]),
                (relay.clone(), vec![10.0, 20.0, 5.0]),
            ],
        };
        assert_eq!(ratios(&found, &Who::Ours, &relay).median, 1.1);
        let all = [Who::Ours, relay.clone()];
        assert_eq!(other(Than::Relay(Way::Splice), &all, &found), Some(&relay));
        assert_eq!(other(Than::BestPeer, &all, &found), None);
    }
}
