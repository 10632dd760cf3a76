//! Host memory aligned to cache lines.

use crate::plan::ALIGNMENT;

/// One cache line.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
struct Line([u8; 64]);

const _: () = assert!(align_of::<Line>() as u64 == ALIGNMENT && size_of::<Line>() as u64 == ALIGNMENT);

/// Bytes that start at a cache line. Never empty, so that its address is always that of readable memory.
#[derive(Debug)]
pub(crate) struct Block {
    lines: Vec<Line>,
}

/// The system refused memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the system has no {0} bytes of memory left")]
pub struct OutOfMemory(pub u64);

impl Block {
    /// At least `bytes` bytes, zeroed.
    pub fn zeroed(bytes: u64) -> Result<Block, OutOfMemory> {
        let count = usize::try_from(bytes.div_ceil(ALIGNMENT).max(1)).map_err(|_| OutOfMemory(bytes))?;
        let mut lines = Vec::new();
        lines.try_reserve_exact(count).map_err(|_| OutOfMemory(bytes))?;
        lines.resize(count, Line([0; 64]));
        Ok(Block { lines })
    }

    /// A copy of `bytes`.
    pub fn copy_of(bytes: &[u8]) -> Result<Block, OutOfMemory> {
        let mut block = Block::zeroed(bytes.len() as u64)?;
        for (line, chunk) in block.lines.iter_mut().zip(bytes.chunks(64)) {
            line.0[..chunk.len()].copy_from_slice(chunk);
        }
        Ok(block)
    }

    /// Copies the first bytes out.
    pub fn copy_to(&self, bytes: &mut [u8]) {
        for (line, chunk) in self.lines.iter().zip(bytes.chunks_mut(64)) {
            chunk.copy_from_slice(&line.0[..chunk.len()]);
        }
    }

    /// The bytes it has.
    pub fn capacity(&self) -> u64 {
        self.lines.len() as u64 * ALIGNMENT
    }

    /// The address of its first byte, for reading.
    pub fn address(&self) -> usize {
        self.lines.as_ptr().expose_provenance()
    }

    /// The address of its first byte, for writing too.
    pub fn address_mut(&mut self) -> usize {
        self.lines.as_mut_ptr().expose_provenance()
    }
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
    fn absurd_sizes_are_refused() {
        assert_eq!(Block::zeroed(u64::MAX / 2).err(), Some(OutOfMemory(u64::MAX / 2)));
    }
}
