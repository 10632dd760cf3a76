//! One walk over Kernel IR, many emitters.
//!
//! [`emit`] visits a [`Function`] once and asks a [`ScalarBuilder`] for each primitive; the builder is
//! implemented once for Cranelift and once for LLVM. Nothing else translates an operation.

use fuse_ir::{DType, Literal};
use rustc_hash::FxHashMap;

use crate::divisors::Divisors;
use crate::indices::{Ranges, Width, Widths};
use crate::kernel_ir::{
    BinaryOp, Condition, Conversion, Function, LaneType, MatrixFactors, Operation, PanelLayout, PanelProduct,
    ParameterId, SharedId, Statement, Type, UnaryOp, ValueId,
};
use crate::operands::uses;
use crate::straight::{Known, Straight};

/// Emits primitives of one target. Types are passed wherever a target value does not tell its own.
pub trait ScalarBuilder: Sized {
    /// A value of the target.
    type Value: Copy;

    /// A constant in every lane of `ty`.
    fn constant(&mut self, ty: Type, literal: Literal) -> Self::Value;
    /// A runtime integer (i64), by position.
    fn symbol(&mut self, position: usize) -> Self::Value;
    /// The first work item of this call (i64).
    fn work_begin(&mut self) -> Self::Value;
    /// One past the last work item of this call (i64).
    fn work_end(&mut self) -> Self::Value;
    /// The work item of this thread (i64).
    fn work_item(&mut self) -> Self::Value;
    /// What only threads of a GPU do.
    fn on_gpu(&mut self, operation: GpuOperation<Self::Value>) -> Self::Value;
    /// What only threads of a GPU do, for its effect.
    fn effect_on_gpu(&mut self, effect: GpuEffect<Self::Value>);
    /// Reads consecutive elements.
    fn load(&mut self, ty: Type, place: Place<Self::Value>) -> Self::Value;
    /// Writes consecutive elements.
    fn store(&mut self, ty: Type, place: Place<Self::Value>, value: Self::Value);
    /// Asks for the memory at element `index` of a buffer parameter, inside or not, to come closer; nothing where the
    /// target has no such instruction.
    fn prefetch(&mut self, _buffer: usize, _memory: DType, _index: Self::Value) {}
    /// Writes a product with panels ([`Statement::Product`]); only for builders of code for the fast tier.
    fn product(&mut self, product: Product<Self::Value>);
    /// A primitive of one operand.
    fn unary(&mut self, op: UnaryOp, ty: Type, x: Self::Value) -> Self::Value;
    /// A primitive of two operands.
    fn binary(&mut self, op: BinaryOp, ty: Type, x: Self::Value, y: Self::Value) -> Self::Value;
    /// [`ScalarBuilder::binary`] of i32 scalars that does not wrap; perhaps it is known that both are at least 0.
    fn binary_of_indices(
        &mut self,
        op: BinaryOp,
        _are_natural: bool,
        [x, y]: [Self::Value; 2],
    ) -> Self::Value {
        self.binary(op, NARROW, x, y)
    }
    /// `x·y + z`, rounded once.
    fn fma(&mut self, ty: Type, x: Self::Value, y: Self::Value, z: Self::Value) -> Self::Value;
    /// A comparison of operands of type `ty`.
    fn compare(&mut self, condition: Condition, ty: Type, x: Self::Value, y: Self::Value) -> Self::Value;
    /// `x` where `condition` holds, otherwise `y`; both of type `ty`.
    fn select(&mut self, ty: Type, condition: Self::Value, x: Self::Value, y: Self::Value) -> Self::Value;
    /// A conversion.
    fn convert(&mut self, conversion: Conversion, from: Type, to: Type, x: Self::Value) -> Self::Value;
    /// A scalar in every lane of `ty`.
    fn splat(&mut self, ty: Type, x: Self::Value) -> Self::Value;
    /// The lanes `0, 1, …` of an integer type.
    fn lane_index(&mut self, ty: Type) -> Self::Value;
    /// One lane of a vector of type `from`.
    fn extract(&mut self, from: Type, x: Self::Value, lane: u8) -> Self::Value;
    /// A vector of type `ty` with one lane replaced by a scalar.
    fn insert(&mut self, ty: Type, vector: Self::Value, scalar: Self::Value, lane: u8) -> Self::Value;
    /// Whether it writes pieces of straight code down as they are ([`ScalarBuilder::straight`]).
    fn writes_straight(&self) -> bool {
        false
    }
    /// Writes such a piece, and gives its sums.
    fn straight(&mut self, _code: &Straight, _around: Around<Self::Value>) -> Vec<Self::Value> {
        unreachable!("only a builder that says so is given straight code")
    }
    /// A counted loop with carried values and pairs of buffers that are `exchanged` after each iteration; `body` gets
    /// the counter and the carried values and returns the next ones. Returns the carried values after the loop.
    fn counted_loop(
        &mut self,
        bounds: Bounds<Self::Value>,
        carried: &[(Type, Self::Value)],
        exchanged: &[(usize, usize)],
        body: &mut LoopBody<'_, Self>,
    ) -> Vec<Self::Value>;
    /// Runs `body` if the condition holds. Returns its values, or those given where it did not run.
    fn if_then(
        &mut self,
        condition: Self::Value,
        otherwise: &[(Type, Self::Value)],
        body: &mut dyn FnMut(&mut Self) -> Vec<Self::Value>,
    ) -> Vec<Self::Value>;
}

