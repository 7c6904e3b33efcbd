//! A table of direct entries in the kernel's memory, which is this process's, too.

use std::{
    io,
    marker::PhantomData,
    ops::Range,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    ptr::{NonNull, null_mut},
    sync::atomic::{AtomicU64, Ordering},
};

use egress_common::{
    direct::{Bucket, GONE},
    maps,
};
use rustix::mm::{MapFlags, ProtFlags};

use crate::enforcer::{direct::table::At, sys};

/// A map, and where it is mapped.
pub(super) struct Memory<B> {
    map: OwnedFd,
    pub(super) id: u32,
    at: NonNull<B>,
    buckets: usize,
    of: PhantomData<B>,
}

// SAFETY: the memory is shared anyway; this is the one of its owners that is in this process.
unsafe impl<B: Send> Send for Memory<B> {}

impl<B: Bucket> Memory<B> {
    /// A new map, with these buckets.
    pub(super) fn new(name: &str, buckets: &[B]) -> io::Result<Self> {
        let count = u32::try_from(buckets.len()).map_err(io::Error::other)?;
        let memory = Self::of_map(sys::map_create(name, &shape::<B>(count))?)?;
        // SAFETY: it has as many, and nobody else knows it yet.
        unsafe {
            memory
                .at
                .copy_from_nonoverlapping(first(buckets), buckets.len())
        };
        Ok(memory)
    }

    /// A map that there is; an error where it is no table.
    pub(super) fn of_map(map: OwnedFd) -> io::Result<Self> {
        let info = sys::map_info(map.as_fd())?;
        if !info.is_like(&shape::<B>(info.max_entries)) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let buckets = info.max_entries as usize;
        let (protection, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED);
        // SAFETY: a new mapping, wherever the kernel likes.
        let at = unsafe {
            rustix::mm::mmap(
                null_mut(),
                buckets * size_of::<B>(),
                protection,
                flags,
                &map,
                0,
            )?
        };
        let at = NonNull::new(at.cast()).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Self {
            map,
            id: info.id,
            at,
            buckets,
            of: PhantomData,
        })
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.map.as_fd()
    }

    /// What it holds.
    pub(super) fn read(&self) -> Vec<B> {
        (0..self.buckets)
            .map(|bucket| self.bucket(bucket))
            .collect()
    }

    fn bucket(&self, bucket: usize) -> B {
        assert!(bucket < self.buckets, "a bucket of the table");
        // SAFETY: within the mapping. Others may write meanwhile: then it is any mixture of words.
        unsafe { self.at.add(bucket).read_volatile() }
    }

    /// Writes what is at a place of this bucket: the word last, by which programs see it.
    pub(super) fn write(&self, (bucket, place): At, with: &B) {
        let mut there = self.bucket(bucket);
        if !there.may_be(place, &with.address(place)) {
            there.set_address(place, with.address(place));
            there.words_mut()[place] = GONE;
            self.store(bucket, place, GONE);
            // SAFETY: as in `bucket`. What this writes beside the place is what was there: nobody
            // else writes here.
            unsafe { self.at.add(bucket).write_volatile(there) };
        }
        self.store(bucket, place, with.words()[place]);
    }

    fn store(&self, bucket: usize, place: usize, word: u64) {
        // SAFETY: as in `bucket`; words come first in a bucket, and are aligned.
        let words = unsafe { self.at.add(bucket).cast::<AtomicU64>().add(place).as_ref() };
        words.store(word, Ordering::Release);
    }

    /// Makes some buckets what they should be, and says how many places were not so.
    pub(super) fn mend(&self, range: Range<usize>, wanted: &[B]) -> usize {
        let mut changed = 0;
        for bucket in range {
            let (there, with) = (self.bucket(bucket), &wanted[bucket]);
            for place in 0..there.words().len() {
                let is_so = there.words()[place] == with.words()[place]
                    && there.may_be(place, &with.address(place));
                if !is_so {
                    changed += 1;
                    self.write((bucket, place), with);
                }
            }
        }
        changed
    }
}

impl<B> Drop for Memory<B> {
    fn drop(&mut self) {
        // SAFETY: the mapping that was made, of which no reference is left.
        unsafe { rustix::mm::munmap(self.at.as_ptr().cast(), self.buckets * size_of::<B>()).ok() };
    }
}

fn first<B>(buckets: &[B]) -> NonNull<B> {
    NonNull::from(buckets).cast()
}

/// How a table of so many buckets is made.
fn shape<B>(buckets: u32) -> sys::Shape {
    sys::Shape::of::<u32, B>(sys::ARRAY, buckets, maps::TABLE)
}
