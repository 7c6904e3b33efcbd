//! What aya has not got: programs from a few instructions, runs of any program by its descriptor,
//! and entries by the thousand. By `bpf(2)`.

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
};

use anyhow::{Context as _, Result};

// enum bpf_cmd and bpf_map_type in include/uapi/linux/bpf.h.
const MAP_CREATE: i64 = 0;
const MAP_UPDATE_ELEM: i64 = 2;
const PROG_LOAD: i64 = 5;
const PROG_TEST_RUN: i64 = 10;
const MAP_UPDATE_BATCH: i64 = 26;
const LINK_CREATE: i64 = 28;
const ARRAY: u32 = 2;
const PROG_ARRAY: u32 = 3;
const HASH: u32 = 1;
const LPM_TRIE: u32 = 11;
/// BPF_F_NO_PREALLOC, which tries demand.
const NO_PREALLOC: u32 = 1;

/// enum bpf_prog_type: what is attached to links.
pub(crate) const CLASSIFIER: u32 = 3;
/// enum bpf_prog_type: what sees a cgroup's packets.
pub(crate) const CGROUP_SKB: u32 = 8;
/// enum bpf_attach_type: what an endpoint sends, on the host side of its veth.
pub(crate) const TCX_INGRESS: u32 = 46;

/// One instruction (include/uapi/linux/bpf.h, struct bpf_insn).
#[derive(Clone, Copy)]
pub(crate) struct Instruction {
    pub(crate) code: u8,
    pub(crate) destination: u8,
    pub(crate) source: u8,
    pub(crate) offset: i16,
    pub(crate) value: i32,
}

impl Instruction {
    fn bytes(self) -> [u8; 8] {
        let [a, b] = self.offset.to_ne_bytes();
        let [c, d, e, f] = self.value.to_ne_bytes();
        let registers = self.destination | self.source << 4;
        [self.code, registers, a, b, c, d, e, f]
    }
}

/// Loads a program.
pub(crate) fn load(kind: u32, attach_type: u32, program: &[Instruction]) -> Result<OwnedFd> {
    let instructions: Vec<u8> = program.iter().flat_map(|it| it.bytes()).collect();
    let licence = c"GPL";
    let mut log = vec![0_u8; 1 << 16];
    let mut words = [0_u32; 20];
    words[0] = kind;
    words[1] = program.len() as u32;
    put(&mut words, 2, instructions.as_ptr() as u64);
    put(&mut words, 4, licence.as_ptr() as u64);
    words[6] = 1;
    words[7] = log.len() as u32;
    put(&mut words, 8, log.as_mut_ptr() as u64);
    words[17] = attach_type;
    let loaded = bpf(PROG_LOAD, &mut words);
    loaded.map(owned).with_context(|| {
        let end = log.iter().position(|byte| *byte == 0).unwrap_or(log.len());
        let log = String::from_utf8_lossy(&log[..end]);
        format!("could not load a program\n{log}")
    })
}

/// An array map of 8-byte values.
pub(crate) fn array(entries: u32) -> Result<OwnedFd> {
    create(ARRAY, 4, 8, entries, 0)
}

/// A map of one program, to be called from another.
pub(crate) fn program_array(program: BorrowedFd<'_>) -> Result<OwnedFd> {
    let map = create(PROG_ARRAY, 4, 4, 1, 0)?;
    let value = (program.as_raw_fd() as u32).to_ne_bytes();
    update(std::os::fd::AsFd::as_fd(&map), &[0; 4], &value)?;
    Ok(map)
}

/// A hash with values of one byte.
pub(crate) fn hash(key_size: u32, entries: u32) -> Result<OwnedFd> {
    create(HASH, key_size, 1, entries.next_power_of_two(), NO_PREALLOC)
}

/// A trie with values of one byte.
pub(crate) fn trie(key_size: u32, entries: u32) -> Result<OwnedFd> {
    create(LPM_TRIE, key_size, 1, entries, NO_PREALLOC)
}

fn create(kind: u32, key_size: u32, value_size: u32, entries: u32, flags: u32) -> Result<OwnedFd> {
    let mut words = [0_u32; 16];
    words[..5].copy_from_slice(&[kind, key_size, value_size, entries, flags]);
    let map = bpf(MAP_CREATE, &mut words).context("could not make a map")?;
    Ok(owned(map))
}

/// Writes one entry.
pub(crate) fn update(map: BorrowedFd<'_>, key: &[u8], value: &[u8]) -> io::Result<()> {
    element(MAP_UPDATE_ELEM, map, key, value.as_ptr())
}

fn element(command: i64, map: BorrowedFd<'_>, key: &[u8], value: *const u8) -> io::Result<()> {
    let mut words = [0_u32; 8];
    words[0] = map.as_raw_fd() as u32;
    put(&mut words, 2, key.as_ptr() as u64);
    put(&mut words, 4, value as u64);
    bpf(command, &mut words).map(drop)
}

/// Writes entries; keys and values one after the other.
pub(crate) fn update_all(
    map: BorrowedFd<'_>,
    keys: &[u8],
    values: &[u8],
    count: usize,
) -> Result<()> {
    let mut words = [0_u32; 14];
    put(&mut words, 4, keys.as_ptr() as u64);
    put(&mut words, 6, values.as_ptr() as u64);
    words[8] = count as u32;
    words[9] = map.as_raw_fd() as u32;
    bpf(MAP_UPDATE_BATCH, &mut words).context("could not fill a map (needs Linux 5.13)")?;
    Ok(())
}

/// Runs a program on a frame so many times; its last verdict, and the mean time of one run in
/// nanoseconds, as the kernel tells it: whole ones.
pub(crate) fn run(program: BorrowedFd<'_>, frame: &[u8], times: u32) -> Result<(u32, f64)> {
    let mut words = [0_u32; 20];
    words[0] = program.as_raw_fd() as u32;
    words[2] = frame.len() as u32;
    put(&mut words, 4, frame.as_ptr() as u64);
    words[8] = times;
    bpf(PROG_TEST_RUN, &mut words).context("could not run a program")?;
    Ok((words[1], f64::from(words[9])))
}

/// Attaches to an interface of the thread's namespace, as long as the descriptor is open.
pub(crate) fn attach(program: BorrowedFd<'_>, interface: u32) -> Result<OwnedFd> {
    let mut words = [
        program.as_raw_fd() as u32,
        interface,
        TCX_INGRESS,
        0,
        0,
        0,
        0,
        0,
    ];
    let link = bpf(LINK_CREATE, &mut words).context("could not attach (needs Linux 6.6)")?;
    Ok(owned(link))
}

/// Puts eight bytes into two words.
fn put(words: &mut [u32], at: usize, value: u64) {
    let [a, b, c, d, e, f, g, h] = value.to_ne_bytes();
    words[at] = u32::from_ne_bytes([a, b, c, d]);
    words[at + 1] = u32::from_ne_bytes([e, f, g, h]);
}

fn bpf(command: i64, words: &mut [u32]) -> io::Result<i32> {
    // SAFETY: the words are the kernel's union for this command, of the size that is given; what
    // they point to is the caller's for the time of the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            words.as_mut_ptr(),
            size_of_val(words),
        )
    };
    match i32::try_from(result) {
        Ok(result) if result >= 0 => Ok(result),
        Ok(_) | Err(_) => Err(io::Error::last_os_error()),
    }
}

fn owned(fd: i32) -> OwnedFd {
    // SAFETY: the kernel has just returned this descriptor, and nobody else has it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}
