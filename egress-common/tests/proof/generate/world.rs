//! Worlds: the tests' usual one, and changes to it.

use std::net::Ipv4Addr;

use super::{
    super::{
        choices::Choices,
        world::{Direct, ENDPOINT, Flow, Network, Place, SET, World},
    },
    pool,
};

/// An endpoint with two families, its gateway, a cluster and a node.
fn usual() -> World {
    let ips = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
    let network = |text: &str, bits| Network {
        address: text.parse().unwrap(),
        bits,
    };
    World {
        flags: 0,
        mode: 0,
        gateway4: Ipv4Addr::new(169, 254, 64, 1),
        gateway6: Some("fd65:6772:6573::1".parse().unwrap()),
        proxy: 15_001,
        resolver: 15_053,
        mac: [2, 0, 0, 0, 0, 5],
        next_hop_mac: [2, 0, 0, 0, 0, 1],
        own: ips(&["10.1.0.5", "fd00:1::5", "fe80::5"]),
        next_hop: ips(&["10.1.0.1", "fe80::1"]),
        networks: vec![
            (network("10.0.0.0", 8), Place::Cluster),
            (network("10.0.0.1", 32), Place::Node),
            (network("fd00::", 16), Place::Cluster),
            (network("fd00::1", 128), Place::Node),
        ],
        direct: Vec::new(),
        flows: Vec::new(),
        listening: Vec::new(),
    }
}

/// A world.
pub(crate) fn world(from: &mut Choices<'_>) -> World {
    let mut world = usual();
    world.flags = from.byte() % 8;
    world.mode = from.byte() % 2;
    gateway(from, &mut world);
    for _ in 0..from.below(4) {
        let entry = direct(from, &world);
        world.direct.push(entry);
    }
    for _ in 0..from.below(3) {
        let flow = flow(from, &world);
        world.flows.push(flow);
    }
    for _ in 0..from.below(3) {
        let is_v4 = from.once_in(2);
        let listener = (pool::address(from, &world, is_v4), pool::port(from, &world));
        world.listening.push(listener);
    }
    if from.once_in(8) {
        unusual(from, &mut world);
    }
    world
}

fn gateway(from: &mut Choices<'_>, world: &mut World) {
    match from.below(16) {
        15 => world.gateway6 = None,
        14 => world.gateway4 = Ipv4Addr::LOCALHOST,
        13 => world.resolver = world.proxy,
        12 => world.resolver = 53,
        11 => world.proxy = 443,
        _ => {}
    }
}

fn direct(from: &mut Choices<'_>, world: &World) -> Direct {
    let is_v4 = from.once_in(2);
    let address = pool::address(from, world, is_v4);
    let lengths = if is_v4 {
        [32, 24, 8, 0]
    } else {
        [128, 64, 10, 0]
    };
    Direct {
        set: from.mostly(SET, 8, |_| SET + 1),
        network: Network {
            address,
            bits: from.pick(&lengths),
        },
        protocol: from.pick(&[6, 17, 6, 17, 1, 58]),
        port: pool::port(from, world),
    }
}

fn flow(from: &mut Choices<'_>, world: &World) -> Flow {
    let is_v4 = from.once_in(2);
    Flow {
        endpoint: from.mostly(ENDPOINT, 8, |_| ENDPOINT + 1),
        remote: pool::address(from, world, is_v4),
        remote_port: pool::port(from, world),
        local_port: pool::port(from, world),
        protocol: from.pick(&[6, 6, 17]),
    }
}

/// Other addresses and networks than a node would have.
fn unusual(from: &mut Choices<'_>, world: &mut World) {
    let is_v4 = from.once_in(2);
    let address = pool::address(from, world, is_v4);
    match from.below(8) {
        0 => world.own.push(address),
        1 => world.next_hop.push(address),
        2 => world.own.clear(),
        3 => world.next_hop.clear(),
        4 => world.networks.clear(),
        5 => world.next_hop_mac = world.mac,
        _ => {
            let lengths = if is_v4 { [32, 16, 0] } else { [128, 10, 0] };
            let bits = from.pick(&lengths);
            let place = from.pick(&[Place::Node, Place::Cluster, Place::Outside]);
            world.networks.push((Network { address, bits }, place));
        }
    }
}
