//! Which 64-bit integers of a function a GPU computes in 32 bits.
//!
//! Kernel IR counts and addresses in 64 bits. Registers of a GPU have 32, and so has its arithmetic: a position takes two
//! registers and each sum of them two instructions. Few launches need that. So the emitter computes in 32 bits what fits
//! there where every symbol is `ASSUMED` ([`Widths::assumed`]), and a launch whose symbols are larger asks with them
//! whether it still fits ([`Widths::suffice`]).
//!
//! Both times [`Range`]s go through the function: of symbols, the numbers of blocks and threads, counters, and what
//! arithmetic makes of them. Of what memory holds nothing is known but its type; coordinates that come from there are
//! clamped, and fit again.

mod range;

use fuse_ir::expr::Symbol;

use crate::kernel_ir::{
    BinaryOp, Conversion, Function, LaneType, Mapping, Operation, Statement, Type, UnaryOp, ValueId,
};
pub use range::{Range, of_expression};

/// What every symbol is taken to be where widths are chosen: so large that a product of it and of an integer of 32 bits
/// from memory does not fit, so small that the product of several symbols and extents does.
const ASSUMED: i64 = 48;

/// How an i64 is computed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Width {
    /// In 64 bits.
    Wide,
    /// In 64 bits; then the low half stays, which is all of it.
    Halved,
    /// In 32 bits.
    Narrow,
}

/// How each value of a function is computed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Widths(Vec<Width>);

impl Widths {
    /// What fits in 32 bits where every symbol is `ASSUMED`.
    pub fn assumed(function: &Function) -> Widths {
        Walk::new(function, &|_| Some(Range::of(ASSUMED))).widths()
    }

    /// The width of a value.
    pub fn of(&self, value: ValueId) -> Width {
        self.0.get(value.0 as usize).copied().unwrap_or(Width::Wide)
    }

    /// Whether what these widths have in 32 bits fits there too where symbols are in these ranges.
    pub fn suffice(&self, function: &Function, symbol: &impl Fn(&Symbol) -> Option<Range>) -> bool {
        let found = Walk::new(function, symbol).widths();
        self.0.iter().zip(&found.0).all(|(chosen, found)| match chosen {
            Width::Wide => true,
            Width::Halved => *found != Width::Wide,
            Width::Narrow => *found == Width::Narrow,
        })
    }
}

/// What each integer of a function is between, and each truth value (0 or 1), whatever its symbols are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ranges(Vec<Range>);

impl Ranges {
    /// Those of a function.
    pub fn of(function: &Function) -> Ranges {
        let mut walk = Walk::new(function, &|_| None);
        walk.block(&function.body);
        Ranges(walk.ranges)
    }

    /// That of a value.
    pub fn get(&self, value: ValueId) -> Range {
        self.0[value.0 as usize]
    }

    /// What a value always is.
    pub fn constant(&self, value: ValueId) -> Option<i64> {
        let Range { low, high } = self.get(value);
        (low == high).then_some(low)
    }

    /// The operand that an operation always gives.
    pub fn operand(&self, operation: &Operation) -> Option<ValueId> {
        let is_below = |x: ValueId, y: ValueId| self.get(x).high <= self.get(y).low;
        match *operation {
            Operation::Binary(BinaryOp::Min, x, y) if is_below(x, y) => Some(x),
            Operation::Binary(BinaryOp::Min, x, y) if is_below(y, x) => Some(y),
            Operation::Binary(BinaryOp::Max, x, y) if is_below(x, y) => Some(y),
            Operation::Binary(BinaryOp::Max, x, y) if is_below(y, x) => Some(x),
            Operation::Binary(BinaryOp::And, x, y) => {
                let mask = self.constant(y).filter(|mask| *mask >= 0 && mask & mask.wrapping_add(1) == 0);
                mask.filter(|mask| self.get(x).low >= 0 && self.get(x).high <= *mask).map(|_| x)
            }
            Operation::Select(condition, x, y) => {
                self.constant(condition).map(|holds| if holds == 0 { y } else { x })
            }
            _ => None,
        }
    }
}

