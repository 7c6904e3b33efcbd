//! Plain HTTP/1: every request of a connection is checked, judged and sent on by itself.

pub mod bad;
pub mod begin;
pub mod fields;
pub mod framing;
pub mod head;
mod target;
