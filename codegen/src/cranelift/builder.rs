//! The primitives of Kernel IR in Cranelift IR.
//!
//! Vectors are 128 bits wide. A bool vector is an integer vector of all-ones and all-zeros lanes, as comparisons
//! make it; a bool scalar is an `i8` of 0 or 1. Constants are kept as numbers until something uses them, and
//! made in the block of the use, so that their live ranges stay short and a shift by one finds its distance.

use cranelift::codegen::cursor::{Cursor, FuncCursor};
use cranelift::codegen::ir::{self, InstBuilder};
use cranelift::codegen::ir::{BlockArg, ConstantData, MemFlagsData, types};
use cranelift::frontend::FunctionBuilder;
use cranelift::prelude::{FloatCC, IntCC};
use fuse_ir::{DType, Literal};
use rustc_hash::FxHashMap;

use super::products;
use crate::kernel_ir::{BinaryOp, Condition, Conversion, LaneType, PanelLayout, Type, UnaryOp};
use crate::scalar::{
    Bounds, GpuEffect, GpuOperation, LoopBody, Place, Product, ScalarBuilder, half_to_float,
};

/// A value of Cranelift IR, or a constant that is not yet one.
#[derive(Clone, Copy, Debug)]
pub(super) enum Operand {
    Value(ir::Value),
    Constant(Type, Literal),
}

/// What the runtime passes, read once at the entry.
pub(super) struct Arguments {
    /// One address a buffer parameter.
    pub(super) buffers: Vec<ir::Value>,
    /// The runtime integers.
    pub(super) symbols: Vec<ir::Value>,
    /// The first work item.
    pub(super) begin: ir::Value,
    /// One past the last work item.
    pub(super) end: ir::Value,
}

/// Emits one function.
pub(super) struct CraneliftBuilder<'a, 'f> {
    pub(super) f: &'a mut FunctionBuilder<'f>,
    pub(super) arguments: Arguments,
    /// The constants made in the current block.
    constants: FxHashMap<(Type, Literal), ir::Value>,
    /// The loop depth at which a 64-bit integer was made, and its summands if it is a sum.
    sums: FxHashMap<ir::Value, Sum>,
    /// The open loops, outermost first.
    loops: Vec<OpenLoop>,
    /// What multiplies with panels, once something did.
    routine: Option<ir::FuncRef>,
}

/// A loop that is being emitted.
struct OpenLoop {
    /// The jump into the loop; what does not change inside is computed before it.
    entry: ir::Inst,
    /// Addresses computed there: of a base and a summand in bytes.
    addresses: FxHashMap<(ir::Value, ir::Value), ir::Value>,
}

#[derive(Clone, Copy)]
struct Sum {
    depth: u32,
    summands: Option<(Operand, Operand)>,
}

/// The Cranelift type of one lane.
fn lane_type(lane: LaneType) -> ir::Type {
    match lane {
        LaneType::F32 => types::F32,
        LaneType::F64 => types::F64,
        LaneType::I32 => types::I32,
        LaneType::I64 => types::I64,
        LaneType::Bool => types::I8,
    }
}

/// The integer type of the mask lanes that go with `lanes` lanes of 128 bits.
fn mask_lane(lanes: u8) -> ir::Type {
    if lanes == 2 { types::I64 } else { types::I32 }
}

/// The Cranelift type of a register; vectors have been checked to have 128 bits.
pub(super) fn register_type(ty: Type) -> ir::Type {
    let lane = match (ty.lane, ty.lanes) {
        (LaneType::Bool, lanes) if lanes > 1 => mask_lane(lanes),
        (lane, _) => lane_type(lane),
    };
    lane.by(u32::from(ty.lanes)).unwrap_or(lane)
}

impl<'a, 'f> CraneliftBuilder<'a, 'f> {
    pub(super) fn new(f: &'a mut FunctionBuilder<'f>, arguments: Arguments) -> Self {
        CraneliftBuilder {
            f,
            arguments,
            constants: FxHashMap::default(),
            sums: FxHashMap::default(),
            loops: Vec::new(),
            routine: None,
        }
    }

    /// The number of loops around the current block.
    fn depth(&self) -> u32 {
        self.loops.len() as u32
    }

    fn switch_to(&mut self, block: ir::Block) {
        self.f.switch_to_block(block);
        self.constants.clear();
    }

