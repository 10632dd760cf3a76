//! Kernel IR primitives as LLVM instructions, for GPU threads and for host functions alike.
//!
//! What differs between the two, the address space of buffers and where the work items come from, is decided
//! before the walk and handed over as a [`Frame`]; the primitives are the same. No fast-math flag is ever set:
//! LLVM may then neither contract a product and a sum nor approximate, and the NVPTX back end writes
//! `add.rn`, `mul.rn`, `div.rn` and `sqrt.rn`, which `ptxas` may not contract either.
//!
//! Functions are verified before they get here, so that LLVM's builder has nothing to refuse; where it does,
//! that is a bug of the compiler and panics.

use fuse_ir::{DType, Literal};
use inkwell::FloatPredicate;
use inkwell::IntPredicate;
use inkwell::basic_block::BasicBlock;
use inkwell::builder::{Builder, BuilderError};
use inkwell::context::Context;
use inkwell::intrinsics::Intrinsic;
use inkwell::module::Module;
use inkwell::types::{BasicTypeEnum, VectorType};
use inkwell::values::{
    BasicMetadataValueEnum, BasicValue, BasicValueEnum, FunctionValue, InstructionOpcode, InstructionValue,
    IntValue, PointerValue,
};

use super::gpu::BlockFrame;
use super::ptx::BUFFER_ALIGNMENT;
use crate::kernel_ir::{BinaryOp, Condition, Conversion, LaneType, Type, UnaryOp};
use crate::scalar::{
    Around, Bounds, GpuEffect, GpuOperation, Kept, LoopBody, Place, Product, ScalarBuilder, half_to_float,
};
use crate::straight::Straight;

/// What a function body finds around it.
pub(super) struct Frame<'ctx> {
    /// The buffers, in the address space of the target.
    pub buffers: Vec<PointerValue<'ctx>>,
    /// The runtime integers (i64).
    pub symbols: Vec<IntValue<'ctx>>,
    /// The work.
    pub work: Work<'ctx>,
    /// Whether the target has an instruction from f16 to f32; without one LLVM calls a function that is not there.
    pub has_half: bool,
}

/// Where work items come from.
#[derive(Clone)]
pub(super) enum Work<'ctx> {
    /// One item a GPU thread.
    Item(IntValue<'ctx>),
    /// One item a block of GPU threads.
    Block(BlockFrame<'ctx>),
    /// A range of items a call.
    Range {
        /// The first item.
        begin: IntValue<'ctx>,
        /// One past the last item.
        end: IntValue<'ctx>,
    },
}

impl<'ctx> Work<'ctx> {
    /// Whether this is code for a GPU.
    fn is_gpu(&self) -> bool {
        !matches!(self, Work::Range { .. })
    }

    /// The block of threads, if work comes by block.
    pub(super) fn block(&self) -> Option<&BlockFrame<'ctx>> {
        match self {
            Work::Block(frame) => Some(frame),
            Work::Item(_) | Work::Range { .. } => None,
        }
    }
}

/// Emits one function body into a module.
pub(super) struct LlvmBuilder<'ctx, 'm> {
    pub(super) context: &'ctx Context,
    pub(super) module: &'m Module<'ctx>,
    pub(super) builder: Builder<'ctx>,
    function: FunctionValue<'ctx>,
    pub(super) frame: Frame<'ctx>,
    /// The blocks before the loops around, outermost first.
    before_loops: Vec<BasicBlock<'ctx>>,
    /// Groups of registers that assembly has declared.
    pub(super) kept: u32,
}

/// The value that LLVM's builder made.
pub(super) fn built<T>(result: Result<T, BuilderError>) -> T {
    result.expect("verified Kernel IR gives LLVM's builder nothing to refuse")
}

/// The scalar element type of a lane type in registers.
fn lane_type<'ctx>(context: &'ctx Context, lane: LaneType) -> BasicTypeEnum<'ctx> {
    match lane {
        LaneType::F32 => context.f32_type().into(),
        LaneType::F64 => context.f64_type().into(),
        LaneType::I32 => context.i32_type().into(),
        LaneType::I64 => context.i64_type().into(),
        LaneType::Bool => context.bool_type().into(),
    }
}

