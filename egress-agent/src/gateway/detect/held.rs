//! What long beginnings of connections may take in memory, all together. A hello that is longer
//! than any real client's is read as far as it may be, but not from thousands at once.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes that every connection may have anyway: several times a browser's hello.
const SHORT: usize = 16 << 10;

/// Bytes beyond that, of all connections.
pub(super) static POOL: Pool = Pool::new(64 << 20);

/// A number of bytes to share.
#[derive(Debug)]
pub(super) struct Pool {
    taken: AtomicUsize,
    most: usize,
}

impl Pool {
    const fn new(most: usize) -> Self {
        Self {
            taken: AtomicUsize::new(0),
            most,
        }
    }
}

/// What one connection has of it, given back when it is dropped.
#[derive(Debug)]
pub(super) struct Held {
    pool: &'static Pool,
    bytes: usize,
}

impl Held {
    pub(super) const fn of(pool: &'static Pool) -> Self {
        Self { pool, bytes: 0 }
    }

    /// Whether there is room for so many bytes in all.
    pub(super) fn grow_to(&mut self, length: usize) -> bool {
        let more = length.saturating_sub(SHORT + self.bytes);
        if more == 0 {
            return true;
        }
        self.bytes += more;
        let before = self.pool.taken.fetch_add(more, Ordering::Relaxed);
        before + more <= self.pool.most
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.pool.taken.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_short_is_free_and_what_is_long_is_shared() {
        static POOL: Pool = Pool::new(100);
        let (mut one, mut other) = (Held::of(&POOL), Held::of(&POOL));
        assert!(one.grow_to(SHORT));
        assert!(one.grow_to(SHORT + 60));
        assert!(one.grow_to(SHORT + 60), "it has that already");
        assert!(other.grow_to(SHORT));
        assert!(other.grow_to(SHORT + 40));
        assert!(!other.grow_to(SHORT + 41));
        drop(other);
        assert!(one.grow_to(SHORT + 100));
        assert!(!one.grow_to(SHORT + 101));
        drop(one);
        assert_eq!(POOL.taken.load(Ordering::Relaxed), 0);
    }
}