/// Goes through a function with what is known of its symbols.
struct Walk<'a> {
    function: &'a Function,
    symbols: Vec<Range>,
    /// How many work items there are.
    work: Range,
    ranges: Vec<Range>,
    widths: Vec<Width>,
}

impl<'a> Walk<'a> {
    fn new(function: &'a Function, symbol: &impl Fn(&Symbol) -> Option<Range>) -> Walk<'a> {
        let all = |s| symbol(s).unwrap_or(Range::ALL);
        Walk {
            function,
            symbols: function.symbols.iter().map(all).collect(),
            work: of_expression(&function.work, symbol),
            ranges: function.types.iter().map(|ty| Range::of_lane(ty.lane)).collect(),
            widths: vec![Width::Wide; function.types.len()],
        }
    }

    fn widths(mut self) -> Widths {
        let function = self.function;
        self.block(&function.body);
        Widths(self.widths)
    }

    fn block(&mut self, body: &[Statement]) {
        for statement in body {
            match statement {
                Statement::Let { value, operation } => self.operation(*value, operation),
                Statement::For { counter, begin, end, step, body, .. } => {
                    self.counter(*counter, [*begin, *end], *step);
                    self.block(body);
                }
                Statement::If { body, .. } => self.block(body),
                Statement::Store { .. }
                | Statement::StoreShared { .. }
                | Statement::StartCopy { .. }
                | Statement::CommitCopies
                | Statement::AwaitCopies { .. }
                | Statement::Barrier
                | Statement::GridBarrier
                | Statement::StoreCluster { .. }
                | Statement::ClusterArrive
                | Statement::ClusterWait
                | Statement::Prefetch { .. }
                | Statement::Product(_) => {}
            }
        }
    }

    fn range(&self, value: ValueId) -> Range {
        self.ranges[value.0 as usize]
    }

    fn is_narrow(&self, value: ValueId) -> bool {
        self.widths[value.0 as usize] != Width::Wide
    }

    /// A counter and both bounds are of one width, and it goes past the end by no more than a step.
    fn counter(&mut self, counter: ValueId, [begin, end]: [ValueId; 2], step: i64) {
        let (begin, end) = (self.range(begin), self.range(end));
        let last = end.high.saturating_sub(1).max(begin.low);
        let past = last.saturating_add(step);
        let range = Range { low: begin.low, high: last };
        let fits = [begin, end, range, Range::of(past)].into_iter().all(Range::fits);
        self.ranges[counter.0 as usize] = range;
        self.widths[counter.0 as usize] = if fits { Width::Narrow } else { Width::Wide };
    }

    fn operation(&mut self, value: ValueId, operation: &Operation) {
        let ty = self.function.ty(value);
        if ty.lanes > 1 || !matches!(ty.lane, LaneType::I32 | LaneType::I64 | LaneType::Bool) {
            return;
        }
        let range = self.range_of(ty, operation);
        // An i32 wraps where an i64 would not.
        let known = if ty.lane == LaneType::I64 || range.fits() { range } else { Range::of_lane(ty.lane) };
        self.ranges[value.0 as usize] = known;
        if ty.lane == LaneType::I64 && range.fits() {
            let narrow = self.is_the_same_in_32_bits(operation);
            self.widths[value.0 as usize] = if narrow { Width::Narrow } else { Width::Halved };
        }
    }

    /// Whether 32-bit operands give the same, where the result fits.
    fn is_the_same_in_32_bits(&self, operation: &Operation) -> bool {
        match operation {
            Operation::Constant(_)
            | Operation::Symbol(_)
            | Operation::WorkItem
            | Operation::Block
            | Operation::Blocks
            | Operation::Thread => true,
            Operation::Unary(UnaryOp::Neg | UnaryOp::Not, x) => self.is_narrow(*x),
            Operation::Binary(op, x, y) => {
                let distance = match op {
                    BinaryOp::ShiftLeft | BinaryOp::ShiftRightLogical | BinaryOp::ShiftRightArithmetic => {
                        range::is_distance(self.range(*y))
                    }
                    _ => true,
                };
                let sign = *op != BinaryOp::ShiftRightLogical || self.range(*x).low >= 0;
                distance && sign && self.is_narrow(*x) && self.is_narrow(*y)
            }
            Operation::Select(_, x, y) => self.is_narrow(*x) && self.is_narrow(*y),
            Operation::Convert(conversion, x) => {
                let from_32 = self.function.ty(*x).lane == LaneType::I32;
                match conversion {
                    Conversion::IntToInt => from_32,
                    Conversion::ZeroExtend => from_32 && self.range(*x).low >= 0,
                    _ => false,
                }
            }
            _ => false,
        }
    }

    fn range_of(&self, ty: Type, operation: &Operation) -> Range {
        let threads = self.function.mapping.block_threads().map_or(1, i64::from);
        match operation {
            Operation::Constant(literal) => Range::of(literal.as_i64()),
            Operation::Symbol(position) => self.symbols[*position as usize],
            Operation::Block => Range::count(self.work.high),
            Operation::Blocks => self.work,
            Operation::Thread => Range::count(threads),
            // The threads of the last block are there, too.
            Operation::WorkItem => Range::count(self.work.high.max(0)).plus(Range::count(threads)),
            Operation::Unary(UnaryOp::Neg, x) => Range::binary(BinaryOp::Sub, Range::of(0), self.range(*x)),
            Operation::Unary(UnaryOp::Not, x) => {
                Range { low: !self.range(*x).high, high: !self.range(*x).low }
            }
            Operation::Binary(op, x, y) => Range::binary(*op, self.range(*x), self.range(*y)),
            Operation::Select(_, x, y) => self.range(*x).union(self.range(*y)),
            Operation::Compare(condition, x, y) if !self.function.ty(*x).lane.is_float() => {
                self.range(*x).compared(*condition, self.range(*y))
            }
            Operation::Convert(conversion, x) => self.converted(*conversion, *x, ty),
            _ => Range::of_lane(ty.lane),
        }
    }

    fn converted(&self, conversion: Conversion, x: ValueId, ty: Type) -> Range {
        let (from, range) = (self.function.ty(x).lane, self.range(x));
        match conversion {
            Conversion::IntToInt if from == LaneType::I32 || range.fits() => range,
            Conversion::ZeroExtend if range.low >= 0 => range,
            Conversion::ZeroExtend => Range { low: 0, high: i64::from(u32::MAX) },
            Conversion::BoolToInt => Range { low: 0, high: 1 },
            _ => Range::of_lane(ty.lane),
        }
    }
}

/// Whether a launch of a function that was emitted with [`Widths::assumed`] computes what it should.
pub fn suffice(function: &Function, symbol: &impl Fn(&Symbol) -> Option<Range>) -> bool {
    match function.mapping {
        Mapping::Range => true,
        Mapping::Threads { .. }
        | Mapping::Blocks { .. }
        | Mapping::Resident { .. }
        | Mapping::Clusters { .. } => Widths::assumed(function).suffice(function, symbol),
    }
}

#[cfg(test)]
mod tests {
    use fuse_ir::expr::Dim;
    use fuse_ir::{DType, Literal};