    fn value(&mut self, operand: Operand) -> ir::Value {
        match operand {
            Operand::Value(value) => value,
            Operand::Constant(ty, literal) => {
                if let Some(value) = self.constants.get(&(ty, literal)) {
                    return *value;
                }
                let value = self.materialize(ty, literal);
                self.constants.insert((ty, literal), value);
                value
            }
        }
    }

    fn materialize(&mut self, ty: Type, literal: Literal) -> ir::Value {
        let bits = literal.bits();
        if ty.lanes > 1 {
            let vector = register_type(ty);
            let width = vector.lane_bits() as usize / 8;
            let lane = if ty.lane == LaneType::Bool && bits != 0 { u64::MAX } else { bits };
            let lane = &lane.to_le_bytes()[..width];
            let bytes = lane.iter().copied().cycle().take(16).collect::<Vec<u8>>();
            let constant = self.f.func.dfg.constants.insert(ConstantData::from(bytes));
            return self.f.ins().vconst(vector, constant);
        }
        match ty.lane {
            LaneType::F32 => self.f.ins().f32const(f32::from_bits(bits as u32)),
            LaneType::F64 => self.f.ins().f64const(f64::from_bits(bits)),
            LaneType::I32 => self.f.ins().iconst(types::I32, i64::from(bits as u32)),
            LaneType::I64 => self.f.ins().iconst(types::I64, bits as i64),
            LaneType::Bool => self.f.ins().iconst(types::I8, i64::from(bits != 0)),
        }
    }

    /// A value made here, with its depth.
    fn made(&mut self, value: ir::Value) -> Operand {
        self.sums.insert(value, Sum { depth: self.depth(), summands: None });
        Operand::Value(value)
    }

    fn depth_of(&self, operand: Operand) -> u32 {
        match operand {
            Operand::Value(value) => self.sums.get(&value).map_or(0, |s| s.depth),
            Operand::Constant(..) => 0,
        }
    }

    /// Splits an index into summands of different loop depths and a constant, so that what does not change
    /// in the innermost loop is added to the address outside it.
    fn summands(&self, index: Operand, out: &mut Vec<ir::Value>, constant: &mut i64) {
        match index {
            Operand::Constant(_, literal) => *constant = constant.wrapping_add(literal.as_i64()),
            Operand::Value(value) => {
                let sum = self.sums.get(&value).copied().unwrap_or(Sum { depth: 0, summands: None });
                match sum.summands {
                    Some((x, y))
                        if out.len() < 8 && self.depth_of(x).min(self.depth_of(y)) < self.depth() =>
                    {
                        self.summands(x, out, constant);
                        self.summands(y, out, constant);
                    }
                    _ => out.push(value),
                }
            }
        }
    }

    /// The address of an element and a constant offset in bytes.
    fn address(&mut self, buffer: usize, size: usize, index: Operand) -> (ir::Value, i32) {
        let (mut summands, mut constant) = (Vec::new(), 0);
        self.summands(index, &mut summands, &mut constant);
        summands.sort_by_key(|v| self.depth_of(Operand::Value(*v)));
        let mut address = self.arguments.buffers[buffer];
        let offset = constant.checked_mul(size as i64).and_then(|o| i32::try_from(o).ok());
        if offset.is_none() {
            let bytes = self.f.ins().iconst(types::I64, constant.wrapping_mul(size as i64));
            address = self.f.ins().iadd(address, bytes);
        }
        let shift = size.trailing_zeros();
        for summand in summands {
            address = self.advance(address, summand, shift);
        }
        (address, offset.unwrap_or(0))
    }

    /// The address of an f32.
    fn place(&mut self, (buffer, index): (usize, Operand)) -> ir::Value {
        let (address, offset) = self.address(buffer, 4, index);
        self.f.ins().iadd_imm_s(address, i64::from(offset))
    }

    /// The routine that multiplies with panels, the one function that a module imports.
    fn product_routine(&mut self) -> ir::FuncRef {
        if let Some(known) = self.routine {
            return known;
        }
        let call_conv = self.f.func.signature.call_conv;
        let mut signature = ir::Signature::new(call_conv);
        signature.params.push(ir::AbiParam::new(types::I64));
        let signature = self.f.import_signature(signature);
        let name = self.f.func.declare_imported_user_function(ir::UserExternalName::new(0, 0));
        let name = ir::ExternalName::user(name);
        let routine =
            self.f.import_function(ir::ExtFuncData { name, signature, colocated: false, patchable: false });
        *self.routine.insert(routine)
    }

