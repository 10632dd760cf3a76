//! The walk over the statements of a function.

use fuse_ir::{DType, Literal};
use rustc_hash::FxHashMap;

use super::operations::{operate, operate_narrow};
use super::{
    Around, Bounds, GpuEffect, Kept, NARROW, Place, Product, ScalarBuilder, SharedPlace, Sums, WIDE,
};
use crate::divisors::Divisors;
use crate::indices::{Ranges, Width, Widths};
use crate::kernel_ir::{
    BinaryOp, Carried, Condition, Conversion, Function, LaneType, Operation, PanelProduct, ParameterId,
    SharedId, Statement, Type, ValueId,
};
use crate::operands::uses;
use crate::straight::{Known, Straight};

/// Emits the body of a function, as Kernel IR has it.
pub fn emit<B: ScalarBuilder>(function: &Function, builder: &mut B) {
    emit_in(function, None, None, builder);
}

/// Emits the body of a function with i64 scalars in as many bits as `widths` says, without what `ranges` say is never
/// computed.
pub fn emit_in<B: ScalarBuilder>(
    function: &Function,
    widths: Option<Widths>,
    ranges: Option<Ranges>,
    builder: &mut B,
) {
    let values = vec![None; function.types.len()];
    let depths = vec![0; function.types.len()];
    let (divisors, sums) = (Divisors::of(function), FxHashMap::default());
    let mut values = Values {
        target: values,
        divisors,
        widths,
        ranges,
        depths,
        depth: 0,
        is_hot: false,
        has_matrices: function.multiplies_matrices(),
        sums,
        kept: FxHashMap::default(),
        found: FxHashMap::default(),
        uses: builder.writes_straight().then(|| uses(function)),
    };
    block(function, &function.body, builder, &mut values);
}

/// The target's values by number, what divides them, and how wide they are.
pub(super) struct Values<B: ScalarBuilder> {
    target: Vec<Option<B::Value>>,
    divisors: Divisors,
    /// `None` where all are as Kernel IR has them.
    widths: Option<Widths>,
    /// What is known of them, if that matters.
    ranges: Option<Ranges>,
    /// How many loops are around each value, and around what is emitted next.
    depths: Vec<u32>,
    depth: u32,
    /// Whether that is in a loop without loops that carries values.
    is_hot: bool,
    /// Whether products of matrices hold most registers.
    has_matrices: bool,
    /// The narrow values that are sums of two.
    sums: FxHashMap<ValueId, [ValueId; 2]>,
    /// The sums that stay in registers of their own, by the first of them.
    kept: FxHashMap<ValueId, Kept>,
    /// Pieces of straight code that were looked for before their turn, by the first value.
    found: FxHashMap<ValueId, Straight>,
    /// How often each is used, for a target that writes pieces of straight code.
    uses: Option<Vec<u32>>,
}

impl<B: ScalarBuilder> Values<B> {
    fn set(&mut self, id: ValueId, value: B::Value) {
        self.target[id.0 as usize] = Some(value);
        self.depths[id.0 as usize] = self.depth;
    }

    /// The target's value, an i64 scalar perhaps in 32 bits; a missing definition is a compiler bug that the verifier
    /// reports first.
    pub(super) fn index(&self, id: ValueId) -> B::Value {
        self.target[id.0 as usize].expect("verified Kernel IR defines every value before its use")
    }

    fn width(&self, id: ValueId) -> Width {
        self.widths.as_ref().map_or(Width::Wide, |widths| widths.of(id))
    }

    pub(super) fn is_narrow(&self, id: ValueId) -> bool {
        self.width(id) != Width::Wide
    }

    /// What a scalar always is, if it is an integer or a truth value.
    fn constant(&self, function: &Function, id: ValueId) -> Option<i64> {
        let Type { lane, lanes } = function.ty(id);
        let is_known = lanes == 1 && matches!(lane, LaneType::I32 | LaneType::I64 | LaneType::Bool);
        self.ranges.as_ref().filter(|_| is_known)?.constant(id)
    }