    use super::*;
    use crate::builder::FunctionBuilder;
    use crate::kernel_ir::Condition;

    const INDEX: Type = Type { lane: LaneType::I64, lanes: 1 };

    fn finish(b: FunctionBuilder) -> Function {
        let symbols = vec![Symbol::new("M"), Symbol::new("N")];
        let work = Dim::symbol("M");
        b.finish("f", Vec::new(), symbols, work, Mapping::Blocks { threads: 256 })
    }

    /// Whether 32 bits do where `M` and `N` are so many.
    fn suffices(function: &Function, m: i64, n: i64) -> bool {
        suffice(function, &|s| Some(Range::of(if s.name() == "M" { m } else { n })))
    }

    #[test]
    fn a_position_fits_as_long_as_its_largest_value_does() {
        let mut b = FunctionBuilder::new();
        let block = b.operation(INDEX, Operation::Block);
        let n = b.operation(INDEX, Operation::Symbol(1));
        let position = b.mul(block, n);
        let function = finish(b);
        assert_eq!(Widths::assumed(&function).of(position), Width::Narrow);
        assert!(suffices(&function, 1 << 16, 1 << 15));
        assert!(suffices(&function, (1 << 16) + 1, (1 << 15) - 1));
        assert!(!suffices(&function, (1 << 16) + 1, 1 << 15));
        // Without rows or columns there is no position.
        assert!(suffices(&function, 0, i64::from(i32::MAX)));
        assert!(!suffices(&function, 0, 1 << 31));
    }