    /// `address + (summand << shift)`, computed outside the loops in which it does not change.
    fn advance(&mut self, address: ir::Value, summand: ir::Value, shift: u32) -> ir::Value {
        let depth = self.depth_of(Operand::Value(summand)) as usize;
        let Some(open) = self.loops.get_mut(depth) else {
            let bytes = match shift {
                0 => summand,
                _ => self.f.ins().ishl_imm_u(summand, i64::from(shift)),
            };
            return self.f.ins().iadd(address, bytes);
        };
        if let Some(known) = open.addresses.get(&(address, summand)) {
            return *known;
        }
        let mut before = FuncCursor::new(self.f.func).at_inst(open.entry);
        let bytes = match shift {
            0 => summand,
            _ => before.ins().ishl_imm_u(summand, i64::from(shift)),
        };
        let sum = before.ins().iadd(address, bytes);
        open.addresses.insert((address, summand), sum);
        sum
    }

    /// Applies a scalar operation to each lane: for the few that Cranelift has no vector form of.
    fn lanewise(
        &mut self,
        ty: Type,
        operands: &[ir::Value],
        operation: impl Fn(&mut Self, &[ir::Value]) -> ir::Value,
    ) -> ir::Value {
        let mut out = None;
        for lane in 0..ty.lanes {
            let lanes: Vec<_> = operands.iter().map(|v| self.f.ins().extractlane(*v, lane)).collect();
            let result = operation(self, &lanes);
            out = Some(match out {
                None => self.f.ins().scalar_to_vector(register_type(ty), result),
                Some(vector) => self.f.ins().insertlane(vector, result, lane),
            });
        }
        out.unwrap_or(operands[0])
    }

    /// The distance of a shift: Cranelift shifts all lanes of a vector by one scalar.
    fn shift(&mut self, op: BinaryOp, ty: Type, x: Operand, y: Operand) -> ir::Value {
        let x = self.value(x);
        let uniform = match y {
            Operand::Constant(_, literal) => Some(self.f.ins().iconst(types::I32, literal.as_i64() & 63)),
            Operand::Value(y) if ty.lanes == 1 => Some(y),
            Operand::Value(_) => None,
        };
        match uniform {
            Some(distance) => self.shift_scalar(op, x, distance),
            None => {
                let y = self.value(y);
                self.lanewise(ty, &[x, y], |b, lanes| b.shift_scalar(op, lanes[0], lanes[1]))
            }
        }
    }

    fn shift_scalar(&mut self, op: BinaryOp, x: ir::Value, distance: ir::Value) -> ir::Value {
        if op == BinaryOp::ShiftLeft {
            self.f.ins().ishl(x, distance)
        } else if op == BinaryOp::ShiftRightLogical {
            self.f.ins().ushr(x, distance)
        } else {
            self.f.ins().sshr(x, distance)
        }
    }

    /// Integer minimum and maximum; 64-bit lanes lack the instruction.
    fn integer_extreme(&mut self, op: BinaryOp, ty: Type, x: ir::Value, y: ir::Value) -> ir::Value {
        let condition = if op == BinaryOp::Min { IntCC::SignedLessThan } else { IntCC::SignedGreaterThan };
        match (ty.lanes, ty.lane) {
            (1, _) => {
                let first = self.f.ins().icmp(condition, x, y);
                self.f.ins().select(first, x, y)
            }
            (_, LaneType::I64) => {
                let first = self.f.ins().icmp(condition, x, y);
                self.f.ins().bitselect(first, x, y)
            }
            _ if op == BinaryOp::Min => self.f.ins().smin(x, y),
            _ => self.f.ins().smax(x, y),
        }
    }

