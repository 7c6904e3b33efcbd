//! What a socket was allowed last, remembered with it: a packet like the one before is not judged
//! again, however many entries the policy has. Only what is allowed is remembered, and nothing for
//! longer than what the enforcer wrote stays the same.

use crate::maps;
use egress_common::{
    address::Address,
    attempt::Attempt,
    socket::{Decided, Socket, What},
};

/// What the verdict on an attempt depends on beside the attempt.
#[derive(Clone, Copy)]
pub(crate) struct Seen {
    /// See [`egress_common::maps::Config::generation`]. Read before anything is looked up: what
    /// changes after that is not decided by what was before.
    pub(crate) generation: u64,
    pub(crate) interface: u32,
    /// The frame's addresses, or zeros.
    pub(crate) macs: [u32; 3],
}

impl Seen {
    #[inline(always)]
    pub(crate) fn on(interface: u32) -> Self {
        Self {
            generation: maps::config().map_or(0, |config| config.generation),
            interface,
            macs: [0; 3],
        }
    }

    #[inline(always)]
    fn with(&self, attempt: &Attempt) -> What {
        What {
            generation: self.generation,
            source: attempt.source,
            destination: attempt.destination,
            macs: self.macs,
            interface: self.interface,
            ports: [attempt.source_port, attempt.destination_port],
            protocol: attempt.protocol.into(),
        }
    }
}

const WORDS: usize = size_of::<What>() / size_of::<u64>();

/// What [`recall`] finds of what is not remembered; no endpoint's id.
pub(crate) const NOTHING: u32 = u32::MAX;

/// The endpoint for which it is counted, 0 for none, if just this was allowed at this place of the
/// socket's. What opens a connection is never remembered.
///
/// A function of its own, so that the compiler reckons with no address before it is known that there
/// is a socket: the verifier would not have it.
#[inline(never)]
pub(crate) fn recall<const PLACE: usize>(
    socket: *const Socket,
    attempt: &Attempt,
    seen: &Seen,
) -> u32 {
    if socket.is_null() || attempt.opens() {
        return NOTHING;
    }
    // Reads of memory that another CPU may be writing, in the order in which they stand: each needs
    // the one before for its address, so that no processor reads them the other way round.
    // SAFETY: a value of socket storage for as long as the program runs.
    unsafe {
        let decided = &raw const (*socket).decided[PLACE];
        let sequence = (&raw const (*decided).sequence).read_volatile();
        let here = after(decided, sequence);
        let known = &raw const (*here).what;
        let mut other = (&raw const (*known).generation).read_volatile() ^ seen.generation;
        other |= differs(&raw const (*known).source, &attempt.source);
        other |= differs(&raw const (*known).destination, &attempt.destination);
        let mut mac = 0;
        while mac < seen.macs.len() {
            let address = (&raw const (*known).macs[mac]).read_volatile();
            other |= u64::from(address ^ seen.macs[mac]);
            mac += 1;
        }
        let interface = (&raw const (*known).interface).read_volatile();
        let ports = (&raw const (*known).ports).cast::<u32>().read_volatile();
        let protocol = (&raw const (*known).protocol).read_volatile();
        other |= u64::from(interface ^ seen.interface);
        other |= u64::from(ports ^ words(attempt.source_port, attempt.destination_port));
        other |= u64::from(protocol ^ u32::from(attempt.protocol));
        let endpoint = (&raw const (*here).endpoint).read_volatile();
        let here = after(decided, other);
        let again = (&raw const (*here).sequence).read_volatile();
        let is_whole = sequence == again && sequence & 1 == 0;
        match is_whole && other == 0 && seen.generation != 0 {
            true => endpoint,
            false => NOTHING,
        }
    }
}

/// As [`What::ports`] lies in memory.
#[inline(always)]
fn words(source: u16, destination: u16) -> u32 {
    let ([a, b], [c, d]) = (source.to_ne_bytes(), destination.to_ne_bytes());
    u32::from_ne_bytes([a, b, c, d])
}

/// Not 0 where the addresses differ.
///
/// # Safety
/// `known` can be read.
#[inline(always)]
unsafe fn differs(known: *const Address, wanted: &Address) -> u64 {
    let known = known.cast::<u32>();
    let mut other = 0;
    let mut word = 0;
    while word < 4 {
        // SAFETY: the caller's; an address is four words.
        other |= unsafe { known.add(word).read_volatile() } ^ wanted.words()[word];
        word += 1;
    }
    other.into()
}

/// The same address, but not known before `value` is. Where that has its first bit set it is another
/// address within the socket's storage, and what is read there is not used.
#[inline(always)]
fn after(decided: *const Decided, value: u64) -> *const Decided {
    let first_bit = value >> 63;
    decided.wrapping_byte_add((first_bit << 3) as usize)
}

/// Remembers that it was allowed. The second time in a row: a socket that sends to many in turn
/// would only write.
#[inline(never)]
pub(crate) fn remember<const PLACE: usize>(
    socket: *mut Socket,
    attempt: &Attempt,
    seen: &Seen,
    endpoint: u32,
) {
    if socket.is_null() {
        return;
    }
    let what = seen.with(attempt);
    let digest = digest(&what);
    // SAFETY: as above; words are written by whoever has made the sequence odd.
    unsafe {
        let decided = &raw mut (*socket).decided[PLACE];
        let missed = &raw mut (*decided).missed;
        if missed.read_volatile() != digest {
            missed.write_volatile(digest);
            return;
        }
        let sequence = &raw mut (*decided).sequence;
        let before = sequence.read_volatile();
        if before & 1 != 0 || !maps::exchange(sequence, before, before + 1) {
            return;
        }
        let known = (&raw mut (*decided).what).cast::<u64>();
        let wanted: *const u64 = (&raw const what).cast();
        let mut word = 0;
        while word < WORDS {
            known
                .add(word)
                .write_volatile(wanted.add(word).read_volatile());
            word += 1;
        }
        (&raw mut (*decided).endpoint).write_volatile(endpoint);
        maps::replace(sequence, before + 2);
    }
}

/// Some number that tells one from another, most times.
#[inline(always)]
fn digest(what: &What) -> u32 {
    let words = what.destination.words();
    let ports = u32::from(what.ports[0]) << 16 | u32::from(what.ports[1]);
    words[0] ^ words[1] ^ words[2] ^ words[3] ^ ports ^ what.protocol ^ what.generation as u32
}
