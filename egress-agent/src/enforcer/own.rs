//! The maps that each endpoint has for itself: what a pod can fill is its own.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::PathBuf,
};

use egress_common::{
    endpoint::MAX_ENDPOINTS,
    event::{ReportKey, ReportWindow, WINDOW_NS},
    maps::{self, Flow, FlowKey},
    origin::{OriginQuery, Published},
    verdict::DropReason,
};

use crate::enforcer::{
    Enforcer, EnforcerError, attach::pin as pin_again, bpffs, sys, tamper::Fault,
};

/// How long an established flow may be silent before it is forgotten: 5 days, in nanoseconds, as in
/// the kernel's connection tracking (nf_conntrack_tcp_timeout_established).
const SILENT_NS: u64 = 5 * 86_400 * 1_000_000_000;

/// How many endpoints one look is at.
const AT_ONCE: usize = 64;

/// How each of [`maps::PER_ENDPOINT`] is made, as in the object: kind, bytes of a key and of a
/// value, entries, flags.
const SHAPES: [(&str, sys::Shape); 4] = [
    (
        maps::FLOWS,
        sys::Shape::of::<FlowKey, Flow>(sys::HASH, maps::MAX_FLOWS, sys::NO_PREALLOC),
    ),
    (
        maps::OPENING,
        sys::Shape::of::<FlowKey, Flow>(sys::LRU_HASH, maps::MAX_OPENING, 0),
    ),
    (
        maps::ORIGINS,
        sys::Shape::of::<OriginQuery, Published>(sys::LRU_HASH, maps::MAX_ORIGINS, 0),
    ),
    (
        maps::REPORTS,
        sys::Shape::of::<ReportKey, ReportWindow>(sys::HASH, maps::MAX_REPORTS, sys::NO_PREALLOC),
    ),
];

/// The maps of one endpoint.
#[derive(Debug)]
pub(super) struct Own {
    /// As in [`SHAPES`], with their ids.
    maps: Vec<(OwnedFd, u32)>,
    /// Of windows that stand for all others of a reason: what has been told of, and when.
    told: HashMap<ReportKey, (u64, u64)>,
}

/// What a report window comes to that is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Closed {
    /// Of what.
    pub key: ReportKey,
    /// The layer that saw the first attempt.
    pub layer: u8,
    /// When that was: nanoseconds of `CLOCK_BOOTTIME`.
    pub started_ns: u64,
    /// Whether the first attempt has not been reported either.
    pub is_untold: bool,
    /// How many more attempts there were.
    pub repeats: u64,
}

/// Gives an endpoint its own maps where there is no instance: for tests and measurements. Nothing is
/// pinned.
///
/// # Errors
/// The kernel refuses.
pub fn give(ebpf: &aya::Ebpf, endpoint: u32) -> io::Result<()> {
    for (name, shape) in &SHAPES {
        let Some(aya::maps::Map::ArrayOfMaps(outer)) = ebpf.map(name) else {
            return Err(io::ErrorKind::NotFound.into());
        };
        let map = sys::map_create(name, shape)?;
        sys::put_map(outer.fd().as_fd(), endpoint, map.as_fd())?;
    }
    Ok(())
}

impl Own {
    /// Closes the windows that are over.
    pub(super) fn close(&mut self, now_ns: u64) -> io::Result<Vec<Closed>> {
        let mut closed = Vec::new();
        for (key, window) in self.windows()? {
            let is_over = |since: u64| now_ns.saturating_sub(since) > WINDOW_NS;
            if key.is_others() {
                closed.extend(self.others(key, &window, now_ns, is_over));
            // One that was just made has not begun.
            } else if window.started_ns != 0 && is_over(window.started_ns) {
                let mut window = ReportWindow::EMPTY;
                // SAFETY: key and value are those of the map, and made of integers alone.
                let taken = unsafe { sys::take(self.map(maps::REPORTS)?, &key, &mut window) };
                // It may have been restarted since it was read: then what is taken is the new one,
                // and the old one's attempts came with an event.
                if taken? {
                    closed.push(Closed {
                        key,
                        layer: window.layer,
                        started_ns: window.started_ns,
                        is_untold: window.is_untold == 1,
                        repeats: window.attempts.saturating_sub(1),
                    });
                }
            }
        }
        Ok(closed)
    }

    /// These windows stay, and their numbers grow.
    fn others(
        &mut self,
        key: ReportKey,
        window: &ReportWindow,
        now_ns: u64,
        is_over: impl Fn(u64) -> bool,
    ) -> Option<Closed> {
        let (told, when) = self.told.entry(key).or_insert((0, window.started_ns));
        let repeats = window.attempts.saturating_sub(*told);
        if repeats == 0 || !is_over(*when) {
            return None;
        }
        (*told, *when) = (window.attempts, now_ns);
        Some(Closed {
            key,
            layer: window.layer,
            started_ns: window.started_ns,
            is_untold: false,
            repeats,
        })
    }

