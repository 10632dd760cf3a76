//! What a step of a program reads and writes.

use std::collections::BTreeSet;

use fuse_ir::kernel::{BufferId, Carry, Kernel, Step};

/// The buffers that a step reads and writes.
#[derive(Clone, Default, Debug)]
pub struct Access {
    /// Those it reads.
    pub reads: BTreeSet<BufferId>,
    /// Those it writes.
    pub writes: BTreeSet<BufferId>,
}

impl Access {
    /// Of a step and all in it.
    pub fn of(step: &Step) -> Access {
        let mut access = Access::default();
        access.step(step);
        access
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Kernel(kernel) => self.kernel(kernel),
            Step::Loop(l) => {
                l.carries.iter().for_each(|c| self.carry(c));
                l.body.iter().for_each(|step| self.step(step));
            }
        }
    }

    /// Adds a kernel.
    pub fn kernel(&mut self, kernel: &Kernel) {
        self.reads.extend(kernel.loads());
        self.writes.extend(kernel.stores.iter().map(|s| s.buffer));
    }

    /// Adds the halves of a state, which trade places.
    pub fn carry(&mut self, carry: &Carry) {
        self.reads.insert(carry.current);
        self.writes.extend([carry.current, carry.next]);
    }

    /// Whether it reads what another writes.
    pub fn needs(&self, other: &Access) -> bool {
        !self.reads.is_disjoint(&other.writes)
    }

    /// Whether the order of the two matters.
    pub fn meets(&self, other: &Access) -> bool {
        self.needs(other) || other.needs(self) || !self.writes.is_disjoint(&other.writes)
    }
}
