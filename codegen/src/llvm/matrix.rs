//! Products of matrices that the threads of a warp hold together: tensor cores, or what GPUs without them do instead; and
//! how their factors are rounded and loaded, which only GPUs with them do.

use fuse_ir::DType;
use inkwell::values::{BasicValueEnum, IntValue};

use super::builder::{LlvmBuilder, built};
use crate::kernel_ir::{Function, LaneType, MatrixFactors, Operation, Statement, Type};
use crate::scalar::SharedPlace;

/// Whether a function loads or rounds factors or copies to shared memory by instructions that came with them.
pub(super) fn needs_matrices(function: &Function) -> bool {
    let rounds = |o: &Operation| {
        matches!(o, Operation::LoadMatrices { .. } | Operation::Pair(..) | Operation::Tf32(_))
    };
    let needs = |s: &Statement| {
        matches!(s, Statement::StartCopy { .. } | Statement::CommitCopies | Statement::AwaitCopies { .. })
            || s.operation().is_some_and(rounds)
    };
    function.body.iter().any(|statement| statement.any(&needs))
}

/// The scalars of two fragments and of the sums.
struct Fragments<'ctx> {
    left: Vec<BasicValueEnum<'ctx>>,
    right: Vec<BasicValueEnum<'ctx>>,
    sums: Vec<BasicValueEnum<'ctx>>,
}