    fn windows(&self) -> io::Result<Vec<(ReportKey, ReportWindow)>> {
        // SAFETY: keys and values are those of the map, and made of integers alone.
        unsafe { sys::entries(self.map(maps::REPORTS)?, maps::MAX_REPORTS) }
    }

    fn map(&self, name: &str) -> io::Result<BorrowedFd<'_>> {
        let mut maps = SHAPES.iter().zip(&self.maps);
        let found = maps.find(|((of, _), _)| *of == name);
        let (_, (map, _)) = found.ok_or(io::ErrorKind::NotFound)?;
        Ok(map.as_fd())
    }
}

impl Enforcer {
    /// Gives endpoints their own maps: those that they have, or new ones. All at once, since the
    /// kernel waits for running programs once a call, for some ten milliseconds.
    pub fn give_own(&mut self, endpoints: &[u32]) -> Result<(), EnforcerError> {
        let new = endpoints.iter().filter(|id| !self.own.contains_key(id));
        let new: BTreeSet<u32> = new.copied().collect();
        let mut maps: BTreeMap<u32, Vec<(OwnedFd, u32)>> = BTreeMap::new();
        for (name, shape) in &SHAPES {
            let outer = self.written.map(name)?;
            let mut absent = Vec::new();
            for endpoint in &new {
                let opened = self.open(name, *endpoint, shape);
                let (map, id) = opened.map_err(failed(name))?;
                if !is_in_place(outer, *endpoint, id) {
                    absent.push((*endpoint, map.as_raw_fd()));
                }
                maps.entry(*endpoint).or_default().push((map, id));
            }
            sys::put_maps(outer, &absent).map_err(failed(name))?;
        }
        for (endpoint, maps) in maps {
            self.own.insert(
                endpoint,
                begin(endpoint, maps).map_err(failed(maps::REPORTS))?,
            );
        }
        Ok(())
    }

    /// A map that is pinned, or a new one that then is, with its id.
    fn open(&self, name: &str, endpoint: u32, shape: &sys::Shape) -> io::Result<(OwnedFd, u32)> {
        let pin = self.own_pin(name, endpoint);
        let map = match sys::get(&pin) {
            Ok(map) => map,
            Err(_not_yet) => {
                let map = sys::map_create(name, shape)?;
                sys::pin(map.as_fd(), &pin)?;
                map
            }
        };
        let id = sys::id(map.as_fd())?;
        Ok((map, id))
    }

    /// By endpoint and reason, how many attempts to many destinations have been told of.
    pub fn told(&self) -> Vec<(u32, u8, u64)> {
        let all = self.own.values().flat_map(|own| &own.told);
        all.map(|(key, (told, _))| (key.endpoint, key.reason, *told))
            .collect()
    }

    /// What another agent has told of, by endpoint and reason.
    pub fn set_told(&mut self, told: &[(u32, u8, u64)]) {
        for (endpoint, reason, count) in told {
            if let Some(own) = self.own.get_mut(endpoint) {
                let entry = own.told.entry(ReportKey::others(*endpoint, *reason));
                entry.or_default().0 = *count;
            }
        }
    }