/// The scalar element type in memory; the narrow ones as integers of their width.
fn memory_type<'ctx>(context: &'ctx Context, dtype: DType) -> BasicTypeEnum<'ctx> {
    match dtype {
        DType::F32 => context.f32_type().into(),
        DType::F64 => context.f64_type().into(),
        DType::F16 | DType::Bf16 => context.i16_type().into(),
        DType::I32 => context.i32_type().into(),
        DType::I64 => context.i64_type().into(),
        DType::U8 | DType::Bool => context.i8_type().into(),
    }
}

/// A vector of as many lanes, or the scalar itself for one.
fn in_lanes(scalar: BasicTypeEnum<'_>, lanes: u8) -> BasicTypeEnum<'_> {
    if lanes == 1 {
        return scalar;
    }
    let lanes = u32::from(lanes);
    match scalar {
        BasicTypeEnum::FloatType(t) => t.vec_type(lanes).into(),
        BasicTypeEnum::IntType(t) => t.vec_type(lanes).into(),
        BasicTypeEnum::ArrayType(_)
        | BasicTypeEnum::PointerType(_)
        | BasicTypeEnum::StructType(_)
        | BasicTypeEnum::VectorType(_)
        | BasicTypeEnum::ScalableVectorType(_) => unreachable!("lanes are numbers"),
    }
}

pub(super) fn instruction<'ctx>(value: BasicValueEnum<'ctx>) -> InstructionValue<'ctx> {
    value.as_instruction_value().expect("memory accesses are never folded to constants")
}

fn is_narrow(dtype: DType) -> bool {
    match dtype {
        DType::F16 | DType::Bf16 | DType::U8 | DType::Bool => true,
        DType::F32 | DType::F64 | DType::I32 | DType::I64 => false,
    }
}

impl<'ctx, 'm> LlvmBuilder<'ctx, 'm> {
    /// A builder that continues where `builder` stands, in `function`.
    pub fn new(
        context: &'ctx Context,
        module: &'m Module<'ctx>,
        builder: Builder<'ctx>,
        function: FunctionValue<'ctx>,
        frame: Frame<'ctx>,
    ) -> Self {
        LlvmBuilder { context, module, builder, function, frame, before_loops: Vec::new(), kept: 0 }
    }

    /// Ends the function.
    pub fn finish(self) {
        built(self.builder.build_return(None));
    }