/// The body of a counted loop: from the counter and the carried values to the next carried values.
pub type LoopBody<'a, B> = dyn FnMut(
        &mut B,
        <B as ScalarBuilder>::Value,
        &[<B as ScalarBuilder>::Value],
    ) -> Vec<<B as ScalarBuilder>::Value>
    + 'a;

/// The range of a counted loop: `begin, begin + step, …` while below `end`; both i64, or both i32, as is the counter.
#[derive(Clone, Copy, Debug)]
pub struct Bounds<V> {
    /// The first value of the counter.
    pub begin: V,
    /// The bound.
    pub end: V,
    /// The increment, at least 1.
    pub step: i64,
    /// Whether it is known that `begin` is below `end`.
    pub is_entered: bool,
    /// Whether the counter, where it is below `end` once, is `end` after the last step.
    pub meets_end: bool,
    /// Whether iterations are to stay one by one.
    pub stays_rolled: bool,
}

/// Consecutive elements of a buffer parameter.
#[derive(Clone, Copy, Debug)]
pub struct Place<V> {
    /// The position of the parameter.
    pub buffer: usize,
    /// The element type in memory.
    pub memory: DType,
    /// What `index` is counted from (i32), if not from the first element: what stays while the innermost loop runs.
    pub origin: Option<V>,
    /// The first element (i64 or i32).
    pub index: V,
    /// A power of two that divides the position.
    pub divisor: u32,
    /// A power of two that divides the number of elements of the buffer.
    pub length_divisor: u32,
}

/// Consecutive elements of a shared array.
#[derive(Clone, Copy, Debug)]
pub struct SharedPlace<V> {
    /// The position of the array.
    pub array: usize,
    /// The first element (i64 or i32).
    pub index: V,
    /// A power of two that divides `index`.
    pub divisor: u32,
}

/// What a piece of straight code finds, in values of a target.
#[derive(Clone, Debug)]
pub struct Around<V> {
    /// What [`Straight::bases`] are.
    pub bases: Vec<SharedPlace<V>>,
    /// What its sums begin with.
    pub sums: Vec<V>,
    /// What else is given to it.
    pub given: Vec<V>,
}

/// [`crate::kernel_ir::GroupFactor`] in values of a target.
#[derive(Clone, Copy, Debug)]
pub struct GroupPlace<V> {
    /// The first line.
    pub place: SharedPlace<V>,
    /// Whether lines are places along the summed axis.
    pub transposed: bool,
}

/// [`crate::kernel_ir::PanelProduct`] in values of a target, all i64.
#[derive(Clone, Debug)]
pub struct Product<V> {
    /// The number of rows.
    pub rows: V,
    /// The number of elements summed up.
    pub count: V,
    /// Whose rows are contiguous, by position of the parameter, and the first element.
    pub left: (usize, V),
    /// From one row to the next there.
    pub left_step: V,
    /// The columns of a panel.
    pub width: u32,
    /// How a panel lies in memory.
    pub layout: PanelLayout,
    /// From one row to the next in what is written.
    pub to_step: V,
    /// Panels and where they go, each by position of the parameter and the first element.
    pub columns: Vec<[(usize, V); 2]>,
}

