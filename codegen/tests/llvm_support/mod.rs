//! Functions that between them use every operation of Kernel IR on every type, and inputs that reach the
//! corners of each.

// Each test program uses a part of this.
#![allow(dead_code)]

pub mod native;
pub mod random;

use fuse_codegen::kernel_ir::{
    Access, BinaryOp, BufferParameter, Carried, Condition, Conversion, Function, LaneType, Mapping,
    Operation, ParameterId, Statement, Type, UnaryOp, ValueId,
};
use fuse_ir::expr::{Dim, DimEnv, Symbol};
use fuse_ir::kernel::BufferId;
use fuse_ir::{DType, Literal};

/// Builds a function statement by statement.
pub struct Maker {
    types: Vec<Type>,
    blocks: Vec<Vec<Statement>>,
}

impl Maker {
    fn new() -> Self {
        Maker { types: Vec::new(), blocks: vec![Vec::new()] }
    }

    pub fn value(&mut self, ty: Type) -> ValueId {
        self.types.push(ty);
        ValueId(self.types.len() as u32 - 1)
    }

    pub fn push(&mut self, statement: Statement) {
        self.blocks.last_mut().expect("a block is open").push(statement);
    }

    pub fn let_(&mut self, ty: Type, operation: Operation) -> ValueId {
        let value = self.value(ty);
        self.push(Statement::Let { value, operation });
        value
    }

    pub fn ty(&self, value: ValueId) -> Type {
        self.types[value.0 as usize]
    }

    pub fn index(&mut self, value: i64) -> ValueId {
        self.let_(scalar(LaneType::I64), Operation::Constant(Literal::from_i64(DType::I64, value)))
    }

    pub fn binary(&mut self, op: BinaryOp, x: ValueId, y: ValueId) -> ValueId {
        self.let_(self.ty(x), Operation::Binary(op, x, y))
    }

    pub fn compare(&mut self, condition: Condition, x: ValueId, y: ValueId) -> ValueId {
        self.let_(self.ty(x).with_lane(LaneType::Bool), Operation::Compare(condition, x, y))
    }

    pub fn convert(&mut self, conversion: Conversion, x: ValueId, to: LaneType) -> ValueId {
        self.let_(self.ty(x).with_lane(to), Operation::Convert(conversion, x))
    }

    pub fn constant(&mut self, ty: Type, literal: Literal) -> ValueId {
        self.let_(ty, Operation::Constant(literal))
    }

    /// A bool from integer lanes: whether they are odd.
    pub fn odd(&mut self, x: ValueId) -> ValueId {
        let ty = self.ty(x);
        let one = self.constant(ty, Literal::from_i64(DType::I32, 1));
        let low = self.binary(BinaryOp::And, x, one);
        self.compare(Condition::Eq, low, one)
    }

    pub fn if_(&mut self, condition: ValueId, body: impl FnOnce(&mut Maker)) {
        self.blocks.push(Vec::new());
        body(self);
        let body = self.blocks.pop().expect("the block just opened");
        self.push(Statement::If { condition, body });
    }

    pub fn for_(
        &mut self,
        (begin, end, step): (ValueId, ValueId, i64),
        init: &[ValueId],
        body: impl FnOnce(&mut Maker, ValueId, &[ValueId]) -> Vec<ValueId>,
    ) -> Vec<ValueId> {
        let counter = self.value(scalar(LaneType::I64));
        let current: Vec<_> = init.iter().map(|i| self.value(self.ty(*i))).collect();
        self.blocks.push(Vec::new());
        let next = body(self, counter, &current);
        let body = self.blocks.pop().expect("the block just opened");
        let results: Vec<_> = init.iter().map(|i| self.value(self.ty(*i))).collect();
        let carried = (0..init.len())
            .map(|k| Carried { value: current[k], init: init[k], next: next[k], result: results[k] })
            .collect();
        self.push(Statement::For { counter, begin, end, step, carried, exchanged: Vec::new(), body });
        results
    }
}

