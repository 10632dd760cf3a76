//! The memory of tensors: shared by clones, and aligned to cache lines where fuse itself makes it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use memmap2::{MmapMut, MmapRaw};

/// Where memory that fuse makes begins: at a cache line, which is also the widest vector.
pub const ALIGNMENT: usize = 64;

/// Together, so many bytes have a mapping of their own.
const LARGE: usize = 1 << 20;

/// Bytes that clones share. Whoever writes to shared ones writes to a copy.
#[derive(Clone)]
pub struct Bytes {
    memory: Arc<Memory>,
    start: usize,
    len: usize,
}

/// Where bytes are.
enum Memory {
    /// Never grown, so that it stays where it is.
    Allocated(Vec<u8>),
    Mapped(Piece),
}

/// A part of a mapping that no other value accesses.
struct Piece {
    mapping: Arc<MmapRaw>,
    start: usize,
    len: usize,
    /// Whether it was given out for writing, before which the system provides no memory.
    taken: bool,
}

/// The bytes of such parts that were given out for writing.
static MAPPED: AtomicUsize = AtomicUsize::new(0);

/// The bytes that tensors of this process have in mappings of their own and that something was written to: what no
/// allocator knows of.
pub fn mapped_bytes() -> usize {
    MAPPED.load(Ordering::Relaxed)
}

impl Drop for Piece {
    fn drop(&mut self) {
        if self.taken {
            MAPPED.fetch_sub(self.len, Ordering::Relaxed);
        }
    }
}

impl Memory {
    fn as_slice(&self) -> &[u8] {
        match self {
            Memory::Allocated(bytes) => bytes,
            // SAFETY: the part lies within the mapping, which lives as long and is zeros where nothing was written; who
            // writes to it has this value alone.
            Memory::Mapped(p) => unsafe {
                std::slice::from_raw_parts(p.mapping.as_ptr().add(p.start), p.len)
            },
        }
    }

    fn as_mut_slice(&mut self) -> &mut [u8] {
        match self {
            Memory::Allocated(bytes) => bytes,
            Memory::Mapped(p) => {
                if !std::mem::replace(&mut p.taken, true) {
                    MAPPED.fetch_add(p.len, Ordering::Relaxed);
                }
                // SAFETY: as above; no other value accesses this part.
                unsafe { std::slice::from_raw_parts_mut(p.mapping.as_mut_ptr().add(p.start), p.len) }
            }
        }
    }
}

impl Bytes {
    /// Zeros, aligned to [`ALIGNMENT`]. The system provides the pages of many when they are first touched.
    pub fn zeroed(len: usize) -> Bytes {
        let memory = vec![0; len + ALIGNMENT - 1];
        let start = offset_to_line(&memory);
        Bytes { memory: Arc::new(Memory::Allocated(memory)), start, len }
    }

    /// As [`Bytes::zeroed`]; `None` where the system refuses.
    pub fn try_zeroed(len: usize) -> Option<Bytes> {
        // A refusal within `zeroed` would end the process. What is reserved here is not touched.
        Vec::<u8>::new().try_reserve_exact(len.checked_add(ALIGNMENT - 1)?).ok()?;
        Some(Bytes::zeroed(len))
    }

    /// Zeros in so many lengths, aligned to [`ALIGNMENT`]. Many come from one mapping, so that whoever writes to them first
    /// is given zeros by the system, where an allocator that has memory to use again writes the zeros itself; it goes back
    /// when the last of them does. `None` where the system refuses.
    pub fn try_zeroed_together(lengths: &[usize]) -> Option<Vec<Bytes>> {
        // A cache line between two: otherwise powers of two would all begin at the same place of their pages, and of caches.
        let room = |len: usize| len.checked_next_multiple_of(ALIGNMENT)?.checked_add(ALIGNMENT);
        let mut starts = Vec::with_capacity(lengths.len());
        let mut total = 0usize;
        for len in lengths {
            starts.push(total);
            total = total.checked_add(room(*len)?)?;
        }
        if total < LARGE {
            return lengths.iter().map(|len| Bytes::try_zeroed(*len)).collect();
        }
        let mapping = Arc::new(MmapRaw::from(MmapMut::map_anon(total).ok()?));
        let piece = |(start, len): (usize, &usize)| {
            let piece = Piece { mapping: mapping.clone(), start, len: *len, taken: false };
            Bytes { memory: Arc::new(Memory::Mapped(piece)), start: 0, len: *len }
        };
        Some(starts.into_iter().zip(lengths).map(piece).collect())
    }

    /// A copy of `bytes`, aligned to [`ALIGNMENT`].
    pub fn copy_of(bytes: &[u8]) -> Bytes {
        let mut copy = Bytes::zeroed(bytes.len());
        copy.as_mut_slice().copy_from_slice(bytes);
        copy
    }

    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        &self.memory.as_slice()[self.start..self.start + self.len]
    }

    /// The bytes, for writing: of this value alone from now on.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        if Arc::get_mut(&mut self.memory).is_none() {
            *self = Bytes::copy_of(self.as_slice());
        }
        let (start, end) = (self.start, self.start + self.len);
        // Nobody else has a memory that was just found or made unshared.
        Arc::get_mut(&mut self.memory).map_or(&mut [], |memory| &mut memory.as_mut_slice()[start..end])
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
        Bytes { memory: Arc::new(Memory::Allocated(memory)), start: 0, len }
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
    fn bytes_made_together_are_apart() {
        for lengths in [&[][..], &[0, 5, 64], &[3 << 20, 0, 1, 2 << 20, 4096]] {
            let mut together = Bytes::try_zeroed_together(lengths).unwrap();
            assert_eq!(together.iter().map(|b| b.as_slice().len()).collect::<Vec<_>>(), lengths);
            for (i, bytes) in together.iter_mut().enumerate() {
                assert!(bytes.as_slice().iter().all(|b| *b == 0));
                assert_eq!(bytes.as_slice().as_ptr().addr() % ALIGNMENT, 0);
                bytes.as_mut_slice().fill(i as u8 + 1);
            }
            for (i, bytes) in together.iter().enumerate() {
                assert!(bytes.as_slice().iter().all(|b| *b == i as u8 + 1));
            }
            let last = together.pop();
            drop(together);
            assert!(last.is_none_or(|b| b.as_slice().iter().all(|byte| *byte == lengths.len() as u8)));
        }
        assert!(Bytes::try_zeroed_together(&[1, usize::MAX]).is_none());
        assert!(Bytes::try_zeroed_together(&[usize::MAX / 2; 3]).is_none());
    }

    #[test]
    fn a_clone_of_mapped_bytes_is_written_elsewhere() {
        let mut first = Bytes::try_zeroed_together(&[LARGE]).unwrap().remove(0);
        let second = first.clone();
        first.as_mut_slice()[7] = 9;
        assert_eq!((first.as_slice()[7], second.as_slice()[7]), (9, 0));
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
