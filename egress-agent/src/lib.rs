//! egress-agent: makes the egress gateway the only way out of a pod, and says who tried another
//! way.

pub mod app;
pub mod cli;
pub mod config;
pub mod doctor;
pub mod enforcer;
pub mod exec;
pub mod gateway;
pub mod policy;
pub mod telemetry;