pub fn scalar(lane: LaneType) -> Type {
    Type::scalar(lane)
}

type Build = Box<dyn Fn(&mut Maker, &[ValueId]) -> ValueId + Send + Sync>;

/// One function: `output[i] = build(inputs[i]…)` for items `i` of as many elements as there are lanes.
pub struct Case {
    pub name: String,
    pub inputs: Vec<DType>,
    pub output: DType,
    pub lanes: u8,
    /// Whether the second input divides the first, so that some pairs are not allowed.
    pub divides: bool,
    pub build: Build,
}

pub const BLOCK: u32 = 64;

impl Case {
    pub fn new(
        name: impl Into<String>,
        inputs: &[DType],
        output: DType,
        lanes: u8,
        build: impl Fn(&mut Maker, &[ValueId]) -> ValueId + Send + Sync + 'static,
    ) -> Case {
        let name = if lanes == 1 { name.into() } else { format!("{}_x{lanes}", name.into()) };
        Case { name, inputs: inputs.to_vec(), output, lanes, divides: false, build: Box::new(build) }
    }

    fn buffers(&self) -> Vec<BufferParameter> {
        let parameter = |position: usize, name: String, dtype, access| BufferParameter {
            name,
            dtype,
            access,
            buffer: BufferId(position as u32),
            divisor: 1,
        };
        let inputs = self.inputs.iter().enumerate();
        let mut buffers: Vec<_> =
            inputs.map(|(i, dtype)| parameter(i, format!("x{i}"), *dtype, Access::Read)).collect();
        buffers.push(parameter(buffers.len(), "y".into(), self.output, Access::Write));
        buffers
    }

    fn item(&self, maker: &mut Maker, item: ValueId) {
        let lanes = maker.index(i64::from(self.lanes));
        let index = maker.binary(BinaryOp::Mul, item, lanes);
        let inputs: Vec<_> = (0..)
            .zip(&self.inputs)
            .map(|(position, dtype)| {
                let ty = Type { lane: LaneType::of_memory(*dtype), lanes: self.lanes };
                maker.let_(ty, Operation::Load { buffer: ParameterId(position), index })
            })
            .collect();
        let value = (self.build)(maker, &inputs);
        let buffer = ParameterId(self.inputs.len() as u32);
        maker.push(Statement::Store { buffer, index, value });
    }

    /// The function over `N` items.
    pub fn function(&self, mapping: Mapping) -> Function {
        let mut maker = Maker::new();
        match mapping {
            Mapping::Range => {
                let begin = maker.let_(scalar(LaneType::I64), Operation::WorkBegin);
                let end = maker.let_(scalar(LaneType::I64), Operation::WorkEnd);
                maker.for_((begin, end, 1), &[], |maker, item, _| {
                    self.item(maker, item);
                    Vec::new()
                });
            }
            Mapping::Blocks { .. } | Mapping::Resident { .. } | Mapping::Clusters { .. } => {
                unreachable!("cases are of single items")
            }
            Mapping::Threads { .. } => {
                let item = maker.let_(scalar(LaneType::I64), Operation::WorkItem);
                let items = maker.let_(scalar(LaneType::I64), Operation::Symbol(0));
                let within = maker.compare(Condition::Lt, item, items);
                maker.if_(within, |maker| self.item(maker, item));
            }
        }
        Function {
            name: self.name.clone(),
            buffers: self.buffers(),
            symbols: vec![Symbol::new("N")],
            work: Dim::symbol("N"),
            mapping,
            shared: Vec::new(),
            types: maker.types,
            body: maker.blocks.pop().expect("the outermost block"),
        }
    }

