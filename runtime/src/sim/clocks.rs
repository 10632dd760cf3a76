//! What a warp knows of the other warps of its block: a vector clock, and beside it how far proxy fences lie behind what
//! each of them wrote.
//!
//! The hardware reaches memory on several ways, its proxies. What threads wrote (`st`, `cp.async`) is not seen by warp
//! group products and bulk copies, which read through the asynchronous proxy, unless a proxy fence stands between the two
//! in the order that barriers make: behind the write, by its thread or by one that knows of it. So fences are known as
//! writes are, and travel with the clocks. Barriers of a cluster do not carry them.

/// What a warp knows of the warps of its block.
#[derive(Clone, Default)]
pub(super) struct Clocks {
    /// The clock of each up to which everything that it did is known.
    pub known: Vec<u32>,
    /// The clock of each up to which what it wrote is known to lie before a proxy fence.
    pub fenced: Vec<u32>,
}

impl Clocks {
    /// Nothing is known of so many warps.
    pub fn new(warps: usize) -> Clocks {
        Clocks { known: vec![0; warps], fenced: vec![0; warps] }
    }

    /// Nothing is known, and the warp of that index is at its first clock.
    pub fn restart(&mut self, index: usize) {
        self.known.fill(0);
        self.fenced.fill(0);
        self.known[index] = 1;
    }

    /// Warps.
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// Knows from here on what others know.
    pub fn join(&mut self, others: &Clocks) {
        join(&mut self.known, &others.known);
        join(&mut self.fenced, &others.fenced);
    }

    /// A proxy fence of the warp of that index, behind all that it knows, and behind what it did itself up to a clock.
    pub fn fence(&mut self, index: usize, own: u32) {
        let before = self.fenced[index].max(own);
        join(&mut self.fenced, &self.known);
        self.fenced[index] = before;
    }
}

/// The later of each two clocks; those that are only in the others are taken, too.
fn join(all: &mut Vec<u32>, others: &[u32]) {
    all.resize(all.len().max(others.len()), 0);
    all.iter_mut().zip(others).for_each(|(own, other)| *own = (*own).max(*other));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fence_stands_behind_what_its_warp_knows() {
        let mut first = Clocks { known: vec![5, 2], fenced: vec![0, 0] };
        first.fence(0, 4);
        assert_eq!(first.fenced, [4, 2]);
        let mut second = Clocks { known: vec![0, 9], fenced: vec![0, 3] };
        second.join(&first);
        assert_eq!((second.known, second.fenced), (vec![5, 9], vec![4, 3]));
    }
}