    pub(super) fn llvm_type(&self, ty: Type) -> BasicTypeEnum<'ctx> {
        in_lanes(lane_type(self.context, ty.lane), ty.lanes)
    }

    /// Calls an intrinsic that is overloaded on `overloads`.
    pub(super) fn intrinsic(
        &self,
        name: &str,
        overloads: &[BasicTypeEnum<'ctx>],
        arguments: &[BasicValueEnum<'ctx>],
    ) -> BasicValueEnum<'ctx> {
        let declaration = Intrinsic::find(name).and_then(|i| i.get_declaration(self.module, overloads));
        let declaration = declaration.expect("an intrinsic of LLVM 22");
        let arguments: Vec<BasicMetadataValueEnum<'ctx>> = arguments.iter().map(|a| (*a).into()).collect();
        built(self.builder.build_call(declaration, &arguments, "")).try_as_basic_value().unwrap_basic()
    }

    /// IEEE 754-2019 minimum or maximum: one instruction from sm_80 on, expanded elsewhere.
    fn extreme(
        &self,
        name: &str,
        ty: Type,
        x: BasicValueEnum<'ctx>,
        y: BasicValueEnum<'ctx>,
    ) -> BasicValueEnum<'ctx> {
        let overload = [self.llvm_type(ty)];
        if ty.lanes > 1 || self.frame.work.is_gpu() {
            return self.intrinsic(name, &overload, &[x, y]);
        }
        // Of two scalars one of which it knows to be a number, LLVM 22 returns that one on x86-64 with AVX-512 where
        // the other is a signalling NaN: it looks for quiet ones alone. Behind a fence it knows nothing.
        let [x, y] = [x, y].map(|operand| self.intrinsic("llvm.arithmetic.fence", &overload, &[operand]));
        self.intrinsic(name, &overload, &[x, y])
    }

    fn operation(
        &self,
        opcode: InstructionOpcode,
        x: BasicValueEnum<'ctx>,
        y: BasicValueEnum<'ctx>,
    ) -> BasicValueEnum<'ctx> {
        built(self.builder.build_binop(opcode, x, y, ""))
    }

    fn cast(&self, opcode: InstructionOpcode, x: BasicValueEnum<'ctx>, to: Type) -> BasicValueEnum<'ctx> {
        built(self.builder.build_cast(opcode, x, self.llvm_type(to), ""))
    }

    /// The scalars as one value of as many lanes.
    fn constant_lanes(&self, lanes: &[BasicValueEnum<'ctx>]) -> BasicValueEnum<'ctx> {
        if let [scalar] = lanes {
            return *scalar;
        }
        VectorType::const_vector(lanes).into()
    }

    /// An integer or bool constant in every lane; bits beyond the width are dropped.
    fn integer(&self, ty: Type, bits: u64) -> BasicValueEnum<'ctx> {
        let scalar = lane_type(self.context, ty.lane).into_int_type();
        let bits = match ty.lane {
            LaneType::Bool => bits & 1,
            LaneType::I32 => bits & u64::from(u32::MAX),
            LaneType::I64 | LaneType::F32 | LaneType::F64 => bits,
        };
        self.constant_lanes(&vec![scalar.const_int(bits, false).into(); usize::from(ty.lanes)])
    }

    /// What LLVM may assume an access to be aligned to, in bytes. On a CPU it makes no difference whether more is
    /// known than an element's size.
    ///
    /// Neighbouring loads are joined into one as wide as the alignment allows, even wider than all of them: what
    /// lies in the same aligned 16 bytes can be read. That must not lead beyond the end of the buffer, so no more is
    /// told than what its length is a multiple of.
    fn alignment(&self, ty: Type, place: &Place<BasicValueEnum<'ctx>>) -> u32 {
        let element = place.memory.size() as u32;
        if !self.frame.work.is_gpu() {
            return element;
        }
        let lanes = u32::from(ty.lanes).next_power_of_two();
        (place.divisor.min(place.length_divisor.max(lanes)) * element).min(BUFFER_ALIGNMENT)
    }

    /// The address of an element of a buffer.
    pub(super) fn address(&self, place: &Place<BasicValueEnum<'ctx>>) -> PointerValue<'ctx> {
        let (element, base) = (memory_type(self.context, place.memory), self.frame.buffers[place.buffer]);
        let index = [place.index.into_int_value()];
        let Some(origin) = place.origin else {
            // SAFETY: this emits an instruction and touches no memory; inkwell asks for care because LLVM does
            // not check the number of indices against the element type: a scalar takes exactly one.
            return built(unsafe { self.builder.build_in_bounds_gep(element, base, &index, "") });
        };
        let here = self.current_block();
        if let Some(terminator) = self.before_loops.last().and_then(|before| before.get_terminator()) {
            self.builder.position_before(&terminator);
        }
        // SAFETY: as above. A part of a position may be outside of the buffer, which these do not rule out.
        let from = built(unsafe { self.builder.build_gep(element, base, &[origin.into_int_value()], "") });
        self.builder.position_at_end(here);
        // SAFETY: as above.
        built(unsafe { self.builder.build_gep(element, from, &index, "") })
    }

    pub(super) fn branch_block(&self, name: &str) -> BasicBlock<'ctx> {
        self.context.append_basic_block(self.function, name)
    }

    fn current_block(&self) -> BasicBlock<'ctx> {
        self.builder.get_insert_block().expect("the builder stands in a block")
    }
}