    /// The number of items and the bytes of the buffers: all combinations of the corners of each input type.
    pub fn data(&self) -> (i64, Vec<Vec<u8>>) {
        let corners: Vec<Vec<u64>> = self.inputs.iter().map(|dtype| corners(*dtype)).collect();
        let combinations: usize = corners.iter().map(Vec::len).product();
        let lanes = usize::from(self.lanes);
        let elements = combinations.next_multiple_of(lanes);
        let mut buffers: Vec<Vec<u8>> = Vec::new();
        let mut stride = 1;
        for (position, (dtype, corners)) in self.inputs.iter().zip(&corners).enumerate() {
            let mut bytes = Vec::new();
            for element in 0..elements {
                let mut bits = corners[element / stride % corners.len()];
                if self.divides && position == 1 {
                    let size = dtype.size();
                    let dividend = &buffers[0][element * size..(element + 1) * size];
                    let least = dividend == &(1u64 << (8 * size - 1)).to_ne_bytes()[..size];
                    let minus_one = u64::MAX >> (64 - 8 * size as u32);
                    if bits == 0 || (bits == minus_one && least) {
                        bits = 3;
                    }
                }
                bytes.extend_from_slice(&bits.to_ne_bytes()[..dtype.size()]);
            }
            stride *= corners.len();
            buffers.push(bytes);
        }
        buffers.push(vec![0xA5; elements * self.output.size()]);
        ((elements / lanes) as i64, buffers)
    }

    /// The index of the first element where two outputs differ; NaNs are all alike.
    pub fn difference(&self, left: &[u8], right: &[u8]) -> Option<usize> {
        let size = self.output.size();
        let nan = |element: &[u8]| match self.output {
            DType::F32 => f32::from_ne_bytes(element.try_into().expect("4 bytes")).is_nan(),
            DType::F64 => f64::from_ne_bytes(element.try_into().expect("8 bytes")).is_nan(),
            _ => false,
        };
        assert_eq!(left.len(), right.len());
        left.chunks_exact(size).zip(right.chunks_exact(size)).position(|(l, r)| l != r && !(nan(l) && nan(r)))
    }
}

pub fn dims(items: i64) -> DimEnv {
    DimEnv::new().with("N", items)
}

/// Bits of values where operations behave in special ways. (Little-endian: the low bytes are what is stored.)
pub fn corners(dtype: DType) -> Vec<u64> {
    let f64s = [
        0.0,
        -0.0,
        1.0,
        -1.0,
        0.5,
        1.5,
        -2.5,
        3.5,
        1e-3,
        -123.456,
        16777217.0,
        2147483648.0,
        -2147483649.0,
        9.3e18,
        1.2e39,
        -1e300,
        1e-300,
        f64::MIN_POSITIVE,
        5e-324,
        f64::MAX,
        f64::INFINITY,
        f64::NEG_INFINITY,
        f64::NAN,
        // A signalling one.
        f64::from_bits(0x7ff4 << 48),
    ];
    let f32s = [
        0.0,
        -0.0,
        1.0,
        -1.0,
        0.5,
        1.5,
        -2.5,
        3.5,
        0.1,
        -123.456,
        16777216.0,
        8388609.5,
        2147483648.0,
        -3e9,
        9.3e18,
        1e-20,
        f32::MIN_POSITIVE,
        1e-45,
        f32::MAX,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::NAN,
        // A signalling one.
        f32::from_bits(0x7fa0 << 16),
    ];
    let integers = [0i64, 1, -1, 2, -2, 3, 7, 31, 32, 33, 63, 64, 65, 1000, -999];
    match dtype {
        DType::F64 => f64s.iter().map(|x: &f64| x.to_bits()).collect(),
        DType::F32 => f32s.iter().map(|x: &f32| u64::from(x.to_bits())).collect(),
        DType::I32 => integers
            .iter()
            .map(|x| *x as i32)
            .chain([i32::MIN, i32::MAX, 123_456_789, -2_000_000_001])
            .map(|x| u64::from(x as u32))
            .collect(),
        DType::I64 => integers
            .iter()
            .copied()
            .chain([i64::MIN, i64::MAX, 1 << 40, -(1 << 33) - 1, (1 << 53) + 1, (1 << 62) + (1 << 38) + 1])
            .map(|x| x as u64)
            .collect(),
        DType::F16 | DType::Bf16 => vec![0, 0x8000, 0x3c00, 0xffff, 0x7c00, 0x1234, 0x7e00],
        DType::U8 => vec![0, 1, 127, 128, 255],
        DType::Bool => vec![0, 1],
    }
}

