//! Where everything is wired: one instance of enforcer and gateway, from a plan to its end.

pub mod instance;
pub mod plan;
pub mod run;
