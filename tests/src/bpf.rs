//! bpf(2) as somebody would use it who tampers: on links, maps and hooks that are not theirs.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use anyhow::{Context as _, Result};

// enum bpf_cmd, bpf_prog_type and bpf_attach_type in include/uapi/linux/bpf.h.
const MAP_LOOKUP_ELEM: i64 = 1;
const MAP_UPDATE_ELEM: i64 = 2;
const MAP_DELETE_ELEM: i64 = 3;
const MAP_GET_NEXT_KEY: i64 = 4;
const PROG_LOAD: i64 = 5;
const OBJ_GET: i64 = 7;
const OBJ_GET_INFO_BY_FD: i64 = 15;
const LINK_CREATE: i64 = 28;
const LINK_UPDATE: i64 = 29;
const LINK_DETACH: i64 = 34;
const SCHED_CLS: u32 = 3;
const CGROUP_SKB: u32 = 8;
const CGROUP_INET_EGRESS: u32 = 1;
const TCX_INGRESS: u32 = 46;
/// BPF_F_BEFORE: ahead of all.
const BEFORE: u32 = 1 << 3;

/// A program that was loaded.
#[derive(Debug)]
pub struct Program(OwnedFd);

impl Program {
    /// For a cgroup's egress: lets everything pass.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn cgroup_skb_egress() -> Result<Self> {
        Self::load(CGROUP_SKB, CGROUP_INET_EGRESS, 1)
    }

    /// For an interface: lets everything pass, and no other program see it (TCX_PASS).
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn classifier_that_passes() -> Result<Self> {
        Self::load(SCHED_CLS, 0, 0)
    }

    /// `r0 = result; exit`.
    fn load(kind: u32, attach_type: u32, result: i32) -> Result<Self> {
        let instructions: [[u8; 8]; 2] = {
            let [a, b, c, d] = result.to_ne_bytes();
            [[0xb7, 0, 0, 0, a, b, c, d], [0x95, 0, 0, 0, 0, 0, 0, 0]]
        };
        let licence = c"GPL";
        // union bpf_attr, up to expected_attach_type.
        let mut words = [0_u32; 20];
        words[0] = kind;
        words[1] = 2;
        put(&mut words, 2, instructions.as_ptr() as u64);
        put(&mut words, 4, licence.as_ptr() as u64);
        words[17] = attach_type;
        let program = bpf(PROG_LOAD, &words).context("could not load a program")?;
        Ok(Self(owned(program)))
    }
}

/// Detaches a pinned link from what it is attached to; the pin stays.
///
/// # Errors
/// Where it is not there.
pub fn detach(pin: &Path) -> Result<()> {
    let link = get(pin)?;
    bpf(LINK_DETACH, &[link.as_raw_fd() as u32]).context("could not detach")?;
    Ok(())
}

/// Puts a program in the place of a pinned link's.
///
/// # Errors
/// Where it is not there, or of another kind.
pub fn update(pin: &Path, program: &Program) -> Result<()> {
    let link = get(pin)?;
    let words = [link.as_raw_fd() as u32, program.0.as_raw_fd() as u32, 0, 0];
    bpf(LINK_UPDATE, &words).context("could not update")?;
    Ok(())
}

/// Attaches to an interface of the thread's namespace, ahead of all others, to what comes in; as
/// long as the descriptor is open.
///
/// # Errors
/// Where the kernel refuses.
pub fn attach_ahead(program: &Program, interface: u32) -> Result<OwnedFd> {
    let program = program.0.as_raw_fd() as u32;
    let words = [program, interface, TCX_INGRESS, BEFORE, 0, 0, 0, 0];
    let link = bpf(LINK_CREATE, &words).context("could not attach")?;
    Ok(owned(link))
}

/// A pinned map.
#[derive(Debug)]
pub struct Map {
    fd: OwnedFd,
    key_size: usize,
    value_size: usize,
}

