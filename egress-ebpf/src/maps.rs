//! The maps, behind accessors. A miss is `None`, and every caller denies on it.

use aya_ebpf::{
    bindings::{BPF_NOEXIST, BPF_SK_STORAGE_GET_F_CREATE, bpf_sock},
    btf_maps::{self, ArrayOfMaps, SkStorage},
    helpers::{bpf_loop, bpf_perf_event_output, bpf_sk_storage_get},
    macros::{btf_map, map},
    maps::{Array, HashMap, LpmTrie, PerCpuArray, PerfEventArray, lpm_trie::Key},
};
use core::{
    ffi::c_void,
    intrinsics::{AtomicOrdering, atomic_cxchg, atomic_xadd, atomic_xchg},
};
use egress_common::{
    address::Address,
    attempt::Attempt,
    direct::{Bucket, Bucket4, Bucket6, HEAD, MAX_PREFIXES, PLACES, PROBES, Prefix, index},
    endpoint::{Endpoint, Link, MAX_ENDPOINTS},
    event::{Event, ReportKey, ReportWindow},
    maps::{
        AddressKey, Config, Flow, FlowKey, MAX_ADDRESSES, MAX_COUNTERS, MAX_FLOWS, MAX_NETWORKS,
        MAX_OPENING, MAX_ORIGINS, MAX_PORTS, MAX_REACH, MAX_REPLIES, MAX_REPORTS, MAX_SETS,
        NamedPorts, ReplyKey, TABLE, counter, is_named, port,
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
static NETWORKS: LpmTrie<Address, u8> = LpmTrie::with_max_entries(MAX_NETWORKS, NO_PREALLOC);
#[map]
static REACH: LpmTrie<Address, u8> = LpmTrie::with_max_entries(MAX_REACH, NO_PREALLOC);
#[map]
static NAMED: Array<NamedPorts> = Array::with_max_entries(1, 0);
#[map]
static REPLIES: LpmTrie<ReplyKey, u8> = LpmTrie::with_max_entries(MAX_REPLIES, NO_PREALLOC);
#[map]
static OWNERS: HashMap<Address, u32> = HashMap::with_max_entries(MAX_ADDRESSES, 0);
#[map]
static PORTS: Array<u32> = Array::with_max_entries(MAX_PORTS, 0);
#[map]
static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(MAX_COUNTERS, 0);
#[map]
static EVENTS: PerfEventArray<Event> = PerfEventArray::new(0);
#[btf_map]
static SOCKETS: SkStorage<Socket> = SkStorage::new();
#[btf_map]
static ACCEPTED: SkStorage<Origin> = SkStorage::new();

// A set of direct entries, as large as it needs to be, which user space writes in place.
type Table<B> = btf_maps::Array<B, 1, { TABLE as usize }>;
type Tables<B> = ArrayOfMaps<Table<B>, { MAX_SETS as usize }>;

#[btf_map]
static DIRECT4: Tables<Bucket4> = Tables::new();
#[btf_map]
static DIRECT6: Tables<Bucket6> = Tables::new();

// What an endpoint can fill is its own: a map in a map, which the enforcer puts there with it.
type Flows = btf_maps::HashMap<FlowKey, Flow, { MAX_FLOWS as usize }, { NO_PREALLOC as usize }>;
type Opening = btf_maps::LruHashMap<FlowKey, Flow, { MAX_OPENING as usize }>;
type Origins = btf_maps::LruHashMap<OriginQuery, Published, { MAX_ORIGINS as usize }>;
type Reports =
    btf_maps::HashMap<ReportKey, ReportWindow, { MAX_REPORTS as usize }, { NO_PREALLOC as usize }>;
type PerEndpoint<T> = ArrayOfMaps<T, { MAX_ENDPOINTS as usize }>;

#[btf_map]
static FLOWS: PerEndpoint<Flows> = PerEndpoint::new();
#[btf_map]
static OPENING: PerEndpoint<Opening> = PerEndpoint::new();
#[btf_map]
static ORIGINS: PerEndpoint<Origins> = PerEndpoint::new();
#[btf_map]
static REPORTS: PerEndpoint<Reports> = PerEndpoint::new();

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

/// Whether an entry of the set names this destination.
#[inline(always)]
pub(crate) fn has_direct(set: u32, attempt: &Attempt) -> bool {
    if attempt.destination.is_v4() {
        DIRECT4.get(set).is_some_and(|table| has(table, attempt))
    } else {
        DIRECT6.get(set).is_some_and(|table| has(table, attempt))
    }
}

/// What is looked for, in which table, and how far the search is.
struct Search<B> {
    table: *const Table<B>,
    destination: Address,
    port: u16,
    protocol: u8,
    found: bool,
    /// The place of the prefix length in the head's words.
    prefix: u32,
    probe: u32,
    shift: u64,
}

/// Most entries have the first prefix length and lie in the first bucket. The rest is looked for by
/// a helper that calls a function each time: the verifier would walk a loop as often as there may be
/// any.
#[inline(always)]
fn has<B: Bucket>(table: &Table<B>, attempt: &Attempt) -> bool {
    let Some(head) = table.get(0) else {
        return false;
    };
    let mut search = Search {
        table,
        destination: attempt.destination,
        port: attempt.destination_port,
        protocol: attempt.protocol,
        found: false,
        prefix: 1,
        probe: 0,
        shift: head.words()[0],
    };
    let first: *mut Search<B> = &raw mut search;
    if probe(first, head.words()[1]) != 0 {
        return search.found;
    }
    let callback: extern "C" fn(u64, *mut Search<B>) -> i64 = probe_next::<B>;
    // SAFETY: a function of the kind that the helper takes, and what that gets as its context.
    unsafe {
        bpf_loop(
            MAX_PREFIXES * PROBES,
            callback as *mut c_void,
            first.cast(),
            0,
        );
        (&raw const search.found).read_volatile()
    }
}

/// 1 ends the search.
const END: i64 = 1;

/// What the helper calls.
#[inline(never)]
extern "C" fn probe_next<B: Bucket>(_: u64, search: *mut Search<B>) -> i64 {
    // SAFETY: [`has`] gives what it has on its stack, which holds a map.
    unsafe {
        let at = (*search).prefix;
        let Some(words) = (*(*search).table).get(at / PLACES as u32) else {
            return END;
        };
        probe(search, words.words()[at as usize % PLACES])
    }
}

/// Looks into one bucket by one prefix length.
#[inline(always)]
fn probe<B: Bucket>(search: *mut Search<B>, prefix: u64) -> i64 {
    // SAFETY: as above.
    unsafe {
        let Some(prefix) = Prefix::of_word(prefix) else {
            return END;
        };
        let key = prefix.key(&(*search).destination, (*search).protocol, (*search).port);
        let word = B::word(&key);
        let bucket = HEAD + index(word, (*search).shift) + (*search).probe;
        let Some(bucket) = (*(*search).table).get(bucket) else {
            return END;
        };
        if bucket.has(word, &key.address) {
            (*search).found = true;
            return END;
        }
        if bucket.is_full() && (*search).probe < PROBES - 1 {
            (*search).probe += 1;
        } else {
            (*search).probe = 0;
            (*search).prefix += 1;
        }
        0
    }
}

/// The number of the class of the longest network that holds the address.
#[inline(always)]
pub(crate) fn network(address: &Address) -> Option<u8> {
    NETWORKS.get(&Key::new(128, *address)).copied()
}

/// The number of the reason of the longest network that holds the address, 0 where the gateway may
/// reach it.
#[inline(always)]
pub(crate) fn reach(address: &Address) -> Option<u8> {
    REACH.get(&Key::new(128, *address)).copied()
}

/// Whether some policy names the port.
#[inline(always)]
pub(crate) fn names(port: u16) -> bool {
    NAMED.get(0).is_some_and(|ports| is_named(ports, port))
}

/// Whether the address is one endpoint's alone.
#[inline(always)]
pub(crate) fn is_owned(address: &Address) -> bool {
    // SAFETY: the value is not read.
    unsafe { OWNERS.get(address) }.is_some()
}

/// Whether an endpoint without a link has spoken to the gateway from this port of the node.
#[inline(always)]
pub(crate) fn has_spoken(at: u16, protocol: u8) -> bool {
    PORTS
        .get(port(at, protocol))
        .is_some_and(|endpoint| *endpoint != 0)
}

/// Whether the address may open this flow to the endpoint, whoever it is.
#[inline(always)]
pub(crate) fn may_open(endpoint: u32, flow: &FlowKey) -> bool {
    let mut key = ReplyKey {
        endpoint,
        port: flow.local_port,
        protocol: flow.protocol,
        reserved: 0,
        address: flow.remote,
    };
    let has = |key| {
        REPLIES
            .get(&Key::new(ReplyKey::HEAD_BITS + 128, key))
            .is_some()
    };
    if has(key) {
        return true;
    }
    key.port = 0;
    has(key)
}

/// The established flows of an endpoint.
#[inline(always)]
pub(crate) fn flows(endpoint: u32) -> Option<&'static Flows> {
    FLOWS.get(endpoint)
}

/// The other flows of an endpoint.
#[inline(always)]
pub(crate) fn opening(endpoint: u32) -> Option<&'static Opening> {
    OPENING.get(endpoint)
}

