//! Copies from buffers to shared memory that go on while a thread does something else.
//!
//! What is copied is there when the thread has waited for it, and not before: until then it reads as what was never written.

use super::lane::{Lane, read};
use super::{Evaluated, Machine, Register};
use crate::kernel_ir::{Access, LaneType, ParameterId, ValueId};

/// What a thread began to copy and has not waited for.
#[derive(Clone, Default)]
pub(super) struct Copies {
    /// Groups that ended, the first first.
    groups: Vec<Vec<Copy>>,
    /// What was begun since.
    open: Vec<Copy>,
}

#[derive(Clone)]
struct Copy {
    array: usize,
    at: i64,
    words: Register,
    /// What the copy is to.
    to: ValueId,
}

impl Copies {
    /// Ends a group.
    pub(super) fn commit(&mut self) {
        self.groups.push(std::mem::take(&mut self.open));
    }
}

impl Machine<'_> {
    /// Begins a copy of so many bytes from elements of a buffer, or of zeros, to words of a shared array.
    pub(super) fn start_copy(
        &mut self,
        (array, to): (usize, ValueId),
        (buffer, from, inside): (ParameterId, ValueId, ValueId),
        bytes: usize,
    ) -> Evaluated<()> {
        let (at, from) = (self.scalar_i64(to)?, self.scalar_i64(from)?);
        let words = bytes / LaneType::I32.bytes() as usize;
        let elements = bytes / self.element_bytes(buffer);
        let mut copied = vec![Lane::I32(0); words];
        if self.holds(inside)? {
            let (_, memory) = self.bytes(buffer, from, elements as u8, Access::Read)?;
            let word = |bytes: &[u8]| read(fuse_ir::DType::I32, bytes);
            copied = memory.chunks_exact(LaneType::I32.bytes() as usize).map(word).collect();
        }
        if at % words as i64 != 0 || from % elements as i64 != 0 {
            return Err(self.invalid(to, "is not where as many bytes are copied at once"));
        }
        let announced = self.shared.announce(self.user, array, at, words);
        announced.map_err(|what| self.invalid(to, what))?;
        self.copies.open.push(Copy { array, at, words: copied, to });
        Ok(())
    }

    fn element_bytes(&self, buffer: ParameterId) -> usize {
        self.function.buffers.get(buffer.0 as usize).map_or(1, |b| b.dtype.size())
    }

    /// Waits for all groups but the last so many.
    pub(super) fn await_copies(&mut self, pending: usize) -> Evaluated<()> {
        let last = self.copies.groups.len().saturating_sub(pending);
        let due: Vec<Copy> = self.copies.groups.drain(..last).flatten().collect();
        for Copy { array, at, words, to } in due {
            let stored = self.shared.store(self.user, self.user.block, array, at, &words);
            stored.map_err(|what| self.invalid(to, what))?;
        }
        Ok(())
    }
}
