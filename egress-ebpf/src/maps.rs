//! The maps, behind accessors. A miss is `None`, and every caller denies on it.

use aya_ebpf::{
    bindings::{BPF_NOEXIST, BPF_SK_STORAGE_GET_F_CREATE, bpf_sock},
    btf_maps::SkStorage,
    helpers::bpf_sk_storage_get,
    macros::{btf_map, map},
    maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, PerfEventArray, lpm_trie::Key},
};
use core::{
    ffi::c_void,
    intrinsics::{AtomicOrdering, atomic_cxchg, atomic_xadd, atomic_xchg},
};
use egress_common::{
    address::Address,
    endpoint::{Endpoint, Link, MAX_ENDPOINTS},
    event::{Event, ReportKey, ReportWindow},
    maps::{
        AddressKey, Config, DirectKey, FlowKey, MAX_ADDRESSES, MAX_COUNTERS, MAX_DIRECT_HOSTS,
        MAX_DIRECT_NETWORKS, MAX_FLOWS, MAX_NETWORKS, MAX_ORIGINS, MAX_REPORTS, counter,
    },
    origin::{Origin, OriginQuery, Published},
    socket::Socket,
};

/// BPF_F_NO_PREALLOC (include/uapi/linux/bpf.h): what tries demand, and what saves memory.
const NO_PREALLOC: u32 = 1;

#[map]
static CONFIG: Array<Config> = Array::with_max_entries(1, 0);
#[map]
static ENDPOINTS: Array<Endpoint> = Array::with_max_entries(MAX_ENDPOINTS, 0);
#[map]
static CGROUPS: HashMap<u64, u32> = HashMap::with_max_entries(MAX_ENDPOINTS * 4, 0);
#[map]
static LINKS: HashMap<u32, Link> = HashMap::with_max_entries(MAX_ENDPOINTS, 0);
#[map]
static ADDRESSES: HashMap<AddressKey, u8> = HashMap::with_max_entries(MAX_ADDRESSES, 0);
#[map]
static DIRECT_HOSTS: HashMap<DirectKey, u8> =
    HashMap::with_max_entries(MAX_DIRECT_HOSTS, NO_PREALLOC);
#[map]
static DIRECT_NETWORKS: LpmTrie<DirectKey, u8> =
    LpmTrie::with_max_entries(MAX_DIRECT_NETWORKS, NO_PREALLOC);
#[map]
static NETWORKS: LpmTrie<Address, u8> = LpmTrie::with_max_entries(MAX_NETWORKS, NO_PREALLOC);
#[map]
static FLOWS: LruHashMap<FlowKey, u64> = LruHashMap::with_max_entries(MAX_FLOWS, 0);
#[map]
static ORIGINS: LruHashMap<OriginQuery, Published> = LruHashMap::with_max_entries(MAX_ORIGINS, 0);
#[map]
static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(MAX_COUNTERS, 0);
#[map]
static REPORTS: LruHashMap<ReportKey, ReportWindow> = LruHashMap::with_max_entries(MAX_REPORTS, 0);
#[map]
pub(crate) static EVENTS: PerfEventArray<Event> = PerfEventArray::new(0);
#[btf_map]
static SOCKETS: SkStorage<Socket> = SkStorage::new();
#[btf_map]
static ACCEPTED: SkStorage<Origin> = SkStorage::new();

/// What holds for the whole instance.
#[inline(always)]
pub(crate) fn config() -> Option<&'static Config> {
    CONFIG.get(0)
}

/// The endpoint of this id.
#[inline(always)]
pub(crate) fn endpoint(id: u32) -> Option<&'static Endpoint> {
    ENDPOINTS.get(id).filter(|endpoint| endpoint.id != 0)
}

/// The id of the endpoint whose cgroup this is.
#[inline(always)]
pub(crate) fn endpoint_of_cgroup(cgroup: u64) -> Option<u32> {
    // SAFETY: the value is a word; user space replaces entries, it does not write into them.
    unsafe { CGROUPS.get(&cgroup) }.copied()
}