fn dtype_of(lane: LaneType) -> DType {
    match lane {
        LaneType::F32 => DType::F32,
        LaneType::F64 => DType::F64,
        LaneType::I32 => DType::I32,
        LaneType::I64 => DType::I64,
        LaneType::Bool => DType::Bool,
    }
}

const FLOATS: [LaneType; 2] = [LaneType::F32, LaneType::F64];
const INTEGERS: [LaneType; 2] = [LaneType::I32, LaneType::I64];
const NUMBERS: [LaneType; 4] = [LaneType::F32, LaneType::F64, LaneType::I32, LaneType::I64];

/// Every case.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for lanes in [1, 2, 4, 8] {
        unary_cases(lanes, &mut cases);
        binary_cases(lanes, &mut cases);
        bool_cases(lanes, &mut cases);
        compare_cases(lanes, &mut cases);
        convert_cases(lanes, &mut cases);
        memory_cases(lanes, &mut cases);
        lane_cases(lanes, &mut cases);
    }
    control_cases(&mut cases);
    cases
}

fn unary_cases(lanes: u8, cases: &mut Vec<Case>) {
    use UnaryOp::{Abs, Ceil, Floor, Nearest, Neg, Not, Sqrt, Trunc};
    for op in [Neg, Abs, Sqrt, Floor, Ceil, Trunc, Nearest, Not] {
        let lane_types: &[LaneType] = match op {
            Neg => &NUMBERS,
            Abs | Sqrt | Floor | Ceil | Trunc | Nearest => &FLOATS,
            Not => &INTEGERS,
        };
        for lane in lane_types {
            let dtype = dtype_of(*lane);
            let name = format!("{op:?}_{}", lane.name()).to_lowercase();
            cases.push(Case::new(name, &[dtype], dtype, lanes, move |maker, x| {
                maker.let_(maker.ty(x[0]), Operation::Unary(op, x[0]))
            }));
        }
    }
}

fn binary_cases(lanes: u8, cases: &mut Vec<Case>) {
    use BinaryOp::*;
    let ops = [
        Add,
        Sub,
        Mul,
        Div,
        Min,
        Max,
        IntDiv,
        IntRem,
        And,
        Or,
        Xor,
        ShiftLeft,
        ShiftRightLogical,
        ShiftRightArithmetic,
    ];
    for op in ops {
        let lane_types: &[LaneType] = match op {
            Add | Sub | Mul | Min | Max => &NUMBERS,
            Div => &FLOATS,
            IntDiv | IntRem | And | Or | Xor | ShiftLeft | ShiftRightLogical | ShiftRightArithmetic => {
                &INTEGERS
            }
        };
        for lane in lane_types {
            let dtype = dtype_of(*lane);
            let name = format!("{op:?}_{}", lane.name()).to_lowercase();
            let mut case =
                Case::new(name, &[dtype, dtype], dtype, lanes, move |maker, x| maker.binary(op, x[0], x[1]));
            case.divides = matches!(op, IntDiv | IntRem);
            cases.push(case);
        }
    }
    // LLVM knows that one operand is no NaN.
    for (op, lane) in [Min, Max].into_iter().flat_map(|op| FLOATS.map(|lane| (op, lane))) {
        let dtype = dtype_of(lane);
        let name = format!("{op:?}_integer_{}", lane.name()).to_lowercase();
        cases.push(Case::new(name, &[dtype, DType::I32], dtype, lanes, move |maker, x| {
            let number = Type { lane, lanes: maker.ty(x[0]).lanes };
            let integer = maker.let_(number, Operation::Convert(Conversion::IntToFloat, x[1]));
            maker.binary(op, x[0], integer)
        }));
    }
    for lane in FLOATS {
        let dtype = dtype_of(lane);
        cases.push(Case::new(format!("fma_{}", lane.name()), &[dtype; 3], dtype, lanes, |maker, x| {
            maker.let_(maker.ty(x[0]), Operation::Fma(x[0], x[1], x[2]))
        }));
        // Two roundings: nobody may contract these into one.
        cases.push(Case::new(format!("mul_add_{}", lane.name()), &[dtype; 3], dtype, lanes, |maker, x| {
            let product = maker.binary(Mul, x[0], x[1]);
            maker.binary(Add, product, x[2])
        }));
    }
}

