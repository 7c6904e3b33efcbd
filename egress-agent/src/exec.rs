//! `egress-agent exec`: one command, in namespaces of its own, with a gateway of its own.
//!
//! The agent makes a network namespace behind a veth ([`network`]), so that the link layer judges
//! every frame; then it starts PID 1 of the command ([`launch`], [`init`]), which arranges what the
//! command sees, gives up every privilege that a command may not have, starts it, and passes
//! signals and the exit status on. With PID 1 the whole command ends, and PID 1 ends with the agent.

pub mod init;
pub mod launch;
pub mod network;
pub mod protocol;
pub mod signals;
pub mod slot;
pub mod sockets;
pub mod summary;
pub mod user;