/// The endpoint that the socket was made in, as long as its cgroup is one's.
#[inline(always)]
pub(crate) fn endpoint_of_socket(socket: &Socket) -> Option<&'static Endpoint> {
    endpoint(endpoint_of_cgroup(socket.cgroup)?)
}

/// The link whose host side has this index.
#[inline(always)]
pub(crate) fn link(interface: u32) -> Option<&'static Link> {
    // SAFETY: user space replaces a link as a whole, and a removed one denies.
    unsafe { LINKS.get(&interface) }
}

/// What the address is to the endpoint; nothing where it is unknown.
#[inline(always)]
pub(crate) fn role(endpoint: u32, address: &Address) -> u8 {
    let key = AddressKey {
        endpoint,
        address: *address,
    };
    // SAFETY: the value is a byte.
    unsafe { ADDRESSES.get(&key) }.copied().unwrap_or(0)
}

/// Whether a direct entry has just this key.
#[inline(always)]
pub(crate) fn has_direct(key: &DirectKey) -> bool {
    // SAFETY: only presence is read.
    unsafe { DIRECT_HOSTS.get(key) }.is_some()
        || DIRECT_NETWORKS
            .get(&Key::new(DirectKey::HEAD_BITS + 128, *key))
            .is_some()
}

/// The number of the class of the longest network that holds the address.
#[inline(always)]
pub(crate) fn network(address: &Address) -> Option<u8> {
    NETWORKS.get(&Key::new(128, *address)).copied()
}

/// Remembers a flow that was opened inbound.
#[inline(always)]
pub(crate) fn remember_flow(key: &FlowKey, now: u64) {
    // A full table forgets the oldest flow, whose replies are then denied: closed, not open.
    FLOWS.insert(key, now, 0).ok();
}

/// Whether the flow was opened inbound.
#[inline(always)]
pub(crate) fn knows_flow(key: &FlowKey) -> bool {
    // SAFETY: only presence is read.
    unsafe { FLOWS.get(key) }.is_some()
}

/// Publishes an origin for the gateway's programs.
#[inline(always)]
pub(crate) fn publish_origin(source: &OriginQuery, origin: &Origin) -> bool {
    let published = Published {
        source: *source,
        reserved: 0,
        origin: *origin,
    };
    ORIGINS.insert(source, published, 0).is_ok()
}

/// The origin published under this source.
#[inline(always)]
pub(crate) fn origin(source: &OriginQuery) -> Option<Origin> {
    // SAFETY: a live value, copied at once.
    unsafe {
        let published: *const Published = ORIGINS.get(source)?;
        // The kernel gives an entry of an LRU map to another key while this one reads it, and then
        // writes it from its beginning.
        let origin = (&raw const (*published).origin).read_volatile();
        let of = (&raw const (*published).source).read_volatile();
        (of == *source).then_some(origin)
    }
}

/// Forgets the origin published under this source.
#[inline(always)]
pub(crate) fn consume_origin(key: &OriginQuery) {
    // Already gone is as good.
    ORIGINS.remove(key).ok();
}

/// Counts one for the endpoint and the reason's number, 0 for what was allowed.
#[inline(always)]
pub(crate) fn count(endpoint: u32, reason: u8) {
    if let Some(slot) = COUNTERS.get_ptr_mut(counter(endpoint, reason)) {
        // SAFETY: the slot is this CPU's; an interrupting program can only add between the load
        // and the store, so the addition is atomic.
        unsafe { add(slot, 1) };
    }
}

/// The window of this key, for reading and restarting.
#[inline(always)]
pub(crate) fn report_window(key: &ReportKey) -> Option<*mut ReportWindow> {
    REPORTS.get_ptr_mut(key)
}

