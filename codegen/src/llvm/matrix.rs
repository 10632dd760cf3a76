//! Products of matrices that the threads of a warp hold together: tensor cores, or what GPUs without them do instead.

use fuse_ir::DType;
use inkwell::values::{BasicValueEnum, IntValue};

use super::builder::{LlvmBuilder, built};
use crate::kernel_ir::{LaneType, Type};

/// Whether GPUs of a compute capability times ten have an instruction for these matrices. The tensor cores of Turing
/// take smaller ones of f16 alone, and only from a later version of PTX on than the rest of the code needs.
pub(super) fn has_matrices(capability: u32) -> bool {
    capability >= 80
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
        dtype: DType,
        [left, right, sum]: [BasicValueEnum<'ctx>; 3],
    ) -> BasicValueEnum<'ctx> {
        let fragments = Fragments {
            left: self.scalars(left, 4),
            right: self.scalars(right, 2),
            sums: self.scalars(sum, 4),
        };
        let sums = match (self.block_frame().has_matrices, dtype) {
            (false, _) => self.exchange_and_multiply(dtype, fragments),
            (true, DType::Bf16) => self.multiply("llvm.nvvm.mma.m16n8k16.row.col.bf16", &fragments),
            (true, _) => self.multiply("llvm.nvvm.mma.m16n8k16.row.col.f32.f32", &self.of_halves(fragments)),
        };
        self.vector(&sums)
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
    /// are of, pair by pair, from the four threads that have them.
    fn exchange_and_multiply(&self, dtype: DType, fragments: Fragments<'ctx>) -> Vec<BasicValueEnum<'ctx>> {
        let Fragments { left, right, mut sums } = fragments;
        let [row, column] = self.place_in_warp();
        let owner = |line: IntValue<'ctx>, pair: u64| {
            let first = built(self.builder.build_left_shift(line, self.number(2), ""));
            built(self.builder.build_int_add(first, self.number(pair), ""))
        };
        for pair in 0..8usize {
            let (half, within) = (pair / 4, pair as u64 % 4);
            let rows = [0, 1].map(|i| self.of_thread(left[2 * half + i], owner(row, within)));
            let columns = [0, 1].map(|i| {
                let twice = built(self.builder.build_left_shift(column, self.number(1), ""));
                let column = built(self.builder.build_int_add(twice, self.number(i), ""));
                self.of_thread(right[half], owner(column, within))
            });
            for (place, sum) in sums.iter_mut().enumerate() {
                *sum = self.add_pair(dtype, rows[place / 2], columns[place % 2], *sum);
            }
        }
        sums
    }

    /// Adds the products of two pairs.
    fn add_pair(
        &self,
        dtype: DType,
        x: IntValue<'ctx>,
        y: IntValue<'ctx>,
        sum: BasicValueEnum<'ctx>,
    ) -> BasicValueEnum<'ctx> {
        let float = self.context.f32_type();
        let pairs = self.widened(dtype, x).into_iter().zip(self.widened(dtype, y));
        pairs.fold(sum, |sum, (x, y)| self.intrinsic("llvm.fma", &[float.into()], &[x, y, sum]))
    }

    /// A pair of 16-bit floats as f32.
    fn widened(&self, dtype: DType, pair: IntValue<'ctx>) -> [BasicValueEnum<'ctx>; 2] {
        let float = self.context.f32_type();
        if dtype == DType::F16 {
            let halves = self.half_pair(pair.into()).into_vector_value();
            return [0, 1].map(|lane| {
                let half = built(self.builder.build_extract_element(halves, self.number(lane), ""));
                built(self.builder.build_float_ext(half.into_float_value(), float, "")).into()
            });
        }
        let low = built(self.builder.build_left_shift(pair, self.number(16), ""));
        let high = built(self.builder.build_and(pair, self.number(0xffff_0000), ""));
        [low, high].map(|bits| built(self.builder.build_bit_cast(bits, float, "")))
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

    fn scalars(&self, vector: BasicValueEnum<'ctx>, lanes: u64) -> Vec<BasicValueEnum<'ctx>> {
        let vector = vector.into_vector_value();
        (0..lanes)
            .map(|lane| built(self.builder.build_extract_element(vector, self.number(lane), "")))
            .collect()
    }

    /// Four f32 as one value.
    fn vector(&self, scalars: &[BasicValueEnum<'ctx>]) -> BasicValueEnum<'ctx> {
        let ty = self.llvm_type(Type { lane: LaneType::F32, lanes: scalars.len() as u8 }).into_vector_type();
        let vector = (0..).zip(scalars).fold(ty.get_poison(), |vector, (lane, scalar)| {
            built(self.builder.build_insert_element(vector, *scalar, self.number(lane), ""))
        });
        vector.into()
    }
}
