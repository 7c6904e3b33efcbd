//! What becomes of the endpoints' cgroups and interfaces while the agent runs.

use std::time::Duration;

use tokio::time::Instant;

use crate::{
    app::plan::Plan,
    enforcer::{
        cgroup,
        node::{self, Change, Changes, NodeError},
    },
};

/// How long changes are gathered that are not an endpoint's new interface: one interface that is
/// set up makes several, and a busy node many.
const GATHER: Duration = Duration::from_millis(50);

/// An interface that an endpoint is to have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arrival {
    /// The endpoint's name.
    pub endpoint: String,
    /// The index.
    pub interface: u32,
    /// When it was told of.
    pub told: std::time::Instant,
}

/// Something to do.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Attach at once, then make a new plan.
    Guard(Arrival),
    /// Make a new plan.
    Plan,
}

/// Follows changes.
pub struct Follow {
    changes: Changes,
    due: Option<Instant>,
}

impl Follow {
    /// Subscribes to the kernel's notifications. Within a tokio runtime.
    ///
    /// # Errors
    /// Netlink cannot be had.
    pub fn open() -> Result<Self, NodeError> {
        Ok(Self {
            changes: Changes::open()?,
            due: None,
        })
    }

    /// Waits until there is something to do about the plan in force.
    pub async fn next(&mut self, plan: &Plan) -> Step {
        loop {
            let due = self.due;
            let gathered = async move {
                match due {
                    Some(due) => tokio::time::sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                change = self.changes.next() => {
                    if let Some(arrival) = arrival(&change, plan) {
                        return Step::Guard(arrival);
                    }
                    self.due.get_or_insert_with(|| Instant::now() + GATHER);
                }
                () = gathered => {
                    self.due = None;
                    return Step::Plan;
                }
            }
        }
    }
}

fn arrival(change: &Change, plan: &Plan) -> Option<Arrival> {
    let Change::Link { name, interface } = change else {
        return None;
    };
    let endpoint = plan.by_interface(name)?;
    let known = endpoint.state.link.as_ref().map(|link| link.interface);
    (known != Some(*interface)).then(|| Arrival {
        endpoint: endpoint.name.clone(),
        interface: *interface,
        told: std::time::Instant::now(),
    })
}

/// Whether the hosts file, or some endpoint's cgroup or interface is another than the plan has it:
/// for once a second, since nobody tells of cgroups, and a notification may be lost.
pub fn is_stale(plan: &Plan) -> bool {
    plan.hosts.is_stale()
        || plan.endpoints.iter().any(|endpoint| {
            let cgroup = cgroup::identify(&endpoint.cgroup).ok();
            let name = endpoint.interface.as_deref();
            let known = endpoint.state.link.as_ref().map(|link| link.interface);
            cgroup != endpoint.state.cgroup || name.and_then(node::interface) != known
        })
}