    fn convert_scalar(
        &mut self,
        conversion: Conversion,
        from: LaneType,
        to: LaneType,
        x: ir::Value,
    ) -> ir::Value {
        let target = lane_type(to);
        match conversion {
            Conversion::FloatToFloat if to == LaneType::F64 => self.f.ins().fpromote(target, x),
            Conversion::FloatToFloat => self.f.ins().fdemote(target, x),
            Conversion::IntToFloat => self.f.ins().fcvt_from_sint(target, x),
            Conversion::FloatToInt => self.f.ins().fcvt_to_sint_sat(target, x),
            Conversion::IntToInt if from == to => x,
            Conversion::IntToInt if to == LaneType::I64 => self.f.ins().sextend(target, x),
            Conversion::IntToInt => self.f.ins().ireduce(target, x),
            Conversion::ZeroExtend | Conversion::BoolToInt => self.f.ins().uextend(target, x),
            Conversion::Bitcast => self.f.ins().bitcast(target, MemFlagsData::new(), x),
            Conversion::HalfToFloat => unreachable!("made of other primitives before it gets here"),
        }
    }

    fn load_vector(&mut self, ty: Type, memory: DType, address: ir::Value, offset: i32) -> ir::Value {
        let flags = MemFlagsData::new().with_notrap();
        match memory.size() {
            2 => self.f.ins().uload16x4(flags, address, offset),
            1 => {
                let bytes = self.f.ins().load(types::I32, flags, address, offset);
                let bytes = self.f.ins().scalar_to_vector(types::I32X4, bytes);
                let little = MemFlagsData::new().with_endianness(ir::Endianness::Little);
                let bytes = self.f.ins().bitcast(types::I8X16, little, bytes);
                let halves = self.f.ins().uwiden_low(bytes);
                self.f.ins().uwiden_low(halves)
            }
            _ => self.f.ins().load(register_type(ty), flags, address, offset),
        }
    }

    fn store_vector(&mut self, ty: Type, memory: DType, value: ir::Value, address: ir::Value, offset: i32) {
        let flags = MemFlagsData::new().with_notrap();
        let size = memory.size();
        if size >= 4 {
            self.f.ins().store(flags, value, address, offset);
            return;
        }
        for lane in 0..ty.lanes {
            let scalar = self.f.ins().extractlane(value, lane);
            let at = offset + i32::from(lane) * size as i32;
            if size == 2 {
                self.f.ins().istore16(flags, scalar, address, at);
            } else {
                self.f.ins().istore8(flags, scalar, address, at);
            }
        }
    }
}

fn float_condition(condition: Condition) -> FloatCC {
    match condition {
        Condition::Eq => FloatCC::Equal,
        Condition::Ne => FloatCC::NotEqual,
        Condition::Lt => FloatCC::LessThan,
        Condition::Le => FloatCC::LessThanOrEqual,
        Condition::Gt => FloatCC::GreaterThan,
        Condition::Ge => FloatCC::GreaterThanOrEqual,
    }
}

fn integer_condition(condition: Condition) -> IntCC {
    match condition {
        Condition::Eq => IntCC::Equal,
        Condition::Ne => IntCC::NotEqual,
        Condition::Lt => IntCC::SignedLessThan,
        Condition::Le => IntCC::SignedLessThanOrEqual,
        Condition::Gt => IntCC::SignedGreaterThan,
        Condition::Ge => IntCC::SignedGreaterThanOrEqual,
    }
}

impl ScalarBuilder for CraneliftBuilder<'_, '_> {
    type Value = Operand;

    fn constant(&mut self, ty: Type, literal: Literal) -> Operand {
        Operand::Constant(ty, literal)
    }

    fn symbol(&mut self, position: usize) -> Operand {
        Operand::Value(self.arguments.symbols[position])
    }

    fn work_begin(&mut self) -> Operand {
        Operand::Value(self.arguments.begin)
    }

    fn work_end(&mut self) -> Operand {
        Operand::Value(self.arguments.end)
    }

    fn work_item(&mut self) -> Operand {
        // Only functions that map work to ranges are compiled here.
        Operand::Value(self.arguments.begin)
    }

    fn on_gpu(&mut self, _: GpuOperation<Operand>) -> Operand {
        unreachable!("verified: only functions that map work to ranges are compiled here")
    }

    fn effect_on_gpu(&mut self, _: GpuEffect<Operand>) {
        unreachable!("verified: only functions that map work to ranges are compiled here")
    }

    fn load(&mut self, ty: Type, place: Place<Operand>) -> Operand {
        let Place { buffer, memory, index, .. } = place;
        let (address, offset) = self.address(buffer, memory.size(), index);
        let flags = MemFlagsData::new().with_notrap();
        let value = if ty.lanes > 1 {
            self.load_vector(ty, memory, address, offset)
        } else {
            match memory.size() {
                1 => self.f.ins().uload8(types::I32, flags, address, offset),
                2 => self.f.ins().uload16(types::I32, flags, address, offset),
                _ => self.f.ins().load(register_type(ty), flags, address, offset),
            }
        };
        self.made(value)
    }