    #[test]
    fn a_counter_fits_with_the_step_past_its_end() {
        let mut b = FunctionBuilder::new();
        let (zero, n) = (b.index(0), b.operation(INDEX, Operation::Symbol(1)));
        let open = b.open_loop(&[], true);
        let counter = open.counter;
        b.close_loop(open, zero, n, 100, &[]);
        let function = finish(b);
        assert_eq!(Widths::assumed(&function).of(counter), Width::Narrow);
        let most = i64::from(i32::MAX) - 99;
        assert!(suffices(&function, 1, most) && !suffices(&function, 1, most + 1));
    }

    #[test]
    fn integers_from_memory_are_wide_until_they_are_clamped() {
        let mut b = FunctionBuilder::new();
        let array = b.shared_array("a", LaneType::I64, 4);
        let at = b.index(1);
        let loaded = b.load_shared(array, 1, at);
        let n = b.operation(INDEX, Operation::Symbol(1));
        let doubled = b.add(loaded, loaded);
        let least = b.binary(BinaryOp::Max, loaded, at);
        let clamped = b.binary(BinaryOp::Min, least, n);
        let moved = b.add(clamped, at);
        let function = finish(b);
        let widths = Widths::assumed(&function);
        let found = [at, loaded, doubled, least, clamped, moved].map(|v| widths.of(v));
        use Width::{Halved, Narrow, Wide};
        assert_eq!(found, [Narrow, Wide, Wide, Wide, Halved, Narrow]);
        assert!(
            suffices(&function, 1, i64::from(i32::MAX) - 1) && !suffices(&function, 1, i64::from(i32::MAX))
        );
    }

    #[test]
    fn what_holds_for_every_thread_needs_no_computation() {
        let mut b = FunctionBuilder::new();
        let thread = b.operation(INDEX, Operation::Thread);
        let n = b.operation(INDEX, Operation::Symbol(1));
        let [last, mask, narrower, ones] = [255, 255, 127, i64::MAX].map(|n| b.index(n));
        let inside = b.compare_integer(Condition::Lt, thread, 256);
        let half = b.compare_integer(Condition::Lt, thread, 128);
        let few = b.compare(Condition::Lt, thread, n);
        let both = b.and(half, few);
        let quotient = b.shift_right_logical(thread, 8);
        let function = finish(b);
        let ranges = Ranges::of(&function);
        assert_eq!(
            [inside, half, few, both, quotient].map(|v| ranges.constant(v)),
            [Some(1), None, None, None, Some(0)]
        );
        let binary = |op, x, y| ranges.operand(&Operation::Binary(op, x, y));
        assert_eq!(binary(BinaryOp::Min, thread, last), Some(thread));
        assert_eq!(binary(BinaryOp::Min, last, thread), Some(thread));
        assert_eq!(binary(BinaryOp::Max, thread, last), Some(last));
        assert_eq!(binary(BinaryOp::Min, thread, narrower), None);
        assert_eq!(binary(BinaryOp::Min, thread, n), None);
        assert_eq!(binary(BinaryOp::And, thread, mask), Some(thread));
        assert_eq!(binary(BinaryOp::And, thread, ones), Some(thread));
        assert_eq!(binary(BinaryOp::And, thread, narrower), None);
        assert_eq!(ranges.operand(&Operation::Select(inside, n, thread)), Some(n));
        assert_eq!(ranges.operand(&Operation::Select(half, n, thread)), None);
    }

