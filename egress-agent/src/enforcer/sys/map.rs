//! `bpf(2)` for maps.

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd},
};

use super::{bpf, bpf_mut, info, owned};

// enum bpf_cmd in include/uapi/linux/bpf.h.
const BPF_MAP_CREATE: libc::c_long = 0;
const BPF_MAP_LOOKUP_ELEM: libc::c_long = 1;
const BPF_MAP_UPDATE_ELEM: libc::c_long = 2;
const BPF_MAP_DELETE_ELEM: libc::c_long = 3;
const BPF_MAP_GET_NEXT_KEY: libc::c_long = 4;
const BPF_BTF_LOAD: libc::c_long = 18;
const BPF_MAP_LOOKUP_AND_DELETE_ELEM: libc::c_long = 21;
const BPF_MAP_LOOKUP_BATCH: libc::c_long = 24;
const BPF_MAP_UPDATE_BATCH: libc::c_long = 26;

// enum bpf_map_type.
pub(in crate::enforcer) const HASH: u32 = 1;
pub(in crate::enforcer) const ARRAY: u32 = 2;
pub(in crate::enforcer) const LRU_HASH: u32 = 9;
/// BPF_F_NO_PREALLOC: memory for what is there alone.
pub(in crate::enforcer) const NO_PREALLOC: u32 = 1;

#[repr(C)]
struct MapCreate {
    shape: Shape,
    inner_map: u32,
    numa_node: u32,
    name: [u8; 16],
    interface: u32,
    types: u32,
    key_type: u32,
    value_type: u32,
}

#[repr(C)]
struct BtfLoad {
    types: u64,
    log: u64,
    size: u32,
    log_size: u32,
    log_level: u32,
    reserved: u32,
}

/// The beginning of struct bpf_map_info.
#[repr(C)]
#[derive(Default)]
pub(in crate::enforcer) struct MapInfo {
    /// enum bpf_map_type.
    pub(in crate::enforcer) kind: u32,
    /// The map's id.
    pub(in crate::enforcer) id: u32,
    /// Bytes.
    pub(in crate::enforcer) key_size: u32,
    /// Bytes.
    pub(in crate::enforcer) value_size: u32,
    /// How many there may be.
    pub(in crate::enforcer) max_entries: u32,
    /// BPF_F_*.
    pub(in crate::enforcer) flags: u32,
}

impl MapInfo {
    /// Whether the map is of this shape.
    pub(in crate::enforcer) fn is_like(&self, shape: &Shape) -> bool {
        let sizes = (self.key_size, self.value_size, self.max_entries);
        sizes == (shape.key_size, shape.value_size, shape.max_entries)
            && (self.kind, self.flags) == (shape.kind, shape.flags)
    }
}

#[repr(C)]
struct Element {
    map: u32,
    reserved: u32,
    key: u64,
    /// Or the next key.
    value: u64,
    flags: u64,
}

/// The part of the union that batches use.
#[repr(C)]
struct Batch {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map: u32,
    element_flags: u64,
    flags: u64,
}

/// What a map is.
pub(in crate::enforcer) fn map_info(map: BorrowedFd<'_>) -> io::Result<MapInfo> {
    info(map)
}

/// What a map is made of.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(in crate::enforcer) struct Shape {
    kind: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    flags: u32,
}

impl Shape {
    pub(in crate::enforcer) const fn of<K, V>(kind: u32, max_entries: u32, flags: u32) -> Self {
        Self {
            kind,
            key_size: size_of::<K>() as u32,
            value_size: size_of::<V>() as u32,
            max_entries,
            flags,
        }
    }
}

/// Makes a map; the kernel shows 15 bytes of its name.
pub(in crate::enforcer) fn map_create(name: &str, shape: &Shape) -> io::Result<OwnedFd> {
    // Linux before 6.4 takes a map without type information for another than one with it, and a map
    // in a map must be like the one that the object has in its place.
    let types = types(shape)?;
    let mut attributes = MapCreate {
        shape: *shape,
        inner_map: 0,
        numa_node: 0,
        name: [0; 16],
        interface: 0,
        types: types.as_raw_fd() as u32,
        key_type: 1,
        value_type: 2,
    };
    for (to, from) in attributes.name[..15].iter_mut().zip(name.bytes()) {
        *to = from;
    }
    owned(bpf(BPF_MAP_CREATE, &attributes)?)
}