    fn product(&mut self, product: Product<Operand>) {
        let size = |words: usize| (words * 8) as u32;
        let words = products::WORDS + products::WORDS_OF_PANEL * product.columns.len();
        let slot = ir::StackSlotData::new(ir::StackSlotKind::ExplicitSlot, size(words), 3);
        let slot = self.f.create_sized_stack_slot(slot);
        let mut passed = vec![self.place(product.left)];
        let numbers = [product.rows, product.count, product.left_step, product.to_step];
        passed.extend(numbers.map(|number| self.value(number)));
        let PanelLayout { along, across } = product.layout;
        let numbers = [product.width, product.columns.len() as u32, along, across];
        passed.extend(numbers.map(|number| self.f.ins().iconst(types::I64, i64::from(number))));
        for place in product.columns.into_iter().flatten() {
            passed.push(self.place(place));
        }
        for (word, value) in passed.into_iter().enumerate() {
            self.f.ins().stack_store(types::I64, value, slot, size(word) as i32);
        }
        let arguments = self.f.ins().stack_addr(types::I64, slot, 0);
        let routine = self.product_routine();
        self.f.ins().call(routine, &[arguments]);
    }

    fn store(&mut self, ty: Type, place: Place<Operand>, value: Operand) {
        let Place { buffer, memory, index, .. } = place;
        let (address, offset) = self.address(buffer, memory.size(), index);
        let value = self.value(value);
        let flags = MemFlagsData::new().with_notrap();
        if ty.lanes > 1 {
            self.store_vector(ty, memory, value, address, offset);
            return;
        }
        match memory.size() {
            1 => self.f.ins().istore8(flags, value, address, offset),
            2 => self.f.ins().istore16(flags, value, address, offset),
            _ => self.f.ins().store(flags, value, address, offset),
        };
    }

    fn unary(&mut self, op: UnaryOp, ty: Type, x: Operand) -> Operand {
        let x = self.value(x);
        let float = ty.lane.is_float();
        let value = match op {
            UnaryOp::Neg if float => self.f.ins().fneg(x),
            UnaryOp::Neg => self.f.ins().ineg(x),
            UnaryOp::Abs => self.f.ins().fabs(x),
            UnaryOp::Sqrt => self.f.ins().sqrt(x),
            UnaryOp::Floor => self.f.ins().floor(x),
            UnaryOp::Ceil => self.f.ins().ceil(x),
            UnaryOp::Trunc => self.f.ins().trunc(x),
            UnaryOp::Nearest => self.f.ins().nearest(x),
            UnaryOp::Not if ty.lane == LaneType::Bool && ty.lanes == 1 => self.f.ins().bxor_imm_u(x, 1),
            UnaryOp::Not => self.f.ins().bnot(x),
        };
        self.made(value)
    }

    fn binary(&mut self, op: BinaryOp, ty: Type, x: Operand, y: Operand) -> Operand {
        if matches!(op, BinaryOp::ShiftLeft | BinaryOp::ShiftRightLogical | BinaryOp::ShiftRightArithmetic) {
            let value = self.shift(op, ty, x, y);
            return self.made(value);
        }
        let summands = (op == BinaryOp::Add && ty == Type::scalar(LaneType::I64)).then_some((x, y));
        let (x, y) = (self.value(x), self.value(y));
        let float = ty.lane.is_float();
        let value = match op {
            BinaryOp::Add if float => self.f.ins().fadd(x, y),
            BinaryOp::Sub if float => self.f.ins().fsub(x, y),
            BinaryOp::Mul if float => self.f.ins().fmul(x, y),
            BinaryOp::Min if float => self.f.ins().fmin(x, y),
            BinaryOp::Max if float => self.f.ins().fmax(x, y),
            BinaryOp::Add => self.f.ins().iadd(x, y),
            BinaryOp::Sub => self.f.ins().isub(x, y),
            BinaryOp::Mul => self.f.ins().imul(x, y),
            BinaryOp::Min | BinaryOp::Max => self.integer_extreme(op, ty, x, y),
            BinaryOp::Div => self.f.ins().fdiv(x, y),
            BinaryOp::IntDiv if ty.lanes == 1 => self.f.ins().sdiv(x, y),
            BinaryOp::IntRem if ty.lanes == 1 => self.f.ins().srem(x, y),
            BinaryOp::IntDiv => self.lanewise(ty, &[x, y], |b, l| b.f.ins().sdiv(l[0], l[1])),
            BinaryOp::IntRem => self.lanewise(ty, &[x, y], |b, l| b.f.ins().srem(l[0], l[1])),
            BinaryOp::And => self.f.ins().band(x, y),
            BinaryOp::Or => self.f.ins().bor(x, y),
            BinaryOp::Xor => self.f.ins().bxor(x, y),
            BinaryOp::ShiftLeft | BinaryOp::ShiftRightLogical | BinaryOp::ShiftRightArithmetic => x,
        };
        self.sums.insert(value, Sum { depth: self.depth(), summands });
        Operand::Value(value)
    }