    #[test]
    fn comparisons_of_ranges_hold_for_all_or_none_or_are_open() {
        let values = [-2i64, -1, 0, 1, 3];
        let conditions =
            [Condition::Lt, Condition::Le, Condition::Gt, Condition::Ge, Condition::Eq, Condition::Ne];
        let holds = |condition, x: i64, y: i64| match condition {
            Condition::Lt => x < y,
            Condition::Le => x <= y,
            Condition::Gt => x > y,
            Condition::Ge => x >= y,
            Condition::Eq => x == y,
            Condition::Ne => x != y,
        };
        let pairs = || values.iter().flat_map(|low| values.iter().map(move |high| (*low, *high)));
        for condition in conditions {
            for (a, b) in pairs().filter(|(low, high)| low <= high) {
                for (c, d) in pairs().filter(|(low, high)| low <= high) {
                    let found = Range { low: a, high: b }.compared(condition, Range { low: c, high: d });
                    let all: Vec<bool> =
                        (a..=b).flat_map(|x| (c..=d).map(move |y| holds(condition, x, y))).collect();
                    let expected = match (all.contains(&true), all.contains(&false)) {
                        (true, false) => Range::of(1),
                        (false, true) => Range::of(0),
                        _ => Range { low: 0, high: 1 },
                    };
                    assert_eq!(found, expected, "{condition:?} of {a}..={b} and {c}..={d}");
                }
            }
        }
    }

    #[test]
    fn ranges_hold_what_operations_give() {
        let values = [-17i64, -4, -1, 0, 1, 2, 3, 5, 31, 40];
        let literal = |n: i64| Literal::from_i64(DType::I64, n).as_i64();
        let apply = |op: BinaryOp, x: i64, y: i64| match op {
            BinaryOp::Add => Some(x + y),
            BinaryOp::Sub => Some(x - y),
            BinaryOp::Mul => Some(x * y),
            BinaryOp::Min => Some(x.min(y)),
            BinaryOp::Max => Some(x.max(y)),
            BinaryOp::IntDiv => (y != 0).then(|| x / y),
            BinaryOp::IntRem => (y != 0).then(|| x % y),
            BinaryOp::And => Some(x & y),
            BinaryOp::Or => Some(x | y),
            BinaryOp::Xor => Some(x ^ y),
            BinaryOp::ShiftLeft => Some(x.wrapping_shl(y as u32)),
            BinaryOp::ShiftRightLogical => Some((x as u64).wrapping_shr(y as u32) as i64),
            BinaryOp::ShiftRightArithmetic => Some(x.wrapping_shr(y as u32)),
            BinaryOp::Div => None,
        };
        let ops = [
            BinaryOp::Add,
            BinaryOp::Sub,
            BinaryOp::Mul,
            BinaryOp::Min,
            BinaryOp::Max,
            BinaryOp::IntDiv,
            BinaryOp::IntRem,
            BinaryOp::And,
            BinaryOp::Or,
            BinaryOp::Xor,
            BinaryOp::ShiftLeft,
            BinaryOp::ShiftRightLogical,
            BinaryOp::ShiftRightArithmetic,
        ];
        let ranges = |from: &[i64]| {
            let ends = from.iter().flat_map(|low| from.iter().map(move |high| (*low, *high)));
            ends.filter(|(low, high)| low <= high).collect::<Vec<_>>()
        };
        for op in ops {
            for (a, b) in ranges(&values) {
                for (c, d) in ranges(&values) {
                    let range = Range::binary(op, Range { low: a, high: b }, Range { low: c, high: d });
                    for x in values.iter().filter(|x| (a..=b).contains(x)) {
                        for y in values.iter().filter(|y| (c..=d).contains(y)) {
                            let Some(result) = apply(op, literal(*x), *y) else { continue };
                            let holds = (range.low..=range.high).contains(&result);
                            assert!(holds, "{op:?} of {x} in {a}..={b} and {y} in {c}..={d}: {range:?}");
                        }
                    }
                }
            }
        }
    }
}
