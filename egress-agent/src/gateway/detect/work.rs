//! Counts the bytes that detection looks at, in tests: the work must be linear in what arrives.

#[cfg(test)]
thread_local! {
    static LOOKED: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// So many bytes are looked at, or copied, now.
#[cfg(test)]
pub(super) fn looked_at(bytes: usize) {
    LOOKED.set(LOOKED.get() + bytes);
}

/// Nothing, outside tests.
#[cfg(not(test))]
pub(super) const fn looked_at(_bytes: usize) {}

/// How many since the last time.
#[cfg(test)]
pub(super) fn take() -> usize {
    LOOKED.replace(0)
}