    fn fma(&mut self, _: Type, x: Operand, y: Operand, z: Operand) -> Operand {
        let (x, y, z) = (self.value(x), self.value(y), self.value(z));
        let value = self.f.ins().fma(x, y, z);
        self.made(value)
    }

    fn compare(&mut self, condition: Condition, ty: Type, x: Operand, y: Operand) -> Operand {
        let (x, y) = (self.value(x), self.value(y));
        let value = if ty.lane.is_float() {
            self.f.ins().fcmp(float_condition(condition), x, y)
        } else {
            self.f.ins().icmp(integer_condition(condition), x, y)
        };
        self.made(value)
    }

    fn select(&mut self, ty: Type, condition: Operand, x: Operand, y: Operand) -> Operand {
        let (condition, x, y) = (self.value(condition), self.value(x), self.value(y));
        let value = if ty.lanes == 1 {
            self.f.ins().select(condition, x, y)
        } else if ty.lane.is_float() {
            let condition = self.f.ins().bitcast(register_type(ty), MemFlagsData::new(), condition);
            self.f.ins().bitselect(condition, x, y)
        } else {
            self.f.ins().bitselect(condition, x, y)
        };
        self.made(value)
    }

    fn convert(&mut self, conversion: Conversion, from: Type, to: Type, x: Operand) -> Operand {
        if conversion == Conversion::HalfToFloat {
            return half_to_float(self, from, x);
        }
        let x = self.value(x);
        let target = register_type(to);
        let value = match conversion {
            _ if to.lanes == 1 => self.convert_scalar(conversion, from.lane, to.lane, x),
            Conversion::Bitcast => self.f.ins().bitcast(target, MemFlagsData::new(), x),
            // A mask lane is 0 or -1.
            Conversion::BoolToInt => self.f.ins().ushr_imm_u(x, i64::from(target.lane_bits()) - 1),
            Conversion::IntToFloat if to.lanes == 4 => self.f.ins().fcvt_from_sint(target, x),
            Conversion::FloatToInt if to.lanes == 4 => self.f.ins().fcvt_to_sint_sat(target, x),
            Conversion::IntToInt | Conversion::FloatToFloat if from.lane == to.lane => x,
            Conversion::IntToFloat
            | Conversion::FloatToInt
            | Conversion::IntToInt
            | Conversion::ZeroExtend
            | Conversion::FloatToFloat
            | Conversion::HalfToFloat => {
                self.lanewise(to, &[x], |b, l| b.convert_scalar(conversion, from.lane, to.lane, l[0]))
            }
        };
        self.made(value)
    }

    fn splat(&mut self, ty: Type, x: Operand) -> Operand {
        if let Operand::Constant(_, literal) = x {
            return Operand::Constant(ty, literal);
        }
        if ty.lanes == 1 {
            return x;
        }
        let mut x = self.value(x);
        let target = register_type(ty);
        if ty.lane == LaneType::Bool {
            let wide = self.f.ins().uextend(target.lane_type(), x);
            x = self.f.ins().ineg(wide);
        }
        let value = self.f.ins().splat(target, x);
        self.made(value)
    }

    fn lane_index(&mut self, ty: Type) -> Operand {
        if ty.lanes == 1 {
            return Operand::Constant(ty, Literal::from_i64(DType::I32, 0));
        }
        let bytes: Vec<u8> = (0..u32::from(ty.lanes)).flat_map(u32::to_le_bytes).collect();
        let constant = self.f.func.dfg.constants.insert(ConstantData::from(bytes));
        let value = self.f.ins().vconst(register_type(ty), constant);
        self.made(value)
    }