fn bool_cases(lanes: u8, cases: &mut Vec<Case>) {
    for op in [BinaryOp::And, BinaryOp::Or, BinaryOp::Xor] {
        let name = format!("{op:?}_bool").to_lowercase();
        cases.push(Case::new(name, &[DType::I32; 2], DType::I32, lanes, move |maker, x| {
            let (x, y) = (maker.odd(x[0]), maker.odd(x[1]));
            let both = maker.binary(op, x, y);
            maker.convert(Conversion::BoolToInt, both, LaneType::I32)
        }));
    }
    cases.push(Case::new("half_to_float", &[DType::F16], DType::F32, lanes, |maker, x| {
        maker.convert(Conversion::HalfToFloat, x[0], LaneType::F32)
    }));
    cases.push(Case::new("not_bool", &[DType::I32], DType::I32, lanes, |maker, x| {
        let odd = maker.odd(x[0]);
        let even = maker.let_(maker.ty(odd), Operation::Unary(UnaryOp::Not, odd));
        maker.convert(Conversion::BoolToInt, even, LaneType::I32)
    }));
    cases.push(Case::new("select_bool", &[DType::I32; 3], DType::I32, lanes, |maker, x| {
        let (c, x, y) = (maker.odd(x[0]), maker.odd(x[1]), maker.odd(x[2]));
        let chosen = maker.let_(maker.ty(x), Operation::Select(c, x, y));
        maker.convert(Conversion::BoolToInt, chosen, LaneType::I32)
    }));
    cases.push(Case::new("constant_bool", &[DType::I32], DType::I32, lanes, |maker, x| {
        let odd = maker.odd(x[0]);
        let yes = maker.constant(maker.ty(odd), Literal::from_i64(DType::Bool, 1));
        let even = maker.binary(BinaryOp::Xor, odd, yes);
        maker.convert(Conversion::BoolToInt, even, LaneType::I32)
    }));
}

fn compare_cases(lanes: u8, cases: &mut Vec<Case>) {
    use Condition::{Eq, Ge, Gt, Le, Lt, Ne};
    for condition in [Eq, Ne, Lt, Le, Gt, Ge] {
        for lane in NUMBERS {
            let dtype = dtype_of(lane);
            let name = format!("{condition:?}_{}", lane.name()).to_lowercase();
            cases.push(Case::new(name, &[dtype, dtype], DType::I32, lanes, move |maker, x| {
                let holds = maker.compare(condition, x[0], x[1]);
                maker.convert(Conversion::BoolToInt, holds, LaneType::I32)
            }));
        }
    }
    for condition in [Eq, Ne] {
        let name = format!("{condition:?}_bool").to_lowercase();
        cases.push(Case::new(name, &[DType::I32; 2], DType::I32, lanes, move |maker, x| {
            let (x, y) = (maker.odd(x[0]), maker.odd(x[1]));
            let holds = maker.compare(condition, x, y);
            maker.convert(Conversion::BoolToInt, holds, LaneType::I32)
        }));
    }
    for lane in NUMBERS {
        let dtype = dtype_of(lane);
        let name = format!("select_{}", lane.name());
        cases.push(Case::new(name, &[DType::I32, dtype, dtype], dtype, lanes, |maker, x| {
            let odd = maker.odd(x[0]);
            maker.let_(maker.ty(x[1]), Operation::Select(odd, x[1], x[2]))
        }));
    }
}

