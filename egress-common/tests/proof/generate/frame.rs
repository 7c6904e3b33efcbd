//! Frames on the endpoint's link.

use super::{
    super::{choices::Choices, world::World},
    mutate::mutate,
    neighbour::{arp, ndp},
    packet::packet,
    pool,
};

/// A frame, from sound to hopeless.
pub(crate) fn frame(from: &mut Choices<'_>, world: &World) -> Vec<u8> {
    let mut frame = whole(from, world);
    if from.once_in(6) {
        let length = from.below(64);
        frame.extend(from.bytes(length));
    }
    if from.once_in(3) {
        let other = whole(from, world);
        for _ in 0..=from.below(3) {
            mutate(from, &mut frame, &other);
        }
    }
    frame
}

fn whole(from: &mut Choices<'_>, world: &World) -> Vec<u8> {
    let (ethertype, to, body) = content(from, world);
    let ethertype: u16 = from.mostly(ethertype, 24, |from| {
        from.pick(&[
            0x0800, 0x86dd, 0x0806, 0x8035, 0x88cc, 0x05dc, 0x8847, 0x0000,
        ])
    });
    let mut bytes = pool::mac(from, world, to).to_vec();
    bytes.extend(pool::mac(from, world, world.mac));
    if from.once_in(32) {
        let tag: u16 = from.pick(&[0x8100, 0x88a8, 0x9100, 0x9200]);
        bytes.extend(tag.to_be_bytes());
        bytes.extend([0, 1]);
    }
    bytes.extend(ethertype.to_be_bytes());
    bytes.extend(body);
    bytes
}

/// Ethertype, MAC and body.
fn content(from: &mut Choices<'_>, world: &World) -> (u16, [u8; 6], Vec<u8>) {
    match from.below(8) {
        0..=4 => {
            let (packet, is_v4) = packet(from, world);
            let ethertype = if is_v4 { 0x0800 } else { 0x86dd };
            (ethertype, world.next_hop_mac, packet)
        }
        5 => {
            let to = from.pick(&[world.next_hop_mac, [0xff; 6]]);
            (0x0806, to, arp(from, world))
        }
        6 => {
            let (packet, to) = ndp(from, world);
            (0x86dd, to, packet)
        }
        _ => {
            let length = from.below(80);
            (from.number(), world.next_hop_mac, from.bytes(length))
        }
    }
}