/// Publishes an origin for the gateway's programs.
#[inline(always)]
pub(crate) fn publish_origin(published: &Published) -> bool {
    ORIGINS
        .get(published.origin.endpoint)
        .is_some_and(|origins| origins.insert(&published.source, published, 0).is_ok())
}

/// Notes who speaks to the gateway from this port of the node.
#[inline(always)]
pub(crate) fn publish_port(source: &OriginQuery, endpoint: u32) -> bool {
    PORTS
        .set(port(source.port, source.protocol), endpoint, 0)
        .is_ok()
}

/// The origin published under this source.
#[inline(always)]
pub(crate) fn origin(source: &OriginQuery) -> Option<Origin> {
    // SAFETY: a live value, copied at once.
    unsafe {
        let published: *const Published = origins_of(source)?.get_ptr(source)?;
        // The kernel gives an entry of an LRU map to another key while this one reads it, and then
        // writes it from its beginning.
        let origin = (&raw const (*published).origin).read_volatile();
        let of = (&raw const (*published).source).read_volatile();
        (of == *source).then_some(origin)
    }
}

/// Forgets the origin published under this source.
#[inline(always)]
pub(crate) fn consume_origin(source: &OriginQuery) {
    if let Some(origins) = origins_of(source) {
        // Already gone is as good.
        origins.remove(source).ok();
    }
}