impl<'ctx> ScalarBuilder for LlvmBuilder<'ctx, '_> {
    type Value = BasicValueEnum<'ctx>;

    fn constant(&mut self, ty: Type, literal: Literal) -> Self::Value {
        match ty.lane {
            LaneType::I32 | LaneType::I64 | LaneType::Bool => self.integer(ty, literal.bits()),
            // By way of the bits, because a conversion from f64 could quiet a NaN.
            LaneType::F32 => {
                let bits = self.integer(ty.with_lane(LaneType::I32), literal.bits());
                built(self.builder.build_bit_cast(bits, self.llvm_type(ty), ""))
            }
            LaneType::F64 => {
                let bits = self.integer(ty.with_lane(LaneType::I64), literal.bits());
                built(self.builder.build_bit_cast(bits, self.llvm_type(ty), ""))
            }
        }
    }

    fn symbol(&mut self, position: usize) -> Self::Value {
        self.frame.symbols[position].into()
    }

    fn work_begin(&mut self) -> Self::Value {
        match self.frame.work {
            Work::Range { begin, .. } => begin.into(),
            Work::Item(_) | Work::Block(_) => unreachable!("verified: a GPU thread has one item"),
        }
    }

    fn work_end(&mut self) -> Self::Value {
        match self.frame.work {
            Work::Range { end, .. } => end.into(),
            Work::Item(_) | Work::Block(_) => unreachable!("verified: a GPU thread has one item"),
        }
    }

    fn work_item(&mut self) -> Self::Value {
        match self.frame.work {
            Work::Item(item) => item.into(),
            Work::Range { .. } | Work::Block(_) => unreachable!("verified: a thread has no item of its own"),
        }
    }

    fn on_gpu(&mut self, operation: GpuOperation<Self::Value>) -> Self::Value {
        self.operation_on_gpu(operation)
    }

    fn effect_on_gpu(&mut self, effect: GpuEffect<Self::Value>) {
        self.effect(effect);
    }

    fn load(&mut self, ty: Type, place: Place<Self::Value>) -> Self::Value {
        let memory = place.memory;
        let address = self.address(&place);
        let in_memory = in_lanes(memory_type(self.context, memory), ty.lanes);
        let value = built(self.builder.build_load(in_memory, address, ""));
        let aligned = instruction(value).set_alignment(self.alignment(ty, &place));
        aligned.expect("element sizes are powers of two");
        if is_narrow(memory) { self.cast(InstructionOpcode::ZExt, value, ty) } else { value }
    }

    fn store(&mut self, ty: Type, place: Place<Self::Value>, value: Self::Value) {
        let memory = place.memory;
        let address = self.address(&place);
        let value = if is_narrow(memory) {
            let narrow = in_lanes(memory_type(self.context, memory), ty.lanes);
            built(self.builder.build_cast(InstructionOpcode::Trunc, value, narrow, ""))
        } else {
            value
        };
        let store = built(self.builder.build_store(address, value));
        store.set_alignment(self.alignment(ty, &place)).expect("element sizes are powers of two");
    }

    fn writes_straight(&self) -> bool {
        self.frame.work.block().is_some()
    }

    fn keep(&mut self, values: Vec<Self::Value>) -> Kept {
        self.keep_sums(&values)
    }

    fn kept(&mut self, kept: Kept) -> Vec<Self::Value> {
        self.kept_sums(kept)
    }

    fn straight(&mut self, code: &Straight, around: Around<Self::Value>) -> Vec<Self::Value> {
        self.straight_code(code, around)
    }

    fn product(&mut self, _: Product<Self::Value>) {
        unreachable!("functions with products are refused before they are built")
    }

    fn prefetch(&mut self, buffer: usize, memory: DType, index: Self::Value) {
        if self.frame.work.is_gpu() {
            return;
        }
        let (element, base) = (memory_type(self.context, memory), self.frame.buffers[buffer]);
        // SAFETY: as for `address`, and without a promise that the element is inside.
        let address = built(unsafe { self.builder.build_gep(element, base, &[index.into_int_value()], "") });
        let pointer = self.context.ptr_type(inkwell::AddressSpace::default()).into();
        // Of data to be read, into the second-level cache.
        let [read, locality, data] = [0, 2, 1].map(|n| self.context.i32_type().const_int(n, false).into());
        let declaration =
            Intrinsic::find("llvm.prefetch").and_then(|i| i.get_declaration(self.module, &[pointer]));
        let declaration = declaration.expect("an intrinsic of LLVM 22");
        built(self.builder.build_call(declaration, &[address.into(), read, locality, data], ""));
    }

    fn unary(&mut self, op: UnaryOp, ty: Type, x: Self::Value) -> Self::Value {
        let overload = [self.llvm_type(ty)];
        match op {
            UnaryOp::Neg => match x {
                BasicValueEnum::FloatValue(x) => built(self.builder.build_float_neg(x, "")).into(),
                BasicValueEnum::VectorValue(x) if ty.lane.is_float() => {
                    built(self.builder.build_float_neg(x, "")).into()
                }
                _ => self.operation(InstructionOpcode::Sub, self.integer(ty, 0), x),
            },
            UnaryOp::Not => self.operation(InstructionOpcode::Xor, x, self.integer(ty, u64::MAX)),
            UnaryOp::Abs => self.intrinsic("llvm.fabs", &overload, &[x]),
            UnaryOp::Sqrt => self.intrinsic("llvm.sqrt", &overload, &[x]),
            UnaryOp::Floor => self.intrinsic("llvm.floor", &overload, &[x]),
            UnaryOp::Ceil => self.intrinsic("llvm.ceil", &overload, &[x]),
            UnaryOp::Trunc => self.intrinsic("llvm.trunc", &overload, &[x]),
            UnaryOp::Nearest => self.intrinsic("llvm.roundeven", &overload, &[x]),
        }
    }

    fn binary(&mut self, op: BinaryOp, ty: Type, x: Self::Value, y: Self::Value) -> Self::Value {
        let float = ty.lane.is_float();
        let overload = [self.llvm_type(ty)];
        let arithmetic = |on_floats, on_integers| if float { on_floats } else { on_integers };
        match op {
            BinaryOp::Add => {
                self.operation(arithmetic(InstructionOpcode::FAdd, InstructionOpcode::Add), x, y)
            }
            BinaryOp::Sub => {
                self.operation(arithmetic(InstructionOpcode::FSub, InstructionOpcode::Sub), x, y)
            }
            BinaryOp::Mul => {
                self.operation(arithmetic(InstructionOpcode::FMul, InstructionOpcode::Mul), x, y)
            }
            BinaryOp::Div => self.operation(InstructionOpcode::FDiv, x, y),
            BinaryOp::Min if float => self.extreme("llvm.minimum", ty, x, y),
            BinaryOp::Max if float => self.extreme("llvm.maximum", ty, x, y),
            BinaryOp::Min => self.intrinsic("llvm.smin", &overload, &[x, y]),
            BinaryOp::Max => self.intrinsic("llvm.smax", &overload, &[x, y]),
            BinaryOp::IntDiv => self.operation(InstructionOpcode::SDiv, x, y),
            BinaryOp::IntRem => self.operation(InstructionOpcode::SRem, x, y),
            BinaryOp::And => self.operation(InstructionOpcode::And, x, y),
            BinaryOp::Or => self.operation(InstructionOpcode::Or, x, y),
            BinaryOp::Xor => self.operation(InstructionOpcode::Xor, x, y),
            BinaryOp::ShiftLeft => self.shift(InstructionOpcode::Shl, ty, x, y),
            BinaryOp::ShiftRightLogical => self.shift(InstructionOpcode::LShr, ty, x, y),
            BinaryOp::ShiftRightArithmetic => self.shift(InstructionOpcode::AShr, ty, x, y),
        }
    }

    fn binary_of_indices(
        &mut self,
        op: BinaryOp,
        are_natural: bool,
        [x, y]: [Self::Value; 2],
    ) -> Self::Value {
        let ty = Type::scalar(LaneType::I32);
        match op {
            // Without what rounds negative ones towards 0.
            BinaryOp::IntDiv if are_natural => return self.operation(InstructionOpcode::UDiv, x, y),
            BinaryOp::IntRem if are_natural => return self.operation(InstructionOpcode::URem, x, y),
            BinaryOp::ShiftRightArithmetic if are_natural => {
                return self.binary(BinaryOp::ShiftRightLogical, ty, x, y);
            }
            _ => {}
        }
        let result = self.binary(op, ty, x, y);
        // Then constant parts of an index in 32 bits are constant parts of an address in 64.
        if let (BinaryOp::Add | BinaryOp::Sub | BinaryOp::Mul | BinaryOp::ShiftLeft, Some(instruction)) =
            (op, result.as_instruction_value())
        {
            instruction.set_no_signed_wrap_flag(true).expect("such an instruction has the flag");
        }
        result
    }

    fn fma(&mut self, ty: Type, x: Self::Value, y: Self::Value, z: Self::Value) -> Self::Value {
        self.intrinsic("llvm.fma", &[self.llvm_type(ty)], &[x, y, z])
    }

    fn compare(&mut self, condition: Condition, ty: Type, x: Self::Value, y: Self::Value) -> Self::Value {
        if ty.lane.is_float() {
            let predicate = float_predicate(condition);
            match (x, y) {
                (BasicValueEnum::VectorValue(x), BasicValueEnum::VectorValue(y)) => {
                    built(self.builder.build_float_compare(predicate, x, y, "")).into()
                }
                _ => {
                    let (x, y) = (x.into_float_value(), y.into_float_value());
                    built(self.builder.build_float_compare(predicate, x, y, "")).into()
                }
            }
        } else {
            let predicate = integer_predicate(condition);
            match (x, y) {
                (BasicValueEnum::VectorValue(x), BasicValueEnum::VectorValue(y)) => {
                    built(self.builder.build_int_compare(predicate, x, y, "")).into()
                }
                _ => {
                    let (x, y) = (x.into_int_value(), y.into_int_value());
                    built(self.builder.build_int_compare(predicate, x, y, "")).into()
                }
            }
        }
    }

    fn select(&mut self, _: Type, condition: Self::Value, x: Self::Value, y: Self::Value) -> Self::Value {
        match condition {
            BasicValueEnum::VectorValue(condition) => built(self.builder.build_select(condition, x, y, "")),
            _ => built(self.builder.build_select(condition.into_int_value(), x, y, "")),
        }
    }

    fn convert(&mut self, conversion: Conversion, from: Type, to: Type, x: Self::Value) -> Self::Value {
        match conversion {
            Conversion::FloatToFloat => match to.lane {
                LaneType::F64 => self.cast(InstructionOpcode::FPExt, x, to),
                LaneType::F32 | LaneType::I32 | LaneType::I64 | LaneType::Bool => {
                    self.cast(InstructionOpcode::FPTrunc, x, to)
                }
            },
            Conversion::IntToFloat => self.cast(InstructionOpcode::SIToFP, x, to),
            Conversion::FloatToInt => {
                self.intrinsic("llvm.fptosi.sat", &[self.llvm_type(to), self.llvm_type(from)], &[x])
            }
            Conversion::IntToInt => match to.lane {
                LaneType::I64 => self.cast(InstructionOpcode::SExt, x, to),
                LaneType::F32 | LaneType::F64 | LaneType::I32 | LaneType::Bool => {
                    self.cast(InstructionOpcode::Trunc, x, to)
                }
            },
            Conversion::ZeroExtend | Conversion::BoolToInt => self.cast(InstructionOpcode::ZExt, x, to),
            Conversion::Bitcast => self.cast(InstructionOpcode::BitCast, x, to),
            Conversion::HalfToFloat if self.frame.has_half => {
                let in_lanes = |scalar: BasicTypeEnum<'ctx>| in_lanes(scalar, to.lanes);
                let bits = in_lanes(self.context.i16_type().into());
                let bits = built(self.builder.build_cast(InstructionOpcode::Trunc, x, bits, ""));
                let half = in_lanes(self.context.f16_type().into());
                let half = built(self.builder.build_cast(InstructionOpcode::BitCast, bits, half, ""));
                self.cast(InstructionOpcode::FPExt, half, to)
            }
            Conversion::HalfToFloat => half_to_float(self, from, x),
        }
    }

    fn splat(&mut self, ty: Type, x: Self::Value) -> Self::Value {
        if ty.lanes == 1 {
            return x;
        }
        let poison = self.llvm_type(ty).into_vector_type().get_poison();
        let first = self.context.i32_type().const_zero();
        let vector = built(self.builder.build_insert_element(poison, x, first, ""));
        let mask = self.context.i32_type().vec_type(u32::from(ty.lanes)).const_zero();
        built(self.builder.build_shuffle_vector(vector, poison, mask, "")).into()
    }

    fn lane_index(&mut self, ty: Type) -> Self::Value {
        let scalar = lane_type(self.context, ty.lane).into_int_type();
        let lanes: Vec<_> =
            (0..ty.lanes).map(|lane| scalar.const_int(u64::from(lane), false).into()).collect();
        self.constant_lanes(&lanes)
    }

    fn extract(&mut self, _: Type, x: Self::Value, lane: u8) -> Self::Value {
        match x {
            BasicValueEnum::VectorValue(x) => {
                let lane = self.context.i32_type().const_int(u64::from(lane), false);
                built(self.builder.build_extract_element(x, lane, ""))
            }
            scalar => scalar,
        }
    }

    fn insert(&mut self, _: Type, vector: Self::Value, scalar: Self::Value, lane: u8) -> Self::Value {
        match vector {
            BasicValueEnum::VectorValue(vector) => {
                let lane = self.context.i32_type().const_int(u64::from(lane), false);
                built(self.builder.build_insert_element(vector, scalar, lane, "")).into()
            }
            _ => scalar,
        }
    }

    fn counted_loop(
        &mut self,
        bounds: Bounds<Self::Value>,
        carried: &[(Type, Self::Value)],
        exchanged: &[(usize, usize)],
        body: &mut LoopBody<'_, Self>,
    ) -> Vec<Self::Value> {
        // Conditions stand where loops end, so that what does not change can stand before them.
        let before = self.current_block();
        let (inside, after) = (self.branch_block("body"), self.branch_block("after"));
        let (end, width) = (bounds.end.into_int_value(), bounds.begin.get_type());
        if bounds.is_entered {
            built(self.builder.build_unconditional_branch(inside));
        } else {
            let begin = bounds.begin.into_int_value();
            let any = built(self.builder.build_int_compare(IntPredicate::SLT, begin, end, ""));
            built(self.builder.build_conditional_branch(any, inside, after));
        }

        self.builder.position_at_end(inside);
        let counter = built(self.builder.build_phi(width, "counter"));
        counter.add_incoming(&[(&bounds.begin, before)]);
        let phis: Vec<_> = carried
            .iter()
            .map(|(ty, init)| {
                let phi = built(self.builder.build_phi(self.llvm_type(*ty), "carried"));
                phi.add_incoming(&[(init, before)]);
                phi
            })
            .collect();
        let swapped = (!exchanged.is_empty()).then(|| {
            let phi = built(self.builder.build_phi(self.context.bool_type(), "swapped"));
            phi.add_incoming(&[(&self.context.bool_type().const_zero(), before)]);
            phi
        });
        let position = counter.as_basic_value().into_int_value();
        let outside = self.frame.buffers.clone();
        if let Some(swapped) = swapped {
            self.exchange(exchanged, &outside, swapped.as_basic_value().into_int_value());
        }
        let current: Vec<_> = phis.iter().map(|phi| phi.as_basic_value()).collect();
        self.before_loops.push(before);
        let next = body(self, position.into(), &current);
        self.before_loops.pop();
        let step = width.into_int_type().const_int(bounds.step as u64, false);
        // Kernel IR forbids a counter past the end of i64, widths one past that of i32; saying so lets LLVM compute the trip count.
        let following = built(self.builder.build_int_nsw_add(position, step, ""));
        let latch = self.current_block();
        let traded = swapped.map(|swapped| {
            let now = swapped.as_basic_value().into_int_value();
            let traded = built(self.builder.build_not(now, ""));
            swapped.add_incoming(&[(&traded, latch)]);
            traded
        });
        // Told that a counter meets its end, LLVM need not keep its value before the step for the comparison.
        let condition = if bounds.meets_end { IntPredicate::NE } else { IntPredicate::SLT };
        let more = built(self.builder.build_int_compare(condition, following, end, ""));
        let again = built(self.builder.build_conditional_branch(more, inside, after));
        if bounds.stays_rolled && self.frame.work.is_gpu() {
            self.keep_from_unrolling(again);
        }
        counter.add_incoming(&[(&following, latch)]);
        for (phi, value) in phis.iter().zip(&next) {
            phi.add_incoming(&[(value, latch)]);
        }

        self.go_on_in(after);
        // What there is where the loop ran, and where it did not.
        let results: Vec<_> = carried
            .iter()
            .zip(next)
            .map(|((ty, init), next)| match bounds.is_entered {
                true => next,
                false => self.after(*ty, [(next, latch), (*init, before)]),
            })
            .collect();
        if let Some(traded) = traded {
            let bool = Type::scalar(LaneType::Bool);
            let none = self.context.bool_type().const_zero().into();
            let traded = match bounds.is_entered {
                true => traded.into(),
                false => self.after(bool, [(traded.into(), latch), (none, before)]),
            };
            self.exchange(exchanged, &outside, traded.into_int_value());
        }
        results
    }

    fn if_then(
        &mut self,
        condition: Self::Value,
        otherwise: &[(Type, Self::Value)],
        body: &mut dyn FnMut(&mut Self) -> Vec<Self::Value>,
    ) -> Vec<Self::Value> {
        let before = self.current_block();
        let (then, after) = (self.branch_block("then"), self.branch_block("after"));
        built(self.builder.build_conditional_branch(condition.into_int_value(), then, after));
        self.builder.position_at_end(then);
        let values = body(self);
        let last = self.current_block();
        built(self.builder.build_unconditional_branch(after));
        self.go_on_in(after);
        let both = otherwise.iter().zip(values);
        both.map(|((ty, init), value)| self.after(*ty, [(value, last), (*init, before)])).collect()
    }
}