/// Opens a window; false where somebody else just did.
#[inline(always)]
pub(crate) fn open_report_window(key: &ReportKey, window: &ReportWindow) -> bool {
    const EEXIST: i32 = -17;
    REPORTS.insert(key, window, BPF_NOEXIST.into()) != Err(EEXIST)
}

/// The storage of an endpoint's socket, if it has one.
///
/// # Safety
/// `sk` is a socket that the context handed to this program, or null.
#[inline(always)]
pub(crate) unsafe fn socket(sk: *mut bpf_sock) -> Option<&'static mut Socket> {
    // SAFETY: the caller's; the storage lives as long as the socket.
    unsafe { storage(&raw const SOCKETS, sk, core::ptr::null_mut()) }
}

/// The storage of an endpoint's socket, made from `initial` where there is none.
///
/// # Safety
/// As for [`socket`].
#[inline(always)]
pub(crate) unsafe fn socket_or(
    sk: *mut bpf_sock,
    initial: &mut Socket,
) -> Option<&'static mut Socket> {
    // SAFETY: the caller's.
    unsafe { storage(&raw const SOCKETS, sk, initial) }
}

/// The origin attached to a socket of the gateway.
///
/// # Safety
/// As for [`socket`].
#[inline(always)]
pub(crate) unsafe fn accepted(sk: *mut bpf_sock) -> Option<&'static mut Origin> {
    // SAFETY: the caller's.
    unsafe { storage(&raw const ACCEPTED, sk, core::ptr::null_mut()) }
}

/// Attaches an origin to a socket of the gateway.
///
/// # Safety
/// As for [`socket`].
#[inline(always)]
pub(crate) unsafe fn attach_origin(sk: *mut bpf_sock, origin: &Origin) -> bool {
    let mut initial = *origin;
    // SAFETY: the caller's.
    match unsafe { storage(&raw const ACCEPTED, sk, &mut initial) } {
        Some(slot) => {
            *slot = *origin;
            true
        }
        None => false,
    }
}

/// aya-ebpf's own accessor takes a sock_addr context alone, so the helper is called by hand.
#[inline(always)]
unsafe fn storage<T>(
    map: *const SkStorage<T>,
    sk: *mut bpf_sock,
    initial: *mut T,
) -> Option<&'static mut T> {
    if sk.is_null() {
        return None;
    }
    let flags = if initial.is_null() {
        0
    } else {
        BPF_SK_STORAGE_GET_F_CREATE
    };
    let map: *mut c_void = map.cast_mut().cast();
    // SAFETY: a socket from the context and a map of the right value type.
    unsafe {
        bpf_sk_storage_get(map, sk.cast(), initial.cast(), flags.into())
            .cast::<T>()
            .as_mut()
    }
}

/// Writes `new` where `old` is; false where it is not.
///
/// # Safety
/// As for [`add`].
#[inline(always)]
pub(crate) unsafe fn exchange(slot: *mut u64, old: u64, new: u64) -> bool {
    const ORDER: AtomicOrdering = AtomicOrdering::SeqCst;
    // SAFETY: the caller's.
    unsafe { atomic_cxchg::<u64, { ORDER }, { ORDER }>(slot, old, new) }.1
}

/// Writes `new` and returns what was there.
///
/// # Safety
/// As for [`add`].
#[inline(always)]
pub(crate) unsafe fn replace(slot: *mut u64, new: u64) -> u64 {
    // SAFETY: the caller's.
    unsafe { atomic_xchg::<u64, { AtomicOrdering::SeqCst }>(slot, new) }
}

/// Adds atomically.
///
/// # Safety
/// `slot` points into a map's value and is aligned.
#[inline(always)]
pub(crate) unsafe fn add(slot: *mut u64, n: u64) {
    // The target has no compare-and-swap, and so no `AtomicU64::fetch_add`; BPF's own atomic add
    // is to be had by the intrinsic alone.
    // SAFETY: the caller's.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(slot, n) };
}