fn convert_cases(lanes: u8, cases: &mut Vec<Case>) {
    use Conversion::{Bitcast, FloatToFloat, FloatToInt, IntToFloat, IntToInt, ZeroExtend};
    use LaneType::{F32, F64, I32, I64};
    let conversions = [
        (FloatToFloat, F32, F64),
        (FloatToFloat, F64, F32),
        (IntToFloat, I32, F32),
        (IntToFloat, I32, F64),
        (IntToFloat, I64, F32),
        (IntToFloat, I64, F64),
        (FloatToInt, F32, I32),
        (FloatToInt, F32, I64),
        (FloatToInt, F64, I32),
        (FloatToInt, F64, I64),
        (IntToInt, I32, I64),
        (IntToInt, I64, I32),
        (ZeroExtend, I32, I64),
        (Bitcast, F32, I32),
        (Bitcast, I32, F32),
        (Bitcast, F64, I64),
        (Bitcast, I64, F64),
    ];
    for (conversion, from, to) in conversions {
        let name = format!("{conversion:?}_{}_{}", from.name(), to.name()).to_lowercase();
        cases.push(Case::new(name, &[dtype_of(from)], dtype_of(to), lanes, move |maker, x| {
            maker.convert(conversion, x[0], to)
        }));
    }
}

fn memory_cases(lanes: u8, cases: &mut Vec<Case>) {
    for dtype in DType::ALL {
        cases.push(Case::new(format!("copy_{dtype}"), &[dtype], dtype, lanes, |_, x| x[0]));
        if LaneType::of_memory(dtype) == LaneType::I32 && dtype != DType::I32 {
            cases.push(Case::new(format!("widen_{dtype}"), &[dtype], DType::I32, lanes, |_, x| x[0]));
            cases.push(Case::new(format!("narrow_{dtype}"), &[DType::I32], dtype, lanes, |_, x| x[0]));
        }
    }
    let constants = [
        ("zero", Literal::from_f64(DType::F32, -0.0)),
        ("third", Literal::from_f64(DType::F64, 1.0 / 3.0)),
        ("infinity", Literal::from_f64(DType::F32, f64::INFINITY)),
        ("subnormal", Literal::from_bits(DType::F64, 1)),
        ("least", Literal::from_i64(DType::I64, i64::MIN)),
        ("minus_one", Literal::from_i64(DType::I32, -1)),
    ];
    for (name, literal) in constants {
        let dtype = literal.dtype();
        cases.push(Case::new(format!("constant_{name}"), &[dtype], dtype, lanes, move |maker, x| {
            maker.constant(maker.ty(x[0]), literal)
        }));
    }
    // The bits of a NaN constant survive, seen through a bitcast.
    cases.push(Case::new("constant_nan", &[DType::I32], DType::I32, lanes, |maker, x| {
        let float = maker.ty(x[0]).with_lane(LaneType::F32);
        let nan = maker.constant(float, Literal::from_bits(DType::F32, 0x7fc0_1234));
        maker.convert(Conversion::Bitcast, nan, LaneType::I32)
    }));
}

