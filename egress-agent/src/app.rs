//! Where everything is wired: one instance of enforcer and gateway, from a plan to its end.

pub mod exec;
pub mod follow;
pub mod handover;
pub mod instance;
pub mod lock;
pub mod names;
pub mod plan;
pub mod posture;
mod reach;
pub mod roots;
pub mod run;
mod shared;
pub mod status;
