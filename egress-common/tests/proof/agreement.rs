//! Verdict and reason are those of the naive decision.

use super::{
    choices::Choices,
    generate, naive,
    subject::{self, shown},
    world::World,
};

/// On a frame at the link, and on what is in it at a socket's hook.
pub(crate) fn on_frame(frame: &[u8], world: &World) {
    let ours = subject::judge_frame(frame, world);
    let theirs = naive::judge_frame(frame, world);
    assert_eq!(
        shown(ours),
        shown(theirs),
        "frame {frame:02x?} in {world:?}"
    );
    let packet = frame.get(14..).unwrap_or_default();
    let ours = subject::judge_packet(packet, world);
    let theirs = naive::judge_packet(packet, world);
    assert_eq!(
        shown(ours),
        shown(theirs),
        "packet {packet:02x?} in {world:?}"
    );
}

/// On a call.
pub(crate) fn on_call(from: &mut Choices<'_>, world: &World) {
    let (call, named) = generate::call(from, world);
    let ours = subject::judge_call(&call, named, world);
    let theirs = naive::judge(&call, world);
    assert_eq!(
        shown(ours),
        shown(theirs),
        "{call:?} to {named} in {world:?}"
    );
}
