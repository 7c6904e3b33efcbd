//! Programs of a few instructions to compare with: one that does nothing, bare look-ups, and one
//! that gives each run of a program another destination.

use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};

use anyhow::Result;

use crate::bpf::{self, Instruction};

/// Where an IPv4 frame has its destination.
const DESTINATION: i32 = 30;

/// Destinations that are gone through in turn.
pub(crate) const TURN: u32 = 1 << 20;

// include/uapi/linux/bpf.h, enum bpf_func_id.
const MAP_LOOKUP_ELEM: i32 = 1;
const SKB_STORE_BYTES: i32 = 9;
const TAIL_CALL: i32 = 12;

const fn op(code: u8, destination: u8, source: u8, offset: i16, value: i32) -> Instruction {
    Instruction {
        code,
        destination,
        source,
        offset,
        value,
    }
}

/// `destination = source`.
const fn copy(destination: u8, source: u8) -> Instruction {
    op(0xbf, destination, source, 0, 0)
}

/// `destination = value`.
const fn set(destination: u8, value: i32) -> Instruction {
    op(0xb7, destination, 0, 0, value)
}

/// `destination += value`.
const fn add(destination: u8, value: i32) -> Instruction {
    op(0x07, destination, 0, 0, value)
}

/// Four bytes of the stack, from the end of it.
const fn store(offset: i16, value: i32) -> Instruction {
    op(0x62, 10, 0, offset, value)
}

const fn call(helper: i32) -> Instruction {
    op(0x85, 0, 0, 0, helper)
}

/// BPF_JMP | BPF_JGT | BPF_X, and BPF_JMP | BPF_JEQ | BPF_K.
const IF_GREATER: u8 = 0x2d;
const IF_EQUAL: u8 = 0x15;

const EXIT: Instruction = op(0x95, 0, 0, 0, 0);

/// `destination = map`, two instructions.
fn map(destination: u8, map: BorrowedFd<'_>) -> [Instruction; 2] {
    const PSEUDO_MAP_FD: u8 = 1;
    let fd = map.as_raw_fd();
    [
        op(0x18, destination, PSEUDO_MAP_FD, 0, fd),
        op(0, 0, 0, 0, 0),
    ]
}

/// A program that lets pass, and does nothing else.
pub(crate) fn empty(kind: u32) -> Result<OwnedFd> {
    let verdict = if kind == bpf::CLASSIFIER { -1 } else { 1 };
    bpf::load(kind, 0, &[set(0, verdict), EXIT])
}

/// A classifier that looks the destination up: `head` is what the key has before the last four
/// bytes, which are the destination's.
pub(crate) fn look_up(table: BorrowedFd<'_>, head: &[u8]) -> Result<OwnedFd> {
    let size = head.len() as i16 + 4;
    let mut program = vec![
        // data and data_end of struct __sk_buff.
        op(0x61, 2, 1, 76, 0),
        op(0x61, 3, 1, 80, 0),
        copy(4, 2),
        add(4, DESTINATION + 4),
        // Too short.
        op(IF_GREATER, 4, 3, 0, 0),
        op(0x61, 5, 2, DESTINATION as i16, 0),
        op(0x63, 10, 5, -4, 0),
    ];
    for (number, word) in head.chunks_exact(4).enumerate() {
        let word = i32::from_ne_bytes([word[0], word[1], word[2], word[3]]);
        program.push(store(4 * number as i16 - size, word));
    }
    program.extend([copy(2, 10), add(2, (-size).into())]);
    program.extend(map(1, table));
    program.extend([call(MAP_LOOKUP_ELEM), set(0, -1), EXIT]);
    jump_to_the_end(&mut program);
    bpf::load(bpf::CLASSIFIER, 0, &program)
}

/// A classifier that gives the frame the next of [`TURN`] destinations and goes on in `program`.
/// What it takes itself is in all that is compared.
pub(crate) fn in_turn(program: BorrowedFd<'_>, destinations: BorrowedFd<'_>) -> Result<InTurn> {
    let counter = bpf::array(1)?;
    let programs = bpf::program_array(program)?;
    let mut code = vec![copy(6, 1), store(-4, 0), copy(2, 10), add(2, -4)];
    code.extend(map(1, counter.as_fd()));
    code.extend([
        call(MAP_LOOKUP_ELEM),
        op(IF_EQUAL, 0, 0, 0, 0),
        op(0x79, 7, 0, 0, 0),
        copy(8, 7),
        add(8, 1),
        op(0x7b, 0, 8, 0, 0),
        op(0x57, 7, 0, 0, TURN as i32 - 1),
        op(0x63, 10, 7, -4, 0),
        copy(2, 10),
        add(2, -4),
    ]);
    code.extend(map(1, destinations));
    code.extend([
        call(MAP_LOOKUP_ELEM),
        op(IF_EQUAL, 0, 0, 0, 0),
        op(0x61, 7, 0, 0, 0),
        op(0x63, 10, 7, -8, 0),
        copy(1, 6),
        set(2, DESTINATION),
        copy(3, 10),
        add(3, -8),
        set(4, 4),
        set(5, 0),
        call(SKB_STORE_BYTES),
        copy(1, 6),
    ]);
    code.extend(map(2, programs.as_fd()));
    code.extend([set(3, 0), call(TAIL_CALL), set(0, 0), EXIT]);
    jump_to_the_end(&mut code);
    Ok(InTurn {
        program: bpf::load(bpf::CLASSIFIER, 0, &code)?,
        _programs: programs,
    })
}

/// The kernel empties an array of programs when its last holder in user space goes.
pub(crate) struct InTurn {
    pub(crate) program: OwnedFd,
    _programs: OwnedFd,
}

/// Every condition's jump goes to the last two instructions, which set a verdict and exit.
fn jump_to_the_end(program: &mut [Instruction]) {
    let end = program.len() - 2;
    for (at, instruction) in program.iter_mut().enumerate() {
        if matches!(instruction.code, IF_GREATER | IF_EQUAL) {
            instruction.offset = (end - at - 1) as i16;
        }
    }
}