    fn extract(&mut self, from: Type, x: Operand, lane: u8) -> Operand {
        let x = self.value(x);
        let mut value = self.f.ins().extractlane(x, lane);
        if from.lane == LaneType::Bool {
            let low = self.f.ins().band_imm_u(value, 1);
            value = self.f.ins().ireduce(types::I8, low);
        }
        self.made(value)
    }

    fn insert(&mut self, ty: Type, vector: Operand, scalar: Operand, lane: u8) -> Operand {
        let (vector, mut scalar) = (self.value(vector), self.value(scalar));
        if ty.lane == LaneType::Bool {
            let wide = self.f.ins().uextend(mask_lane(ty.lanes), scalar);
            scalar = self.f.ins().ineg(wide);
        }
        let value = self.f.ins().insertlane(vector, scalar, lane);
        self.made(value)
    }

    /// The condition is tested once before the loop and then at its end: one jump an iteration.
    fn counted_loop(
        &mut self,
        bounds: Bounds<Operand>,
        carried: &[(Type, Operand)],
        _: &[(usize, usize)],
        body: &mut LoopBody<'_, Self>,
    ) -> Vec<Operand> {
        let (begin, end) = (self.value(bounds.begin), self.value(bounds.end));
        let inits: Vec<_> = carried.iter().map(|(_, v)| self.value(*v)).collect();
        let (inside, after) = (self.f.create_block(), self.f.create_block());
        let counter = self.f.append_block_param(inside, types::I64);
        let current: Vec<_> =
            carried.iter().map(|(ty, _)| self.f.append_block_param(inside, register_type(*ty))).collect();
        let results: Vec<_> =
            carried.iter().map(|(ty, _)| self.f.append_block_param(after, register_type(*ty))).collect();
        let arguments = |values: &[ir::Value]| values.iter().map(|v| BlockArg::Value(*v)).collect::<Vec<_>>();
        let entered = self.f.ins().icmp(IntCC::SignedLessThan, begin, end);
        let first: Vec<_> = std::iter::once(begin).chain(inits.iter().copied()).collect();
        let entry = self.f.ins().brif(entered, inside, &arguments(&first), after, &arguments(&inits));

        self.loops.push(OpenLoop { entry, addresses: FxHashMap::default() });
        self.switch_to(inside);
        let counter_operand = self.made(counter);
        let current: Vec<_> = current.into_iter().map(|v| self.made(v)).collect();
        let next = body(self, counter_operand, &current);
        let next: Vec<_> = next.into_iter().map(|v| self.value(v)).collect();
        let following = self.f.ins().iadd_imm_s(counter, bounds.step);
        let again = self.f.ins().icmp(IntCC::SignedLessThan, following, end);
        let again_with: Vec<_> = std::iter::once(following).chain(next.iter().copied()).collect();
        self.f.ins().brif(again, inside, &arguments(&again_with), after, &arguments(&next));
        self.f.seal_block(inside);
        self.f.seal_block(after);
        self.loops.pop();
        self.switch_to(after);
        results.into_iter().map(|v| self.made(v)).collect()
    }

    fn if_then(
        &mut self,
        condition: Operand,
        otherwise: &[(Type, Operand)],
        body: &mut dyn FnMut(&mut Self) -> Vec<Operand>,
    ) -> Vec<Operand> {
        let condition = self.value(condition);
        let (inside, after) = (self.f.create_block(), self.f.create_block());
        let arguments = |values: &[ir::Value]| values.iter().map(|v| BlockArg::Value(*v)).collect::<Vec<_>>();
        let inits: Vec<_> = otherwise.iter().map(|(_, v)| self.value(*v)).collect();
        let results: Vec<_> =
            otherwise.iter().map(|(ty, _)| self.f.append_block_param(after, register_type(*ty))).collect();
        self.f.ins().brif(condition, inside, &[], after, &arguments(&inits));
        self.switch_to(inside);
        self.f.seal_block(inside);
        let values: Vec<_> = body(self).into_iter().map(|v| self.value(v)).collect();
        self.f.ins().jump(after, &arguments(&values));
        self.f.seal_block(after);
        self.switch_to(after);
        results.into_iter().map(|v| self.made(v)).collect()
    }
}
