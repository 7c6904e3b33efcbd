//! What is pinned, read by somebody who is not the enforcer. Nothing is changed.

use std::{
    cell::RefCell, collections::BTreeMap, fs, io, os::fd::AsFd, path::Path, time::SystemTime,
};

use aya::maps::{Array, HashMap, Map, MapData, PerCpuArray};
use egress_common::{
    endpoint::{Endpoint, Link, MAX_ENDPOINTS},
    maps::{self, counter},
    verdict::DropReason,
};

use crate::enforcer::{
    EnforcerError, bpffs,
    clsact::{self, Links},
    counters::Counters,
    state::failed,
    sys,
};

/// A pinned link.
#[derive(Debug, Clone)]
pub struct Pinned {
    /// The program's name in the object.
    pub program: String,
    /// Of whom it is, as the pin says: escaped.
    pub owner: String,
    /// The link's id.
    pub id: u32,
    /// The program's id.
    pub program_id: u32,
    /// When the program was loaded.
    pub loaded: Option<SystemTime>,
    /// The cgroup's id, or the interface's index; 0 where it is attached to nothing.
    pub target: u64,
}

/// All pinned links of an instance.
///
/// # Errors
/// They cannot be read.
pub fn links(pins: &Path) -> io::Result<Vec<Pinned>> {
    let programs = aya::programs::loaded_programs().filter_map(Result::ok);
    let loaded: BTreeMap<_, _> = programs
        .map(|program| (program.id(), program.loaded_at()))
        .collect();
    let mut links = Vec::new();
    for entry in fs::read_dir(pins.join("links"))? {
        let entry = entry?;
        let file = entry.file_name();
        let file = file.to_string_lossy();
        let Some((owner, program)) = file.rsplit_once("--") else {
            continue;
        };
        let info = sys::link_info(sys::get(&entry.path())?.as_fd())?;
        links.push(Pinned {
            program: program.to_owned(),
            owner: owner.to_owned(),
            id: info.id,
            program_id: info.program,
            loaded: loaded.get(&info.program).copied().flatten(),
            target: info.target(),
        });
    }
    if Links::of_this_kernel() == Links::Clsact {
        links.extend(filters(pins)?);
    }
    Ok(links)
}

/// Filters of the instance, which are no links, and whose programs nothing tells.
fn filters(pins: &Path) -> io::Result<Vec<Pinned>> {
    let own = clsact::name_of(&pins.join("links"));
    let found = RefCell::new(Vec::new());
    // None is unwanted: nothing is removed.
    clsact::detach(|name, interface| {
        let link = clsact::link_of(name, &own).and_then(|link| link.rsplit_once("--"));
        if let Some((owner, program)) = link {
            found.borrow_mut().push(Pinned {
                program: program.to_owned(),
                owner: owner.to_owned(),
                id: 0,
                program_id: 0,
                loaded: None,
                target: interface.into(),
            });
        }
        false
    })?;
    Ok(found.into_inner())
}

/// All endpoints of an instance's maps, each with the index of its interface, if it has one, and
/// its counters.
///
/// # Errors
/// A map cannot be read.
pub fn endpoints(pins: &Path) -> Result<Vec<(Endpoint, Option<u32>, Counters)>, EnforcerError> {
    let table: Array<MapData, Endpoint> = open(pins, maps::ENDPOINTS, Map::Array)?;
    let links: HashMap<MapData, u32, Link> = open(pins, maps::LINKS, Map::HashMap)?;
    let counts: PerCpuArray<MapData, u64> = open(pins, maps::COUNTERS, Map::PerCpuArray)?;
    let links: Vec<(u32, Link)> = links.iter().filter_map(Result::ok).collect();
    let mut found = Vec::new();
    for id in 1..MAX_ENDPOINTS {
        let endpoint = table.get(&id, 0).map_err(failed(maps::ENDPOINTS))?;
        if endpoint.id == 0 {
            continue;
        }
        let mut of_it = links.iter().filter(|(_, link)| link.endpoint == id);
        let interface = of_it.next().map(|(index, _)| *index);
        let sum = |reason: u8| -> Result<u64, EnforcerError> {
            let values = counts.get(&counter(id, reason), 0);
            Ok(values.map_err(failed(maps::COUNTERS))?.iter().sum())
        };
        let mut counters = Counters {
            allowed: sum(0)?,
            ..Counters::default()
        };
        for reason in DropReason::ALL {
            let count = sum(*reason as u8)?;
            if count > 0 {
                counters.denied.insert(*reason, count);
            }
        }
        found.push((endpoint, interface, counters));
    }
    Ok(found)
}

fn open<T: TryFrom<Map, Error = aya::maps::MapError>>(
    pins: &Path,
    name: &'static str,
    kind: impl FnOnce(MapData) -> Map,
) -> Result<T, EnforcerError> {
    let map = MapData::from_pin(bpffs::map(pins, name)).map_err(failed(name))?;
    T::try_from(kind(map)).map_err(failed(name))
}
