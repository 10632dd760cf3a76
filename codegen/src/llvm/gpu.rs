//! What only threads of a GPU do: their numbers, shared memory, and the places where they meet.

use inkwell::AddressSpace;
use inkwell::InlineAsmDialect;
use inkwell::IntPredicate;
use inkwell::intrinsics::Intrinsic;
use inkwell::module::Module;
use inkwell::types::{BasicMetadataTypeEnum, BasicType, BasicTypeEnum};
use inkwell::values::{BasicMetadataValueEnum, BasicValueEnum, IntValue, PointerValue};

use super::builder::{LlvmBuilder, built, instruction};
use super::group::needs_groups;
use crate::kernel_ir::{Function, GroupFactor, LaneType, Type};
use crate::scalar::{GpuEffect, GpuOperation, Place, SharedPlace};

/// Shared memory, in the NVPTX back end.
pub(super) const SHARED: u16 = 3;

/// The name of the shared memory whose size the launch says.
pub(super) const SHARED_MEMORY: &str = "shared_memory";

/// What a block of threads finds around it.
#[derive(Clone)]
pub(super) struct BlockFrame<'ctx> {
    /// The number of the block, of all blocks, and of the thread in its block.
    pub numbers: [IntValue<'ctx>; 3],
    /// The shared arrays with the size of their elements.
    pub shared: Vec<(PointerValue<'ctx>, u32)>,
    /// Whether the target has an instruction that multiplies the matrices of a warp.
    pub has_matrices: bool,
    /// Whether warp groups multiply what lies in shared memory.
    pub has_groups: bool,
    /// Where the blocks of a launch meet.
    pub grid: Option<GridFrame<'ctx>>,
}

/// Where the blocks of a launch meet.
#[derive(Clone, Copy)]
pub(super) struct GridFrame<'ctx> {
    /// Counts blocks that arrived; the parameter behind all others.
    pub counter: PointerValue<'ctx>,
    /// What the counter shows when all blocks have arrived as often as this one; a variable.
    pub expected: PointerValue<'ctx>,
}

/// Declares the shared memory of a launch, and places the arrays of a function in it.
pub(super) fn place_shared<'ctx>(
    module: &Module<'ctx>,
    builder: &inkwell::builder::Builder<'ctx>,
    function: &Function,
) -> Vec<(PointerValue<'ctx>, u32)> {
    if function.shared.is_empty() {
        return Vec::new();
    }
    let context = module.get_context();
    let byte = context.i8_type();
    let memory = module.get_global(SHARED_MEMORY).unwrap_or_else(|| {
        let memory = module.add_global(byte.array_type(0), Some(AddressSpace::from(SHARED)), SHARED_MEMORY);
        memory.set_alignment(16);
        memory
    });
    if needs_groups(function) {
        memory.set_alignment(GroupFactor::ALIGNMENT);
    }
    let mut offset = 0u32;
    let mut arrays = Vec::with_capacity(function.shared.len());
    for array in &function.shared {
        let at = context.i64_type().const_int(u64::from(offset), false);
        // SAFETY: this emits an address; one index of a byte type.
        let start = built(unsafe {
            builder.build_in_bounds_gep(byte, memory.as_pointer_value(), &[at], &array.name)
        });
        arrays.push((start, array.lane.bytes()));
        offset = offset.saturating_add(array.bytes());
    }
    arrays
}

