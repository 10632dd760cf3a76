//! Scans with random bodies.

use crate::dtype::DType;
use crate::expr::Dim;
use crate::graph::{InputKind, Scan, ValueId};
use crate::ops::{Direction, Op};
use crate::types::TensorType;

use super::builder::Builder;
use super::choices::{Choices, Recipe};

/// The operands of a scan, in order.
struct Operands {
    carries: Vec<ValueId>,
    scanned: Vec<ValueId>,
    captured: Vec<ValueId>,
    lengths: Option<ValueId>,
}

impl Builder<'_> {
    /// A scan over the leading axis of `x` where it has one. Its body takes some of the steps that follow.
    pub(super) fn scan(&mut self, x: ValueId, choices: &mut Choices, recipe: &mut Recipe) -> Option<ValueId> {
        let inner_depth = self.scan_depth.checked_sub(1)?;
        let trip = match self.ty(x).shape.first() {
            Some(extent) => extent.clone(),
            None => self.dim(choices),
        };
        let direction = if choices.one_in(2) { Direction::Reverse } else { Direction::Forward };
        let steps = 1 + choices.below(6);
        let operands = self.scan_operands(x, &trip, choices);
        let batch = operands.lengths.map(|n| self.ty(n).shape[0].clone());
        let mut body = Builder::new(self.config, "body", inner_depth);
        let bind = |body: &mut Builder, value: ValueId, stem: &str, scanned: bool, choices: &mut Choices| {
            let mut ty = self.graph.ty(value).clone();
            if scanned {
                ty.shape.remove(0);
            }
            body.input(stem, InputKind::Input, ty, choices)
        };
        for value in &operands.carries {
            bind(&mut body, *value, "h", false, choices);
        }
        for value in &operands.scanned {
            bind(&mut body, *value, "x", true, choices);
        }
        let mut inner = recipe.take(steps);
        let mut late = operands.captured.iter();
        while let Some(mut choices) = inner.next() {
            // A traced body meets the values it captures as it goes.
            if let Some(value) = late.next() {
                bind(&mut body, *value, "w", false, &mut choices);
            }
            body.step(&mut choices, &mut inner);
        }
        for value in late {
            bind(&mut body, *value, "w", false, choices);
        }
        body.finish_body(operands.carries.len(), batch.as_ref(), choices);
        let scan = Scan {
            body: body.graph,
            carries: operands.carries.len(),
            scanned: operands.scanned.len(),
            trip,
            direction,
            lengths: operands.lengths.is_some(),
        };
        let order = [operands.carries, operands.scanned, operands.captured].concat();
        let order: Vec<ValueId> = order.into_iter().chain(operands.lengths).collect();
        self.add(Op::Scan(Box::new(scan)), &order)
    }

    fn scan_operands(&self, x: ValueId, trip: &Dim, choices: &mut Choices) -> Operands {
        let is_lengths = |ty: &TensorType| matches!(ty.dtype, DType::I32 | DType::I64) && ty.rank() == 1;
        let mut lengths = if choices.one_in(3) { self.value_where(choices, is_lengths) } else { None };
        let batch = lengths.map(|n| self.ty(n).shape[0].clone());
        let mut carries = Vec::new();
        for _ in 0..1 + choices.below(2) {
            let fits = |ty: &TensorType| batch.is_none() || ty.shape.first() == batch.as_ref();
            carries.extend(self.value_where(choices, fits));
        }
        if carries.is_empty() {
            // Nothing has the leading axis that lengths need.
            lengths = None;
            carries.push(self.any_value(choices));
        }
        let mut scanned = Vec::new();
        if self.ty(x).shape.first() == Some(trip) {
            scanned.push(x);
        }
        if choices.one_in(2) {
            scanned.extend(self.value_where(choices, |ty| ty.shape.first() == Some(trip)));
        }
        let captured = (0..choices.below(3)).map(|_| self.any_value(choices)).collect();
        Operands { carries, scanned, captured, lengths }
    }

    /// New carries and stacked values: the latest that fit.
    fn finish_body(&mut self, carries: usize, batch: Option<&Dim>, choices: &mut Choices) {
        for i in 0..carries {
            let carry = self.graph.inputs()[i].value;
            let ty = self.ty(carry);
            let next = self.graph.values().filter(|(_, v)| v.ty == ty).map(|(id, _)| id).last();
            let name = self.name("h", choices);
            self.graph.add_output(name, next.unwrap_or(carry));
        }
        for _ in 0..choices.below(3) {
            let fits = |ty: &TensorType| batch.is_none() || ty.shape.first() == batch;
            if let Some(value) = self.value_where(choices, fits) {
                let name = self.name("y", choices);
                self.graph.add_output(name, value);
            }
        }
    }
}