    /// Takes an endpoint's maps away, with all that is in them but its reports, which the next look
    /// at windows still tells of.
    pub(super) fn take_own(&mut self, endpoint: u32) -> Result<(), EnforcerError> {
        let Some(mut own) = self.own.remove(&endpoint) else {
            return Ok(());
        };
        let closed = own.close(u64::MAX).map_err(failed(maps::REPORTS))?;
        self.closed.extend(closed);
        for name in maps::PER_ENDPOINT {
            let outer = self.written.map(name)?;
            sys::delete(outer, &endpoint.to_ne_bytes()).map_err(failed(name))?;
            match std::fs::remove_file(self.own_pin(name, endpoint)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(failed(name)(error));
                }
                Ok(()) | Err(_) => {}
            }
        }
        Ok(())
    }

    /// The endpoints that have maps, pinned ones included.
    pub(super) fn adopt_own(&mut self) -> Result<(), EnforcerError> {
        let pinned = |id: &u32| self.own_pin(maps::REPORTS, *id).exists();
        let pinned: Vec<u32> = (1..MAX_ENDPOINTS).filter(pinned).chain([0]).collect();
        self.give_own(&pinned)
    }

    /// Forgets the flows of an endpoint that `keep` does not hold of.
    pub(super) fn retain_flows(
        &self,
        endpoint: u32,
        keep: impl Fn(&FlowKey, &Flow) -> bool,
    ) -> Result<(), EnforcerError> {
        let Some(own) = self.own.get(&endpoint) else {
            return Ok(());
        };
        for (name, most) in [
            (maps::FLOWS, maps::MAX_FLOWS),
            (maps::OPENING, maps::MAX_OPENING),
        ] {
            let map = own.map(name).map_err(failed(name))?;
            // SAFETY: keys and values are those of the map, and made of integers alone.
            let entries = unsafe { sys::entries::<FlowKey, Flow>(map, most) };
            for (key, flow) in entries.map_err(failed(name))? {
                if !keep(&key, &flow) {
                    sys::delete(map, sys::bytes(&key)).map_err(failed(name))?;
                }
            }
        }
        Ok(())
    }

    /// Forgets flows that have been silent for days, of one endpoint a call. `now_ns` is
    /// `CLOCK_MONOTONIC`.
    pub fn forget_silent(&mut self, now_ns: u64) -> Result<(), EnforcerError> {
        let next = self.own.range(self.silent + 1..).next().map(|(id, _)| *id);
        self.silent = next.unwrap_or_default();
        self.retain_flows(self.silent, |_, flow| {
            now_ns.saturating_sub(flow.seen_ns) < SILENT_NS
        })
    }

    /// Looks whether endpoints' maps are where they should be, of some endpoints a call, and puts
    /// them there.
    pub(super) fn mend_own(&mut self) -> Vec<Fault> {
        let after = self.own.range(self.looked + 1..).map(|(id, _)| *id);
        let some: Vec<u32> = after.take(AT_ONCE).collect();
        self.looked = match some.len() {
            AT_ONCE => some.last().copied().unwrap_or_default(),
            _ => 0,
        };
        let mut faults = Vec::new();
        for endpoint in some.into_iter().chain([0]) {
            for (number, (name, _)) in SHAPES.iter().enumerate() {
                faults.extend(self.mend_one(endpoint, number, name));
            }
        }
        faults
    }

    fn mend_one(&self, endpoint: u32, number: usize, name: &'static str) -> Option<Fault> {
        let (map, id) = self.own.get(&endpoint)?.maps.get(number)?;
        let outer = self.written.map(name).ok()?;
        let pin = self.own_pin(name, endpoint);
        let in_place = is_in_place(outer, endpoint, *id);
        let pinned = sys::get(&pin).and_then(|pinned| sys::id(pinned.as_fd()));
        let is_pinned = pinned.is_ok_and(|pinned| pinned == *id);
        if in_place && is_pinned {
            return None;
        }
        let mend = || -> io::Result<()> {
            if !in_place {
                sys::put_map(outer, endpoint, map.as_fd())?;
            }
            if !is_pinned {
                pin_again(map.as_fd(), &pin)?;
            }
            Ok(())
        };
        let what = match in_place {
            true => "its pin was gone or another's",
            false => "it was gone or another",
        };
        Some(Fault {
            endpoint: None,
            what: format!("map {name} of endpoint {endpoint}: {what}"),
            failed: mend().err().map(|error| error.to_string()),
        })
    }

    fn own_pin(&self, name: &str, endpoint: u32) -> PathBuf {
        bpffs::map(&self.pins, &format!("{name}-{endpoint}"))
    }
}

/// The windows of an endpoint's maps begin: those that stand for all others of a reason, and what
/// an earlier agent has told of, which is not told again.
fn begin(endpoint: u32, maps: Vec<(OwnedFd, u32)>) -> io::Result<Own> {
    let mut own = Own {
        maps,
        told: HashMap::new(),
    };
    for reason in DropReason::ALL {
        let key = ReportKey::others(endpoint, *reason as u8);
        let window = ReportWindow {
            is_others: 1,
            ..ReportWindow::EMPTY
        };
        sys::insert_new(own.map(maps::REPORTS)?, &key, &window)?;
    }
    for (key, window) in own.windows()? {
        if key.is_others() {
            own.told.insert(key, (window.attempts, window.started_ns));
        }
    }
    Ok(own)
}

/// Whether the map of this id is at a place of an array of maps.
pub(super) fn is_in_place(outer: BorrowedFd<'_>, place: u32, id: u32) -> bool {
    let found = sys::lookup(outer, &place.to_ne_bytes(), size_of::<u32>());
    found.is_ok_and(|found| found.as_deref() == Some(&id.to_ne_bytes()))
}

/// For `map_err`: names the map.
pub(super) fn failed(name: &'static str) -> impl Fn(io::Error) -> EnforcerError {
    move |error| EnforcerError::Map {
        name,
        source: Box::new(aya::maps::MapError::IoError(error)),
    }
}