/// What only threads of a GPU compute.
#[derive(Clone, Copy, Debug)]
pub enum GpuOperation<V> {
    /// The number of the block (i64).
    Block,
    /// How many blocks there are (i64).
    Blocks,
    /// The number of the thread in its block (i64).
    Thread,
    /// Reads from a shared array.
    LoadShared(Type, SharedPlace<V>),
    /// So many matrices from a shared array, transposed or not ([`Operation::LoadMatrices`]).
    LoadMatrices(u8, SharedPlace<V>, bool),
    /// [`Operation::MatrixFma`] of fragments of two matrices of these factors, and of the sums.
    MatrixFma(MatrixFactors, [V; 3]),
    /// [`Operation::GroupFma`] of two factors of these, and of the sums, which are of that type.
    GroupFma(MatrixFactors, [GroupPlace<V>; 2], Type, V),
    /// Two f32 as 16-bit floats of this type ([`Operation::Pair`]).
    Pair(DType, [V; 2]),
    /// An f32 with fewer bits ([`Operation::Tf32`]).
    Tf32(V),
    /// The value of the thread whose number differs by the bits of the distance.
    Butterfly(Type, V, u8),
}

/// What only threads of a GPU do.
#[derive(Clone, Copy, Debug)]
pub enum GpuEffect<V> {
    /// Writes to a shared array.
    StoreShared(Type, SharedPlace<V>, V),
    /// Begins a copy of so many bytes ([`Statement::StartCopy`]).
    StartCopy {
        /// Where to.
        to: SharedPlace<V>,
        /// Where from.
        from: Place<V>,
        /// How many.
        bytes: u8,
        /// Whether there is anything to copy.
        inside: V,
    },
    /// Ends a group of copies.
    CommitCopies,
    /// Waits for all groups of copies but the last so many.
    AwaitCopies(u8),
    /// Waits for the threads of the block.
    Barrier,
    /// Waits for the threads of all blocks.
    GridBarrier,
    /// Writes to a shared array of the block of that number (i32) in the cluster.
    StoreCluster(Type, SharedPlace<V>, V, V),
    /// Arrives where the cluster meets.
    ClusterArrive,
    /// Waits there for all others.
    ClusterWait,
}

/// What indices are where 32 bits suffice.
const NARROW: Type = Type { lane: LaneType::I32, lanes: 1 };

/// What they are in Kernel IR.
const WIDE: Type = Type { lane: LaneType::I64, lanes: 1 };

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
        uses: builder.writes_straight().then(|| uses(function)),
    };
    block(function, &function.body, builder, &mut values);
}

/// The target's values by number, what divides them, and how wide they are.
struct Values<B: ScalarBuilder> {
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
    fn index(&self, id: ValueId) -> B::Value {
        self.target[id.0 as usize].expect("verified Kernel IR defines every value before its use")
    }

    fn width(&self, id: ValueId) -> Width {
        self.widths.as_ref().map_or(Width::Wide, |widths| widths.of(id))
    }

