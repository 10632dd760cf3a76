//! Products of warp groups: `wgmma`, which sm_90a has alone.
//!
//! The instructions of one product, from the fence before to the wait behind, are one piece of inline assembly, in which the
//! registers of the sums are both operands and results: LLVM 22 has no intrinsic for the product itself, and nothing keeps
//! what it makes of the sums behind an instruction that waits for them but does not name them.

use std::fmt::Write;

use inkwell::types::BasicType;
use inkwell::values::{BasicValueEnum, IntValue};

use super::builder::{LlvmBuilder, built};
use crate::kernel_ir::{Function, GroupFactor, LaneType, MatrixFactors, Operation, Statement, Type};
use crate::scalar::GroupPlace;

/// Bytes of the factors of one instruction along the summed axis.
const STEP: u32 = 32;

/// Instructions one behind the other along a line.
const STEPS: u32 = GroupFactor::LINE / STEP;

/// Whether warp groups multiply in a function.
pub(super) fn needs_groups(function: &Function) -> bool {
    let is_product = |s: &Statement| matches!(s.operation(), Some(Operation::GroupFma { .. }));
    function.body.iter().any(|statement| statement.any(&is_product))
}

impl<'ctx> LlvmBuilder<'ctx, '_> {
    /// See [`Operation::GroupFma`].
    pub(super) fn group_fma(
        &mut self,
        factors: MatrixFactors,
        places: [GroupPlace<BasicValueEnum<'ctx>>; 2],
        ty: Type,
        sum: BasicValueEnum<'ctx>,
    ) -> BasicValueEnum<'ctx> {
        let count = u32::from(ty.lanes);
        let transposed = places.map(|place| place.transposed);
        let descriptors = places.map(|place| self.descriptor(place));
        let mut operands = Vec::new();
        for step in 0..STEPS {
            for side in 0..2 {
                let further = if transposed[side] { STEP / 2 * GroupFactor::LINE } else { STEP };
                let further = self.context.i64_type().const_int(u64::from((step * further) >> 4), false);
                operands.push(built(self.builder.build_int_add(descriptors[side], further, "")).into());
            }
        }
        // Products are added to what the sums are.
        operands.push(self.context.bool_type().const_int(1, false).into());
        operands.extend(self.scalars(sum, u64::from(count)));
        let float = self.context.f32_type().as_basic_type_enum();
        let sums = self.context.struct_type(&vec![float; count as usize], false);
        let text = instructions(factors, transposed, count);
        let result = self.assembly(&text, &constraints(count), &operands, Some(sums.into()));
        let sums = result.expect("it has results").into_struct_value();
        let sums: Vec<_> = (0..count).map(|i| built(self.builder.build_extract_value(sums, i, ""))).collect();
        self.vector(LaneType::F32, &sums)
    }

    /// Tells where a factor begins, and how its lines lie (PTX ISA, "Matrix Descriptor Format").
    fn descriptor(&self, factor: GroupPlace<BasicValueEnum<'ctx>>) -> IntValue<'ctx> {
        let (address, _) = self.shared_address(Type::scalar(LaneType::I32), factor.place);
        let number = |n: u64| self.context.i64_type().const_int(n, false);
        let address = built(self.builder.build_ptr_to_int(address, self.context.i64_type(), ""));
        let start = built(self.builder.build_right_shift(address, number(4), false, ""));
        let field = |bytes: u32| u64::from(bytes >> 4);
        // From 64 rows or columns to the next, where they lie across lines; otherwise without a meaning.
        let leading = if factor.transposed { GroupFactor::SIDE * GroupFactor::LINE } else { 16 };
        let stride = GroupFactor::ALIGNMENT;
        let swizzled = 1 << 62;
        let layout = number(field(leading) << 16 | field(stride) << 32 | swizzled);
        built(self.builder.build_or(start, layout, ""))
    }
}

/// From the fence to the wait: `$0` and so on are the sums, behind them stand the two descriptors of each step, then whether
/// products are added.
fn instructions(factors: MatrixFactors, transposed: [bool; 2], count: u32) -> String {
    let (depth, name) = match factors {
        MatrixFactors::F16 => (16, "f16"),
        MatrixFactors::Bf16 => (16, "bf16"),
        MatrixFactors::Tf32 => (8, "tf32"),
    };
    let halves = factors.per_word() == 2;
    let turns =
        transposed.map(|turned| if halves { format!(", {}", u8::from(turned)) } else { String::new() });
    let turns = turns.concat();
    let sums: Vec<_> = (0..count).map(|i| format!("${i}")).collect();
    let (sums, adds) = (sums.join(", "), count + 2 * STEPS);
    let mut text = "wgmma.fence.sync.aligned;\n".to_owned();
    for step in 0..STEPS {
        let (left, right) = (count + 2 * step, count + 2 * step + 1);
        let _ = writeln!(
            text,
            "wgmma.mma_async.sync.aligned.m64n{}k{depth}.f32.{name}.{name} \
             {{{sums}}}, ${left}, ${right}, ${adds}, 1, 1{turns};",
            2 * count
        );
    }
    text + "wgmma.commit_group.sync.aligned;\nwgmma.wait_group.sync.aligned 0;"
}

/// Of as many sums, which are results and operands, and of what stands between.
fn constraints(count: u32) -> String {
    let results = (0..count).map(|_| "=f".to_owned());
    let descriptors = (0..2 * STEPS).map(|_| "l".to_owned());
    let sums = (0..count).map(|i| i.to_string());
    let all = results.chain(descriptors).chain(["b".to_owned()]).chain(sums).chain(["~{memory}".to_owned()]);
    all.collect::<Vec<_>>().join(",")
}