impl<'ctx> LlvmBuilder<'ctx, '_> {
    /// See [`crate::kernel_ir::Operation::MatrixFma`].
    pub(super) fn matrix_fma(
        &mut self,
        factors: MatrixFactors,
        [left, right, sum]: [BasicValueEnum<'ctx>; 3],
    ) -> BasicValueEnum<'ctx> {
        let fragments = Fragments {
            left: self.scalars(left, 4),
            right: self.scalars(right, 2),
            sums: self.scalars(sum, 4),
        };
        let sums = match (self.block_frame().has_matrices, factors) {
            (false, _) => self.exchange_and_multiply(factors, fragments),
            (true, MatrixFactors::Bf16) => self.multiply("llvm.nvvm.mma.m16n8k16.row.col.bf16", &fragments),
            (true, MatrixFactors::Tf32) => self.multiply("llvm.nvvm.mma.m16n8k8.row.col.tf32", &fragments),
            (true, MatrixFactors::F16) => {
                self.multiply("llvm.nvvm.mma.m16n8k16.row.col.f32.f32", &self.of_halves(fragments))
            }
        };
        self.vector(LaneType::F32, &sums)
    }

    /// See [`crate::kernel_ir::Operation::LoadMatrices`].
    pub(super) fn load_matrices(
        &mut self,
        matrices: u8,
        place: SharedPlace<BasicValueEnum<'ctx>>,
        transposed: bool,
    ) -> BasicValueEnum<'ctx> {
        let (address, _) = self.shared_address(Type::scalar(LaneType::I32), place);
        let transposed = if transposed { ".trans" } else { "" };
        let name = format!("llvm.nvvm.ldmatrix.sync.aligned.m8n8.x{matrices}{transposed}.b16");
        let loaded = self.intrinsic(&name, &[address.get_type().into()], &[address.into()]);
        if matrices == 1 {
            return loaded;
        }
        let parts = loaded.into_struct_value();
        let words: Vec<_> =
            (0..u32::from(matrices)).map(|i| built(self.builder.build_extract_value(parts, i, ""))).collect();
        self.vector(LaneType::I32, &words)
    }

    /// See [`crate::kernel_ir::Operation::Pair`].
    pub(super) fn pair(&self, dtype: DType, [low, high]: [BasicValueEnum<'ctx>; 2]) -> BasicValueEnum<'ctx> {
        let ty = if dtype == DType::F16 { "f16x2" } else { "bf16x2" };
        // The instruction takes the high half first.
        let pair = self.intrinsic(&format!("llvm.nvvm.ff2{ty}.rn"), &[], &[high, low]);
        built(self.builder.build_bit_cast(pair, self.context.i32_type(), ""))
    }

    /// See [`crate::kernel_ir::Operation::Tf32`].
    pub(super) fn tf32(&self, x: BasicValueEnum<'ctx>) -> BasicValueEnum<'ctx> {
        self.intrinsic("llvm.nvvm.f2tf32.rna", &[], &[x])
    }

    fn multiply(&self, name: &str, fragments: &Fragments<'ctx>) -> Vec<BasicValueEnum<'ctx>> {
        let operands = [&fragments.left[..], &fragments.right, &fragments.sums].concat();
        let sums = self.intrinsic(name, &[], &operands).into_struct_value();
        (0..4).map(|i| built(self.builder.build_extract_value(sums, i, ""))).collect()
    }

    /// The pairs as vectors of f16, which the instructions for them take.
    fn of_halves(&self, fragments: Fragments<'ctx>) -> Fragments<'ctx> {
        let cast = |pairs: Vec<BasicValueEnum<'ctx>>| pairs.into_iter().map(|p| self.half_pair(p)).collect();
        Fragments { left: cast(fragments.left), right: cast(fragments.right), sums: fragments.sums }
    }

    fn half_pair(&self, bits: BasicValueEnum<'ctx>) -> BasicValueEnum<'ctx> {
        built(self.builder.build_bit_cast(bits, self.context.f16_type().vec_type(2), ""))
    }

    /// Where no instruction multiplies them: every thread asks for the rows of `A` and the columns of `B` that its sums
    /// are of, word by word, from the four threads that have them.
    fn exchange_and_multiply(
        &self,
        factors: MatrixFactors,
        fragments: Fragments<'ctx>,
    ) -> Vec<BasicValueEnum<'ctx>> {
        let Fragments { left, right, mut sums } = fragments;
        let [row, column] = self.place_in_warp();
        let owner = |line: IntValue<'ctx>, word: u64| {
            let first = built(self.builder.build_left_shift(line, self.number(2), ""));
            built(self.builder.build_int_add(first, self.number(word), ""))
        };
        for word in 0..8usize {
            let (half, within) = (word / 4, word as u64 % 4);
            let rows = [0, 1].map(|i| self.of_thread(left[2 * half + i], owner(row, within)));
            let columns = [0, 1].map(|i| {
                let twice = built(self.builder.build_left_shift(column, self.number(1), ""));
                let column = built(self.builder.build_int_add(twice, self.number(i), ""));
                self.of_thread(right[half], owner(column, within))
            });
            for (place, sum) in sums.iter_mut().enumerate() {
                *sum = self.add_word(factors, rows[place / 2], columns[place % 2], *sum);
            }
        }
        sums
    }

    /// Adds the products of what two words hold.
    fn add_word(
        &self,
        factors: MatrixFactors,
        x: IntValue<'ctx>,
        y: IntValue<'ctx>,
        sum: BasicValueEnum<'ctx>,
    ) -> BasicValueEnum<'ctx> {
        let float = self.context.f32_type();
        let pairs = self.widened(factors, x).into_iter().zip(self.widened(factors, y));
        pairs.fold(sum, |sum, (x, y)| self.intrinsic("llvm.fma", &[float.into()], &[x, y, sum]))
    }

    /// What a word holds, as f32.
    fn widened(&self, factors: MatrixFactors, word: IntValue<'ctx>) -> Vec<BasicValueEnum<'ctx>> {
        let float = self.context.f32_type();
        let of_bits = |bits: IntValue<'ctx>| built(self.builder.build_bit_cast(bits, float, ""));
        match factors {
            MatrixFactors::F16 => {
                let halves = self.half_pair(word.into()).into_vector_value();
                let half = |lane| {
                    let half = built(self.builder.build_extract_element(halves, self.number(lane), ""));
                    built(self.builder.build_float_ext(half.into_float_value(), float, "")).into()
                };
                [0, 1].map(half).into()
            }
            MatrixFactors::Bf16 => {
                let low = built(self.builder.build_left_shift(word, self.number(16), ""));
                let high = built(self.builder.build_and(word, self.number(0xffff_0000), ""));
                [low, high].map(of_bits).into()
            }
            MatrixFactors::Tf32 => vec![of_bits(word)],
        }
    }

    /// Row and column of this thread's place among the four columns of threads of a warp.
    fn place_in_warp(&self) -> [IntValue<'ctx>; 2] {
        let thread = self.block_frame().numbers[2];
        let thread = built(self.builder.build_int_truncate(thread, self.context.i32_type(), ""));
        let in_warp = built(self.builder.build_and(thread, self.number(31), ""));
        let row = built(self.builder.build_right_shift(in_warp, self.number(2), false, ""));
        [row, built(self.builder.build_and(thread, self.number(3), ""))]
    }

    /// What another thread of the warp has for `value`.
    fn of_thread(&self, value: BasicValueEnum<'ctx>, thread: IntValue<'ctx>) -> IntValue<'ctx> {
        let operands =
            [self.number(u64::from(u32::MAX)).into(), value, thread.into(), self.number(31).into()];
        self.intrinsic("llvm.nvvm.shfl.sync.idx.i32", &[], &operands).into_int_value()
    }

    fn number(&self, number: u64) -> IntValue<'ctx> {
        self.context.i32_type().const_int(number, false)
    }

    pub(super) fn scalars(&self, vector: BasicValueEnum<'ctx>, lanes: u64) -> Vec<BasicValueEnum<'ctx>> {
        let vector = vector.into_vector_value();
        (0..lanes)
            .map(|lane| built(self.builder.build_extract_element(vector, self.number(lane), "")))
            .collect()
    }

    /// Scalars as one value.
    pub(super) fn vector(&self, lane: LaneType, scalars: &[BasicValueEnum<'ctx>]) -> BasicValueEnum<'ctx> {
        let ty = self.llvm_type(Type { lane, lanes: scalars.len() as u8 }).into_vector_type();
        let vector = (0..).zip(scalars).fold(ty.get_poison(), |vector, (lane, scalar)| {
            built(self.builder.build_insert_element(vector, *scalar, self.number(lane), ""))
        });
        vector.into()
    }
}
