//! Loads of one point that are neighbours in memory, as vectors.

use std::collections::BTreeMap;

use fuse_ir::expr::Expr;
use fuse_ir::kernel::ElementId;

use super::access::Access;
use super::emitter::{Emitted, Emitter, Point};
use super::vectors::ACCESS_BYTES;
use crate::decompose;
use crate::kernel_ir::{LaneType, ParameterId, Type};

/// What begins at an aligned position: the load of each lane.
type Run = BTreeMap<i64, Vec<ElementId>>;

impl Emitter<'_> {
    /// Loads at a point those of some elements that lie side by side in memory, from a position on that is known to be
    /// aligned, as one vector each.
    pub(super) fn load_neighbours(&mut self, loads: &[ElementId], point: &Point) -> Emitted<()> {
        let analysis = self.analysis;
        let mut runs: BTreeMap<(ParameterId, Expr), Run> = BTreeMap::new();
        for load in loads {
            let Some(access) = analysis.loads.get(load) else { continue };
            if access.dynamic.is_empty() && access.guard.is_none() {
                let (number, rest) = apart(access);
                runs.entry((access.buffer, rest)).or_default().entry(number).or_default().push(*load);
            }
        }
        for ((_, rest), run) in runs {
            let Some(access) = run.values().flatten().next().and_then(|load| analysis.loads.get(load)) else {
                continue;
            };
            let widest = (ACCESS_BYTES / access.dtype.size()) as i64;
            let divides = |width: &i64| *width <= widest && rest.terms().all(|(_, c)| c % width == 0);
            let widths: Vec<i64> = [8, 4, 2].into_iter().filter(divides).collect();
            let mut done = i64::MIN;
            for first in run.keys().copied() {
                let is_run = |width: &&i64| {
                    first % **width == 0 && (0..**width).all(|i| run.contains_key(&(first + i)))
                };
                let Some(width) = widths.iter().find(is_run).copied().filter(|_| first >= done) else {
                    continue;
                };
                done = first + width;
                self.load_run(access, &rest, (first, width), &run, point)?;
            }
        }
        Ok(())
    }

    /// Loads so many neighbours from a number on.
    fn load_run(
        &mut self,
        access: &Access,
        rest: &Expr,
        (first, width): (i64, i64),
        run: &Run,
        point: &Point,
    ) -> Emitted<()> {
        let position = self.expression(&(rest.clone() + Expr::constant(first)), point)?;
        let ty = Type { lane: LaneType::of_memory(access.dtype), lanes: width as u8 };
        let floor = self.floor(&access.symbols);
        let loaded = if self.analysis.is_updated(access.buffer) {
            self.b.load_updated(ty, access.buffer, position, floor)
        } else {
            self.b.load(ty, access.buffer, position, floor)
        };
        let loaded = decompose::from_memory(&mut self.b, access.dtype, loaded);
        for (lane, number) in (first..first + width).enumerate() {
            let value = self.b.extract(loaded, lane as u8);
            for load in &run[&number] {
                self.remember(*load, point, value);
            }
        }
        Ok(())
    }
}

/// The position of an access as a number and the rest.
fn apart(access: &Access) -> (i64, Expr) {
    let number = access.position.terms().filter(|(factors, _)| factors.is_empty()).map(|(_, c)| c).sum();
    (number, access.position.clone() - Expr::constant(number))
}
