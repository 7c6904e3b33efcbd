//! The kernel's counters: they count everything, also what no event told of.

use crate::enforcer::{Enforcer, EnforcerError, state::failed};
use aya::maps::{MapData, PerCpuArray};
use egress_common::{
    maps::{self, counter},
    verdict::DropReason,
};
use std::collections::BTreeMap;

/// What the kernel counted of one endpoint, over all CPUs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counters {
    /// Packets that passed.
    pub allowed: u64,
    /// Attempts that were denied, or would have been in Audit, by reason.
    pub denied: BTreeMap<DropReason, u64>,
}

impl Enforcer {
    /// Reads the counters of an endpoint; 0 is whoever is none.
    pub fn counters(&mut self, endpoint: u32) -> Result<Counters, EnforcerError> {
        let map: PerCpuArray<&mut MapData, u64> = self.map(maps::COUNTERS)?;
        let sum = |reason: u8| -> Result<u64, EnforcerError> {
            let values = map
                .get(&counter(endpoint, reason), 0)
                .map_err(failed(maps::COUNTERS))?;
            Ok(values.iter().sum())
        };
        let mut denied = BTreeMap::new();
        for reason in DropReason::ALL {
            let count = sum(*reason as u8)?;
            if count > 0 {
                denied.insert(*reason, count);
            }
        }
        Ok(Counters {
            allowed: sum(0)?,
            denied,
        })
    }

    /// Sets the counters of an endpoint to zero, before its id is given to another.
    pub fn clear_counters(&mut self, endpoint: u32) -> Result<(), EnforcerError> {
        let mut map: PerCpuArray<&mut MapData, u64> = self.map(maps::COUNTERS)?;
        let cpus = aya::util::nr_cpus().map_err(|(_, error)| EnforcerError::Map {
            name: maps::COUNTERS,
            source: Box::new(aya::maps::MapError::IoError(error)),
        })?;
        for reason in 0..DropReason::COUNT as u8 {
            let zero = aya::maps::PerCpuValues::try_from(vec![0; cpus])
                .map_err(|error| failed(maps::COUNTERS)(error.into()))?;
            map.set(counter(endpoint, reason), zero, 0)
                .map_err(failed(maps::COUNTERS))?;
        }
        Ok(())
    }
}
