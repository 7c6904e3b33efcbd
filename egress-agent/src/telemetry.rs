//! What the agent tells: records of connections, look-ups and bypass attempts.

pub mod kernel;
pub mod process;
pub mod record;
pub mod sink;
pub mod time;
