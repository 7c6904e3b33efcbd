//! What must hold whatever comes, said of the bytes themselves and without the naive decision.

mod call;
mod frame;

pub(crate) use call::on_call;
pub(crate) use frame::on_frame;

use super::world::{ENDPOINT, SET, World};

/// The same world with each one thing less that is there to allow something.
fn poorer(world: &World) -> Vec<World> {
    let mut worlds = Vec::new();
    let mut add = |take: &dyn Fn(&mut World)| {
        let mut less = world.clone();
        take(&mut less);
        worlds.push(less);
    };
    for at in 0..world.direct.len() {
        add(&|less| cut(&mut less.direct, at));
    }
    for at in 0..world.flows.len() {
        add(&|less| cut(&mut less.flows, at));
    }
    for at in 0..world.own.len() {
        add(&|less| cut(&mut less.own, at));
    }
    for at in 0..world.next_hop.len() {
        add(&|less| cut(&mut less.next_hop, at));
    }
    worlds
}

fn cut<T>(list: &mut Vec<T>, at: usize) {
    list.remove(at);
}

/// The same world in the other mode and without anything of strangers: no verdict differs.
fn equal(world: &World) -> [World; 2] {
    let mut other_mode = world.clone();
    other_mode.mode ^= 1;
    let mut alone = world.clone();
    alone.direct.retain(|entry| entry.set == SET);
    alone.flows.retain(|flow| flow.endpoint == ENDPOINT);
    [other_mode, alone]
}