/// The origins of the endpoint whose source it is: by an address that is its own, or by a port of
/// the node's addresses.
#[inline(always)]
fn origins_of(source: &OriginQuery) -> Option<&'static Origins> {
    // SAFETY: the value is a word.
    let owner = unsafe { OWNERS.get(&source.address) };
    let endpoint = match owner {
        Some(owner) => owner,
        None => PORTS.get(port(source.port, source.protocol))?,
    };
    ORIGINS.get(*endpoint)
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

/// The window of this key, made if there is none, or that of all others of its reason if there is
/// no room.
#[inline(always)]
pub(crate) fn report_window(key: &ReportKey) -> Option<*mut ReportWindow> {
    let reports = REPORTS.get(key.endpoint)?;
    if let Some(window) = reports.get_ptr_mut(key) {
        return Some(window);
    }
    // Somebody else may just have made it.
    reports
        .insert(key, ReportWindow::EMPTY, BPF_NOEXIST.into())
        .ok();
    reports
        .get_ptr_mut(key)
        .or_else(|| reports.get_ptr_mut(ReportKey::others(key.endpoint, key.reason)))
}

/// Sends an event to user space; false where its buffer is full.
#[inline(always)]
pub(crate) fn tell(ctx: *mut c_void, event: &Event) -> bool {
    /// BPF_F_CURRENT_CPU (include/uapi/linux/bpf.h).
    const CURRENT_CPU: u64 = 0xffff_ffff;
    let events: *const PerfEventArray<Event> = &raw const EVENTS;
    let event: *const Event = event;
    // By hand, since aya-ebpf's own method does not say whether there was room.
    // SAFETY: the program's context, a map that is a perf event array, and an event.
    unsafe {
        bpf_perf_event_output(
            ctx,
            events.cast_mut().cast(),
            CURRENT_CPU,
            event.cast_mut().cast(),
            size_of::<Event>() as u64,
        ) == 0
    }
}