impl<'ctx> LlvmBuilder<'ctx, '_> {
    pub(super) fn block_frame(&self) -> &BlockFrame<'ctx> {
        self.frame.work.block().expect("verified: work is mapped to blocks")
    }

    /// The address of elements of a shared array, and what it is aligned to.
    pub(super) fn shared_address(
        &self,
        ty: Type,
        place: SharedPlace<BasicValueEnum<'ctx>>,
    ) -> (PointerValue<'ctx>, u32) {
        let (base, bytes) = self.block_frame().shared[place.array];
        let element = self.llvm_type(Type::scalar(ty.lane));
        let index = place.index.into_int_value();
        // SAFETY: this emits an address; a scalar takes one index.
        let address = built(unsafe { self.builder.build_in_bounds_gep(element, base, &[index], "") });
        (address, (place.divisor * bytes).min(16))
    }

    /// See [`GpuOperation`].
    pub(super) fn operation_on_gpu(
        &mut self,
        operation: GpuOperation<BasicValueEnum<'ctx>>,
    ) -> BasicValueEnum<'ctx> {
        let [block, blocks, thread] = self.block_frame().numbers;
        match operation {
            GpuOperation::Block => block.into(),
            GpuOperation::Blocks => blocks.into(),
            GpuOperation::Thread => thread.into(),
            GpuOperation::LoadMatrices(matrices, place, transposed) => {
                self.load_matrices(matrices, place, transposed)
            }
            GpuOperation::MatrixFma(factors, fragments) => self.matrix_fma(factors, fragments),
            GpuOperation::GroupFma(factors, places, ty, sum) => self.group_fma(factors, places, ty, sum),
            GpuOperation::Pair(dtype, pair) => self.pair(dtype, pair),
            GpuOperation::Tf32(x) => self.tf32(x),
            GpuOperation::Butterfly(ty, value, distance) => self.butterfly(ty, value, distance),
            GpuOperation::LoadShared(ty, place) => {
                let (address, alignment) = self.shared_address(ty, place);
                let value = built(self.builder.build_load(self.llvm_type(ty), address, ""));
                instruction(value).set_alignment(alignment).expect("a power of two");
                value
            }
        }
    }

    fn butterfly(&self, ty: Type, value: BasicValueEnum<'ctx>, distance: u8) -> BasicValueEnum<'ctx> {
        let suffix = if ty.lane == LaneType::F32 { "f32" } else { "i32" };
        let name = format!("llvm.nvvm.shfl.sync.bfly.{suffix}");
        let number = |n: u64| self.context.i32_type().const_int(n, false).into();
        let (all, last) = (number(u64::from(u32::MAX)), number(31));
        self.intrinsic(&name, &[], &[all, value, number(u64::from(distance)), last])
    }

    /// See [`GpuEffect`].
    pub(super) fn effect(&mut self, effect: GpuEffect<BasicValueEnum<'ctx>>) {
        match effect {
            GpuEffect::StoreShared(ty, place, value) => {
                let (address, alignment) = self.shared_address(ty, place);
                let store = built(self.builder.build_store(address, value));
                store.set_alignment(alignment).expect("a power of two");
            }
            GpuEffect::StartCopy { to, from, bytes, inside } => self.start_copy(to, from, bytes, inside),
            GpuEffect::CommitCopies => self.call("llvm.nvvm.cp.async.commit.group", &[]),
            GpuEffect::AwaitCopies(pending) => {
                let pending = self.context.i32_type().const_int(u64::from(pending), false);
                self.call("llvm.nvvm.cp.async.wait.group", &[pending.into()]);
            }
            GpuEffect::Barrier => self.block_barrier(),
            GpuEffect::GridBarrier => self.grid_barrier(),
            GpuEffect::StoreCluster(ty, place, value, block) => self.store_cluster(ty, place, value, block),
            GpuEffect::ClusterArrive => self.call("llvm.nvvm.barrier.cluster.arrive.aligned", &[]),
            GpuEffect::ClusterWait => self.call("llvm.nvvm.barrier.cluster.wait.aligned", &[]),
        }
    }

    /// `cp.async`, which writes zeros for what is not read.
    fn start_copy(
        &self,
        to: SharedPlace<BasicValueEnum<'ctx>>,
        from: Place<BasicValueEnum<'ctx>>,
        bytes: u8,
        inside: BasicValueEnum<'ctx>,
    ) {
        let (to, _) = self.shared_address(Type::scalar(LaneType::I32), to);
        let from = self.address(&from);
        let number = |n: u8| self.context.i32_type().const_int(u64::from(n), false);
        let read = self.builder.build_select(inside.into_int_value(), number(bytes), number(0), "");
        // Whole vectors go past the first-level cache, which only the block would profit from.
        let cache = if bytes == 16 { "cg" } else { "ca" };
        let name = format!("llvm.nvvm.cp.async.{cache}.shared.global.{bytes}.s");
        self.call(&name, &[to.into(), from.into(), built(read).into()]);
    }

    /// Writes to the shared memory of a block of the cluster.
    fn store_cluster(
        &self,
        ty: Type,
        place: SharedPlace<BasicValueEnum<'ctx>>,
        value: BasicValueEnum<'ctx>,
        block: BasicValueEnum<'ctx>,
    ) {
        let (base, bytes) = self.block_frame().shared[place.array];
        let base = self.intrinsic("llvm.nvvm.mapa.shared.cluster", &[], &[base.into(), block]);
        let element = self.llvm_type(Type::scalar(ty.lane));
        let index = place.index.into_int_value();
        // SAFETY: this emits an address; a scalar takes one index.
        let address =
            unsafe { self.builder.build_in_bounds_gep(element, base.into_pointer_value(), &[index], "") };
        let store = built(self.builder.build_store(built(address), value));
        store.set_alignment((place.divisor * bytes).min(16)).expect("a power of two");
    }

    /// What threads wrote is there for what warp groups multiply only behind a fence by who wrote it.
    fn block_barrier(&self) {
        if self.block_frame().has_groups {
            self.assembly("fence.proxy.async.shared::cta;", "~{memory}", &[], None);
        }
        let first = self.context.i32_type().const_zero();
        self.call("llvm.nvvm.barrier.cta.sync.aligned.all", &[first.into()]);
    }

    /// Calls an intrinsic without a result.
    fn call(&self, name: &str, arguments: &[BasicMetadataValueEnum<'ctx>]) {
        let declaration = Intrinsic::find(name).and_then(|i| i.get_declaration(self.module, &[]));
        let declaration = declaration.expect("an intrinsic of LLVM 22");
        built(self.builder.build_call(declaration, arguments, ""));
    }

    /// One thread of a block adds the block to the counter, which publishes what all threads of the block wrote, and
    /// waits for the others.
    fn grid_barrier(&mut self) {
        let [_, blocks, thread] = self.block_frame().numbers;
        let GridFrame { counter, expected } =
            self.block_frame().grid.expect("verified: the blocks of the launch meet");
        let number = self.context.i32_type();
        let before = built(self.builder.build_load(number, expected, "")).into_int_value();
        let blocks = built(self.builder.build_int_truncate(blocks, number, ""));
        let after = built(self.builder.build_int_add(before, blocks, "expected"));
        built(self.builder.build_store(expected, after));
        self.block_barrier();
        let [arrive, wait, behind] = ["arrive", "wait", "behind"].map(|name| self.branch_block(name));
        let zero = self.context.i64_type().const_zero();
        let first = built(self.builder.build_int_compare(IntPredicate::EQ, thread, zero, ""));
        built(self.builder.build_conditional_branch(first, arrive, behind));
        self.builder.position_at_end(arrive);
        let one = number.const_int(1, false);
        self.assembly(
            "red.release.gpu.global.add.u32 [$0], $1;",
            "l,r,~{memory}",
            &[counter.into(), one.into()],
            None,
        );
        built(self.builder.build_unconditional_branch(wait));
        self.builder.position_at_end(wait);
        let acquire = "ld.acquire.gpu.global.u32 $0, [$1];";
        let seen = self.assembly(acquire, "=r,l,~{memory}", &[counter.into()], Some(number.into()));
        let seen = seen.expect("it has a result").into_int_value();
        // The counter may wrap around.
        let missing = built(self.builder.build_int_sub(seen, after, ""));
        let early =
            built(self.builder.build_int_compare(IntPredicate::SLT, missing, number.const_zero(), ""));
        built(self.builder.build_conditional_branch(early, wait, behind));
        self.builder.position_at_end(behind);
        self.block_barrier();
    }

    /// Instructions that LLVM has no operation for, and what they give.
    pub(super) fn assembly(
        &self,
        text: &str,
        constraints: &str,
        operands: &[BasicValueEnum<'ctx>],
        result: Option<BasicTypeEnum<'ctx>>,
    ) -> Option<BasicValueEnum<'ctx>> {
        let types: Vec<BasicMetadataTypeEnum<'ctx>> = operands.iter().map(|o| o.get_type().into()).collect();
        let ty = match result {
            Some(result) => result.fn_type(&types, false),
            None => self.context.void_type().fn_type(&types, false),
        };
        let operands: Vec<BasicMetadataValueEnum<'ctx>> = operands.iter().map(|o| (*o).into()).collect();
        let dialect = Some(InlineAsmDialect::ATT);
        let assembly =
            self.context.create_inline_asm(ty, text.into(), constraints.into(), true, false, dialect, false);
        built(self.builder.build_indirect_call(ty, assembly, &operands, "")).try_as_basic_value().basic()
    }
}
