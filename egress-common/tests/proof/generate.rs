//! Worlds, frames and calls: sound ones of every kind, each field of which can be wrong, and what
//! remains when those are cut, spliced and overwritten.

mod call;
mod frame;
mod mutate;
mod neighbour;
mod packet;
mod pool;
mod world;

pub(crate) use call::call;
pub(crate) use frame::frame;
pub(crate) use world::world;