/// Type information of a map: key and value are structures without a name, of which nothing is said
/// but how large they are; the key of an array is an integer (Documentation/bpf/btf.rst).
fn types(shape: &Shape) -> io::Result<OwnedFd> {
    const MAGIC: u32 = 0xeb9f;
    const VERSION: u32 = 1;
    const HEADER: u32 = 24;
    const INT: u32 = 1 << 24;
    const STRUCT: u32 = 4 << 24;
    const BITS: u32 = 32;
    let mut types = match shape.kind {
        ARRAY => vec![0, INT, shape.key_size, BITS],
        _ => vec![0, STRUCT, shape.key_size],
    };
    types.extend([0, STRUCT, shape.value_size]);
    let length = (types.len() * size_of::<u32>()) as u32;
    let mut words = vec![MAGIC | VERSION << 16, HEADER];
    // Types, then strings: where and how long. There is one, the empty one.
    words.extend([0, length, length, 1]);
    words.extend(types);
    words.push(0);
    let attributes = BtfLoad {
        types: words.as_ptr() as u64,
        log: 0,
        size: HEADER + length + 1,
        log_size: 0,
        log_level: 0,
        reserved: 0,
    };
    owned(bpf(BPF_BTF_LOAD, &attributes)?)
}

/// Puts a map into an array of maps.
pub(in crate::enforcer) fn put_map(
    outer: BorrowedFd<'_>,
    index: u32,
    map: BorrowedFd<'_>,
) -> io::Result<()> {
    let (index, mut map) = (index.to_ne_bytes(), map.as_raw_fd().to_ne_bytes());
    element(BPF_MAP_UPDATE_ELEM, outer, index.as_ptr(), map.as_mut_ptr()).map(drop)
}

/// Puts maps into an array of maps, by one call where the kernel has such.
pub(in crate::enforcer) fn put_maps(
    outer: BorrowedFd<'_>,
    maps: &[(u32, RawFd)],
) -> io::Result<()> {
    if maps.is_empty() {
        return Ok(());
    }
    let keys: Vec<u8> = maps.iter().flat_map(|(key, _)| key.to_ne_bytes()).collect();
    let values: Vec<u8> = maps.iter().flat_map(|(_, map)| map.to_ne_bytes()).collect();
    let size = size_of::<u32>();
    match batch(BPF_MAP_UPDATE_BATCH, outer, &keys, size, values.as_ptr()) {
        (_, Err(error)) if has_no_batches(&error) => {
            let put = |number: usize, key: &[u8]| {
                let mut map = maps[number].1.to_ne_bytes();
                update(outer, key, &mut map)
            };
            one_by_one(&keys, size, put).1
        }
        (_, outcome) => outcome,
    }
}

/// Writes a value where the key has none.
pub(in crate::enforcer) fn insert_new<K, V>(
    map: BorrowedFd<'_>,
    key: &K,
    value: &V,
) -> io::Result<()> {
    /// BPF_NOEXIST.
    const NEW: u64 = 1;
    let attributes = Element {
        map: map.as_raw_fd() as u32,
        reserved: 0,
        key: (&raw const *key) as u64,
        value: (&raw const *value) as u64,
        flags: NEW,
    };
    match bpf(BPF_MAP_UPDATE_ELEM, &attributes) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        Ok(_) | Err(_) => Ok(()),
    }
}

/// All that a hash map of at most so many entries holds, by one call.
///
/// # Safety
/// Key and value are of the map's own sizes, and any bytes are a key and a value.
pub(in crate::enforcer) unsafe fn entries<K: Copy, V: Copy>(
    map: BorrowedFd<'_>,
    most: u32,
) -> io::Result<Vec<(K, V)>> {
    let room = most as usize;
    let (mut keys, mut values) = (Vec::<K>::with_capacity(room), Vec::<V>::with_capacity(room));
    let mut position = 0_u32;
    let mut attributes = Batch {
        in_batch: 0,
        out_batch: (&raw mut position) as u64,
        keys: keys.as_mut_ptr() as u64,
        values: values.as_mut_ptr() as u64,
        count: most,
        map: map.as_raw_fd() as u32,
        element_flags: 0,
        flags: 0,
    };
    // The kernel writes the number of entries into the attributes.
    match bpf_mut(BPF_MAP_LOOKUP_BATCH, &mut attributes) {
        // At the end of the map it says that there is nothing more.
        Err(error) if error.raw_os_error() != Some(libc::ENOENT) => return Err(error),
        Ok(_) | Err(_) => {}
    }
    let count = attributes.count.min(most) as usize;
    // SAFETY: the kernel has written as many of both.
    unsafe {
        keys.set_len(count);
        values.set_len(count);
    }
    Ok(keys.into_iter().zip(values).collect())
}

