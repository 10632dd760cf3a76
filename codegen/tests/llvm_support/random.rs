//! Random straight-line programs whose every intermediate value counts.

use fuse_codegen::kernel_ir::{BinaryOp, Condition, Conversion, LaneType, Operation, Type, UnaryOp, ValueId};
use fuse_ir::{DType, Literal};

use super::{Case, Maker, corners};

/// A program; each number chooses an operation and its operands.
#[derive(Clone, Debug)]
pub struct Program {
    pub choices: Vec<u64>,
}

const INPUTS: [DType; 4] = [DType::F32, DType::F64, DType::I32, DType::I64];
const TYPES: [LaneType; 5] = [LaneType::F32, LaneType::F64, LaneType::I32, LaneType::I64, LaneType::Bool];

/// The digits of a choice.
struct Choice(u64);

impl Choice {
    fn below(&mut self, bound: usize) -> usize {
        let digit = self.0 % bound as u64;
        self.0 /= bound as u64;
        digit as usize
    }

    fn of<T: Copy>(&mut self, items: &[T]) -> T {
        items[self.below(items.len())]
    }
}

/// The values so far.
struct Pool(Vec<(LaneType, ValueId)>);

impl Pool {
    /// A value of a type, one of the later ones more often than not, so that chains grow long.
    fn pick(&self, lane: LaneType, choice: &mut Choice) -> ValueId {
        let of_type: Vec<_> = self.0.iter().filter(|(l, _)| *l == lane).map(|(_, v)| *v).collect();
        let latest = of_type.len().min(3);
        if choice.below(3) > 0 { choice.of(&of_type[of_type.len() - latest..]) } else { choice.of(&of_type) }
    }
}

impl Program {
    /// The program as a case: a checksum of all its values.
    pub fn case(&self, lanes: u8) -> Case {
        let choices = self.choices.clone();
        Case::new("random", &INPUTS, DType::I64, lanes, move |maker, inputs| {
            let mut pool = Pool(inputs.iter().map(|v| (maker.ty(*v).lane, *v)).collect());
            let odd = maker.odd(inputs[2]);
            pool.0.push((LaneType::Bool, odd));
            for choice in &choices {
                let (lane, value) = step(maker, &pool, &mut Choice(*choice), lanes);
                pool.0.push((lane, value));
            }
            checksum(maker, &pool, lanes)
        })
    }

    /// Inputs: half of them corners, half arbitrary bits.
    pub fn data(&self, case: &Case, seed: u64) -> (i64, Vec<Vec<u8>>) {
        let items = 40;
        let elements = items * usize::from(case.lanes);
        let mut state = seed | 1;
        // Xorshift: any sequence will do, as long as it follows from the seed.
        let mut next = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        let mut buffers: Vec<Vec<u8>> = Vec::new();
        for dtype in INPUTS {
            let corners = corners(dtype);
            let mut bytes = Vec::new();
            for _ in 0..elements {
                let (kind, number) = (next(), next());
                let bits = if kind & 1 == 0 { corners[number as usize % corners.len()] } else { number };
                bytes.extend_from_slice(&bits.to_ne_bytes()[..dtype.size()]);
            }
            buffers.push(bytes);
        }
        buffers.push(vec![0; elements * case.output.size()]);
        (items as i64, buffers)
    }
}

/// One operation on values of the pool.
fn step(maker: &mut Maker, pool: &Pool, choice: &mut Choice, lanes: u8) -> (LaneType, ValueId) {
    let lane = choice.of(&TYPES);
    let ty = Type { lane, lanes };
    let operation = match (choice.below(5), lane.is_float()) {
        (0 | 1, true) => float_arithmetic(pool, lane, choice),
        (0 | 1, false) => return (lane, integer_arithmetic(maker, pool, ty, choice)),
        (2, _) => {
            let condition = pool.pick(LaneType::Bool, choice);
            Operation::Select(condition, pool.pick(lane, choice), pool.pick(lane, choice))
        }
        (3, _) => conversion(pool, lane, choice),
        _ => {
            let compared = choice.of(&TYPES);
            let (x, y) = (pool.pick(compared, choice), pool.pick(compared, choice));
            let condition = if compared == LaneType::Bool {
                choice.of(&[Condition::Eq, Condition::Ne])
            } else {
                use Condition::{Eq, Ge, Gt, Le, Lt, Ne};
                choice.of(&[Eq, Ne, Lt, Le, Gt, Ge])
            };
            return (LaneType::Bool, maker.compare(condition, x, y));
        }
    };
    (lane, maker.let_(ty, operation))
}

fn float_arithmetic(pool: &Pool, lane: LaneType, choice: &mut Choice) -> Operation {
    use BinaryOp::{Add, Div, Max, Min, Mul, Sub};
    use UnaryOp::{Abs, Ceil, Floor, Nearest, Neg, Sqrt, Trunc};
    let (x, y, z) = (pool.pick(lane, choice), pool.pick(lane, choice), pool.pick(lane, choice));
    match choice.below(4) {
        0 => Operation::Unary(choice.of(&[Neg, Abs, Sqrt, Floor, Ceil, Trunc, Nearest]), x),
        1 => Operation::Fma(x, y, z),
        _ => Operation::Binary(choice.of(&[Add, Sub, Mul, Mul, Add, Div, Min, Max]), x, y),
    }
}

