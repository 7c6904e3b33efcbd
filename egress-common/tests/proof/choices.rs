//! Choices from bytes, so that a property test and a fuzzer drive the same generators, and smaller
//! bytes are simpler choices.

/// What is left of the bytes; where nothing is, every choice is the first.
pub(crate) struct Choices<'a>(&'a [u8]);

impl<'a> Choices<'a> {
    /// All of them.
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// Any byte.
    pub(crate) fn byte(&mut self) -> u8 {
        match self.0.split_first() {
            Some((first, rest)) => {
                self.0 = rest;
                *first
            }
            None => 0,
        }
    }

    /// Any bytes.
    pub(crate) fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.byte()).collect()
    }

    /// As many bytes as an array has.
    pub(crate) fn array<const N: usize>(&mut self) -> [u8; N] {
        std::array::from_fn(|_| self.byte())
    }

    /// Any number.
    pub(crate) fn number(&mut self) -> u16 {
        u16::from_be_bytes(self.array())
    }

    /// A number below one that is not 0.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        match end {
            0..=256 => usize::from(self.byte()) % end,
            _ => usize::from(self.number()) % end,
        }
    }

    /// One of a list that is not empty.
    pub(crate) fn pick<T: Copy>(&mut self, list: &[T]) -> T {
        list[self.below(list.len())]
    }

    /// True once in so many times; false where nothing is left.
    pub(crate) fn once_in(&mut self, times: u8) -> bool {
        self.byte() % times == times - 1
    }

    /// Mostly the one, once in so many times something else.
    pub(crate) fn mostly<T>(
        &mut self,
        usual: T,
        times: u8,
        other: impl FnOnce(&mut Self) -> T,
    ) -> T {
        if self.once_in(times) {
            other(self)
        } else {
            usual
        }
    }
}