/// The storage of an endpoint's socket, if it has one.
///
/// # Safety
/// `sk` is a socket that the context handed to this program, or null.
#[inline(always)]
pub(crate) unsafe fn socket(sk: *mut bpf_sock) -> Option<&'static mut Socket> {
    // SAFETY: the caller's; the storage lives as long as the socket.
    unsafe { storage(&raw const SOCKETS, sk) }
}

/// The storage of an endpoint's socket, made of zeros where there is none.
///
/// # Safety
/// As for [`socket`].
#[inline(always)]
pub(crate) unsafe fn socket_or_new(sk: *mut bpf_sock) -> Option<&'static mut Socket> {
    // SAFETY: the caller's.
    unsafe { storage_or(&raw const SOCKETS, sk, core::ptr::null_mut()) }
}

/// The origin attached to a socket of the gateway.
///
/// # Safety
/// As for [`socket`].
#[inline(always)]
pub(crate) unsafe fn accepted(sk: *mut bpf_sock) -> Option<&'static mut Origin> {
    // SAFETY: the caller's.
    unsafe { storage(&raw const ACCEPTED, sk) }
}

/// Attaches an origin to a socket of the gateway.
///
/// # Safety
/// As for [`socket`].
#[inline(always)]
pub(crate) unsafe fn attach_origin(sk: *mut bpf_sock, origin: &Origin) -> bool {
    let mut initial = *origin;
    // SAFETY: the caller's.
    match unsafe { storage_or(&raw const ACCEPTED, sk, &mut initial) } {
        Some(slot) => {
            *slot = *origin;
            true
        }
        None => false,
    }
}

#[inline(always)]
unsafe fn storage<T>(map: *const SkStorage<T>, sk: *mut bpf_sock) -> Option<&'static mut T> {
    // SAFETY: the caller's.
    unsafe { storage_get(map, sk, core::ptr::null_mut(), 0) }
}

/// From `initial` or zeros, where there is none.
#[inline(always)]
unsafe fn storage_or<T>(
    map: *const SkStorage<T>,
    sk: *mut bpf_sock,
    initial: *mut T,
) -> Option<&'static mut T> {
    // SAFETY: the caller's.
    unsafe { storage_get(map, sk, initial, BPF_SK_STORAGE_GET_F_CREATE) }
}

/// aya-ebpf's own accessor takes a sock_addr context alone, so the helper is called by hand.
#[inline(always)]
unsafe fn storage_get<T>(
    map: *const SkStorage<T>,
    sk: *mut bpf_sock,
    initial: *mut T,
    flags: u32,
) -> Option<&'static mut T> {
    if sk.is_null() {
        return None;
    }
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
pub(crate) unsafe fn exchange<T: Copy>(slot: *mut T, old: T, new: T) -> bool {
    const ORDER: AtomicOrdering = AtomicOrdering::SeqCst;
    // SAFETY: the caller's.
    unsafe { atomic_cxchg::<T, { ORDER }, { ORDER }>(slot, old, new) }.1
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