fn integer_arithmetic(maker: &mut Maker, pool: &Pool, ty: Type, choice: &mut Choice) -> ValueId {
    use BinaryOp::{
        Add, And, IntDiv, IntRem, Max, Min, Mul, Or, ShiftLeft, ShiftRightArithmetic, ShiftRightLogical, Sub,
        Xor,
    };
    let (x, y) = (pool.pick(ty.lane, choice), pool.pick(ty.lane, choice));
    if ty.lane == LaneType::Bool {
        return maker.binary(choice.of(&[And, Or, Xor]), x, y);
    }
    let op = choice.of(&[
        Add,
        Sub,
        Mul,
        Min,
        Max,
        And,
        Or,
        Xor,
        ShiftLeft,
        ShiftRightLogical,
        ShiftRightArithmetic,
        IntDiv,
        IntRem,
    ]);
    let y = if matches!(op, IntDiv | IntRem) {
        // Between 1 and 16, so that the division is defined.
        let dtype = if ty.lane == LaneType::I32 { DType::I32 } else { DType::I64 };
        let (mask, one) = (Literal::from_i64(dtype, 15), Literal::from_i64(dtype, 1));
        let (mask, one) = (maker.constant(ty, mask), maker.constant(ty, one));
        let low = maker.binary(And, y, mask);
        maker.binary(Add, low, one)
    } else {
        y
    };
    maker.binary(op, x, y)
}

fn conversion(pool: &Pool, to: LaneType, choice: &mut Choice) -> Operation {
    use LaneType::{Bool, F32, F64, I32, I64};
    let (conversion, from) = match to {
        F32 => choice.of(&[
            (Conversion::FloatToFloat, F64),
            (Conversion::IntToFloat, I32),
            (Conversion::IntToFloat, I64),
            (Conversion::Bitcast, I32),
        ]),
        F64 => choice.of(&[
            (Conversion::FloatToFloat, F32),
            (Conversion::IntToFloat, I32),
            (Conversion::IntToFloat, I64),
            (Conversion::Bitcast, I64),
        ]),
        // Not the bits of floats: those of a NaN are nobody's promise.
        I32 => choice.of(&[
            (Conversion::FloatToInt, F32),
            (Conversion::FloatToInt, F64),
            (Conversion::IntToInt, I64),
            (Conversion::BoolToInt, Bool),
        ]),
        I64 => choice.of(&[
            (Conversion::FloatToInt, F32),
            (Conversion::FloatToInt, F64),
            (Conversion::IntToInt, I32),
            (Conversion::ZeroExtend, I32),
        ]),
        Bool => return Operation::Unary(UnaryOp::Not, pool.pick(Bool, choice)),
    };
    Operation::Convert(conversion, pool.pick(from, choice))
}

/// Mixes every value's bits, a NaN's replaced by those of 0.
fn checksum(maker: &mut Maker, pool: &Pool, lanes: u8) -> ValueId {
    let wide = Type { lane: LaneType::I64, lanes };
    let mut sum = maker.constant(wide, Literal::from_i64(DType::I64, 0));
    let factor = maker.constant(wide, Literal::from_i64(DType::I64, 0x9e37_79b9));
    for (lane, value) in &pool.0 {
        let bits = match lane {
            LaneType::F32 => {
                let known = without_nan(maker, *value, DType::F32);
                let bits = maker.convert(Conversion::Bitcast, known, LaneType::I32);
                maker.convert(Conversion::ZeroExtend, bits, LaneType::I64)
            }
            LaneType::F64 => {
                let known = without_nan(maker, *value, DType::F64);
                maker.convert(Conversion::Bitcast, known, LaneType::I64)
            }
            LaneType::I32 => maker.convert(Conversion::IntToInt, *value, LaneType::I64),
            LaneType::I64 => *value,
            LaneType::Bool => {
                let bit = maker.convert(Conversion::BoolToInt, *value, LaneType::I32);
                maker.convert(Conversion::IntToInt, bit, LaneType::I64)
            }
        };
        let mixed = maker.binary(BinaryOp::Mul, sum, factor);
        sum = maker.binary(BinaryOp::Xor, mixed, bits);
    }
    sum
}

/// Not by another NaN: a compiler may take `x == x ? x : NaN` for `x`, whose bits are then any NaN's.
fn without_nan(maker: &mut Maker, value: ValueId, dtype: DType) -> ValueId {
    let zero = maker.constant(maker.ty(value), Literal::from_f64(dtype, 0.0));
    let number = maker.compare(Condition::Eq, value, value);
    maker.let_(maker.ty(value), Operation::Select(number, value, zero))
}
