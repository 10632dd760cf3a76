//! The memory of tensors: shared by clones, and aligned to cache lines where fuse itself makes it.

use std::fmt;
use std::sync::Arc;

/// Where memory that fuse makes begins: at a cache line, which is also the widest vector.
pub const ALIGNMENT: usize = 64;

/// Bytes that clones share. Whoever writes to shared ones writes to a copy.
#[derive(Clone)]
pub struct Bytes {
    /// Never grown, so that it stays where it is.
    memory: Arc<Vec<u8>>,
    start: usize,
    len: usize,
}

impl Bytes {
    /// Zeros, aligned to [`ALIGNMENT`]. The system provides the pages of many when they are first touched.
    pub fn zeroed(len: usize) -> Bytes {
        let memory = vec![0; len + ALIGNMENT - 1];
        let start = offset_to_line(&memory);
        Bytes { memory: Arc::new(memory), start, len }
    }

    /// As [`Bytes::zeroed`]; `None` where the system refuses.
    pub fn try_zeroed(len: usize) -> Option<Bytes> {
        // A refusal within `zeroed` would end the process. What is reserved here is not touched.
        Vec::<u8>::new().try_reserve_exact(len.checked_add(ALIGNMENT - 1)?).ok()?;
        Some(Bytes::zeroed(len))
    }

    /// A copy of `bytes`, aligned to [`ALIGNMENT`].
    pub fn copy_of(bytes: &[u8]) -> Bytes {
        let mut copy = Bytes::zeroed(bytes.len());
        copy.as_mut_slice().copy_from_slice(bytes);
        copy
    }

    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.len]
    }

    /// The bytes, for writing: of this value alone from now on.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        if Arc::get_mut(&mut self.memory).is_none() {
            *self = Bytes::copy_of(self.as_slice());
        }
        let (start, end) = (self.start, self.start + self.len);
        // Nobody else has a memory that was just found or made unshared.
        Arc::get_mut(&mut self.memory).map_or(&mut [], |memory| &mut memory[start..end])
    }

    /// Whether other values share the memory.
    pub fn is_shared(&self) -> bool {
        Arc::strong_count(&self.memory) > 1
    }
}

/// How far the first cache line is.
fn offset_to_line(memory: &[u8]) -> usize {
    let address = memory.as_ptr().addr();
    address.next_multiple_of(ALIGNMENT) - address
}

impl From<Vec<u8>> for Bytes {
    /// The same memory, aligned as it is.
    fn from(memory: Vec<u8>) -> Bytes {
        let len = memory.len();
        Bytes { memory: Arc::new(memory), start: 0, len }
    }
}

impl PartialEq for Bytes {
    fn eq(&self, other: &Bytes) -> bool {
        self.as_slice() == other.as_slice()
    }
}

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_slice().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn made_bytes_start_at_a_cache_line() {
        for len in [0, 1, 63, 64, 1000, 1 << 20] {
            let zeros = Bytes::zeroed(len);
            assert_eq!(zeros.as_slice(), vec![0; len]);
            assert_eq!(zeros.as_slice().as_ptr().addr() % ALIGNMENT, 0);
            let copy = Bytes::copy_of(&vec![7; len]);
            assert_eq!(
                (copy.as_slice(), copy.as_slice().as_ptr().addr() % ALIGNMENT),
                (&vec![7; len][..], 0)
            );
        }
    }

    #[test]
    fn clones_share_memory_until_one_is_written() {
        let mut first = Bytes::from(vec![1, 2, 3]);
        let second = first.clone();
        assert_eq!(first.as_slice().as_ptr(), second.as_slice().as_ptr());
        assert!(first.is_shared() && second.is_shared());
        first.as_mut_slice()[0] = 9;
        assert_eq!((first.as_slice(), second.as_slice()), (&[9, 2, 3][..], &[1, 2, 3][..]));
        let address = first.as_slice().as_ptr();
        first.as_mut_slice()[1] = 8;
        assert!(first.as_slice().as_ptr() == address && !first.is_shared() && !second.is_shared());
    }

    #[test]
    fn absurd_sizes_are_refused() {
        assert_eq!(Bytes::try_zeroed(usize::MAX), None);
        assert_eq!(Bytes::try_zeroed(isize::MAX as usize), None);
    }
}
