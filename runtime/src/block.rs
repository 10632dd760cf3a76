//! Host memory aligned to cache lines.

use fuse_ir::{Bytes, Tensor};

use crate::plan::ALIGNMENT;

const _: () = assert!(fuse_ir::bytes::ALIGNMENT as u64 == ALIGNMENT);

/// Bytes that start at a cache line. Never empty, so that its address is always that of readable memory. Clones share
/// the memory; only who has it alone may ask for the address to write to.
#[derive(Clone, Debug)]
pub(crate) struct Block {
    bytes: Bytes,
}

/// The system refused memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the system has no {0} bytes of memory left")]
pub struct OutOfMemory(pub u64);

impl Block {
    /// At least `bytes` bytes, zeroed; pages are taken when they are first touched.
    pub fn zeroed(bytes: u64) -> Result<Block, OutOfMemory> {
        let bytes = size_of_block(bytes).and_then(Bytes::try_zeroed).ok_or(OutOfMemory(bytes))?;
        Ok(Block { bytes })
    }

    /// As [`Block::zeroed`], several that are to stay.
    pub fn zeroed_together(sizes: &[u64]) -> Result<Vec<Block>, OutOfMemory> {
        let lengths: Option<Vec<usize>> = sizes.iter().map(|bytes| size_of_block(*bytes)).collect();
        let together = lengths.and_then(|lengths| Bytes::try_zeroed_together(&lengths));
        let total = sizes.iter().fold(0u64, |sum, bytes| sum.saturating_add(*bytes));
        Ok(together.ok_or(OutOfMemory(total))?.into_iter().map(|bytes| Block { bytes }).collect())
    }

    /// A copy of `bytes`.
    pub fn copy_of(bytes: &[u8]) -> Result<Block, OutOfMemory> {
        let mut block = Block::zeroed(bytes.len() as u64)?;
        block.bytes.as_mut_slice()[..bytes.len()].copy_from_slice(bytes);
        Ok(block)
    }

    /// The memory of a tensor where it starts at a cache line, otherwise a copy.
    pub fn of(tensor: &Tensor) -> Result<Block, OutOfMemory> {
        if is_shareable(tensor) {
            return Ok(Block { bytes: tensor.memory().clone() });
        }
        Block::copy_of(tensor.bytes())
    }

    /// Copies the first bytes out.
    pub fn copy_to(&self, bytes: &mut [u8]) {
        bytes.copy_from_slice(&self.bytes.as_slice()[..bytes.len()]);
    }

    /// The bytes it has.
    pub fn capacity(&self) -> u64 {
        self.bytes.as_slice().len() as u64
    }

    /// The address of its first byte, for reading.
    pub fn address(&self) -> usize {
        self.bytes.as_slice().as_ptr().expose_provenance()
    }

    /// The address of its first byte, for writing too.
    pub fn address_mut(&mut self) -> usize {
        self.bytes.as_mut_slice().as_mut_ptr().expose_provenance()
    }
}

/// The bytes of a block of at least so many.
fn size_of_block(bytes: u64) -> Option<usize> {
    usize::try_from(bytes.max(1)).ok()?.checked_next_multiple_of(ALIGNMENT as usize)
}

/// Whether [`Block::of`] makes no copy.
pub(crate) fn is_shareable(tensor: &Tensor) -> bool {
    !tensor.bytes().is_empty() && tensor.bytes().as_ptr().addr().is_multiple_of(ALIGNMENT as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_starts_at_a_cache_line_and_is_never_empty() {
        for bytes in [0, 1, 64, 65, 1000] {
            let block = Block::zeroed(bytes).unwrap();
            assert_eq!(block.address() % 64, 0);
            assert!(block.capacity() >= bytes.max(1));
        }
    }

    #[test]
    fn bytes_come_back_as_they_went_in() {
        let bytes: Vec<u8> = (0..150).collect();
        let mut back = vec![0; 150];
        Block::copy_of(&bytes).unwrap().copy_to(&mut back);
        assert_eq!(back, bytes);
    }

    #[test]
    fn a_tensor_at_a_cache_line_is_shared_and_another_copied() {
        let tensor = |memory: Bytes| {
            Tensor::from_bytes(fuse_ir::DType::U8, &[memory.as_slice().len()], memory).unwrap()
        };
        let aligned = tensor(Bytes::copy_of(&[3; 100]));
        let block = Block::of(&aligned).unwrap();
        assert_eq!(block.address(), aligned.bytes().as_ptr().addr());
        for other in [tensor(Bytes::copy_of(&[])), tensor(unaligned())] {
            let block = Block::of(&other).unwrap();
            assert!(block.address().is_multiple_of(64) && block.address() != other.bytes().as_ptr().addr());
            let mut back = vec![0; other.bytes().len()];
            block.copy_to(&mut back);
            assert_eq!(back, other.bytes());
        }
    }

    /// A vector that does not start at a cache line: of many alive at once not all do.
    fn unaligned() -> Bytes {
        let many: Vec<Vec<u8>> = (0..100u8).map(|i| vec![i; 48]).collect();
        many.into_iter().find(|v| !v.as_ptr().addr().is_multiple_of(64)).unwrap().into()
    }

    #[test]
    fn absurd_sizes_are_refused() {
        assert_eq!(Block::zeroed(u64::MAX / 2).err(), Some(OutOfMemory(u64::MAX / 2)));
        assert_eq!(Block::zeroed(u64::MAX).err(), Some(OutOfMemory(u64::MAX)));
        let sizes = [1, u64::MAX / 2];
        assert_eq!(Block::zeroed_together(&sizes).err(), Some(OutOfMemory(u64::MAX / 2 + 1)));
    }
}