impl<'ctx> LlvmBuilder<'ctx, '_> {
    /// Continues in a block, which then stands behind all that there is: code that is only selected keeps its order.
    fn go_on_in(&self, block: BasicBlock<'ctx>) {
        let last = self.function.get_last_basic_block().expect("a function that is emitted has blocks");
        if last != block {
            block.move_after(last).expect("both are of one function");
        }
        self.builder.position_at_end(block);
    }

    /// Has `ptxas` leave a loop as it is that ends with this branch.
    fn keep_from_unrolling(&self, branch: InstructionValue<'ctx>) {
        let property =
            self.context.metadata_node(&[self.context.metadata_string("llvm.loop.unroll.disable").into()]);
        // The first place is the loop's own name, which nobody asks for.
        let name = self.context.bool_type().const_zero();
        let properties = self.context.metadata_node(&[name.into(), property.into()]);
        branch
            .set_metadata(properties, self.context.get_kind_id("llvm.loop"))
            .expect("a branch takes metadata");
    }

    /// A value where two blocks lead.
    fn after(&self, ty: Type, from: [(BasicValueEnum<'ctx>, BasicBlock<'ctx>); 2]) -> BasicValueEnum<'ctx> {
        let phi = built(self.builder.build_phi(self.llvm_type(ty), "result"));
        let [(x, of_x), (y, of_y)] = from;
        phi.add_incoming(&[(&x, of_x), (&y, of_y)]);
        phi.as_basic_value()
    }

    /// Lets each buffer of a pair be the other one where they have traded places. Both are parameters, which take no
    /// registers until they are chosen, unlike what a loop would carry.
    fn exchange(&mut self, pairs: &[(usize, usize)], own: &[PointerValue<'ctx>], traded: IntValue<'ctx>) {
        for (a, b) in pairs {
            for (buffer, other) in [(*a, *b), (*b, *a)] {
                let pointer = self.builder.build_select(traded, own[other], own[buffer], "exchanged");
                self.frame.buffers[buffer] = built(pointer).into_pointer_value();
            }
        }
    }

    /// A shift by the distance modulo the width, where LLVM's own would be undefined.
    fn shift(
        &self,
        opcode: InstructionOpcode,
        ty: Type,
        x: BasicValueEnum<'ctx>,
        distance: BasicValueEnum<'ctx>,
    ) -> BasicValueEnum<'ctx> {
        let last = if ty.lane == LaneType::I64 { 63 } else { 31 };
        let distance = self.operation(InstructionOpcode::And, distance, self.integer(ty, last));
        self.operation(opcode, x, distance)
    }
}

fn float_predicate(condition: Condition) -> FloatPredicate {
    match condition {
        Condition::Eq => FloatPredicate::OEQ,
        Condition::Ne => FloatPredicate::UNE,
        Condition::Lt => FloatPredicate::OLT,
        Condition::Le => FloatPredicate::OLE,
        Condition::Gt => FloatPredicate::OGT,
        Condition::Ge => FloatPredicate::OGE,
    }
}

fn integer_predicate(condition: Condition) -> IntPredicate {
    match condition {
        Condition::Eq => IntPredicate::EQ,
        Condition::Ne => IntPredicate::NE,
        Condition::Lt => IntPredicate::SLT,
        Condition::Le => IntPredicate::SLE,
        Condition::Gt => IntPredicate::SGT,
        Condition::Ge => IntPredicate::SGE,
    }
}