    /// What ranges say an operation gives.
    fn known(
        &self,
        function: &Function,
        builder: &mut B,
        id: ValueId,
        operation: &Operation,
    ) -> Option<B::Value> {
        let narrow = self.is_narrow(id);
        let ty = if narrow { NARROW } else { function.ty(id) };
        if let Some(constant) = self.constant(function, id) {
            let dtype = match ty.lane {
                LaneType::I32 => DType::I32,
                LaneType::Bool => DType::Bool,
                LaneType::I64 | LaneType::F32 | LaneType::F64 => DType::I64,
            };
            return Some(builder.constant(ty, Literal::from_i64(dtype, constant)));
        }
        let operand = self.ranges.as_ref()?.operand(operation)?;
        Some(if narrow { self.narrow(function, builder, operand) } else { self.get(builder, operand) })
    }

    /// The target's value in the type that Kernel IR gives it.
    pub(super) fn get(&self, builder: &mut B, id: ValueId) -> B::Value {
        let value = self.index(id);
        if self.is_narrow(id) { builder.convert(Conversion::IntToInt, NARROW, WIDE, value) } else { value }
    }

    /// The low half of an integer.
    pub(super) fn narrow(&self, function: &Function, builder: &mut B, id: ValueId) -> B::Value {
        let value = self.index(id);
        if self.is_narrow(id) || function.ty(id).lane == LaneType::I32 {
            return value;
        }
        builder.convert(Conversion::IntToInt, WIDE, NARROW, value)
    }

    /// Whether an integer is known to be at least 0.
    pub(super) fn is_natural(&self, id: ValueId) -> bool {
        self.ranges.as_ref().is_some_and(|ranges| ranges.get(id).low >= 0)
    }

    /// What a counter begins with and where it ends, as wide as it is.
    fn bounds(
        &self,
        function: &Function,
        builder: &mut B,
        counter: ValueId,
        bounds: [ValueId; 2],
    ) -> [B::Value; 2] {
        let is_narrow = self.is_narrow(counter);
        bounds.map(|bound| match is_narrow {
            true => self.narrow(function, builder, bound),
            false => self.get(builder, bound),
        })
    }

    /// Whether a loop is known to end after its first iteration, if it has one.
    fn runs_once(&self, statement: &Statement) -> bool {
        let (Statement::For { begin, end, step, .. }, Some(ranges)) = (statement, &self.ranges) else {
            return false;
        };
        ranges.get(*begin).low.saturating_add(*step) >= ranges.get(*end).high
    }

    pub(super) fn place(&self, function: &Function, buffer: ParameterId, index: ValueId) -> Place<B::Value> {
        let (buffer, divisor) = (buffer.0 as usize, self.divisors.get(index));
        let parameter = &function.buffers[buffer];
        let (memory, length_divisor) = (parameter.dtype, parameter.divisor);
        let (origin, index) = self.origin(index);
        Place { buffer, memory, origin, index, divisor, length_divisor }
    }

    fn product(&self, builder: &mut B, product: &PanelProduct) -> Product<B::Value> {
        let place =
            |builder: &mut B, buffer: ParameterId, index| (buffer.0 as usize, self.get(builder, index));
        Product {
            rows: self.get(builder, product.rows),
            count: self.get(builder, product.count),
            left: place(builder, product.left, product.from),
            left_step: self.get(builder, product.left_step),
            width: product.width,
            layout: product.layout,
            to_step: self.get(builder, product.to_step),
            columns: product
                .columns
                .iter()
                .map(|c| [place(builder, c.panel, c.at), place(builder, c.to, c.to_index)])
                .collect(),
        }
    }