/// A value's bytes.
pub(in crate::enforcer) fn bytes<T: aya::Pod>(value: &T) -> &[u8] {
    // SAFETY: Pod has no padding, so that all its bytes are initialised.
    unsafe { std::slice::from_raw_parts(std::ptr::from_ref(value).cast(), size_of::<T>()) }
}

/// The value of a key; `None` where there is none.
pub(in crate::enforcer) fn lookup(
    map: BorrowedFd<'_>,
    key: &[u8],
    value_size: usize,
) -> io::Result<Option<Vec<u8>>> {
    let mut value = vec![0_u8; value_size];
    let found = element(BPF_MAP_LOOKUP_ELEM, map, key.as_ptr(), value.as_mut_ptr());
    Ok(found?.then_some(value))
}

/// The key after `key`, or the first; `None` after the last.
pub(in crate::enforcer) fn next_key(
    map: BorrowedFd<'_>,
    key: Option<&[u8]>,
    key_size: usize,
) -> io::Result<Option<Vec<u8>>> {
    let mut next = vec![0_u8; key_size];
    let key = key.map_or(std::ptr::null(), <[u8]>::as_ptr);
    let found = element(BPF_MAP_GET_NEXT_KEY, map, key, next.as_mut_ptr());
    Ok(found?.then_some(next))
}

/// Writes a key's value.
pub(in crate::enforcer) fn update(
    map: BorrowedFd<'_>,
    key: &[u8],
    value: &mut [u8],
) -> io::Result<()> {
    element(BPF_MAP_UPDATE_ELEM, map, key.as_ptr(), value.as_mut_ptr()).map(drop)
}

/// Removes a key, if it is there.
pub(in crate::enforcer) fn delete(map: BorrowedFd<'_>, key: &[u8]) -> io::Result<()> {
    element(BPF_MAP_DELETE_ELEM, map, key.as_ptr(), std::ptr::null_mut()).map(drop)
}

/// Before Linux 5.6 there is no such command, and not every type of map has it.
fn has_no_batches(error: &io::Error) -> bool {
    /// ENOTSUPP of include/linux/errno.h, which is the kernel's own.
    const ENOTSUPP: i32 = 524;
    matches!(
        error.raw_os_error(),
        Some(ENOTSUPP | libc::EINVAL | libc::EOPNOTSUPP)
    )
}

fn one_by_one(
    keys: &[u8],
    key_size: usize,
    mut call: impl FnMut(usize, &[u8]) -> io::Result<()>,
) -> (usize, io::Result<()>) {
    for (number, key) in keys.chunks_exact(key_size).enumerate() {
        if let Err(error) = call(number, key) {
            return (number, Err(error));
        }
    }
    (keys.len() / key_size, Ok(()))
}

/// How many of the keys the kernel has done, and why not all.
fn batch(
    command: libc::c_long,
    map: BorrowedFd<'_>,
    keys: &[u8],
    key_size: usize,
    values: *const u8,
) -> (usize, io::Result<()>) {
    let all = keys.len() / key_size;
    let mut attributes = Batch {
        in_batch: 0,
        out_batch: 0,
        keys: keys.as_ptr() as u64,
        values: values as u64,
        count: all as u32,
        map: map.as_raw_fd() as u32,
        element_flags: 0,
        flags: 0,
    };
    // The kernel writes the count back.
    let Err(error) = bpf_mut(command, &mut attributes) else {
        return (all, Ok(()));
    };
    // Refused as a whole, it leaves the count as it was.
    let done = match has_no_batches(&error) {
        true => 0,
        false => (attributes.count as usize).min(all),
    };
    (done, Err(error))
}

/// False where the kernel says that there is no such element. Key and value are as long as the
/// map says.
fn element(
    command: libc::c_long,
    map: BorrowedFd<'_>,
    key: *const u8,
    value: *mut u8,
) -> io::Result<bool> {
    let attributes = Element {
        map: map.as_raw_fd() as u32,
        reserved: 0,
        key: key as u64,
        value: value as u64,
        flags: 0,
    };
    match bpf(command, &attributes) {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Takes an entry out of a map, with what it holds at that moment; false where it is not there. The
/// library only removes, and reads before that.
///
/// # Safety
/// Key and value are of the map's own sizes, and any bytes are a value.
pub(in crate::enforcer) unsafe fn take<K, V>(
    map: BorrowedFd<'_>,
    key: &K,
    value: &mut V,
) -> io::Result<bool> {
    let attributes = Element {
        map: map.as_raw_fd() as u32,
        reserved: 0,
        key: (&raw const *key) as u64,
        value: (&raw mut *value) as u64,
        flags: 0,
    };
    match bpf(BPF_MAP_LOOKUP_AND_DELETE_ELEM, &attributes) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}
