//! Parts of sums that are split among threads.

use super::super::emitter::{Emitted, Emitter, Point};
use super::{Chain, Reduction, State, flatten, reshape};
use crate::kernel_ir::ValueId;

impl Emitter<'_> {
    /// Of each reduction, which are of the given extents, what slice number `slice` of `slices` comes to at each point:
    /// the results in order of reductions, then of points.
    pub(in super::super) fn partial_sums(
        &mut self,
        reductions: &[(Reduction, i64)],
        points: &[Point],
        slice: ValueId,
        slices: i64,
    ) -> Emitted<Vec<ValueId>> {
        let together = (self.accumulators / points.len().max(1)).max(1);
        let mut results = Vec::with_capacity(reductions.len() * points.len());
        for same in reductions.chunk_by(|(_, a), (_, b)| a == b) {
            for some in same.chunks(together) {
                let each = |(reduction, _): &(Reduction, i64)| {
                    let chain = |point| Chain { reduction: *reduction, point, lanes: 1 };
                    (0..points.len()).map(chain).collect::<Vec<_>>()
                };
                let chains: Vec<Chain> = some.iter().flat_map(each).collect();
                let extent = some.first().map_or(0, |(_, extent)| *extent);
                results.extend(self.partial_sums_together(&chains, points, extent, slice, slices)?);
            }
        }
        Ok(results)
    }

    /// Vectors take turns among the slices, and what elements are left over behind the last whole one.
    fn partial_sums_together(
        &mut self,
        chains: &[Chain],
        points: &[Point],
        extent: i64,
        slice: ValueId,
        slices: i64,
    ) -> Emitted<Vec<ValueId>> {
        let classes = self.reduced_lanes(chains, 0);
        let lanes = classes.as_ref().map_or(1, |v| i64::from(v.lanes));
        let turns = extent / lanes;
        // In a loop over time vectors are summed up lane by lane: an accumulator takes one register, and there are enough
        // other sums for none to wait. What that leaves, ptxas fills with loads on their way, and outside of loops it
        // then takes more than there are.
        let width = if self.counter.is_some() { 1 } else { lanes as u8 };
        let identities: Vec<State> = chains.iter().map(|c| self.identity(c, width)).collect();
        let zero = self.b.index(0);
        let even = turns % slices == 0;
        let (begin, end, step) =
            if even { (zero, self.b.index(turns / slices), 1) } else { (slice, self.b.index(turns), slices) };
        let open = self.b.open_loop(&flatten(&identities), true);
        let number = if even {
            let slices = self.b.index(slices);
            let number = self.b.mul(open.counter, slices);
            self.b.add(number, slice)
        } else {
            open.counter
        };
        let width = self.b.index(lanes);
        let position = self.b.mul(number, width);
        let bound = self.bind(chains, points, 0, &mut |p, axis| match &classes {
            Some(classes) => p.with_lanes(classes, position),
            None => p.with(axis, position),
        });
        let mut next = reshape(&identities, &open.current);
        self.steps(chains, &bound, position, &mut next)?;
        let sums = reshape(&identities, &self.b.close_loop(open, begin, end, step, &flatten(&next)));
        let mut states = Vec::with_capacity(chains.len());
        for (chain, sum) in chains.iter().zip(sums) {
            states.push(self.one_lane(chain, sum));
        }
        if turns * lanes < extent {
            let first = self.b.index(turns * lanes);
            let first = self.b.add(first, slice);
            let end = self.b.index(extent);
            let open = self.b.open_loop(&flatten(&states), true);
            let counter = open.counter;
            let bound = self.bind(chains, points, 0, &mut |p, axis| p.with(axis, counter));
            let mut next = reshape(&states, &open.current);
            self.steps(chains, &bound, counter, &mut next)?;
            states = reshape(&states, &self.b.close_loop(open, first, end, slices, &flatten(&next)));
        }
        Ok(states.into_iter().map(|state| state[0]).collect())
    }
}