    /// A position in two parts, where the first one stays while a loop without loops runs, such as that of a sum: an
    /// address that is 64 bits wide is then computed before, and the loop adds to it what moves, which many places have in
    /// common. Around other loops, and in those that run once or twice because threads share what they do, so many
    /// addresses would only take registers.
    fn origin(&self, index: ValueId) -> (Option<B::Value>, B::Value) {
        let stays = |id: &ValueId| self.depths[id.0 as usize] < self.depth;
        match self.sums.get(&index) {
            Some([x, y]) if self.is_hot && stays(x) && !stays(y) => (Some(self.index(*x)), self.index(*y)),
            Some([x, y]) if self.is_hot && stays(y) && !stays(x) => (Some(self.index(*y)), self.index(*x)),
            Some(_) | None => (None, self.index(index)),
        }
    }

    fn is_unused(&self, id: ValueId) -> bool {
        self.uses.as_ref().is_some_and(|uses| uses[id.0 as usize] == 0)
    }

    /// The carried values of a loop that nothing but a piece of straight code in its body changes or uses, in the order of its
    /// sums, and the others.
    fn kept_sums<'f>(
        &mut self,
        function: &Function,
        body: &[Statement],
        carried: &'f [Carried],
    ) -> (Vec<&'f Carried>, Vec<&'f Carried>) {
        let all = || (Vec::new(), carried.iter().collect());
        let mut at = 0;
        let code = loop {
            match self.straight(function, &body[at..]) {
                Ok(code) => break code,
                Err(statements) => at += statements,
            }
            if at >= body.len() {
                return all();
            }
        };
        let is_own = |id: ValueId| self.uses.as_ref().is_some_and(|uses| uses[id.0 as usize] == 1);
        let of = |(sum, result): (&ValueId, &ValueId)| {
            let own = carried.iter().find(|c| c.value == *sum && c.next == *result)?;
            (is_own(own.value) && is_own(own.next)).then_some(own)
        };
        let sums: Option<Vec<&Carried>> = code.sums.iter().zip(&code.results).map(of).collect();
        if let Some(Statement::Let { value, .. }) = body.get(at) {
            self.found.insert(*value, code);
        }
        let Some(sums) = sums.filter(|sums| sums.len() > 1) else { return all() };
        let is_other = |c: &&Carried| !sums.iter().any(|sum| sum.value == c.value);
        let others = carried.iter().filter(is_other).collect();
        (sums, others)
    }

    /// The piece of straight code that begins here, or how many statements begin none.
    fn straight(&mut self, function: &Function, body: &[Statement]) -> Result<Straight, usize> {
        if let Some(Statement::Let { value, .. }) = body.first()
            && let Some(found) = self.found.remove(value)
        {
            return Ok(found);
        }
        let uses = self.uses.as_ref().ok_or(body.len().max(1))?;
        let constant = |id| self.constant(function, id);
        Straight::of(body, &Known { function, uses, divisors: &self.divisors, constant: &constant })
    }

    pub(super) fn shared_place(&self, array: SharedId, index: ValueId) -> SharedPlace<B::Value> {
        SharedPlace { array: array.0 as usize, index: self.index(index), divisor: self.divisors.get(index) }
    }
}