    fn is_narrow(&self, id: ValueId) -> bool {
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
    fn get(&self, builder: &mut B, id: ValueId) -> B::Value {
        let value = self.index(id);
        if self.is_narrow(id) { builder.convert(Conversion::IntToInt, NARROW, WIDE, value) } else { value }
    }

    /// The low half of an integer.
    fn narrow(&self, function: &Function, builder: &mut B, id: ValueId) -> B::Value {
        let value = self.index(id);
        if self.is_narrow(id) || function.ty(id).lane == LaneType::I32 {
            return value;
        }
        builder.convert(Conversion::IntToInt, WIDE, NARROW, value)
    }

    /// Whether an integer is known to be at least 0.
    fn is_natural(&self, id: ValueId) -> bool {
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

    fn place(&self, function: &Function, buffer: ParameterId, index: ValueId) -> Place<B::Value> {
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

    /// The piece of straight code that begins here, or how many statements begin none.
    fn straight(&self, function: &Function, body: &[Statement]) -> Result<Straight, usize> {
        let uses = self.uses.as_ref().ok_or(body.len())?;
        let constant = |id| self.constant(function, id);
        Straight::of(body, &Known { function, uses, divisors: &self.divisors, constant: &constant })
    }

    fn shared_place(&self, array: SharedId, index: ValueId) -> SharedPlace<B::Value> {
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
            Statement::For { counter, begin, end, carried, exchanged, body, .. }
                if exchanged.is_empty() && values.runs_once(statement) =>
            {
                let [begin, end] = values.bounds(function, builder, *counter, [*begin, *end]);
                let ty = if values.is_narrow(*counter) { NARROW } else { WIDE };
                let is_entered = builder.compare(Condition::Lt, ty, begin, end);
                values.set(*counter, begin);
                let inits: Vec<_> =
                    carried.iter().map(|c| (function.ty(c.init), values.get(builder, c.init))).collect();
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
            }
            Statement::For { counter, begin, end, step, carried, exchanged, body } => {
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
                // What carries nothing moves data, of which `ptxas` would take eight iterations at once, whatever registers
                // other loops have left.
                let stays_rolled = is_long || carried.is_empty();
                let bounds = Bounds { begin, end, step: *step, is_entered, meets_end, stays_rolled };
                let inits: Vec<_> =
                    carried.iter().map(|c| (function.ty(c.init), values.get(builder, c.init))).collect();
                let exchanged: Vec<_> = exchanged.iter().map(|(a, b)| (a.0 as usize, b.0 as usize)).collect();
                let is_hot = !carried.is_empty() && !has_loops(body);
                let outer = std::mem::replace(&mut values.is_hot, is_hot);
                let results =
                    builder.counted_loop(bounds, &inits, &exchanged, &mut |builder, position, current| {
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
            }
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
    let around = Around {
        bases: code.bases.iter().map(|(array, index)| values.shared_place(*array, *index)).collect(),
        sums: code.sums.iter().map(|id| values.index(*id)).collect(),
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

/// An i64 scalar whose operands and result fit in 32 bits.
fn operate_narrow<B: ScalarBuilder>(
    function: &Function,
    operation: &Operation,
    builder: &mut B,
    values: &Values<B>,
) -> B::Value {
    let operand = |builder: &mut B, id: &ValueId| values.narrow(function, builder, *id);
    match operation {
        Operation::Constant(literal) => {
            builder.constant(NARROW, Literal::from_i64(DType::I32, literal.as_i64()))
        }
        Operation::Unary(op, x) => {
            let x = operand(builder, x);
            builder.unary(*op, NARROW, x)
        }
        Operation::Binary(op, x, y) => {
            let are_natural = values.is_natural(*x) && values.is_natural(*y);
            let operands = [operand(builder, x), operand(builder, y)];
            builder.binary_of_indices(*op, are_natural, operands)
        }
        Operation::Select(condition, x, y) => {
            let (x, y) = (operand(builder, x), operand(builder, y));
            builder.select(NARROW, values.index(*condition), x, y)
        }
        // What i32 it was.
        Operation::Convert(_, x) => operand(builder, x),
        _ => {
            let wide = operate(function, WIDE, operation, builder, values);
            builder.convert(Conversion::IntToInt, WIDE, NARROW, wide)
        }
    }
}

fn operate<B: ScalarBuilder>(
    function: &Function,
    ty: Type,
    operation: &Operation,
    builder: &mut B,
    values: &Values<B>,
) -> B::Value {
    let value = |builder: &mut B, id: &ValueId| values.get(builder, *id);
    match operation {
        Operation::Constant(literal) => builder.constant(ty, *literal),
        Operation::Symbol(position) => builder.symbol(*position as usize),
        Operation::WorkBegin => builder.work_begin(),
        Operation::WorkEnd => builder.work_end(),
        Operation::WorkItem => builder.work_item(),
        Operation::Block => builder.on_gpu(GpuOperation::Block),
        Operation::Blocks => builder.on_gpu(GpuOperation::Blocks),
        Operation::Thread => builder.on_gpu(GpuOperation::Thread),
        Operation::Load { buffer, index } => builder.load(ty, values.place(function, *buffer, *index)),
        Operation::Butterfly(x, distance) => {
            let x = value(builder, x);
            builder.on_gpu(GpuOperation::Butterfly(ty, x, *distance))
        }
        Operation::LoadShared { array, index } => {
            builder.on_gpu(GpuOperation::LoadShared(ty, values.shared_place(*array, *index)))
        }
        Operation::LoadMatrices { array, index, transposed } => {
            let place = values.shared_place(*array, *index);
            builder.on_gpu(GpuOperation::LoadMatrices(ty.lanes, place, *transposed))
        }
        Operation::MatrixFma { factors, left, right, sum } => {
            let fragments = [left, right, sum].map(|fragment| value(builder, fragment));
            builder.on_gpu(GpuOperation::MatrixFma(*factors, fragments))
        }
        Operation::GroupFma { factors, left, right, sum } => {
            let places = [left, right].map(|factor| GroupPlace {
                place: values.shared_place(factor.array, factor.index),
                transposed: factor.transposed,
            });
            let sum = value(builder, sum);
            builder.on_gpu(GpuOperation::GroupFma(*factors, places, ty, sum))
        }
        Operation::Pair(dtype, x, y) => {
            let pair = [x, y].map(|x| value(builder, x));
            builder.on_gpu(GpuOperation::Pair(*dtype, pair))
        }
        Operation::Tf32(x) => {
            let x = value(builder, x);
            builder.on_gpu(GpuOperation::Tf32(x))
        }
        Operation::Unary(op, x) => {
            let x = value(builder, x);
            builder.unary(*op, ty, x)
        }
        Operation::Binary(op, x, y) => {
            let (x, y) = (value(builder, x), value(builder, y));
            builder.binary(*op, ty, x, y)
        }
        Operation::Fma(x, y, z) => {
            let (x, y, z) = (value(builder, x), value(builder, y), value(builder, z));
            builder.fma(ty, x, y, z)
        }
        Operation::Compare(condition, x, y) if values.is_narrow(*x) && values.is_narrow(*y) => {
            builder.compare(*condition, NARROW, values.index(*x), values.index(*y))
        }
        Operation::Compare(condition, x, y) => {
            let ty = function.ty(*x);
            let (x, y) = (value(builder, x), value(builder, y));
            builder.compare(*condition, ty, x, y)
        }
        Operation::Select(condition, x, y) => {
            let (x, y) = (value(builder, x), value(builder, y));
            builder.select(ty, values.index(*condition), x, y)
        }
        Operation::Convert(Conversion::IntToInt, x) if ty == NARROW && values.is_narrow(*x) => {
            values.index(*x)
        }
        Operation::Convert(Conversion::IntToFloat, x) if values.is_narrow(*x) => {
            builder.convert(Conversion::IntToFloat, NARROW, ty, values.index(*x))
        }
        Operation::Convert(conversion, x) => {
            let from = function.ty(*x);
            let x = value(builder, x);
            builder.convert(*conversion, from, ty, x)
        }
        Operation::Splat(x) => {
            let x = value(builder, x);
            builder.splat(ty, x)
        }
        Operation::LaneIndex => builder.lane_index(ty),
        Operation::Extract(x, lane) => builder.extract(function.ty(*x), values.index(*x), *lane),
        Operation::Insert(vector, scalar, lane) => {
            let scalar = value(builder, scalar);
            builder.insert(ty, values.index(*vector), scalar, *lane)
        }
    }
}

/// [`Conversion::HalfToFloat`] of `bits` in other primitives, for targets without an instruction for it.
///
/// Reading the bits as the upper bits of an f32 leaves an exponent that is 112 too low, also for subnormals, which one
/// exact product corrects. Only infinities and NaN have no such f32 and get their exponent set.
pub fn half_to_float<B: ScalarBuilder>(builder: &mut B, ty: Type, bits: B::Value) -> B::Value {
    let float = ty.with_lane(LaneType::F32);
    let integer = |b: &mut B, number| b.constant(ty, Literal::from_i64(DType::I32, number));
    let mask = integer(builder, 0x7fff);
    let bare = builder.binary(BinaryOp::And, ty, bits, mask);
    let distance = integer(builder, 13);
    let moved = builder.binary(BinaryOp::ShiftLeft, ty, bare, distance);
    let small = builder.convert(Conversion::Bitcast, ty, float, moved);
    let scale = builder.constant(float, Literal::from_f64(DType::F32, 2f64.powi(112)));
    let finite = builder.binary(BinaryOp::Mul, float, small, scale);
    let finite = builder.convert(Conversion::Bitcast, float, ty, finite);
    let exponent = integer(builder, 0x7f80_0000);
    let special = builder.binary(BinaryOp::Or, ty, moved, exponent);
    let infinity = integer(builder, 0x7c00);
    let is_special = builder.compare(Condition::Ge, ty, bare, infinity);
    let magnitude = builder.select(ty, is_special, special, finite);
    // The magnitude taken out of the bits leaves the sign; the loaded bits have nothing above it.
    let sign = builder.binary(BinaryOp::Xor, ty, bits, bare);
    let distance = integer(builder, 16);
    let sign = builder.binary(BinaryOp::ShiftLeft, ty, sign, distance);
    let joined = builder.binary(BinaryOp::Or, ty, magnitude, sign);
    builder.convert(Conversion::Bitcast, ty, float, joined)
}
