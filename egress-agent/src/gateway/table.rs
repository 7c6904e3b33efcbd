//! The endpoints and policies in force.

use std::{collections::HashMap, sync::Arc};

use super::{
    admit::Usage,
    hosts::HostsTable,
    protocol::{Endpoints, RefusedNetworks},
};
use crate::policy::{compile::CompiledPolicy, rule::Mode};

/// One generation. Empty knows nobody.
#[derive(Clone, Debug, Default)]
pub struct Table {
    /// The generation; 0 before the first.
    pub generation: u64,
    /// What no name may lead to.
    pub refused: RefusedNetworks,
    /// The operator's own names.
    pub hosts: Arc<HostsTable>,
    endpoints: HashMap<u32, EndpointState>,
}

/// What is known of an endpoint.
#[derive(Clone, Debug)]
pub struct EndpointState {
    /// For records.
    pub name: Arc<str>,
    /// Enforce or Audit.
    pub mode: Mode,
    /// Whether the policy judges loopback destinations; otherwise they are denied.
    pub relay_loopback: bool,
    /// What it may reach.
    pub policy: Arc<CompiledPolicy>,
    /// What it has open, whatever the generation.
    pub usage: Arc<Usage>,
}

impl Table {
    /// Compiles the generation after `before`. An endpoint whose policy is missing may reach nothing.
    pub fn new(message: &Endpoints, before: &Self) -> Self {
        let policies: HashMap<u32, Arc<CompiledPolicy>> = message
            .policies
            .iter()
            .map(|(number, rules)| (*number, Arc::new(CompiledPolicy::new(rules))))
            .collect();
        let state = |endpoint: &super::protocol::Endpoint| EndpointState {
            name: endpoint.name.as_str().into(),
            mode: endpoint.mode,
            relay_loopback: endpoint.relay_loopback,
            policy: policies.get(&endpoint.policy).cloned().unwrap_or_default(),
            usage: before
                .endpoint(endpoint.id)
                .filter(|same| *same.name == *endpoint.name)
                .map(|same| same.usage.clone())
                .unwrap_or_default(),
        };
        Self {
            generation: message.generation,
            refused: message.refused.clone(),
            hosts: message.hosts.clone(),
            endpoints: message.endpoints.iter().map(|e| (e.id, state(e))).collect(),
        }
    }

    /// The endpoint of this number.
    pub fn endpoint(&self, id: u32) -> Option<&EndpointState> {
        self.endpoints.get(&id)
    }
}