fn block<B: ScalarBuilder>(function: &Function, body: &[Statement], builder: &mut B, values: &mut Values<B>) {
    let (mut rest, mut begin_none) = (body, 0);
    while let [statement, behind @ ..] = rest {
        if begin_none == 0 {
            match values.straight(function, rest) {
                Ok(code) => {
                    straight(function, &rest[..code.statements], &code, builder, values);
                    rest = &rest[code.statements..];
                    continue;
                }
                Err(statements) => begin_none = statements,
            }
        }
        (rest, begin_none) = (behind, begin_none - 1);
        match statement {
            // Left over from what was built in other terms.
            Statement::Let { value, .. } if values.is_unused(*value) => {}
            Statement::Let { value, operation } => {
                if let Some(known) = values.known(function, builder, *value, operation) {
                    values.set(*value, known);
                    continue;
                }
                let ty = function.ty(*value);
                let result = match values.width(*value) {
                    Width::Wide => operate(function, ty, operation, builder, values),
                    Width::Halved => {
                        let wide = operate(function, ty, operation, builder, values);
                        builder.convert(Conversion::IntToInt, WIDE, NARROW, wide)
                    }
                    Width::Narrow => {
                        if let Operation::Binary(BinaryOp::Add, x, y) = operation {
                            values.sums.insert(*value, [*x, *y]);
                        }
                        operate_narrow(function, operation, builder, values)
                    }
                };
                values.set(*value, result);
            }
            Statement::Store { buffer, index, value } => {
                let place = values.place(function, *buffer, *index);
                let stored = values.get(builder, *value);
                builder.store(function.ty(*value), place, stored);
            }
            Statement::StoreShared { array, index, value } => {
                let place = values.shared_place(*array, *index);
                let stored = values.get(builder, *value);
                builder.effect_on_gpu(GpuEffect::StoreShared(function.ty(*value), place, stored));
            }
            Statement::StartCopy { array, to, buffer, from, bytes, inside } => {
                let to = values.shared_place(*array, *to);
                let from = values.place(function, *buffer, *from);
                let inside = values.get(builder, *inside);
                builder.effect_on_gpu(GpuEffect::StartCopy { to, from, bytes: *bytes, inside });
            }
            Statement::CommitCopies => builder.effect_on_gpu(GpuEffect::CommitCopies),
            Statement::AwaitCopies { pending } => builder.effect_on_gpu(GpuEffect::AwaitCopies(*pending)),
            Statement::Barrier => builder.effect_on_gpu(GpuEffect::Barrier),
            Statement::GridBarrier => builder.effect_on_gpu(GpuEffect::GridBarrier),
            Statement::StoreCluster { array, index, value, block } => {
                let place = values.shared_place(*array, *index);
                let stored = values.get(builder, *value);
                let ty = function.ty(*value);
                let block = values.narrow(function, builder, *block);
                builder.effect_on_gpu(GpuEffect::StoreCluster(ty, place, stored, block));
            }
            Statement::ClusterArrive => builder.effect_on_gpu(GpuEffect::ClusterArrive),
            Statement::ClusterWait => builder.effect_on_gpu(GpuEffect::ClusterWait),
            Statement::Prefetch { buffer, index } => {
                let memory = function.buffers[buffer.0 as usize].dtype;
                let index = values.get(builder, *index);
                builder.prefetch(buffer.0 as usize, memory, index);
            }
            Statement::Product(product) => {
                let emitted = values.product(builder, product);
                builder.product(emitted);
            }
            Statement::For { .. } => counted_loop(function, statement, builder, values),
            Statement::If { condition, body } if values.constant(function, *condition).is_some() => {
                if values.constant(function, *condition) == Some(1) {
                    block(function, body, builder, values);
                }
            }
            Statement::If { condition, body } => {
                let condition = values.get(builder, *condition);
                builder.if_then(condition, &[], &mut |builder| {
                    block(function, body, builder, values);
                    Vec::new()
                });
            }
        }
    }
}

