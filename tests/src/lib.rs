//! The world that the demo and the tests live in: network namespaces for a node, its pods and an
//! internet with real servers, cgroups of the kubelet's shape, a capture on the far side, and the
//! agent under test.
//!
//! Nothing leaves the namespaces, and nothing outlives the process: namespaces are held by
//! descriptors alone, children die with the thread that started them, and the few things that
//! have names (cgroups, pins, a directory) carry the owner's in theirs and are cleared by the next
//! [`World`](world::World) where the owner is gone.

pub mod agent;
pub mod bpf;
pub mod capture;
pub mod cgroup;
pub mod echo;
pub mod exec;
pub mod frame;
pub mod host_pod;
pub mod internet;
pub mod namespace;
pub mod owner;
pub mod pod;
pub mod process;
pub mod records;
pub mod scene;
pub mod scratch;
pub mod tools;
pub mod wire;
pub mod world;
