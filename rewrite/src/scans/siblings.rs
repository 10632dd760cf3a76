//! Loops that stand beside each other become one.
//!
//! Two scans of one level with equally many steps, neither of which needs anything of the other, can run in one
//! loop: the two directions of a layer, independent layers. Their kernels of equal space then join into one
//! launch a step. What speaks against it is memory on the chip: the weights of one loop may fit where those of
//! both do not. The model of the device decides.

use std::collections::BTreeMap;

use crate::extract::arrange::{Levels, Part};
use crate::extract::cost::assumed;
use crate::extract::dense::Dense;
use crate::extract::placement::{Misplaced, Placement};
use crate::extract::roots::Roots;
use crate::extract::{Evaluator, Plan, Region};
use crate::language::ScanId;
use crate::scan_set::ScanSet;

/// Merges loops of a plan wherever that makes it faster.
pub fn merge_siblings(evaluator: &mut Evaluator<'_>, plan: Plan) -> Plan {
    if plan.placement.scans().len() < 2 {
        return plan;
    }
    // Walks belong to the evaluator that made them.
    let Ok(plan) = evaluator.plan(&Region::default(), &plan.memory) else { return plan };
    let mut merger = Merger { evaluator, plan: &plan };
    // What cannot be merged or arranged stays as it was.
    let merged = merger.level(plan.placement.clone(), &[]).and_then(|placement| {
        if !placement.has_merged() {
            return Ok(None);
        }
        let mut levels = merger.levels(&placement);
        let arranged = levels.arrange(merger.dense(), merger.roots(), &[])?;
        let seconds = merger.evaluator.seconds(&plan.roots, arranged, &[]);
        Ok(Some((placement, arranged.items(), seconds)))
    });
    match merged {
        Ok(Some((placement, items, seconds))) if seconds < plan.seconds => {
            Plan { placement, items, seconds, ..plan }
        }
        Ok(_) | Err(_) => plan,
    }
}

/// The parts of a level, and the loops that each of its loops needs.
type Needs = (Vec<Part>, BTreeMap<ScanId, ScanSet>);

struct Merger<'e, 'a> {
    evaluator: &'e mut Evaluator<'a>,
    plan: &'e Plan,
}

impl<'a> Merger<'_, 'a> {
    fn dense(&self) -> &'a Dense<'a> {
        self.evaluator.dense()
    }

    fn roots(&self) -> &Roots {
        &self.plan.roots
    }

    fn levels(&self, placement: &Placement) -> Levels {
        let mut levels = Levels::default();
        levels.set(self.roots(), placement);
        levels
    }

    /// Merges loops of a level, each with the first of those before it that gains from it, and of the levels in
    /// them.
    fn level(&mut self, mut placement: Placement, level: &[ScanId]) -> Result<Placement, Misplaced> {
        let (order, mut needs) = self.needs(&placement, level)?;
        let mut leaders: Vec<ScanId> = Vec::new();
        for part in order {
            let Part::Loop(scan) = part else { continue };
            let mut merged = false;
            for leader in leaders.clone() {
                let apart = !needs[&scan].contains(leader) && !needs[&leader].contains(scan);
                if apart
                    && self.alike(leader, scan)
                    && let Some(better) = self.merged(&placement, level, leader, scan)?
                {
                    placement = better;
                    (_, needs) = self.needs(&placement, level)?;
                    merged = true;
                    break;
                }
            }
            if !merged {
                leaders.push(scan);
                let inner: Vec<ScanId> = level.iter().copied().chain([scan]).collect();
                placement = self.level(placement, &inner)?;
            }
        }
        Ok(placement)
    }

    /// The parts of a level in order, and the loops of the level that each loop needs, directly or not.
    fn needs(&self, placement: &Placement, level: &[ScanId]) -> Result<Needs, Misplaced> {
        let (order, operands) = self.levels(placement).ordered(level)?;
        let mut needs: BTreeMap<Part, ScanSet> = BTreeMap::new();
        for part in &order {
            let mut all = ScanSet::new();
            for operand in operands.get(part).into_iter().flatten() {
                // Operands come before what needs them.
                if let Some(below) = needs.get(operand) {
                    all.union_with(below);
                }
                if let Part::Loop(scan) = operand {
                    all.insert(*scan);
                }
            }
            needs.insert(*part, all);
        }
        let of_loop = |(part, set)| match part {
            Part::Loop(scan) => Some((scan, set)),
            Part::Root(_) => None,
        };
        Ok((order, needs.into_iter().filter_map(of_loop).collect()))
    }

    /// Whether two scans could share a loop for their own sake.
    fn alike(&self, a: ScanId, b: ScanId) -> bool {
        let (a, b) = (self.dense().tables.scan(a), self.dense().tables.scan(b));
        a.depth() == b.depth() && a.trip == b.trip
    }

    /// The placement with `scan` in the loop of `leader`, if that gains anything.
    fn merged(
        &mut self,
        placement: &Placement,
        level: &[ScanId],
        leader: ScanId,
        scan: ScanId,
    ) -> Result<Option<Placement>, Misplaced> {
        let apart = [self.cost(placement, level, leader)?, self.cost(placement, level, scan)?];
        let mut merged = placement.clone();
        merged.merge(scan, leader);
        let inner: Vec<ScanId> = level.iter().copied().chain([leader]).collect();
        let merged = self.level(merged, &inner)?;
        let together = self.cost(&merged, level, leader)?;
        let gain = apart[0].seconds + apart[1].seconds - together.seconds;
        let capacity = self.evaluator.device().on_chip_total_bytes();
        let fit = |c: &LoopCost| c.resident_bytes <= capacity;
        let lost: f64 = match fit(&together) {
            true => 0.0,
            false => apart.iter().filter(|c| fit(c)).map(|c| c.steps * c.resident_bytes).sum(),
        };
        let loss = lost / self.evaluator.device().memory_bytes_per_second;
        Ok((gain > loss).then_some(merged))
    }

    fn cost(&mut self, placement: &Placement, level: &[ScanId], scan: ScanId) -> Result<LoopCost, Misplaced> {
        let inner: Vec<ScanId> = level.iter().copied().chain([scan]).collect();
        let roots = &self.plan.roots;
        let mut levels = self.levels(placement);
        let arranged = levels.arrange(self.dense(), roots, &inner)?;
        let tables = self.dense().tables;
        let time: Vec<usize> = inner.iter().map(|s| tables.scan(*s).depth()).collect();
        Ok(LoopCost {
            seconds: self.evaluator.seconds(roots, arranged, &time),
            resident_bytes: self.evaluator.invariant_bytes(roots, arranged, &time),
            steps: assumed(&tables.scan(scan).trip),
        })
    }
}

/// What a loop costs.
struct LoopCost {
    /// Of all its steps.
    seconds: f64,
    /// What every step reads and none changes: weights.
    resident_bytes: f64,
    /// The number of steps.
    steps: f64,
}