impl Map {
    /// Opens it.
    ///
    /// # Errors
    /// Where it is not there.
    pub fn open(pin: &Path) -> Result<Self> {
        let fd = get(pin)?;
        // type, id, key_size, value_size.
        let info = [0_u32; 4];
        let mut words = [fd.as_raw_fd() as u32, size_of_val(&info) as u32, 0, 0];
        put(&mut words, 2, info.as_ptr() as u64);
        bpf(OBJ_GET_INFO_BY_FD, &words).context("could not read what the map is")?;
        let info = std::hint::black_box(info);
        Ok(Self {
            fd,
            key_size: info[2] as usize,
            value_size: info[3] as usize,
        })
    }

    /// The value of a key.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        let mut value = vec![0_u8; self.value_size];
        let found = self.element(MAP_LOOKUP_ELEM, key.as_ptr(), value.as_mut_ptr())?;
        Ok(found.then_some(value))
    }

    /// Writes a key's value.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn set(&self, key: &[u8], value: &mut [u8]) -> Result<()> {
        anyhow::ensure!(
            key.len() == self.key_size && value.len() == self.value_size,
            "the map's key has {} bytes and its value {}",
            self.key_size,
            self.value_size
        );
        self.element(MAP_UPDATE_ELEM, key.as_ptr(), value.as_mut_ptr())?;
        Ok(())
    }

    /// Every key, while nobody else writes.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn keys(&self) -> Result<Vec<Vec<u8>>> {
        let mut keys: Vec<Vec<u8>> = Vec::new();
        loop {
            let mut next = vec![0_u8; self.key_size];
            let last = keys.last().map_or(std::ptr::null(), |key| key.as_ptr());
            if !self.element(MAP_GET_NEXT_KEY, last, next.as_mut_ptr())? {
                return Ok(keys);
            }
            keys.push(next);
        }
    }

    /// Removes every key.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn delete_all(&self) -> Result<()> {
        let mut key = vec![0_u8; self.key_size];
        while self.element(MAP_GET_NEXT_KEY, std::ptr::null(), key.as_mut_ptr())? {
            self.element(MAP_DELETE_ELEM, key.as_ptr(), std::ptr::null_mut())?;
        }
        Ok(())
    }

    /// Removes one entry.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn delete(&self, key: &[u8]) -> Result<()> {
        self.element(MAP_DELETE_ELEM, key.as_ptr(), std::ptr::null_mut())?;
        Ok(())
    }

    fn element(&self, command: i64, key: *const u8, value: *mut u8) -> Result<bool> {
        let mut words = [0_u32; 8];
        words[0] = self.fd.as_raw_fd() as u32;
        put(&mut words, 2, key as u64);
        put(&mut words, 4, value as u64);
        match bpf(command, &words) {
            Ok(_) => Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
            Err(error) => Err(error).context("the map refused"),
        }
    }
}

fn get(pin: &Path) -> Result<OwnedFd> {
    let path = CString::new(pin.as_os_str().as_bytes()).context("a path holds no NUL")?;
    let mut words = [0_u32; 4];
    put(&mut words, 0, path.as_ptr() as u64);
    let opened = bpf(OBJ_GET, &words);
    opened
        .map(owned)
        .with_context(|| format!("could not open the pin {}", pin.display()))
}

/// Puts eight bytes into two words.
fn put(words: &mut [u32], at: usize, value: u64) {
    let bytes = value.to_ne_bytes();
    let [a, b, c, d, e, f, g, h] = bytes;
    words[at] = u32::from_ne_bytes([a, b, c, d]);
    words[at + 1] = u32::from_ne_bytes([e, f, g, h]);
}

fn bpf(command: i64, words: &[u32]) -> io::Result<i32> {
    // SAFETY: the words are the kernel's union for this command, of the size that is given; what
    // they point to is the caller's for the time of the call, and as long as the kernel takes it.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, words.as_ptr(), size_of_val(words)) };
    match i32::try_from(result) {
        Ok(result) if result >= 0 => Ok(result),
        Ok(_) | Err(_) => Err(io::Error::last_os_error()),
    }
}

fn owned(fd: i32) -> OwnedFd {
    // SAFETY: the kernel has just returned this descriptor, and nobody else has it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}