/// A loop, or what of it runs once.
fn counted_loop<B: ScalarBuilder>(
    function: &Function,
    statement: &Statement,
    builder: &mut B,
    values: &mut Values<B>,
) {
    let Statement::For { counter, begin, end, step, carried, exchanged, body } = statement else { return };
    let inits = |builder: &mut B, values: &Values<B>, carried: &[&Carried]| -> Vec<_> {
        carried.iter().map(|c| (function.ty(c.init), values.get(builder, c.init))).collect()
    };
    if exchanged.is_empty() && values.runs_once(statement) {
        let carried: Vec<&Carried> = carried.iter().collect();
        let [begin, end] = values.bounds(function, builder, *counter, [*begin, *end]);
        let ty = if values.is_narrow(*counter) { NARROW } else { WIDE };
        let is_entered = builder.compare(Condition::Lt, ty, begin, end);
        values.set(*counter, begin);
        let inits = inits(builder, values, &carried);
        for (c, (_, init)) in carried.iter().zip(&inits) {
            values.set(c.value, *init);
        }
        let results = builder.if_then(is_entered, &inits, &mut |builder| {
            block(function, body, builder, values);
            carried.iter().map(|c| values.get(builder, c.next)).collect()
        });
        for (c, result) in carried.iter().zip(results) {
            values.set(c.result, result);
        }
        return;
    }
    let is_long = is_long(body);
    let is_entered = values.ranges.as_ref().is_some_and(|r| r.get(*begin).high < r.get(*end).low);
    // A condition before a loop keeps `ptxas` from joining it with what stands there, which takes registers.
    let is_entered = is_entered && !is_long && !values.has_matrices;
    let length = values
        .constant(function, *end)
        .zip(values.constant(function, *begin))
        .map(|(end, begin)| end.wrapping_sub(begin));
    let meets_end = *step == 1 || length.is_some_and(|length| length % *step == 0);
    let [begin, end] = values.bounds(function, builder, *counter, [*begin, *end]);
    // What carries nothing moves data, of which `ptxas` would take eight iterations at once, whatever registers other
    // loops have left.
    let stays_rolled = is_long || carried.is_empty();
    let bounds = Bounds { begin, end, step: *step, is_entered, meets_end, stays_rolled };
    let is_hot = !carried.is_empty() && !has_loops(body);
    let (sums, carried) = values.kept_sums(function, body, carried);
    let kept = (!sums.is_empty()).then(|| {
        let inits = inits(builder, values, &sums).into_iter().map(|(_, init)| init).collect();
        let kept = builder.keep(inits);
        values.kept.insert(sums[0].value, kept);
        kept
    });
    let inits = inits(builder, values, &carried);
    let exchanged: Vec<_> = exchanged.iter().map(|(a, b)| (a.0 as usize, b.0 as usize)).collect();
    let outer = std::mem::replace(&mut values.is_hot, is_hot);
    let results = builder.counted_loop(bounds, &inits, &exchanged, &mut |builder, position, current| {
        values.depth += 1;
        values.set(*counter, position);
        for (c, value) in carried.iter().zip(current) {
            values.set(c.value, *value);
        }
        block(function, body, builder, values);
        values.depth -= 1;
        carried.iter().map(|c| values.get(builder, c.next)).collect()
    });
    values.is_hot = outer;
    for (c, result) in carried.iter().zip(results) {
        values.set(c.result, result);
    }
    if let Some(kept) = kept {
        for (c, result) in sums.iter().zip(builder.kept(kept)) {
            values.set(c.result, result);
        }
    }
}

/// Writes a piece of straight code.
fn straight<B: ScalarBuilder>(
    function: &Function,
    body: &[Statement],
    code: &Straight,
    builder: &mut B,
    values: &mut Values<B>,
) {
    for position in &code.positions {
        block(function, &body[*position..=*position], builder, values);
    }
    let sums = match code.sums.first().and_then(|first| values.kept.get(first)) {
        Some(kept) => Sums::Kept(*kept),
        None => Sums::Values(code.sums.iter().map(|id| values.index(*id)).collect()),
    };
    let around = Around {
        bases: code.bases.iter().map(|(array, index)| values.shared_place(*array, *index)).collect(),
        sums,
        given: code.given.iter().map(|id| values.index(*id)).collect(),
    };
    for (id, result) in code.results.iter().zip(builder.straight(code, around)) {
        values.set(*id, result);
    }
}

/// Statements of a loop that is not to be unrolled any further.
const LONG: usize = 256;

/// Whether a body is as long as unrolling should make it: products of matrices hold as many registers as there are.
fn is_long(body: &[Statement]) -> bool {
    fn statements(body: &[Statement]) -> usize {
        body.iter().map(|statement| 1 + statements(statement.body())).sum()
    }
    statements(body) > LONG || body.iter().any(Statement::multiplies_matrices)
}

fn has_loops(body: &[Statement]) -> bool {
    body.iter().any(|statement| statement.any(&|s| matches!(s, Statement::For { .. })))
}