fn lane_cases(lanes: u8, cases: &mut Vec<Case>) {
    cases.push(Case::new("lane_index", &[DType::I32], DType::I32, lanes, |maker, x| {
        let lane = maker.let_(maker.ty(x[0]), Operation::LaneIndex);
        maker.binary(BinaryOp::Add, x[0], lane)
    }));
    if lanes == 1 {
        cases.push(Case::new("splat_to_scalar", &[DType::F32], DType::F32, 1, |maker, x| {
            maker.let_(maker.ty(x[0]), Operation::Splat(x[0]))
        }));
        // A scalar has no lane to take or replace.
        return;
    }
    for lane in NUMBERS {
        let dtype = dtype_of(lane);
        let name = format!("extract_splat_{}", lane.name());
        cases.push(Case::new(name, &[dtype], dtype, lanes, move |maker, x| {
            let last = maker.let_(scalar(lane), Operation::Extract(x[0], lanes - 1));
            maker.let_(maker.ty(x[0]), Operation::Splat(last))
        }));
    }
    for lane in NUMBERS {
        let dtype = dtype_of(lane);
        let name = format!("insert_{}", lane.name());
        cases.push(Case::new(name, &[dtype, dtype], dtype, lanes, move |maker, x| {
            let first = maker.let_(scalar(lane), Operation::Extract(x[1], 0));
            maker.let_(maker.ty(x[0]), Operation::Insert(x[0], first, lanes - 1))
        }));
    }
    cases.push(Case::new("extract_splat_bool", &[DType::I32], DType::I32, lanes, move |maker, x| {
        let odd = maker.odd(x[0]);
        let last = maker.let_(scalar(LaneType::Bool), Operation::Extract(odd, lanes - 1));
        let all = maker.let_(maker.ty(odd), Operation::Splat(last));
        maker.convert(Conversion::BoolToInt, all, LaneType::I32)
    }));
}

fn control_cases(cases: &mut Vec<Case>) {
    cases.push(Case::new("symbol", &[DType::I64], DType::I64, 1, |maker, x| {
        let n = maker.let_(scalar(LaneType::I64), Operation::Symbol(0));
        maker.binary(BinaryOp::Add, n, x[0])
    }));
    // Two values that trade places while a loop of a step above 1 runs, down to zero iterations.
    cases.push(Case::new("loop_swaps", &[DType::I64, DType::F64], DType::F64, 1, |maker, x| {
        let mask = maker.index(15);
        let end = maker.binary(BinaryOp::And, x[0], mask);
        let begin = maker.index(3);
        let one = maker.constant(scalar(LaneType::F64), Literal::from_f64(DType::F64, 1.0));
        let results = maker.for_((begin, end, 4), &[x[1], one], |maker, counter, carried| {
            let position = maker.convert(Conversion::IntToFloat, counter, LaneType::F64);
            let sum = maker.binary(BinaryOp::Add, carried[0], position);
            vec![carried[1], sum]
        });
        maker.binary(BinaryOp::Sub, results[0], results[1])
    }));
    // A nested loop that reads elsewhere than its own item: sums a triangle of the input.
    cases.push(Case::new("loop_nest_gathers", &[DType::F32], DType::F32, 1, |maker, x| {
        let (zero, rows) = (maker.index(0), maker.index(5));
        let outer = maker.for_((zero, rows, 1), &[x[0]], |maker, row, sum| {
            let one = maker.index(1);
            let end = maker.binary(BinaryOp::Add, row, one);
            maker.for_((zero, end, 1), &[sum[0]], |maker, column, sum| {
                let index = maker.binary(BinaryOp::Add, row, column);
                let load = Operation::Load { buffer: ParameterId(0), index };
                let element = maker.let_(scalar(LaneType::F32), load);
                vec![maker.binary(BinaryOp::Add, sum[0], element)]
            })
        });
        outer[0]
    }));
    // A store under a condition, overwritten by the one that every item makes where the condition fails.
    cases.push(Case::new("if_in_loop_stores", &[DType::I32], DType::I32, 1, |maker, x| {
        let (zero, one) = (maker.index(0), maker.index(1));
        let odd = maker.odd(x[0]);
        maker.for_((zero, one, 1), &[], |maker, counter, _| {
            maker.if_(odd, |maker| {
                maker.push(Statement::Store { buffer: ParameterId(1), index: counter, value: x[0] });
            });
            Vec::new()
        });
        let seven = maker.constant(scalar(LaneType::I32), Literal::from_i64(DType::I32, 7));
        maker.let_(scalar(LaneType::I32), Operation::Select(odd, x[0], seven))
    }));
}
