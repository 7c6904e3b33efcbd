//! The packet parser and the decision against the naive ones.

use crate::proof::{agreement, choices::Choices, generate, invariants};

/// First byte: the rest are choices of a whole case.
const CHOICES: u8 = 0;
/// First byte: then come the number of choices of a world, these, and a frame as it is.
pub(crate) const FRAME: u8 = 1;

/// # Panics
/// Where the two disagree or an invariant does not hold.
pub fn check(data: &[u8]) {
    match data {
        [CHOICES, choices @ ..] => {
            let from = &mut Choices::new(choices);
            let world = generate::world(from);
            let frame = generate::frame(from, &world);
            agreement::on_frame(&frame, &world);
            invariants::on_frame(&frame, &world);
            let rest = from.bytes(64);
            agreement::on_call(&mut Choices::new(&rest), &world);
            invariants::on_call(&mut Choices::new(&rest), &world);
        }
        [FRAME, count, rest @ ..] => {
            let (choices, frame) = rest.split_at(rest.len().min((*count).into()));
            let world = generate::world(&mut Choices::new(choices));
            agreement::on_frame(frame, &world);
            invariants::on_frame(frame, &world);
        }
        _ => {}
    }
}
