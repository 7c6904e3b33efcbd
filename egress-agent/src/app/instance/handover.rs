//! An instance's side of a hand-over.

use std::sync::Arc;

use super::{Gone, Instance, InstanceError};
use crate::{
    app::handover::Handed,
    gateway::protocol::{FromGateway, ToGateway},
};

impl Instance {
    /// What whoever takes the instance over has to know. From now on this agent writes nothing and
    /// mends nothing, until it [reclaims](Self::reclaim) its instance or leaves.
    pub fn hand_over(&self, generation: u32) -> Handed {
        Handed {
            generation,
            gateway: self.child.id().unwrap_or_default(),
            told: self.enforcer.told(),
        }
    }

    /// Takes the instance back from somebody who did not get far: everything is attached and written
    /// as it was.
    ///
    /// # Errors
    /// Something cannot be; everything else is.
    pub fn reclaim(&mut self) -> Result<(), InstanceError> {
        let forwarded = self.enforcer.forward_events(self.report.clone());
        let plan = Arc::clone(&self.plan);
        let enforced = self.enforce(&plan, Gone::Skip);
        // Its own programs in the place of the other's; that is no tampering.
        for fault in self.enforcer.mend() {
            tracing::debug!("taken back: {fault:?}");
        }
        forwarded.map_err(InstanceError::from).and(enforced)
    }

    /// Has the gateway take connections and look-ups from the sockets that it has inherited.
    ///
    /// # Errors
    /// It cannot.
    pub(super) async fn serve(&mut self) -> Result<(), InstanceError> {
        self.ask(ToGateway::Serve, FromGateway::Serves).await
    }

    /// Has the gateway take nothing more.
    ///
    /// # Errors
    /// It has gone.
    pub async fn drain(&mut self) -> Result<(), InstanceError> {
        Ok(self.sender.send(&ToGateway::Drain).await?)
    }
}
